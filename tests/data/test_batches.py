"""The same batches for any number of workers, hosts and restarts; every image evaluated once."""

import dataclasses
import shutil
from itertools import islice
from pathlib import Path

import grain
import numpy as np
import pytest
from PIL import Image

from deeplab_jax import Config, DataConfig, MachineConfig, ModelConfig, UserError
from deeplab_jax.config import TaskConfig
from deeplab_jax.data.batches import (
    BadRecords,
    Batch,
    eval_batches,
    plan_evaluation,
    train_batches,
)
from deeplab_jax.data.settle import open_split
from deeplab_jax.data.source import Source

MODEL = ModelConfig(num_classes=3)


@pytest.fixture(scope="module")
def train_source(tiny_config: Config) -> Source:
    return open_split(tiny_config, "train")


def with_batches(config: Config, size: int = 4, workers: int = 0) -> Config:
    """Batches of a size, of seed 3, read by so many workers."""
    train = dataclasses.replace(config.train, batch_size=size, seed=3)
    machine = dataclasses.replace(config.machine, workers=workers)
    return dataclasses.replace(config, train=train, machine=machine)


def take(config: Config, source: Source, n: int, *, workers: int = 0, **place: int) -> list[Batch]:
    config = with_batches(config, workers=workers)
    return list(islice(train_batches(source, config, **place), n))


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for key in ("image", "label"):
            np.testing.assert_array_equal(x[key], y[key])


def test_batches_are_uint8_crops(tiny_config: Config, train_source: Source) -> None:
    (batch,) = take(tiny_config, train_source, 1)
    assert batch["image"].shape == (4, 33, 49, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 33, 49) and batch["label"].dtype == np.uint8


def test_batches_are_the_same_for_any_number_of_workers(
    tiny_config: Config, train_source: Source
) -> None:
    none = take(tiny_config, train_source, 4)
    assert_equal(none, take(tiny_config, train_source, 4, workers=2))


