"""What a stranger's file may claim, and one error for all that goes wrong in reading it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeplab_jax.errors import UserError

MAX_BYTES = 2 * 2**30  # what a file may unpack to; the largest official one has about 1 GB
MAX_RATIO = 100  # of unpacked to packed bytes: weights are noise, which hardly shrinks
MAX_MEMBERS = 10_000  # xception_71 with an optimiser's slots has 1300 arrays
READABLE = (
    "a TensorFlow checkpoint (its prefix, its folder or a .tar.gz), an .npz, or PyTorch's"
    " .safetensors"
)


def size_limit(file: Path) -> int:
    """Bytes that a packed file may unpack to."""
    return min(MAX_BYTES, MAX_RATIO * file.stat().st_size)


@contextmanager
def explain(file: object, kind: str) -> Iterator[None]:
    """Let whatever goes wrong in reading a file be one error, which names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as e:  # OSError, BadZipFile, zlib.error, NotImplementedError ...
        raise UserError(f"{file}: not a readable {kind} ({e}); was it copied whole?") from e
