"""Run and measure processes: whole commands, and processes that take turns."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = Path("tests/benchmarks")


@dataclass(frozen=True)
class Cost:
    """What some work took; 0 for what was not measured."""

    seconds: float
    cpu_seconds: float
    """Of all threads together."""
    megabytes: float = 0.0
    """Maximum resident memory of a process."""


def lowest(costs: Sequence[Cost]) -> Cost:
    """Return the minimum of both times, to which other work only adds, and the peak memory."""
    return Cost(
        min(cost.seconds for cost in costs),
        min(cost.cpu_seconds for cost in costs),
        max(cost.megabytes for cost in costs),
    )


def in_turn(
    works: Mapping[str, Callable[[], Cost]],
    repeats: int,
) -> dict[str, Cost]:
    """Do all works in turn, ``repeats`` times, and return the lowest cost of each."""
    found: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(work())
    return {name: lowest(costs) for name, costs in found.items()}


def timed(function: Callable[[], object]) -> Cost:
    """Call a function of this process."""
    start = time.perf_counter()
    cpu = time.process_time()
    function()
    return Cost(time.perf_counter() - start, time.process_time() - cpu)


def environment_of(
    tree: Path,
    threads: int,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment of processes that run the version of hstf in ``tree``.

    Benchmarks that only this version has are found, too.
    """
    paths = [tree, tree / BENCHMARKS, ROOT / BENCHMARKS]
    inherited = {name: value for name, value in os.environ.items() if not _decides_speed(name)}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": str(threads),
        **(more or {}),
    }


def _decides_speed(name: str) -> bool:
    """Return whether a variable of the user would change what is measured."""
    return name.startswith(("OMP_", "MKL_", "MALLOC_")) or name in ("GLIBC_TUNABLES", "LD_PRELOAD")


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
) -> Cost:
    """Run a command and its children to the end.

    Raises:
        RuntimeError: if the command fails; the text is the end of its output.
    """
    return run_at_once([command], environment, folder)


def run_at_once(
    commands: Sequence[Sequence[str]],
    environment: Mapping[str, str],
    folder: Path,
) -> Cost:
    """Run commands beside each other. The seconds are those until the last one ends.

    Raises:
        RuntimeError: if a command fails; the text is the end of its output.
    """
    start = time.perf_counter()
    before = _children()
    # A process of its own waits for them, so that the peak memory is that of no other process.
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(commands)],
        env=dict(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{commands}: {(done.stdout + done.stderr)[-3000:]}")
    kilobytes = float(done.stdout.splitlines()[-1])
    return Cost(seconds, _children() - before, kilobytes / 1024)


WATCH = """
import json, resource, subprocess, sys
running = [subprocess.Popen(command) for command in json.loads(sys.argv[1])]
codes = [process.wait() for process in running]
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(any(codes))
"""


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Turns:
    """A process that does a part of its work whenever it is its turn.

    Between its turns it is stopped, with all its threads. It prints a line when it is ready, and
    after each turn (:mod:`against.turns`).
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Start the process and wait until it is ready."""
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def take(self) -> Cost:
        """Let the process do a part of its work; return the cost of a step."""
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        seconds, cpu_seconds, megabytes = map(float, self._read())
        return Cost(seconds, cpu_seconds, megabytes)

    def _read(self) -> list[str]:
        """Return the words of the next line of a turn, and stop the process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            first, *words = line.split() or [""]
            if first == "turn":
                os.kill(self._process.pid, signal.SIGSTOP)
                return words
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def take_turns(
    started: Mapping[str, Callable[[], Turns]],
    repeats: int,
) -> dict[str, Cost]:
    """Start processes and let them work in turn, ``repeats`` times; return the lowest costs.

    A first turn of each is not counted.
    """
    processes: dict[str, Turns] = {}
    try:
        for name, start in started.items():
            processes[name] = start()
            processes[name].take()
        return in_turn({name: process.take for name, process in processes.items()}, repeats)
    finally:
        for process in processes.values():
            process.end()
