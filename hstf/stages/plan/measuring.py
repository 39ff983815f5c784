"""Measure the speed of this machine: a few steps of each training, and windows of a prediction.

As many processes compute side by side as jobs of the run will, each with the threads of a job:
members of an ensemble compete for the memory and the cores of a machine.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_text
from hstf.runtime.threads import THREADS, WAIT_POLICY, usable_cores
from hstf.stages.plan.costs import Costs
from hstf.stages.plan.speeds import Measured, Timing, processor, speed_key, torch_version

PROGRAM = "hstf.stages.plan.timed_training"
CONFIG_FILE = "config.yaml"
PLAN_FILE = "plan.json"
BUDGET_SECONDS = 6.0
"""A training is timed for so long, if it has done enough steps."""
MAXIMUM_SIDE_BY_SIDE = 8
MINIMUM_CORES = 0.8
"""A training on a CPU that keeps less than that busy has waited for other programs."""
MAXIMUM_SECONDS = 240.0
"""A measurement that takes longer is stopped."""
RULES = {"warmup": ("warmup_member", 0), "student": ("student_member", 1)}


def measure(costs: Costs) -> Measured:
    """Measure the trainings and the prediction of an experiment on this machine.

    Args:
        costs: of all jobs of the experiment on this machine.

    Raises:
        HstfError: if a process fails or takes too long, or if other programs use the cores.
    """
    has_student = RULES["student"] in costs.counts
    with TemporaryDirectory(prefix="hstf-measure-") as name:
        folder = Path(name)
        config = costs.config.model_dump(mode="json")
        write_text(folder / CONFIG_FILE, json.dumps(config))
        costs.plan.save(folder / PLAN_FILE)
        warmup, window = _timed(costs, "warmup", folder)
        student = None
        if has_student:
            student, window = _timed(costs, "student", folder)
    machine = costs.machine
    return Measured(
        key=speed_key(costs.config, costs.plan, machine.cores, machine.has_gpu),
        processor=processor(machine.has_gpu),
        torch=torch_version(),
        warmup=warmup,
        student=student,
        window=window,
    )


def _timed(costs: Costs, stage: str, folder: Path) -> tuple[Timing, Timing]:
    """Return the seconds of a step and of a window of the jobs of a stage."""
    machine = costs.machine
    count = costs.counts[RULES[stage]]
    threads = machine.threads(count)
    side_by_side = 1 if machine.has_gpu else min(MAXIMUM_SIDE_BY_SIDE, machine.at_once(count))
    outputs = [folder / f"{stage}_{number}.json" for number in range(side_by_side)]
    commands = []
    for output in outputs:
        words = ["--folder", str(folder), "--stage", stage, "--output", str(output)]
        words += ["--seconds", str(BUDGET_SECONDS)]
        commands.append([sys.executable, "-m", PROGRAM, *words])
    _run(commands, environment(threads))
    found = [read_json(output) for output in outputs]
    cores = min(float(seconds["cores"]) for seconds in found)
    if not machine.has_gpu and cores < MINIMUM_CORES:
        raise HstfError(
            f"other programs use this machine: a training got {cores:.0%} of a core. Measure again"
            " when it is idle: hstf estimate --measure"
        )
    step, window = (mean(float(seconds[name]) for seconds in found) for name in ("step", "window"))
    return (
        Timing(seconds=step, threads=threads, side_by_side=side_by_side),
        Timing(seconds=window, threads=threads, side_by_side=side_by_side),
    )


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a job with some threads, as Snakemake and ``hstf`` set it."""
    variables = os.environ | {THREADS: str(threads)}
    if threads < usable_cores():
        variables.setdefault(WAIT_POLICY, "passive")
    return variables


def _run(commands: Sequence[Sequence[str]], variables: Mapping[str, str]) -> None:
    """Run commands side by side until all are done.

    Raises:
        HstfError: if one fails or takes too long.
    """
    end = time.monotonic() + MAXIMUM_SECONDS
    processes = [_started(command, variables) for command in commands]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=max(1.0, end - time.monotonic()))
            if process.returncode:
                last = (errors.strip().splitlines() or ["no message"])[-1]
                raise HstfError(f"the measurement failed: {last}")
    except subprocess.TimeoutExpired as error:
        raise HstfError(f"the measurement took more than {MAXIMUM_SECONDS:.0f} s") from error
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _started(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own module
        list(command),
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
