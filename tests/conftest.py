"""Shared fixtures, which run the real workflow with the real Snakemake, and the order of tests."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.workspace import SPLITS, TINY, Workspace, withhold, write_sheet

# Property tests: on a slow or busy machine neither an example nor its generation is an error. The
# examples are the same in each run, so that a failure is one of the change that is tested.
settings.register_profile(
    "slow_machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("slow_machine")


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two finished rounds for Snakemake: all files exist but are empty. Copy before changes."""
    workspace = Workspace(tmp_path_factory.mktemp("fabricated"))
    write_sheet(workspace.folder, SPLITS)
    for number in range(len(SPLITS)):
        for suffix in ("", "_label"):
            (workspace.folder / f"case_{number:03d}{suffix}.nii.gz").write_text(f"{number}{suffix}")
    workspace.configure(
        experiment="few",
        cases="cases.csv",
        shard_size=2,
        rounds=2,
        overrides="overrides",
        warmup={"seeds": 0},
        student={"members": 1},
    )
    workspace.pretend()
    return workspace


@pytest.fixture
def experiment(fabricated: Workspace, tmp_path: Path) -> Workspace:
    """A copy of two finished rounds, for changes and dry runs."""
    return fabricated.copy_to(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny experiment that the workflow has really run. Copy it before changes.

    The run takes minutes. With several workers of pytest-xdist the first one runs it, and each
    works with a copy of its own.
    """
    own = tmp_path_factory.mktemp("finished")
    if not is_worker():
        return run_tiny_experiment(own)
    shared = tmp_path_factory.getbasetemp().parent / "finished"
    complete = shared.with_suffix(".complete")
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            run_tiny_experiment(shared)
            complete.touch()
        return Workspace(shared).copy_to(own)


def run_tiny_experiment(folder: Path) -> Workspace:
    """Run the workflow with a few small scans in an empty folder."""
    workspace = Workspace(folder)
    write_sheet(
        workspace.folder,
        ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3,
        "images/{}.nii.gz",
        "labels/{}.nii.gz",
    )
    # The generator of the scans writes cases.csv itself.
    (workspace.folder / "cases.csv").rename(workspace.folder / "sheet.csv")
    workspace.configure(**(TINY | {"cases": "sheet.csv"}))
    withhold(workspace.folder, workspace.folder / "sheet.csv")
    workspace.run()
    return workspace


# ---- order of tests


def is_worker() -> bool:
    """Return whether this process is one of several that run tests side by side."""
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take minutes first, so that no worker is left with one at the end."""
    if not is_worker():
        return
    ranks: dict[Path, int] = {}
    for item in items:
        rank = seconds_rank(item)
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


def seconds_rank(item: pytest.Item) -> int:
    """Return 0 for the slowest tests, and larger numbers for faster ones.

    A run on SLURM needs no finished experiment: one worker begins with it, while another one runs
    the experiment that many modules need.
    """
    if item.get_closest_marker("slurm"):
        return 0
    if "finished" in getattr(item, "fixturenames", ()):
        return 1
    return 2 if item.get_closest_marker("workflow") else 3


# ---- disks


@pytest.fixture
def freeze() -> Iterator[Callable[[Path], None]]:
    """Return a function that makes a folder read-only. Permissions do not stop root: mount it."""
    is_root = os.geteuid() == 0
    frozen: list[Path] = []

    def remove_permissions(folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o555)
                frozen.append(path)

    def mount(folder: Path) -> None:
        done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True)
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        frozen.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

    yield mount if is_root else remove_permissions
    for path in frozen:
        if is_root:
            subprocess.run(["umount", "--lazy", path], check=True)
        else:
            path.chmod(0o755)


# ---- phantoms in the layouts of public data sets


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a data set in a layout, once: 3 labelled, 1 test and 2 unlabelled patients."""
    from hstf.cli import main

    folder = tmp_path_factory.mktemp("layouts")

    def of_layout(name: str, *options: str) -> Path:
        target = folder / "_".join([name, *options])
        if not target.exists():
            numbers = ["--cases", "6", "--labelled", "3", "--test", "1", "--size", "16", "16", "8"]
            layout = ["phantom", "--layout", name, "--output", str(target)]
            assert main([*layout, *numbers, *options]) == 0
        return target

    return of_layout


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
