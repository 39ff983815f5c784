"""The process that reads whole volumes. If it runs out of memory, a new one takes its place."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any

from hstf.runtime.processes import process_pool


class Worker(Executor):
    """One process that is started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor = process_pool(1)

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Run a function of a module in the process."""
        with self._lock:
            try:
                return self._pool.submit(function, *args, **options)
            except BrokenProcessPool:
                self._pool.shutdown(wait=False)
                self._pool = process_pool(1)
                return self._pool.submit(function, *args, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
