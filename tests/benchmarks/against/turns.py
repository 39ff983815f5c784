"""The side of a process that works in turn with others (:class:`against.processes.Turns`)."""

import resource
import sys
import time
from collections.abc import Callable


class Turn:
    """Waits for the turns of this process, and reports what each of them took."""

    def __init__(self, steps: int) -> None:
        """Every turn has so many steps."""
        self.steps = steps
        self._done = -1
        self._start = 0.0
        self._cpu = 0.0

    def step(self) -> None:
        """Is called before each step. Ends a turn that is complete, and waits for the next one."""
        self._done += 1
        if self._done % self.steps:
            return
        if self._done:
            seconds = (time.perf_counter() - self._start) / self.steps
            cpu = (time.process_time() - self._cpu) / self.steps
            megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print("turn", seconds, cpu, megabytes, flush=True)
        else:
            print("turn", flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self._start = time.perf_counter()
        self._cpu = time.process_time()


def repeat(work: Callable[[], object], steps: int) -> None:
    """Do a step of work after the other, in turns."""
    turn = Turn(steps)
    while True:
        turn.step()
        work()