def test_the_order_is_that_of_endless_data(tiny_config: Config, train_source: Source) -> None:
    """As Grain's own repeat() gives it, in which batches of one overflow."""
    n, position = len(train_source), 1_000_003
    endless = grain.MapDataset.range(n).seed(3).shuffle().repeat()
    drawn = endless.random_map(lambda index, rng: (index, rng.integers(2**31)))
    for size in (1, 4):
        config = with_batches(tiny_config, size)
        batches = train_batches(train_source, config, start_step=position // size)
        first = [next(batches) for _ in range(12 // size)]
        start = position // size * size
        records = np.concatenate([batch["record"] for batch in first])
        assert records.tolist() == [drawn[start + i][0] for i in range(12)]


def test_batches_of_one_are_those_of_four_for_any_number_of_workers(
    tiny_config: Config, train_source: Source
) -> None:
    (four,) = take(tiny_config, train_source, 1, start_step=5)
    for workers in (0, 1):
        config = with_batches(tiny_config, 1, workers)
        ones = train_batches(train_source, config, start_step=20)
        for row, one in enumerate(islice(ones, 4)):
            np.testing.assert_array_equal(one["image"][0], four["image"][row])


def test_batches_follow_from_the_step_alone(tiny_config: Config, train_source: Source) -> None:
    assert_equal(
        take(tiny_config, train_source, 6)[4:], take(tiny_config, train_source, 2, start_step=4)
    )


def test_an_unreadable_record_is_ignored_in_its_place(
    tiny_config: Config, train_source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_config.machine.root, tmp_path / "data")
    file = tmp_path / "data" / "images" / "train" / "p05.png"
    file.write_bytes(file.read_bytes()[:200])
    machine = dataclasses.replace(tiny_config.machine, root=str(tmp_path / "data"))
    config = dataclasses.replace(tiny_config, machine=machine)
    damaged = open_split(config, "train")
    sound, broken = take(config, train_source, 3), take(config, damaged, 3)
    records = np.concatenate([b["record"] for b in sound])
    np.testing.assert_array_equal(records, np.concatenate([b["record"] for b in broken]))
    bad = np.concatenate([b["bad"] for b in broken])
    np.testing.assert_array_equal(bad, records == 5)
    for key in ("image", "label"):
        ours, theirs = (np.concatenate([b[key] for b in batches]) for batches in (broken, sound))
        np.testing.assert_array_equal(ours[~bad], theirs[~bad])
    labels = np.concatenate([b["label"] for b in broken])
    assert (labels[bad] == 255).all()
    known = BadRecords(damaged, limit=1)
    for batch in broken:
        known.note(batch)
    assert list(known.names.values()) == [str(file)]
    assert capsys.readouterr().err.count("p05.png") == 1
    with pytest.raises(UserError, match=r"1 records .*max_bad_records = 0; .*p05\.png"):
        for batch in broken:
            BadRecords(damaged, limit=0).note(batch)


def test_a_record_read_the_second_time_is_said_to_be(
    tiny_config: Config, train_source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    (batch,) = take(tiny_config, train_source, 1)
    batch["bad"][0] = True  # as if a fault of the disk had lasted for the retries
    BadRecords(train_source, limit=1).note(batch)
    assert "(it was read the second time: a passing fault" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the last is .*\.png \(it was read the second time"):
        BadRecords(train_source, limit=0).note(batch)


def test_a_single_image_is_enough(tiny_config: Config, train_source: Source) -> None:
    records = dataclasses.replace(train_source.records, items=train_source.records.items[:1])
    one = dataclasses.replace(train_source, records=records)
    (batch,) = take(tiny_config, one, 1)
    assert batch["record"].tolist() == [0, 0, 0, 0]


def test_hosts_share_the_global_batch(tiny_config: Config, train_source: Source) -> None:
    whole = take(tiny_config, train_source, 3)
    hosts = [take(tiny_config, train_source, 3, host=h, hosts=2) for h in range(2)]
    for batch, *halves in zip(whole, *hosts, strict=True):
        joined = np.concatenate([half["image"] for half in halves])
        np.testing.assert_array_equal(batch["image"], joined)


def of_sizes(tmp_path: Path, sizes: list[tuple[int, int]]) -> Source:
    """A split of images of these sizes (h, w), with class 1 everywhere."""
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        folder = tmp_path / kind / "val"
        folder.mkdir(parents=True)
        for i, (h, w) in enumerate(sizes):
            Image.new(mode, (w, h), 1 if mode == "L" else (9, 9, 9)).save(folder / f"{i:02}.png")
    machine = MachineConfig(root=str(tmp_path))
    config = Config(model=MODEL, data=DataConfig(source="folder"), machine=machine)
    return open_split(config, "val")


SIZES = [(40, 56), (20, 30), (40, 60), (33, 33), (45, 50), (20, 20)]


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("resize", ["keep", "fit"])
def test_every_image_is_evaluated_once(tmp_path: Path, hosts: int, resize: str) -> None:
    source = of_sizes(tmp_path, SIZES)
    task = TaskConfig(resize=resize, eval_size=(33, 33))  # type: ignore[arg-type]
    plan = plan_evaluation(source, MODEL, task, batch_size=4, shares=2)
    batches = [list(eval_batches(source, task, plan, host=h, hosts=hosts)) for h in range(hosts)]
    records = sorted(r for host in batches for b in host for r in b["record"].tolist())
    assert records[: len(SIZES)] == [*range(len(SIZES))]
    assert set(records[len(SIZES) :]) <= {len(SIZES)}
    pixels = sum(int((b["label"] == 1).sum()) for host in batches for b in host)
    assert pixels == sum(h * w for h, w in SIZES)


def test_an_images_input_depends_on_that_image_alone(tmp_path: Path) -> None:
    """Images of one input size stand together; a batch has no more rows than it needs."""
    source = of_sizes(tmp_path, SIZES)
    plan = plan_evaluation(source, MODEL, TaskConfig(), batch_size=4, shares=2)
    found = [([row.record for row in batch], batch[0].input_size) for batch in plan]
    assert found == [([0, 2, 4, 6], (49, 65)), ([1, 3, 5, 6], (33, 33))]
    few = plan_evaluation(source, MODEL, TaskConfig(), batch_size=4, shares=2, only=[5])
    assert [[row.record for row in batch] for batch in few] == [[5, 6, 6, 6]]  # compiled already


def test_an_image_whose_header_could_not_be_read_for_the_plan_is_bad_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the disk that has passed since; the others of its batch are evaluated."""
    source = of_sizes(tmp_path, [(30, 30), (30, 30), (50, 60)])
    sizes = [(30, 30), (30, 30), None]
    monkeypatch.setattr(type(source), "sizes", lambda self: sizes)
    plan = plan_evaluation(source, MODEL, TaskConfig(), batch_size=4)
    (batch,) = eval_batches(source, TaskConfig(), plan)
    assert batch["bad"].tolist() == [False, False, True]
    assert (batch["label"] == 1).sum((1, 2)).tolist() == [900, 900, 0]
