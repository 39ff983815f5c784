"""Work in several processes. The death of one (out of memory, a crash) is reported at once."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TypeVar

from hstf.runtime.errors import HstfError
from hstf.runtime.threads import configured_threads, usable_cores

T = TypeVar("T")
R = TypeVar("R")


class ProcessDied:
    """The result of an item whose process was killed even when no other process was running."""


def worker_count(workers: int) -> int:
    """Return ``workers``; 0 means one for each core of this job, or of this machine without a job.

    A job of Snakemake does not have all cores of its machine: other jobs run beside it, and the
    memory that it requests is for its own cores.
    """
    return workers or min(configured_threads() or usable_cores(), usable_cores())


def map_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int
) -> Iterator[tuple[T, R | ProcessDied]]:
    """Yield ``(item, function(item))`` in the order in which the items are done.

    Function and items are pickled. Processes are spawned, so that threads of this process do no
    harm. If a process dies, the items that were in work are tried again one by one, to find the one
    that is responsible. On a machine without shared memory (/dev/shm) this process does all the
    work.

    Args:
        function: a function that can be pickled.
        items: its arguments.
        workers: number of processes.

    Raises:
        HstfError: if processes cannot be started.
        Exception: what the function raises.
    """
    if not _has_shared_memory():
        print("no shared memory (/dev/shm): one process does all the work", flush=True)
        yield from ((item, function(item)) for item in items)
        return
    waiting = deque(items)
    while waiting:
        suspects = yield from _run_until_death(function, waiting, min(workers, len(waiting)))
        for item in suspects:
            yield item, _run_single(function, item)


def _run_until_death(
    function: Callable[[T], R], waiting: deque[T], workers: int
) -> Generator[tuple[T, R], None, list[T]]:
    """Process ``waiting``; if a process dies, return the items that were in work."""
    running: dict[Future[R], T] = {}
    with _new_pool(workers) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[_submit(pool, function, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            return list(running.values())
    return []


def _has_shared_memory() -> bool:
    """Return whether processes can use a common lock, which a pool of processes needs."""
    try:
        get_context("spawn").Lock()
    except OSError:
        return False
    return True


def _run_single(function: Callable[[T], R], item: T) -> R | ProcessDied:
    """Run one item in a process of its own."""
    with _new_pool(1) as pool:
        try:
            return _submit(pool, function, item).result()
        except BrokenProcessPool:
            return ProcessDied()


def _new_pool(workers: int) -> ProcessPoolExecutor:
    with _explain_start_errors():
        return process_pool(workers)


def _submit(pool: ProcessPoolExecutor, function: Callable[[T], R], item: T) -> Future[R]:
    with _explain_start_errors():
        return pool.submit(function, item)  # starts a process if none is idle


@contextmanager
def _explain_start_errors() -> Iterator[None]:
    """Raise HstfError if the operating system starts no process.

    Only the start is in the block: an OSError of the function has another cause.
    """
    try:
        yield
    except OSError as error:
        raise HstfError(
            f"worker processes cannot be started ({error.strerror}). Use fewer workers."
        ) from error


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of new processes, which end with this one."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed: an idle worker does not notice it otherwise."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
