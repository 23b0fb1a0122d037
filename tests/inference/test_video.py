"""Videos: as many frames, at their times, drawn over and upright; nothing half is left."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import square_image

from deeplab_jax import EvalConfig, TaskConfig, UserError
from deeplab_jax.inference import video
from deeplab_jax.inference.files import classify_files, predict_files
from deeplab_jax.inference.formats import is_ours
from deeplab_jax.inference.inputs import find_images

av = pytest.importorskip("av")


class Red:
    """Says that the left half of any image is red."""

    class_names, colors = ("background", "red"), ((0, 0, 0), (255, 0, 0))
    classifies = False
    task, protocol = TaskConfig(), EvalConfig()

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def predict(self, image: np.ndarray, *, probabilities: bool = False) -> np.ndarray:
        label = np.zeros(image.shape[:2], np.uint8)
        label[:, : label.shape[1] // 2] = 1
        return label


@pytest.fixture
def red() -> Any:
    return Red()


def write_video(file: Path, times: list[int], size: tuple[int, int] = (40, 56)) -> None:
    """Frames of 24 a second, shown at these times in frames."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        stream = out.add_stream("mpeg4", 24)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for i, pts in enumerate(times):
            image = np.resize(square_image(i)[0], (*size, 3))
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 24)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def read_video(file: Path) -> tuple[Fraction, list[float], list[np.ndarray]]:
    with av.open(str(file)) as container:
        rate = container.streams.video[0].average_rate
        frames = [*container.decode(video=0)]
    return rate, [f.time for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.mark.parametrize("kind", ["mp4", "mov", "avi", "mkv"])
def test_a_video_becomes_one_of_overlays(
    kind: str, red: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in" / f"clip.{kind}", tmp_path / "out"
    write_video(source, [*range(10)])
    assert predict_files(red, find_images([source.parent], videos=True), out) == 0
    assert [p.name for p in out.iterdir()] == ["clip.mp4"] and is_ours(out / "clip.mp4")
    said = capsys.readouterr().out
    assert said.startswith(f"clip.{kind}: background 50.0 %, red 50.0 %; 10 frames, ")
    rate, times, frames = read_video(out / "clip.mp4")
    assert abs(rate - 24) < 0.1 and len(frames) == 10 and frames[0].shape == (40, 56, 3)
    np.testing.assert_allclose(times, np.arange(10) / 24, atol=1e-3)
    before = read_video(source)[2][5].astype(int)
    more_red = (frames[5] - before)[..., 0] - (frames[5] - before)[..., 2]
    assert more_red[:, :24].mean() > 80 and abs(more_red[:, 32:].mean()) < 10
    predict_files(red, find_images([source.parent], videos=True), out)  # written again
    assert find_images([tmp_path], videos=True).images[0].name.as_posix() == f"in/clip.{kind}"


def test_frames_are_shown_when_they_were(red: Any, tmp_path: Path) -> None:
    """As phones record: some frames stay longer."""
    write_video(tmp_path / "in.mkv", [0, 1, 2, 10, 11, 30])
    predict_files(red, find_images([tmp_path / "in.mkv"], videos=True), tmp_path / "out")
    _, times, _ = read_video(tmp_path / "out" / "in.mp4")
    np.testing.assert_allclose(times, np.array([0, 1, 2, 10, 11, 30]) / 24, atol=2e-3)


def test_a_broken_video_is_one_of_the_unreadable(
    red: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "in" / "a.mp4", [*range(5)])
    (tmp_path / "in" / "b.mp4").write_bytes(b"nothing")
    (tmp_path / "in" / "c.mkv").write_bytes(b"")
    assert predict_files(red, find_images([tmp_path / "in"], videos=True), tmp_path / "out") == 2
    assert "b.mp4: not a readable video" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.mp4"]
    with pytest.raises(UserError, match="none of the images"):
        classify_files(red, find_images([tmp_path / "in" / "a.mp4"], videos=True))


def test_without_pyav_one_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, as beside a phone's photos, videos are passed over."""
    monkeypatch.setattr(video, "can_read", lambda: False)
    (tmp_path / "a.png").touch()
    (tmp_path / "a.MOV").touch()
    with pytest.raises(UserError, match=r"a\.MOV: videos need PyAV: pip install av$"):
        find_images([tmp_path / "a.MOV"], videos=True)
    assert find_images([tmp_path], videos=True).passed_over == (
        "1 file passed over (1 .mov); videos need PyAV: pip install av"
    )
    with pytest.raises(UserError, match=r"only overlays"):
        find_images([tmp_path / "a.MOV"])


def test_a_video_beside_an_image_of_its_name_has_a_file_of_its_own(
    red: Any, tmp_path: Path
) -> None:
    write_video(tmp_path / "a.mp4", [0, 1], size=(41, 57))  # odd: H.264 takes even sizes
    write_video(tmp_path / "a.mkv", [0, 1])
    predict_files(red, find_images([tmp_path], videos=True), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.mp4", "a_2.mp4"}
    assert {read_video(p)[2][0].shape for p in (tmp_path / "out").iterdir()} == {(40, 56, 3)}
    with pytest.raises(UserError, match="choose another"):
        predict_files(red, find_images([tmp_path], videos=True), tmp_path)
