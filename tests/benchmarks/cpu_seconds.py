"""Measure CPU seconds of the start of commands and of training patches, against another version.

``python tests/benchmarks/cpu_seconds.py [--against FOLDER] [--runs 3]`` runs each measurement in a
process of its own with one thread, in turn for this version and for the one in ``FOLDER`` (a git
worktree, for example), and prints the minimum of each. CPU seconds of one thread depend less on
other work of the machine than seconds do.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCHES = 40

STARTS = {
    "warmup or student, up to the first step": (
        "import hstf.stages.warmup, torch\n"
        "from hstf.config.training import TrainingConfig\n"
        "from hstf.training.state import TrainingState\n"
        "TrainingState.start(torch.nn.Linear(1, 1), TrainingConfig())"
    ),
    "teacher": "import hstf.stages.teacher",
    "predict": "import hstf.commands.predict, hstf.method.inference",
    "PyTorch": "import torch",
}
"""What a command imports before it computes."""

PATCHES = f"""
import sys, tempfile, time
from pathlib import Path
sys.path.insert(0, "tests/benchmarks")
import torch
from training_speed import make_plan
from hstf.config.load import load_config
from hstf.stages.plan.timed_training import Training
from hstf.training.batch import Batch
config = load_config(Path(sys.argv[1]))
patch = tuple(int(size) for size in sys.argv[2].split("x"))
plan = config.plan.model_copy(update={{"patch_size": patch, "batch_size": 2}})
with tempfile.TemporaryDirectory() as folder:
    config = config.model_copy(update={{"plan": plan}})
    source = Training.of(config, make_plan(config), "student", Path(folder)).source
    for step in range({BATCHES} + 2):
        if step == 2:
            start = time.process_time()
        generator = torch.Generator().manual_seed(step)
        batch = Batch.draw(source.batch(step), source, config.student.augmentation, generator)
        batch.strong()
    print((time.process_time() - start) / {BATCHES})
"""
CONFIGS = {
    "a batch of two patches, hippocampus": ("config/hippocampus.yaml", "40x56x40"),
    "a batch of two patches, ACDC": ("config/acdc.yaml", "14x96x96"),
}


def started(tree: Path, code: str) -> float:
    """Return the CPU seconds of a process that runs ``code``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(tree, code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def drawn(tree: Path, config: str, patch: str) -> float:
    """Return the CPU seconds of a batch: read, cut, and change the intensities."""
    return float(_run(tree, PATCHES, config, patch))


def _run(tree: Path, code: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=tree, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="folder of another version")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    trees = [ROOT, args.against.resolve()] if args.against else [ROOT]
    for name, code in STARTS.items():
        print_minimum(name, [[started(tree, code) for tree in trees] for _ in range(args.runs)])
    for name, arguments in CONFIGS.items():
        found = [[drawn(tree, *arguments) for tree in trees] for _ in range(args.runs)]
        print_minimum(name, found)


def print_minimum(name: str, found: list[list[float]]) -> None:
    """Print the minimum of each version, and the fraction that this one needs of the other."""
    best = [min(run) for run in zip(*found, strict=True)]
    line = f"{name}: {best[0]:.3f} CPU s"
    if len(best) > 1:
        line += f", the other version {best[1]:.3f}, {best[0] / best[1]:.2f} of it"
    print(line, flush=True)


if __name__ == "__main__":
    main()
