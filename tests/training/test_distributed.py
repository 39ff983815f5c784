"""Training by two processes on the CPU, compared with one process, and failures of a process."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.recovery import Record, record_recovery, wait_for
from support.stages import student, warmup
from support.training_files import CLASSES, region_of
from support.two_ranks import experiment, gradients, student_experiment, warmup_experiment
from support.workspace import ROOT, SPLITS, Workspace, write_sheet
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.objectives import OBJECTIVES
from hstf.config.training import TrainingConfig
from hstf.experiment.layout import Layout
from hstf.models.registry import load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv
from hstf.training.member import _check_batch_size
from hstf.training.patches import PatchSource, TrainingCase

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
SECONDS = 300
"""Maximum time of a start: a busy machine is slow to import torch."""


def curve(config: Config, number: int) -> list[dict[str, float]]:
    rows = read_csv(Layout.of(config).history(number, "seed_0"))
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def assert_same(one: Config, two: Config, number: int) -> None:
    """Compare curves and weights, which differ by rounding in float32 after some steps."""
    expected = curve(one, number)
    found = curve(two, number)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=2e-4)
    first = load_network(Layout.of(one).weights(number, "seed_0"))[0].state_dict()
    second = load_network(Layout.of(two).weights(number, "seed_0"))[0].state_dict()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=2e-3), name


# ---- two starts of two ranks, whose results the tests below check


@dataclass(frozen=True)
class TwoRanks:
    """What two ranks left after they were killed, started again, and failed."""

    folder: Path
    killed_at: int
    """Step of the state when a rank was killed."""
    had_weights: bool
    """Whether there were weights when a rank was killed."""
    seconds: float
    """Time from the second start to the weights of the warm-up."""
    warmup: Config
    student: Config
    damaged: Config
    code: int
    """Exit status of the second start."""
    stdout: str
    stderr: str


def step_when_a_rank_is_killed(command: list[str], state: Path) -> int:
    """Start two ranks and kill the second during the training; return the last saved step."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + SECONDS
    while not state.is_file() or torch.load(state, weights_only=True)["step"] < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (second,) = [
        pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    os.kill(int(second), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    return int(torch.load(state, weights_only=True)["step"])


def damage(image: Path) -> None:
    """Overwrite a third of a file with zeros."""
    content = bytearray(image.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    image.write_bytes(content)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """Kill a warm-up of two ranks, then start the program of :mod:`support.two_ranks`."""
    folder = tmp_path_factory.mktemp("ranks")
    warmup_config, path = warmup_experiment(folder / "warmup")
    student_config, _ = student_experiment(folder / "student", 3)
    damaged_config, _ = student_experiment(folder / "damaged", 2, steps=1000)
    for name in ("u_0", "u_2"):
        damage(Layout.of(damaged_config).preprocessed / name / "image.b2nd")
    layout = Layout.of(warmup_config)
    state = layout.training_state(0, "seed_0") / "state.pt"
    weights = layout.weights(0, "seed_0")
    command = ["-m", "hstf", "warmup", "--config", str(path), "--member", "seed_0"]
    killed_at = step_when_a_rank_is_killed([*TORCHRUN, *command], state)
    had_weights = weights.exists()

    start = time.monotonic()
    outputs = {"stdout": folder / "stdout.txt", "stderr": folder / "stderr.txt"}
    with outputs["stdout"].open("w") as stdout, outputs["stderr"].open("w") as stderr:
        process = subprocess.Popen(
            [*TORCHRUN, "-m", "support.two_ranks", str(folder)],
            env=ENVIRONMENT,
            stdout=stdout,
            stderr=stderr,
        )
        wait_for(lambda: weights.exists() or process.poll() is not None, SECONDS)
        seconds = time.monotonic() - start
        try:
            code = process.wait(timeout=SECONDS)
        finally:
            process.kill()
    return TwoRanks(
        folder,
        killed_at,
        had_weights,
        seconds,
        warmup_config,
        student_config,
        damaged_config,
        code,
        outputs["stdout"].read_text(),
        outputs["stderr"].read_text(),
    )


def test_warmup_of_two_ranks_equals_that_of_one_after_a_rank_was_killed(
    two_ranks: TwoRanks, tmp_path: Path, record_property: Record
) -> None:
    assert 3 <= two_ranks.killed_at < 16
    assert not two_ranks.had_weights
    one, _ = warmup_experiment(tmp_path)
    warmup(one, "seed_0")
    assert Layout.of(two_ranks.warmup).weights(0, "seed_0").exists(), two_ranks.stderr
    assert two_ranks.stdout.count("resumes at step") == 1
    assert "cpu and 1 more" in two_ranks.stdout
    assert two_ranks.stderr.count("16/16") == 1, "one rank shows the progress"
    assert_same(one, two_ranks.warmup, 0)
    record_recovery(
        record_property,
        "SIGKILL of one rank of two",
        "all end; then from the last checkpoint",
        two_ranks.seconds,
    )


def test_student_of_two_ranks_equals_that_of_one_with_every_part_of_the_method(
    two_ranks: TwoRanks, tmp_path: Path
) -> None:
    """Of three patches, one rank has two and the other one."""
    one, _ = student_experiment(tmp_path, 3)
    student(one, 1, "seed_0")
    assert Layout.of(two_ranks.student).weights(1, "seed_0").exists(), two_ranks.stderr
    assert any(row.get("csc_predictions", 0) > 0 for row in curve(two_ranks.student, 1))
    assert_same(one, two_ranks.student, 1)


def test_student_with_a_failing_rank_ends_with_its_message(two_ranks: TwoRanks) -> None:
    """Of two patches the second is pseudo-labelled: only the second rank reads damaged scans."""
    assert two_ranks.code != 0
    assert "image.b2nd" in two_ranks.stderr and "damaged" in two_ranks.stderr
    assert two_ranks.stderr.count("hstf student: ") <= 2
    assert not Layout.of(two_ranks.damaged).weights(1, "seed_0").exists()


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_objective_of_two_ranks_has_the_terms_and_gradients_of_one(
    objective: str, two_ranks: TwoRanks, tmp_path: Path
) -> None:
    stored = two_ranks.folder / "gradients.pt"
    assert stored.is_file(), two_ranks.stderr
    found: dict[str, Tensor] = torch.load(stored, weights_only=True)[objective]
    expected = gradients(objective, tmp_path)
    assert list(found) == list(expected)
    terms = [name for name in found if not name.startswith("grad ")]
    assert len(terms) >= (1 if objective == "bcp" else 2)
    norms = [value.abs().max() for name, value in expected.items() if name.startswith("grad ")]
    scale = float(max(norms))
    assert scale > 1e-4
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5 * scale), name


# ---- parts of a batch


def test_batch_of_the_ranks_is_the_whole_batch(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, 3)
    cases = []
    for name in ("l_0", "l_1", "l_2", "l_3"):
        folder = Layout.of(config).preprocessed / name
        files = (folder / "image.b2nd", folder / "label.b2nd", folder / "locations.npy")
        cases.append(TrainingCase(name, *files, pseudo=name == "l_3"))
    whole = PatchSource(cases[:3], [], CLASSES, (8, 8, 8), 3, 0.5, 0.5, seed=7)
    sources = [replace(whole, rank=k, ranks=2) for k in range(2)]
    for step in range(6):
        batch = whole.batch(step)
        first = sources[0].batch(step)
        second = sources[1].batch(step)
        regions = region_of(batch)
        assert torch.equal(regions[[0, 2]], region_of(first))
        assert torch.equal(regions[[1]], region_of(second))
        assert batch.case_ids == first.case_ids == second.case_ids
        assert batch.pseudo[::2] == first.pseudo


@pytest.mark.parametrize(("batch_size", "mixed", "gpus"), [(3, 0.0, 3), (7, 0.5, 3)])
def test_check_batch_size_refuses_a_batch_too_small_for_the_gpus(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, mixed: float, gpus: int
) -> None:
    training = TrainingConfig.model_validate({"mixing": {"probability": mixed}})
    _check_batch_size(1, training)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        HstfError, match=rf"batch of {batch_size} patches.* for 4 GPUs.*to {gpus}, or a larger"
    ):
        _check_batch_size(batch_size, training)
    _check_batch_size(8, training)


def test_check_batch_size_wants_two_patches_of_a_gpu_for_fourier_mixing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A patch gets the amplitudes of an unlabelled patch of its own GPU."""
    training = TrainingConfig.model_validate({"augmentation": {"fourier_probability": 0.5}})
    monkeypatch.setenv("WORLD_SIZE", "2")
    _check_batch_size(2, training)
    _check_batch_size(4, training, others=3)
    with pytest.raises(HstfError, match="batch of 3 patches is too small for 2 GPUs"):
        _check_batch_size(3, training, others=3)


# ---- the rules


def test_rules_start_as_many_ranks_as_gpus_of_the_round(tmp_path: Path) -> None:
    write_sheet(tmp_path, SPLITS)
    for row in (tmp_path / "cases.csv").read_text().splitlines()[1:]:
        for name in row.split(",")[1:3]:
            (tmp_path / name).touch()
    workspace = Workspace(tmp_path)
    workspace.configure(
        experiment="few",
        cases="cases.csv",
        rounds=3,
        warmup={"gpus": 4},
        student={"gpus": 2},
        rounds_overrides={2: {"student": {"gpus": 3}}, 3: {"student": {"gpus": 1}}},
    )
    shown = workspace.snakemake("--dry-run", "--printshellcmds").stdout
    warmup = Config().warmup
    trainings = warmup.folds + warmup.seeds
    command = " torchrun --standalone --nproc-per-node 4 -m hstf warmup --config"
    assert shown.count(command) == trainings
    commands = (
        "} torchrun --standalone --nproc-per-node 2 -m hstf",
        "} torchrun --standalone --nproc-per-node 3 -m hstf",
        "} hstf",
    )
    for number, command in enumerate(commands, 1):
        assert re.search(rf"{command} student --config \S+ --round {number} --member", shown)
