"""Videos: every frame predicted and drawn over, by PyAV, one frame in memory at a time."""

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_jax.data.decode import MAX_PIXELS, MIN_SIDE, Unreadable
from deeplab_jax.errors import UserError, first_line
from deeplab_jax.inference.formats import MARK, new_file
from deeplab_jax.inference.predict import Predictor
from deeplab_jax.reporting import figures

SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv"))
INSTALL = "videos need PyAV: pip install av"


def is_video(file: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return file.suffix.lower() in SUFFIXES


def can_read() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def draw_video(
    predictor: Predictor, source: Path, file: Path, note: Callable[[str], None]
) -> tuple[np.ndarray, int, float]:
    """Write a video's frames with their predictions drawn over them, as MP4 without sound.

    Each frame is shown when it was. Returns the pixels of each class, int64[256], the number of
    frames and the seconds that prediction took. `note` hears of each frame.

    Raises:
      Unreadable: it is no video, or a broken one.
      UserError: PyAV is missing; the file cannot be written.
    """
    import av

    counts, frames, seconds = np.zeros(256, np.int64), 0, 0.0
    with (
        opened(source) as container,
        new_file(file) as staging,
        av.open(str(staging), "w", format="mp4") as out,
    ):
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        out.metadata["comment"] = MARK
        encoder: Any = None
        for pts, frame in read_frames(container, source):
            start = time.perf_counter()
            label = predictor.predict(frame)
            seconds += time.perf_counter() - start
            counts += np.bincount(label.ravel(), minlength=256)
            drawn = figures.blend(frame, label, predictor.colors, predictor.class_names)
            h, w = (n - n % 2 for n in label.shape)  # its colours have half the resolution
            if encoder is None:
                encoder = out.add_stream("h264", rate, options={"crf": "20"})
                encoder.width, encoder.height, encoder.pix_fmt = w, h, "yuv420p"
                encoder.codec_context.time_base = stream.time_base
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn[:h, :w]), "rgb24")
            image.pts, image.time_base = pts, stream.time_base
            out.mux(encoder.encode(image))
            frames += 1
            note(f"frame {frames}" + (f" of {stream.frames}" if stream.frames else ""))
        if encoder is None:
            raise Unreadable(f"{source}: the video has no frames")
        out.mux(encoder.encode(None))
    return counts, frames, seconds


def opened(source: Path) -> Any:
    """A video's container; raises Unreadable, and UserError without PyAV."""
    if not can_read():
        raise UserError(f"{source}: {INSTALL}")
    import av

    try:
        container = av.open(str(source))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Unreadable(f"{source}: not a readable video ({first_line(error)})") from error
    if not container.streams.video:
        container.close()
        raise Unreadable(f"{source}: holds no video, only sound or text")
    return container


def read_frames(container: Any, source: Path) -> Iterator[tuple[int, np.ndarray]]:
    """When each frame is shown, in the stream's unit of time, and the frame upright, u8[h w 3]."""
    import av

    codec = container.streams.video[0].codec_context
    h, w = codec.height, codec.width
    if not (min(h, w) >= MIN_SIDE and h * w <= MAX_PIXELS):
        raise Unreadable(f"{source}: frames of {w} x {h}; at most {MAX_PIXELS // 2**20} megapixels")
    try:
        for i, frame in enumerate(container.decode(video=0)):
            # A size that changes on the way is brought to the first one.
            pixels = frame.to_ndarray(format="rgb24", width=w, height=h)
            yield frame.pts if frame.pts is not None else i, np.rot90(pixels, frame.rotation // 90)
    except (av.FFmpegError, ValueError) as error:
        raise Unreadable(f"{source}: the video is broken ({first_line(error)})") from error
