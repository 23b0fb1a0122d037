"""What training sees: its first examples, cropped and augmented by its own functions."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from PIL import Image

from deeplab_jax.config import Config
from deeplab_jax.data.augment import augment, step_keys
from deeplab_jax.data.batches import train_batches
from deeplab_jax.data.settle import open_split, settle
from deeplab_jax.data.source import read_as
from deeplab_jax.models import mean_pixel
from deeplab_jax.reporting.figures import contact_sheet, gallery, to_rgb

SAMPLES = 16
CELL = 240  # pixels


def draw_augmented(config: Config) -> Image.Image:
    """Sixteen training examples as one batch of the first step: each alone, and under its mask.

    Where crops lie is as in the run itself; what the device draws depends on the batch's size too.

    Raises:
      UserError: the split cannot be opened, or `augment.hook` does not do.
    """
    source = open_split(config, config.data.train_split)
    config = settle(config, source)
    source = read_as(source, config)
    train = replace(config.train, batch_size=SAMPLES, accumulate=1)
    fill = mean_pixel(config.model)
    batches = train_batches(source, replace(config, train=train), fill=fill)
    batch = next(batches)
    batches.close()
    key, _ = step_keys(train.seed, 0)
    change = partial(augment, config=config.augment, fill=fill, ignore_label=source.ignore_label)
    image, label = map(np.asarray, jax.jit(change)(key, batch["image"], batch["label"]))
    images = [to_rgb(x) for x in np.rint(image).clip(0, 255).astype(np.uint8)]
    colors, names = source.colors, source.class_names
    if config.data.one_label:
        return contact_sheet(images, [names[int(i)] for i in label.ravel()], 4, CELL)
    titles = [source.name(int(i)).rpartition("/")[2] for i in batch["record"]]
    labels, ignored = list(label), source.ignore_label
    return gallery(images, labels, titles, colors, names, ignored, CELL, beside=True)
