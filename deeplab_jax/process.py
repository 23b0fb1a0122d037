"""What only the beginning of a process can decide: memory, compiled programs, its output."""

import io
import os
import sys
from pathlib import Path

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_max=0",  # with the next: freed memory is kept for the next step
        f"glibc.malloc.trim_threshold={2**36}",
        f"glibc.malloc.top_pad={2**28}",
    )
)


def restart_with_huge_pages() -> None:
    """Start this command again with malloc on huge pages, where Linux offers them on request.

    XLA:CPU allocates its temporaries anew at every call, gigabytes a training step, and faulting
    them in by 4 KiB pages costs more than the arithmetic of BatchNorm or a depthwise convolution:
    with huge pages such operations run 3-5 times faster (2 x86-64 cores, jax 0.10). Keeping freed
    memory instead of returning it saves another 13 % of Xception-65's step. A single arena would
    keep the largest arrays too, but small ones split what they leave: 15 GB where 6.5 are used.
    glibc reads these settings only when a process starts, hence the restart. Set GLIBC_TUNABLES
    yourself (empty will do) to prevent it.
    """
    if (
        "GLIBC_TUNABLES" in os.environ
        or not THP.exists()
        or "[madvise]" not in THP.read_text(encoding="utf-8")
    ):
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs on disk, so that a second run starts at once.

    In ~/.cache/deeplab_jax/xla, or where JAX_COMPILATION_CACHE_DIR says ("" for nowhere); nowhere
    without a home, or one that cannot be written to. JAX reads it when it is imported, not yet.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path.home() / ".cache" / "deeplab_jax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def show_all_names() -> None:
    """Names that the output's encoding lacks are printed with escapes, which is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
