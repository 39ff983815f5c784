"""The parts of the comparison. Each yields works with their costs."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from cpu_seconds import CONFIGS, STARTS, drawn, started

from against.data import ACDC, HIPPOCAMPUS, Kind, Scans
from against.processes import (
    ROOT,
    Cost,
    Turns,
    environment_of,
    in_turn,
    run,
    run_at_once,
    take_turns,
)

OURS = "hstf"
BEFORE = "hstf before"
NNUNET = "nnU-Net"
LARGE_PAGES = re.compile(r'^TUNABLES = "(.+)"$', re.MULTILINE)
Work = tuple[str, dict[str, Cost]]
"""Name of a work, and its cost by who did it."""


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    folder: Path
    """Folder of temporary files."""
    data: Path | None
    """Folder with real scans; phantoms if None."""
    against: Path | None
    """Folder of an earlier version of hstf."""
    threads: int
    repeats: int
    cases: int | None
    """Number of scans to preprocess; None for the default of each data set."""
    steps: int
    """Steps of the trainings that run as whole commands."""
    brief: bool
    """Whether to leave out the rows that only explain others."""

    @property
    def trees(self) -> dict[str, Path]:
        """Folder of each version of hstf."""
        before = {BEFORE: self.against} if self.against else {}
        return {OURS: ROOT, **before}


@dataclass(frozen=True)
class Patch:
    """A configuration and the patch of its plan."""

    config: str
    size: tuple[int, int, int]


PATCHES = {
    "hippocampus": Patch("config/hippocampus.yaml", (40, 56, 40)),
    "acdc": Patch("config/acdc.yaml", (112, 112, 10)),
    "demo": Patch("config/config.yaml", (32, 32, 32)),
}


def has(package: str, part: str) -> bool:
    """Return whether a package is installed, and print what is skipped without it."""
    if importlib.util.find_spec(package):
        return True
    print(f"{part}: {package} is not installed, its rows are left out", flush=True)
    return False


def hstf(*arguments: str | Path) -> list[str]:
    """Return a command of hstf."""
    return [sys.executable, "-m", "hstf", *map(str, arguments)]


def large_pages(tree: Path) -> dict[str, str]:
    """Return the settings of the allocator with which the workflow of a version trains."""
    found = LARGE_PAGES.search((tree / "workflow/rules/common.smk").read_text())
    return {"GLIBC_TUNABLES": found[1]} if found else {}


# --- preprocessing
# --------------------------------------------------------------------------


def preprocessing(kind: Kind, settings: Settings) -> Iterator[Work]:
    """Yield the cost of preprocessing all scans, as whole commands; both have planned before."""
    folder = settings.folder / f"preprocess_{kind.name}"
    scans = Scans.of(kind, settings.data, folder, settings.cases)
    works = {OURS: _our_preprocessing(scans, folder / "hstf", settings)}
    if has("nnunetv2", "preprocess"):
        works[NNUNET] = _nnunet_preprocessing(scans, folder / "nnunet", settings)
    yield f"{len(scans.names)} scans, {kind.name}", in_turn(works, settings.repeats)


def _our_preprocessing(scans: Scans, folder: Path, settings: Settings) -> Callable[[], Cost]:
    folder.mkdir(parents=True, exist_ok=True)
    config = scans.write_experiment(folder, {"preprocess": {"workers": settings.threads}})
    environment = environment_of(ROOT, 1)
    for stage in ("check", "plan"):
        run(hstf(stage, "--config", config), environment, folder)
    command = hstf("preprocess", "--config", config, "--shard", "labelled_0")

    def work() -> Cost:
        shutil.rmtree(folder / "results" / scans.kind.name / "preprocessed", ignore_errors=True)
        return run(command, environment, folder)

    return work


def _nnunet_preprocessing(scans: Scans, folder: Path, settings: Settings) -> Callable[[], Cost]:
    scans.write_nnunet(folder)
    places = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    environment = environment_of(ROOT, 1, {name: str(folder / name) for name in places})
    workers = str(settings.threads)
    run([_script("nnUNetv2_extract_fingerprint"), "-d", "1", "-np", workers], environment, folder)
    run([_script("nnUNetv2_plan_experiment"), "-d", "1"], environment, folder)
    preprocessed = folder / "nnUNet_preprocessed" / f"Dataset001_{scans.kind.name}"
    plans = preprocessed / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    configuration = content["configurations"]["3d_fullres"]
    # The axes of its arrays are in reverse order, and then transposed.
    spacing = scans.kind.planned[::-1]
    configuration["spacing"] = [spacing[axis] for axis in content["transpose_forward"]]
    plans.write_text(json.dumps(content))
    command = [_script("nnUNetv2_preprocess"), "-d", "1", "-c", "3d_fullres", "-np", workers]

    def work() -> Cost:
        shutil.rmtree(preprocessed / configuration["data_identifier"], ignore_errors=True)
        return run(command, environment, folder)

    return work


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# --- calls in one process
# --------------------------------------------------------------------------


def calls(module: str, settings: Settings) -> Iterator[Work]:
    """Yield what a module of calls measures, in a process with the threads of the settings."""
    output = settings.folder / f"{module}.json"
    command = [sys.executable, "-m", f"against.{module}", str(settings.repeats), str(output)]
    subprocess.run(command, env=environment_of(ROOT, settings.threads), cwd=ROOT, check=True)
    for work, costs in json.loads(output.read_text()).items():
        yield work, {name: Cost(**cost) for name, cost in costs.items()}


# --- starts and batches, in CPU seconds only
# --------------------------------------------------------------------------


def starts(settings: Settings) -> Iterator[Work]:
    """Yield the CPU seconds of what commands import before they compute."""
    for name, code in STARTS.items():
        works = {
            version: partial(_cpu_only, started, tree, code)
            for version, tree in settings.trees.items()
        }
        yield name, in_turn(works, settings.repeats)


def batches(settings: Settings) -> Iterator[Work]:
    """Yield the CPU seconds of drawing a batch of patches."""
    for name, arguments in CONFIGS.items():
        works = {
            version: partial(_cpu_only, drawn, tree, *arguments)
            for version, tree in settings.trees.items()
        }
        yield name, in_turn(works, settings.repeats)


def _cpu_only(function: Callable[..., float], *arguments: Any) -> Cost:
    return Cost(0.0, function(*arguments))


# --- steps of a training
# --------------------------------------------------------------------------


def steps(name: str, settings: Settings) -> Iterator[Work]:
    """Yield the cost of a step of the warm-up and of a student, with the patch ``name``."""
    patch = PATCHES[name]
    theirs: dict[str, Callable[[], Turns]] = {}
    if has("nnunetv2", f"steps_{name}"):
        theirs[NNUNET] = partial(_nnunet_steps, patch, settings, ["--augment"])
    if theirs and not settings.brief:
        theirs[f"{NNUNET}, without augmentation"] = partial(_nnunet_steps, patch, settings, [])
        theirs[f"{NNUNET}, large pages"] = partial(
            _nnunet_steps, patch, settings, ["--augment"], large_pages(ROOT)
        )
    for stage, others in (("warmup", theirs), ("student", {})):
        started = {
            version: partial(_our_steps, tree, patch, stage, settings, [])
            for version, tree in settings.trees.items()
        }
        yield f"{stage}, {name}", take_turns({**started, **others}, settings.repeats)


def consistency(name: str, settings: Settings) -> Iterator[Work]:
    """Yield the cost of a step of a student with and without cross-scale consistency."""
    for version, tree in settings.trees.items():
        started = {}
        for option, label in (
            ("default", version),
            ("views", f"{version}, other scales without consistency"),
            ("none", f"{version}, without other scales"),
        ):
            extra = ["--csc", option]
            started[label] = partial(_our_steps, tree, PATCHES[name], "student", settings, extra)
        yield f"student, {name}, {version}", take_turns(started, settings.repeats)


def _our_steps(
    tree: Path,
    patch: Patch,
    stage: str,
    settings: Settings,
    more: Sequence[str],
) -> Turns:
    command = [*_module("our_steps", patch), "--stage", stage, *more]
    environment = environment_of(tree, settings.threads, large_pages(tree))
    return Turns(command, environment, tree)


def _nnunet_steps(
    patch: Patch,
    settings: Settings,
    more: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> Turns:
    command = [*_module("nnunet_steps", patch), *more]
    return Turns(command, environment_of(ROOT, settings.threads, variables), ROOT)


def _module(name: str, patch: Patch) -> list[str]:
    module = [sys.executable, "-m", f"against.{name}", "--config", patch.config]
    return [*module, "--patch", *map(str, patch.size)]


# --- whole commands on a small experiment
# --------------------------------------------------------------------------


def trainings(settings: Settings) -> Iterator[Work]:
    """Yield the cost of two trainings of the demo at once, and of the same one after the other."""
    cores = os.cpu_count() or 1
    works: dict[str, Callable[[], Cost]] = {}
    for version, tree in settings.trees.items():
        folder = demo(tree, settings.folder / f"demo_{version.replace(' ', '_')}")
        works[version] = partial(_train, tree, folder, settings, 1, True)
        works[f"{version}, one after the other"] = partial(_train, tree, folder, settings, 1, False)
        works[f"{version}, one after the other, {cores} threads"] = partial(
            _train, tree, folder, settings, cores, False
        )
    yield f"two trainings of {settings.steps} steps", in_turn(works, settings.repeats)


def _train(tree: Path, folder: Path, settings: Settings, threads: int, at_once: bool) -> Cost:
    """Train the two networks of the folds of the demo from the start."""
    content = yaml.safe_load((folder / "config.yaml").read_text())
    content["warmup"]["steps"] = settings.steps
    config = folder / "timed.yaml"
    config.write_text(yaml.safe_dump(content))
    for state in (folder / "results").rglob("state.pt"):
        state.unlink()
    environment = environment_of(tree, threads, large_pages(tree))
    commands = []
    for member in ("fold_0", "fold_1"):
        commands.append(hstf("warmup", "--config", config, "--member", member))
    if at_once:
        return run_at_once(commands, environment, folder)
    costs = [run(command, environment, folder) for command in commands]
    return Cost(
        sum(cost.seconds for cost in costs),
        sum(cost.cpu_seconds for cost in costs),
        max(cost.megabytes for cost in costs),
    )


def predictions(settings: Settings) -> Iterator[Work]:
    """Yield the cost of segmenting one scan of the demo with two networks."""
    works: dict[str, Callable[[], Cost]] = {}
    for version, tree in settings.trees.items():
        folder = demo(tree, settings.folder / f"demo_{version.replace(' ', '_')}")
        command = hstf("predict", "--model", folder / "results/demo/export")
        command += ["--input", str(folder / "scans/images/case_000.nii.gz")]
        command += ["--output", str(folder / "segmentations"), "--existing", "overwrite"]
        environment = environment_of(tree, settings.threads)
        works[version] = partial(run, command, environment, folder)
    yield "hstf predict, a scan of 40 x 40 x 32 voxels", in_turn(works, settings.repeats)


def demo(tree: Path, folder: Path) -> Path:
    """Run the demo of a version with trainings of a few steps, unless it has been run."""
    if (folder / "results/demo/export/model.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    environment = environment_of(tree, 1)
    options = ["--cases", "10", "--labelled", "4", "--test", "2"]
    run(hstf("phantom", "--output", folder / "scans", *options), environment, folder)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_demo_settings(tree, folder)))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(tree / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(config)]
    command += ["--cores", str(os.cpu_count() or 1), "export"]
    run(command, environment, folder)
    return folder


def _demo_settings(tree: Path, folder: Path) -> dict[str, Any]:
    settings = yaml.safe_load((tree / "config/config.yaml").read_text())
    del settings["phantom"]
    settings |= {
        "output": str(folder / "results"),
        "cases": str(folder / "scans/cases.csv"),
        "overrides": str(folder / "overrides"),
        "rounds": 0,
    }
    for section in ("warmup", "student"):
        settings[section] |= {"steps": 4}
    settings["warmup"]["seeds"] = 0  # the two networks of the folds are the model
    settings["teacher"] = {"scales": [1.0]}
    settings["evaluate"] = {"bootstrap": 100}
    return settings


PARTS: dict[str, Callable[[Settings], Iterator[Work]]] = {
    "preprocess_hippocampus": partial(preprocessing, HIPPOCAMPUS),
    "preprocess_acdc": partial(preprocessing, ACDC),
    "window": partial(calls, "windows"),
    "scores": partial(calls, "scores"),
    "starts": starts,
    "batches": batches,
    **{f"steps_{name}": partial(steps, name) for name in PATCHES},
    "consistency": partial(consistency, "hippocampus"),
    "trainings": trainings,
    "predict": predictions,
}
"""What is measured, by its name on the command line."""
