"""Batches decoded ahead, by threads or by worker processes that end with the run, and only then."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import grain
from absl import flags

from deeplab_jax.errors import SIGNALS, UserError


class ReaderFailed(SystemExit):
    """What reads the data came to an end that it should not: one line, exit code 1."""


def read(dataset: "grain.MapDataset[Any]", workers: int) -> Generator[Any, None, None]:
    """Iterate over a data set with a few elements read ahead: by `workers`, or 0: two threads.

    Workers end when the iterator is closed or dropped, and with the process that started them.

    Raises:
      ReaderFailed: in place of what Grain raises, as when a worker was killed.
    """
    threads = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=2)
    elements = dataset.to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which we do not use
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        elements = elements.mp_prefetch(processes, end_with_parent)
    with closing(iter(elements)) as iterator:
        try:
            with signals_blocked():  # in the workers, which the first element starts, for good
                first = next(iterator, None)
            if first is not None:
                yield first
                yield from iterator
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise ReaderFailed(
                f"error: reading the data failed ({type(error).__name__}: {reason:.300}). If memory"
                " was short, fewer --machine.workers help. The same command goes on"
            ) from error


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started inside do not hear SIGINT and SIGTERM, from their very first moment.

    Ctrl-C goes to all processes of a terminal, a cluster's SIGTERM to all of a job; but the run
    that they work for needs them until it has saved. This process hears both, at the latest at the
    end. Where there are no masks (Windows), nothing is done.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It starts with the first process, and would take the mask away from the thread it starts in.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(worker: int, workers: int) -> None:
    """In a worker: end with the process that started it, also when that was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
