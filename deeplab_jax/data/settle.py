"""Opening the data that a configuration names, and what the configuration leaves to the data."""

from dataclasses import replace
from pathlib import Path

from deeplab_jax.config import PAPER_CROP, Config
from deeplab_jax.data.classes import other_names
from deeplab_jax.data.codes import to_label_map
from deeplab_jax.data.folder import Folder
from deeplab_jax.data.images import find_channels_and_range
from deeplab_jax.data.sizes import crop_size, input_size
from deeplab_jax.data.source import Source, open_source
from deeplab_jax.data.transforms import Size
from deeplab_jax.errors import UserError


def open_split(config: Config, split: str) -> Source:
    """The source of one split, checked to have the model's kind and number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    source, wanted = open_data(config, split), config.model.num_classes
    names = source.class_names
    if wanted is not None and len(names) != wanted:
        raise UserError(
            f"model.num_classes = {wanted}, but the data set has {len(names)} classes"
            f" ({', '.join(names[:4])}, ...): set --model.num_classes={len(names)}"
        )
    return source


def open_data(config: Config, split: str) -> Source:
    """The source of one split for a model of the same kind, whatever its number of classes.

    Raises:
      UserError: what is missing or does not fit, named.
    """
    data, model = config.data, config.model
    if data.one_label != (model.head == "classifier"):
        raise UserError(
            f"model.head = {model.head!r} does not fit data.source = {data.source!r}: classifier is"
            " for imagenet2012, the other heads are for segmentation"
        )
    return open_source(config, split)


def settle(config: Config, train_source: Source) -> Config:
    """The configuration with everything filled in that it leaves to the data; what it says stays.

    Classes and their colours are the source's, and so is the ignored label of a folder; channels
    and range are those of a sample of the images; a crop suits their sizes. A classifier is
    evaluated at the size of its training crops.

    Raises:
      UserError: the configuration names classes that are not those of the data.
    """
    model, task, data = config.model, config.task, config.data
    theirs = train_source.class_names
    names = task.classes or theirs
    if len(names) != len(theirs) or (other := other_names(names, theirs)):
        differ = other if len(names) == len(theirs) else f"{len(names)} for {', '.join(theirs[:4])}"
        raise UserError(
            f"task.classes are not those of the data ({differ}): leave them to the data, or correct"
            " its list of classes"
        )
    channels, range = find_channels_and_range(config, train_source)
    crop = data.crop_size or _crop(config, train_source)
    one_size = crop if model.head == "classifier" else None
    return replace(
        config,
        model=replace(model, num_classes=len(names), channels=channels),
        task=replace(
            task,
            classes=names,
            colors=task.colors or train_source.colors,
            eval_size=task.eval_size or one_size,
            range=range,
            values=task.values or _mask_values(train_source),
        ),
        data=replace(data, crop_size=crop, label_map=data.label_map or _label_map(train_source)),
    )


def _label_map(source: Source) -> tuple[str, ...]:
    """What a folder's masks hold, so that a resumed run and an evaluation read them alike."""
    if not isinstance(source.records, Folder) or source.code is None:
        return ()
    return to_label_map(source.code, source.class_names)


def _mask_values(source: Source) -> tuple[int, ...]:
    """The lowest value in masks of each class; () where these are the class ids, or colours."""
    if not isinstance(source.records, Folder) or source.code is None or source.code.by_color:
        return ()
    lowest = {class_id: value for value, class_id in sorted(source.code.table, reverse=True)}
    values = tuple(lowest.get(i, i) for i in range(len(source.class_names)))
    return () if values == tuple(range(len(values))) else values


def settings_for(base: Config, root: Path, *, named: bool) -> Config:
    """`base` on the data in a folder; unless a configuration was `named`, in runs/NAME of it."""
    machine = replace(base.machine, root=str(root))
    if not named:
        machine = replace(machine, workdir=f"runs/{root.expanduser().resolve().name or 'data'}")
    return replace(base, machine=machine)


def _crop(config: Config, source: Source) -> Size:
    if config.model.head == "classifier":
        return input_size((1, 1), config.model, config.task)
    sizes = [size for size in source.sizes() if size is not None]
    return crop_size(sizes, config.model, config.task) if sizes else PAPER_CROP
