"""Threads of a command that has its cores for itself, and of one beside other jobs."""

import os
from pathlib import Path

import pytest

from hstf import cli
from hstf.runtime import threads
from hstf.runtime.threads import choose_threads, usable_cores


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
    choose_threads()
    assert settings() == expected


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("900000 100000", 8), ("?", 8)],
)
def test_a_container_has_the_cores_of_its_quota(quota: str, cores: int, eight_cores: Path) -> None:
    eight_cores.write_text(quota)
    assert usable_cores() == cores
    choose_threads()
    assert settings() == (None if cores == 8 else str(cores), None)


def test_threads_are_chosen_before_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Module:
        @staticmethod
        def run(_: object) -> int:
            return 0

    def load(name: str) -> type[Module]:
        order.append(name)
        return Module

    monkeypatch.setattr(cli, "choose_threads", lambda: order.append("threads"))
    monkeypatch.setattr(cli.importlib, "import_module", load)
    assert cli.main(["models"]) == 0
    assert order == ["threads", "hstf.commands.models"]
