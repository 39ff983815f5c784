"""Threads of a command that has its cores for itself, and of one beside other jobs."""

import os
from pathlib import Path

import pytest

from hstf import cli
from hstf.runtime import threads
from hstf.runtime.threads import busy_cores, choose_threads, own_cores, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Eight cores without a quota and without settings; return the file of the quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LOCAL_WORLD_SIZE"):
        # Set first: what is deleted without ever having been there is not deleted at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path / "cpu.max"


def settings() -> tuple[str | None, str | None]:
    """Return the number of threads and the wait policy."""
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (None, None)),
        ({"OMP_NUM_THREADS": "8"}, ("8", None)),
        ({"OMP_NUM_THREADS": "4"}, ("4", "passive")),
        ({"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "active"}, ("4", "active")),
        ({"OMP_NUM_THREADS": "8", "LOCAL_WORLD_SIZE": "4"}, ("2", "passive")),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "4"}, ("1", "passive")),
        ({"OMP_NUM_THREADS": "4,2"}, ("4,2", None)),
    ],
)
def test_threads_sleep_if_other_jobs_have_cores(
    given: dict[str, str],
    expected: tuple[str | None, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    choose_threads(runs_networks=False)
    assert settings() == expected


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("900000 100000", 8), ("?", 8)],
)
def test_a_container_has_the_cores_of_its_quota(quota: str, cores: int, eight_cores: Path) -> None:
    eight_cores.write_text(quota)
    assert usable_cores() == cores
    choose_threads(runs_networks=False)
    assert settings() == (None if cores == 8 else str(cores), None)


def write_cpu_times(path: Path, *busy: int) -> None:
    """Write the hundredths of a second that cores were busy, and the sum of all cores."""
    lines = [f"cpu {sum(busy)} 0 0 999 0 0 0 0 0 0"]
    lines += [f"cpu{core} {ticks} 0 0 999 7 0 0 0 5 0" for core, ticks in enumerate(busy)]
    path.write_text("\n".join([*lines, "intr 5 0", "procs_running 3"]))


@pytest.mark.parametrize(
    ("after", "runs_networks", "policy"),
    [
        ((104,) + (0,) * 7, True, None),
        ((110,) + (0,) * 7, True, "passive"),
        ((100,) + (1,) * 7, True, "passive"),
        ((110,) + (0,) * 7, False, None),
        ((100,) + (0,) * 7 + (10, 10), True, None),
    ],
    ids=["a little", "a core", "something on each core", "no network", "cores of others"],
)
def test_threads_sleep_if_other_programs_use_the_cores(
    after: tuple[int, ...],
    runs_networks: bool,
    policy: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    times = tmp_path / "stat"
    clock = iter([0.0, 0.1])
    write_cpu_times(times, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    monkeypatch.setattr(threads, "CPU_TIMES", times)
    monkeypatch.setattr(threads.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(threads.time, "sleep", lambda _: write_cpu_times(times, *after))
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    choose_threads(runs_networks)
    assert settings() == (None, policy)


def test_busy_cores_is_0_if_the_system_reports_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(threads, "CPU_TIMES", tmp_path / "none")
    assert busy_cores() == 0


def test_own_cores_are_all_cores_on_a_system_that_binds_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert own_cores() == {0, 1, 2, 3}
    assert usable_cores() == 4


def test_networks_are_named_by_the_commands_that_use_them() -> None:
    named = {name for name, command in cli.COMMANDS.items() if command.runs_networks}
    assert {"warmup", "student", "teacher", "evaluate", "predict"} <= named
    assert not named & {"config", "status", "check", "report"}


def test_threads_are_chosen_before_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Module:
        @staticmethod
        def run(_: object) -> int:
            return 0

    def load(name: str) -> type[Module]:
        order.append(name)
        return Module

    monkeypatch.setattr(cli, "choose_threads", lambda _: order.append("threads"))
    monkeypatch.setattr(cli.importlib, "import_module", load)
    assert cli.main(["models"]) == 0
    assert order == ["threads", "hstf.commands.models"]
