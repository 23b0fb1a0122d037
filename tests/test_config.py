"""Every contradiction is refused with the field, the value and what is allowed."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import pytest

from deeplab_jax import (
    AugmentConfig,
    Config,
    DataConfig,
    EvalConfig,
    MachineConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TrainConfig,
    UserError,
)
from deeplab_jax.config import (
    COMPARED,
    at_output_stride,
    fit_to_stride,
    flatten,
    from_dict,
    load_config_file,
    load_json,
    override,
    parse,
    save_json,
    to_dict,
)
from deeplab_jax.config.cell import Branch
from deeplab_jax.config.flags import format_fields
from deeplab_jax.data.annotations.shapes import VOID
from deeplab_jax.parallel.mesh import device_mesh
from deeplab_jax.training.memory import batch_shapes
from deeplab_jax.training.state import abstract_state
from deeplab_jax.training.step import compile_train_step


def of(source: str, **sections: Any) -> Config:
    """A configuration on the data of a source that lies somewhere."""
    sections.setdefault("machine", MachineConfig(root="x"))
    return Config(data=DataConfig(source=source), **sections)  # type: ignore[arg-type]


CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(output_stride=7), r"model.output_stride = 7 .* 8, 16, 32"),
        (lambda: ModelConfig(backbone="xception_56"), r"xception_56.*did you mean 'xception_65'"),
        (lambda: ModelConfig(head="deeplabv4"), r"model.head = 'deeplabv4'"),
        (
            lambda: ModelConfig(backbone="mobilenet_v2", multi_grid=(1, 2, 4)),
            r"model.multi_grid .* mobilenet_v2 has none",
        ),
        (
            lambda: ModelConfig(backbone="mobilenet_v2", remat="middle_flow"),
            r"model.remat = 'middle_flow' .* only Xception",
        ),
        (
            lambda: ModelConfig(mobilenet_form="torch"),
            r"model.mobilenet_form .* mobilenet_v2 alone",
        ),
        (
            lambda: ModelConfig(mobilenet_endpoints="blocks"),
            r"model.mobilenet_endpoints .* mobilenet_v2 alone",
        ),
        (
            lambda: ModelConfig(backbone="mobilenet_v2", whole_top=True),
            r"model.whole_top .* mobilenet_v3 and mobilenet_edgetpu alone",
        ),
        (
            lambda: ModelConfig(head="classifier", num_classes=46341),  # squared, above an int32
            r"model.num_classes = 46341 .* 2 to 46340",
        ),
        *(
            (
                lambda field=field: DataConfig(**field),
                rf"data.{next(iter(field))} .* takes no notice of it",
            )
            for field in (
                *({"holdout": 0.2}, {"layout": "coco"}, {"classes": "x"}),
                *({"image_dir": "x"}, {"exif_upright": True}),
                {"min_scale": 0.1, "source": "imagenet2012"},
                {"mask_dir": "x", "source": "voc2012"},
            )
        ),
        (lambda: ModelConfig(head_init="xavier"), r"model.head_init = 'xavier' .* official, he"),  # type: ignore[arg-type]
        (lambda: ModelConfig(decoder_strides=(4, 8)), r"model.decoder_strides .* largest first"),
        (lambda: ModelConfig(decoder_kernel=2), r"model.decoder_kernel = 2 .* odd"),
        (lambda: ModelConfig(decoder_kernel=2**31 + 1), r"model.decoder_kernel .* up to 31"),
        (lambda: ModelConfig(decoder_convs=10**6), r"model.decoder_convs = 1000000 .* 0 to 16"),
        (lambda: ModelConfig(width=1e18), r"model.width = 1e\+18 .* up to 16"),
        (lambda: ModelConfig(aspp_channels=2**40), r"model.aspp_channels .* 1 to 8192"),
        (lambda: ModelConfig(atrous_rates=(1,) * 17), r"model.atrous_rates .* at most 16"),
        (
            lambda: ModelConfig(dense_prediction_cell=(Branch(),), output_stride=32),
            r"model.output_stride = 32 .* cell wants 8 or 16",
        ),
        (
            lambda: ModelConfig(dense_prediction_cell=(Branch(input=0),)),
            "model.dense_prediction_cell .* an earlier one",
        ),
        (
            lambda: ModelConfig(aspp_form="concat", image_pooling_gate="sigmoid"),
            r"model.atrous_rates = \(6, 12, 18\) .* a gate fits one branch",
        ),
        (lambda: ModelConfig(logits_kernel=3), "model.logits_kernel = 3 .* deeplabv2"),
        (
            lambda: ModelConfig(decoder_convs=0, decoder_logits=True),
            "model.decoder_convs = 0 .*model.decoder_logits",
        ),
        (
            lambda: ModelConfig(backbone="resnet_v1_18_beta", multi_grid=(1, 2, 4)),
            "model.multi_grid .* two units",
        ),
        (
            lambda: Config(data=DataConfig(source="folder")),
            r"machine.root = '' .*--machine.root=PATH",
        ),
        (
            lambda: Config(machine=MachineConfig(root="mine")),
            r"machine.root = 'mine' .*scenes is drawn.*folder",
        ),
        (
            lambda: DataConfig(source="voc2012", ignore_label=0),
            r"data.ignore_label = 0 .*voc2012 takes no notice of it: leave None, .*=folder",
        ),
        (
            lambda: of("imagenet2012", augment=AugmentConfig(cutmix=0.5)),
            r"augment.cutmix = 0.5 .* imagenet2012 takes no notice .* 0.0",
        ),
        (
            lambda: Config(
                data=DataConfig(crop_size=(257, 513)), augment=AugmentConfig(quarter_turns=True)
            ),
            r"quarter_turns .*crop_size = \(257, 513\) .*--crop-size 257 257",
        ),
        (lambda: AugmentConfig(rotate=181.0), r"augment.rotate = 181.0 .* 0 to 180"),
        (lambda: AugmentConfig(hook="own.py"), r"augment.hook = 'own.py' .* FILE.py:FUNCTION"),
        (
            lambda: DataConfig(source="imagenet2012", min_scale=0.75),
            r"data.min_scale = 0.75 .*imagenet2012 takes no notice",
        ),
        (
            lambda: of("folder", machine=MachineConfig(root="x", prepared_dir="y")),
            r"machine.prepared_dir = 'y' .*folder takes no notice",
        ),
        (lambda: TaskConfig(range=(5, 5)), r"task.range = \(5, 5\) .*0 4095"),
        (
            lambda: DataConfig(source="folder", ignore_label=65536),
            r"data.ignore_label = 65536 .*0 to 65535",
        ),
        (lambda: TaskConfig(colors=((0, 0, 256),)), r"task.colors .*0 to 255 each"),
        (lambda: TaskConfig(classes=("a", "b"), colors=((0, 0, 0),)), r"each of the 2 classes"),
        (
            lambda: Config(model=ModelConfig(num_classes=3), task=TaskConfig(classes=("a", "b"))),
            r"task.classes = .* each of the 3 classes",
        ),
        (lambda: MeshConfig(space=0), r"mesh.space = 0 .* 1 or more"),
        (lambda: MeshConfig(fsdp=None), r"mesh.fsdp = None .* 1 or more"),  # type: ignore[arg-type]
        (lambda: ModelConfig(num_classes=1), r"num_classes = 1 .*the background is class 0"),
        (lambda: TaskConfig(resize="fit"), r"task.eval_size = None .* fit"),
        (lambda: DataConfig(min_scale=2.0, max_scale=1.0), r"data.min_scale, max_scale"),
        (
            lambda: Config(data=DataConfig(crop_size=(500, 513))),
            r"data.crop_size = \(500, 513\) .* such as \(497, 513\)",
        ),
        (
            lambda: Config(
                model=ModelConfig(num_classes=21), train=TrainConfig(class_weights=(1.0, 2.0))
            ),
            r"train.class_weights .* each of the 21 classes",
        ),
        (lambda: TrainConfig(batch_size=0), r"train.batch_size = 0"),
        (
            lambda: TrainConfig(time="2h", epochs=3),
            r"train.epochs = 3 .* train.time = 2h decides: give one",
        ),
        (lambda: TrainConfig(loss=()), r"train.loss = \(\) .* NAME=WEIGHT, each above 0"),
        (lambda: TrainConfig(loss={"dice": 0.0}), r"train.loss = .* above 0"),  # type: ignore[arg-type]
        (lambda: TrainConfig(loss=("dice",)), r"train.loss = .* NAME=WEIGHT"),  # type: ignore[arg-type]
        (
            lambda: TrainConfig(loss=(("dice", 1.0),), hard_pixels=0.5),
            r"train.hard_pixels = 0.5 .* cross_entropy or focal",
        ),
        (
            lambda: TrainConfig(loss_per="batch", accumulate=2),
            r"train.loss_per = 'batch' .* train.accumulate = 2 takes image",
        ),
        (
            lambda: Config(
                model=ModelConfig(head="classifier"), train=TrainConfig(loss=(("dice", 1.0),))
            ),
            r"train.loss = .* a classifier takes only cross_entropy and focal",
        ),
        (
            lambda: OptimConfig(schedule="cosin"),
            r"optim.schedule = 'cosin' .*did you mean 'cosine'",
        ),  # type: ignore[arg-type]
        (lambda: OptimConfig(decay_rate=1.5), r"optim.decay_rate = 1.5"),
        (lambda: EvalConfig(scales=()), r"eval.scales = \(\) .* one number or more"),
        (lambda: EvalConfig(scales=(0.5, 0.0)), r"eval.scales .* above 0"),
        (lambda: EvalConfig(overlap=1.0), r"eval.overlap = 1.0 .* below 1"),
        (lambda: EvalConfig(trimap_widths=(0, 3)), r"eval.trimap_widths .* from 1"),
        (lambda: EvalConfig(boundary=-0.1), r"eval.boundary = -0.1"),
        (
            lambda: Config(eval=EvalConfig(window=(512, 513))),
            r"eval.window = \(512, 513\) .* such as \(513, 513\)",
        ),
        (
            lambda: Config(
                data=DataConfig(),
                eval=EvalConfig(window=(257, 257)),
                task=TaskConfig(eval_size=(368, 480)),
            ),
            r"task.eval_size = \(368, 480\) .* eval.window needs .* such as \(369, 481\)",
        ),
        (
            lambda: Config(
                model=ModelConfig(head="classifier"), eval=EvalConfig(trimap_widths=(1,))
            ),
            r"eval.trimap_widths = \(1,\) .* a classifier",
        ),
    ],
)
def test_contradictions(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_json_round_trip(tmp_path: Path) -> None:
    config = Config(
        model=ModelConfig(atrous_rates=(), width=0.5),
        machine=MachineConfig(workdir="somewhere"),
    )
    save_json(config, tmp_path / "config.json")
    assert load_json(tmp_path / "config.json") == config


def test_a_cell_survives_the_command_line_and_json(tmp_path: Path) -> None:
    cell = '[{"op": "conv", "kernel": 3, "rate": [1, 6], "input": -1}, {"kernel": 1, "input": 0}]'
    config = override(Config(), [f"--model.dense_prediction_cell={cell}"])
    want = (Branch(kernel=(3, 3), rate=(1, 6)), Branch(input=0))
    assert config.model.dense_prediction_cell == want
    save_json(config, tmp_path / "config.json")
    assert load_json(tmp_path / "config.json") == config
    none = override(config, ["--model.dense_prediction_cell=()"])
    assert none == Config() and "--model.dense_prediction_cell JSON  [()]" in format_fields()


def test_a_loss_survives_the_command_line_python_and_json(tmp_path: Path) -> None:
    config = override(Config(), ["--train.loss", "cross_entropy=0.375", "dice=1.125"])
    loss: Any = {"cross_entropy": 0.375, "dice": 1.125}
    assert config == Config(train=TrainConfig(loss=loss))
    assert config == Config(train=TrainConfig(loss=tuple(loss.items())))
    save_json(config, tmp_path / "config.json")
    assert load_json(tmp_path / "config.json") == config
    assert "--train.loss NAME=NUMBER ...  [cross_entropy=1.0]" in format_fields()


def test_an_evaluation_protocol_survives_the_command_line_and_json(tmp_path: Path) -> None:
    arguments = "--eval.scales 0.5 1 --eval.flip=True --eval.window 257 321"
    measures = "--eval.trimap_widths 1 2 --eval.boundary=0.02"
    config = override(Config(), f"{arguments} {measures}".split())
    want = EvalConfig(
        scales=(0.5, 1.0), flip=True, window=(257, 321), trimap_widths=(1, 2), boundary=0.02
    )
    assert config.eval == want
    save_json(config, tmp_path / "config.json")
    assert load_json(tmp_path / "config.json") == config


def test_another_output_stride_takes_rates_and_sizes_along() -> None:
    model, task = ModelConfig(atrous_rates=(6, 12)), TaskConfig(eval_size=(241, 257))
    assert at_output_stride(model, task, None) == (model, task)
    wide, fitted = at_output_stride(model, task, 32)
    assert (wide.output_stride, wide.atrous_rates) == (32, (3, 6))
    assert fitted.eval_size == (257, 257)
    assert fit_to_stride((257, 321), model, 32) == (257, 321)
    with pytest.raises(UserError, match=r"output_stride = 4 .* 8, 16, 32"):
        at_output_stride(model, task, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "modle: there is no such field; did you mean 'model'"),
        ({"model": {"widht": 1}}, "model.widht: .* did you mean 'width'"),
        ({"model": {"width": "wide"}}, "model.width = 'wide': expected float"),
        ({"model": 3}, "model.*expected an object"),
        ({"model": {"output_stride": 7}}, "model.output_stride = 7"),
        ({"model": {"atrous_rates": 6}}, "model.atrous_rates = 6: expected a list"),
        ({"model": {"multi_grid": [1, 2]}}, r"model.multi_grid = \[1, 2\]: expected 3 values"),
        ({"model": {"head": ["pspnet"]}}, r"model.head = \['pspnet'\] .* choose one of"),
        ({"eval": {"scales": [1, "2"]}}, r"eval.scales\[1\] = '2': expected float"),
        ({"task": {"eval_size": [33, None]}}, r"task.eval_size\[1\] = None: expected int"),
        ({"train": {"seed": None}}, "train.seed = None: expected int"),
        ({"train": {"steps": True}}, "train.steps = True: expected int"),
        ({"train": {"seed": 2**63}}, "train.seed = 92.* 64 bits"),
        ({"optim": {"learning_rate": 10**400}}, "optim.learning_rate = 10+: .* finite"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate = nan: .* finite"),
        ({"optim": {"momentum": float("inf")}}, "optim.momentum = inf: .* finite"),
        ({"machine": {"workdir": "a\0b"}}, "machine.workdir = .*NUL"),
        ({"workdir": "x"}, "workdir: there is no such field"),
    ],
)
def test_wrong_json_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(Config, change)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"model": []}',
        b'{"train": {"steps": 1.5}}',
        b'{"train": {"steps": ' + b"9" * 5000 + b"}}",
        b'{"workdir": "\xff"}',
        b"[" * 100_000,
        b" " * 2**20 + b"{}",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_broken_config_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: ") as error:
        load_json(tmp_path / "config.json")
    assert len(str(error.value)) < 1000


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="no such file"):
        load_json(tmp_path / "config.json")


def test_command_line_changes_a_field() -> None:
    config = parse(["--model.width=0.5", "--train.freeze_batch_norm=True"], "")
    assert config.model.width == 0.5 and config.train.freeze_batch_norm


def test_what_is_not_finite_on_the_command_line() -> None:
    for value in ("inf", "nan"):
        with pytest.raises(UserError, match=r"optim\.learning_rate"):
            parse([f"--optim.learning_rate={value}"], "")


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--data.crop_size=513,513", "data.crop_size", [513, 513]),
        ("--data.crop_size=513x257", "data.crop_size", [513, 257]),
        ("--data.crop_size=(513,257)", "data.crop_size", [513, 257]),
        ("--data.crop-size 33 49", "data.crop_size", [33, 49]),
        ("--task.eval_size=[513, 257]", "task.eval_size", [513, 257]),
        ("--task.eval_size=513X257 --task.eval_size=None", "task.eval_size", None),
        ("--model.image_pooling_crop_size 513,513", "model.image_pooling_crop_size", [513, 513]),
        ("--model.multi_grid=1,2,4", "model.multi_grid", [1, 2, 4]),
        ("--model.atrous_rates=6,12", "model.atrous_rates", [6, 12]),
        ("--model.atrous_rates", "model.atrous_rates", []),
        ("--model.decoder_strides=8,4", "model.decoder_strides", [8, 4]),
        ("--eval.scales=0.5,1e0", "eval.scales", [0.5, 1.0]),
        ("--eval.trimap_widths 1,2", "eval.trimap_widths", [1, 2]),
        ("--train.class_weights=1,2 --model.num_classes=2", "train.class_weights", [1.0, 2.0]),
        ("--train.class_weights=()", "train.class_weights", []),
        ("--train.class_weights=auto", "train.class_weights", None),
        ("--train.loss dice=2 focal", "train.loss", [["dice", 2.0], ["focal", 1.0]]),
        ("--train.loss=dice=0.5,focal=1", "train.loss", [["dice", 0.5], ["focal", 1.0]]),
        ("--eval.flip true", "eval.flip", True),
        ("--workdir=a=b", "machine.workdir", "a=b"),
        ("--steps 5", "train.steps", 5),
        ("--epochs 2.5", "train.epochs", 2.5),
        ("--time=1h30min", "train.time", "1h30min"),
        ("--data.eval_size=33,49", "task.eval_size", [33, 49]),
        ("--train.eval_every=7", "machine.eval_every", 7),
    ],
)
def test_how_values_may_be_written(argument: str, field: str, value: object) -> None:
    assert flatten(to_dict(override(Config(), argument.split(" "))))[field] == value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.widht=0.5", "--model.widht: .* did you mean --model.width?"),
        ("--momentum=1", r"--momentum: .* did you mean --optim.momentum\?"),
        ("--source=x", r"did you mean --data.source\?"),
        ("--task.classes=a", "--task.classes: there is no such setting"),
        ("--optim.lr=1", "--optim.lr: .* there are .*--optim.learning_rate, "),
        ("--data.crop_size=512", "crop_size = '512' .* height and width .*crop_size 512 512"),
        ("--data.crop_size", "crop_size = '' .* such as --data.crop_size 513 513"),
        ("--data.crop_size 1 2 3", "crop_size = '1 2 3' .* height and width"),
        ("--eval.window=513", "eval.window = '513' .* --eval.window 513 513"),
        ("--model.multi_grid=2", "multi_grid = '2' .* 3 values .* --model.multi_grid 2 2 2"),
        ("--model.num_classes=three", "num_classes = 'three' .* a whole number"),
        ("--train.steps=1.5", "train.steps = '1.5' .* a whole number"),
        ("--eval.scales=0.5,big", "eval.scales = 'big' .* a number"),
        ("--train.loss=dise", "train.loss.* = 'dise' .*did you mean 'dice'"),
        ("--train.loss dice=much", "train.loss = 'much' .* a number"),
        ("--train.loss dice dice", "train.loss = .* named once, of cross_entropy, focal, dice"),
        ("--eval.flip", "eval.flip = '' .* one value"),
        ("--eval.flip=yes", "eval.flip = 'yes' .* True or False"),
        ("--machine.root my images", "machine.root = 'my images' .* quote"),
        ("--model.backbone=unett", "model.backbone = 'unett' .*did you mean 'unet'"),
        ("configs/voc.py", "--config=configs/voc.py"),
        ("--config=", "--config: the name is missing"),
    ],
)
def test_how_values_may_not_be_written(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse(argument.split(" "), "")
    assert "\n" not in str(error.value)


def test_missing_config_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"configs/none.py: no such file.*camvid"):
        load_config_file("configs/none.py")
    with pytest.raises(UserError, match=r"--config=vox: no such file; .* voc"):
        load_config_file("vox")
    (tmp_path / "run").mkdir()
    save_json(Config(), tmp_path / "run" / "config.json")
    with pytest.raises(UserError, match=r"a run's folder: --config=.*run/config.json"):
        load_config_file(str(tmp_path / "run"))


def test_what_ships_is_found_by_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    voc = load_config_file("voc")
    assert voc.model.num_classes == 21 and load_config_file("configs/voc.py") == voc
    (tmp_path / "configs").mkdir()
    own = "from deeplab_jax import Config, ModelConfig\ndef get_config():\n"
    own += "    return Config(model=ModelConfig(num_classes=7))\n"
    (tmp_path / "configs" / "voc.py").write_text(own, encoding="utf-8")
    assert load_config_file("configs/voc.py").model.num_classes == 7
    assert load_config_file("voc") == voc


def test_a_recipe_travels_without_the_machine() -> None:
    """Each section has one lifetime, and all of them are named."""
    names = {field.name for field in dataclasses.fields(Config)}
    assert names - set(COMPARED) == {"eval", "mesh", "machine"}


def test_every_field_is_explained() -> None:
    text = format_fields()
    for name in flatten(to_dict(Config())):
        assert f"--{name} " in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def get_config(:\n", "line 1: SyntaxError"),
        (b"x = 1\nimport deeplab_jaxx\n", "line 2: ModuleNotFoundError: .*deeplab_jaxx"),
        (b"from deeplab_jax import Konfig\n", "line 1: ImportError: .*Konfig"),
        (b"def get_config():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        (b"def get_config(size):\n    return size\n", "TypeError: get_config"),
        (b"def get_config():\n    return {}\n", "returned dict, not a Config"),
        (b"get_config = None\n", "TypeError"),
        (b"config = 1\n", r"no function get_config\(\) -> Config"),
        (b"x = '\xff'\n", "SyntaxError: .*utf-8"),
        (b"x = '\0'\n", "null bytes"),
    ],
)
def test_what_is_wrong_in_a_config_file_is_named_by_file_and_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(UserError, match=rf"--config=.*mine.py: .*{message}") as error:
        load_config_file(str(tmp_path / "mine.py"))
    assert "\n" not in str(error.value)


def test_a_config_that_is_neither_python_nor_json(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"model: {}\n")
    with pytest.raises(UserError, match=r"mine.yaml: not a Python file"):
        load_config_file(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_config_makes_a_training_step(file: Path) -> None:
    """The whole step at full size, traced without computing."""
    config = load_config_file(str(file))
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    mesh = device_mesh(devices=jax.devices()[:1])
    state = abstract_state(config, mesh)
    step = compile_train_step(config, state, mesh, VOID)
    after, metrics = jax.eval_shape(step, state, batch_shapes(config))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()


def test_rates_follow_the_output_stride() -> None:
    rates = [ModelConfig(output_stride=s).rates for s in (8, 16, 32)]
    assert rates == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
    assert dataclasses.replace(ModelConfig(), atrous_rates=()).rates == ()
