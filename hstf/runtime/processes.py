"""Work side by side in processes; the death of one (out of memory, a crash) is told, not waited for."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from hstf.runtime.errors import HstfError

T = TypeVar("T")
R = TypeVar("R")


class ProcessDied:
    """Stands for the result of an item whose process was killed, even when it had the machine to itself."""


def worker_count(workers: int) -> int:
    """``workers``, or one for each core that this process may use when it is 0."""
    return workers or len(os.sched_getaffinity(0))


def map_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int
) -> Iterator[tuple[T, R | ProcessDied]]:
    """Yield ``(item, function(item))`` in the order in which they are done.

    ``function`` and items are pickled; processes are spawned, so threads of this one do no harm. When a process
    dies, the items that were in work are tried again one by one, which tells the guilty one from its neighbours. On a
    machine whose /dev/shm is missing or full, all is done in this process, one after the other.

    Raises:
        HstfError: processes cannot be started.
    """
    if not _has_shared_memory():
        print("no shared memory (/dev/shm): one process does it all", flush=True)
        yield from ((item, function(item)) for item in items)
        return
    waiting = deque(items)
    try:
        while waiting:
            suspects = yield from _until_death(function, waiting, min(workers, len(waiting)))
            for item in suspects:
                yield item, _alone(function, item)
    except OSError as error:
        raise HstfError(
            f"worker processes cannot be started ({error.strerror}). Use fewer workers."
        ) from error


def _until_death(
    function: Callable[[T], R], waiting: deque[T], workers: int
) -> Generator[tuple[T, R], None, list[T]]:
    """Work off ``waiting``; returns early, with the items in work, when a process dies."""
    running: dict[Future[R], T] = {}
    with _pool(workers) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    running[pool.submit(function, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            return list(running.values())
    return []


def _has_shared_memory() -> bool:
    """Whether processes can share a lock, without which no pool of them can be."""
    try:
        get_context("spawn").Lock()
    except OSError:
        return False
    return True


def _alone(function: Callable[[T], R], item: T) -> R | ProcessDied:
    with _pool(1) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return ProcessDied()


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """An idle worker does not notice that its parent was killed: watch for it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
