"""Training by two processes on the CPU: what one would compute, to rounding; and what happens when one of them fails.

Run by ``torchrun`` this file is a rank itself, which writes the gradients of every method's objective.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.recovery import Record, recovery
from support.stages import student, warmup
from support.training_files import (
    CLASSES,
    PLAN,
    TRAINING,
    new_state,
    some_batch,
    write_experiment,
    write_labels,
)
from support.workspace import SPLITS, Workspace, write_sheet
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import TrainingConfig
from hstf.experiment.layout import Layout
from hstf.method.objectives.registry import OBJECTIVES
from hstf.models.base import NetworkSpec
from hstf.models.registry import build, load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv
from hstf.training.distributed import in_step, is_first_rank, rank, ranks, together
from hstf.training.member import _check_share
from hstf.training.patches import PatchSource, TrainingCase
from hstf.training.state import TrainingState

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STILL = {
    "affine_probability": 0,
    "elastic_probability": 0,
    "intensity_probability": 0,
    "flip_axes": [],
}
CURVE = {**TRAINING, "history_every": 1, "augmentation": STILL, "amp": "off"}
CSC = {
    "prediction_weight": 0.4, "feature_weight": 0.2, "pyramid_weight": 0.1, "segmentation_weight": 0.5,
    "scale_range": [1.5, 1.5],
}  # fmt: skip
EVERY_PART = {"ema_blend": 0.5, "csc": CSC}
BATCH = [False, False, False, True]  # the first of two ranks has no unlabelled patch


def experiment(folder: Path, batch_size: int, **keys: Any) -> tuple[Config, Path]:
    """A training in which nothing is left to chance but which patches are drawn."""
    network = {"transformer_layers": 1, "transformer_heads": 1, "drop_path": 0.0}
    config, path = write_experiment(folder, network=network, **keys)
    PLAN.model_copy(update={"batch_size": batch_size}).save(Layout.of(config).plan)
    return config, path


def by_two(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def curve(config: Config, number: int, member: str = "seed_0") -> list[dict[str, float]]:
    rows = read_csv(Layout.of(config).history(number, member))
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def assert_same(one: Config, two: Config, number: int) -> None:
    """Curves and weights to the rounding of float32, after some steps."""
    expected, found = curve(one, number), curve(two, number)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=2e-4)
    weights = [
        load_network(Layout.of(c).weights(number, "seed_0"))[0].state_dict() for c in (one, two)
    ]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-3), name


# ---- the stages


def step_when_a_rank_is_killed(command: list[str], state: Path) -> int:
    """Start two ranks and kill the second on its way; returns the step of the last state, when all have ended."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
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


def test_two_ranks_warm_up_as_one_though_one_of_them_was_killed(
    tmp_path: Path, record_property: Record
) -> None:
    keys = {"warmup": {**CURVE, "steps": 16, "seeds": 1}}
    one, _ = experiment(tmp_path / "one", 4, **keys)
    warmup(one, "seed_0")
    two, path = experiment(tmp_path / "two", 4, **keys)
    arguments = ["-m", "hstf", "warmup", "--config", str(path), "--member", "seed_0"]
    state = Layout.of(two).training_state(0, "seed_0") / "state.pt"
    assert 3 <= step_when_a_rank_is_killed([*TORCHRUN, *arguments], state) < 16
    assert not Layout.of(two).weights(0, "seed_0").exists()
    with recovery(
        record_property, "SIGKILL of one rank of two", "all end; then from the last checkpoint"
    ):
        done = by_two(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumes at step") == 1
    assert "cpu and 1 more" in done.stdout
    assert done.stderr.count("16/16") == 1, "one rank shows the progress"
    assert_same(one, two, 0)


def student_experiment(folder: Path, batch_size: int, **keys: Any) -> tuple[Config, Path]:
    config, path = experiment(folder, batch_size, student={**CURVE, **EVERY_PART, **keys})
    write_labels(config, 1, ["u_0", "u_2"], rejected=["u_1"])
    return config, path


def test_two_ranks_learn_as_one_from_pseudo_labels_with_every_part_of_the_method(
    tmp_path: Path,
) -> None:
    """Of three patches one rank has two and the other one."""
    one, _ = student_experiment(tmp_path / "one", 3)
    student(one, 1, "seed_0")
    two, path = student_experiment(tmp_path / "two", 3)
    arguments = ("-m", "hstf", "student", "--config", path, "--round", "1", "--member", "seed_0")
    done = by_two(*arguments)
    assert done.returncode == 0, done.stderr
    assert any(row.get("csc_predictions", 0) > 0 for row in curve(two, 1))
    assert_same(one, two, 1)


def test_a_rank_that_fails_ends_all_with_its_message(tmp_path: Path) -> None:
    """Of two patches the second is always pseudo-labelled: only the second rank reads those scans."""
    config, path = student_experiment(tmp_path, 2, steps=1000)
    for name in ("u_0", "u_2"):
        image = Layout.of(config).preprocessed / name / "image.b2nd"
        content = bytearray(image.read_bytes())
        content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3)
        image.write_bytes(content)
    done = by_two("-m", "hstf", "student", "--config", path, "--round", "1", "--member", "seed_0")
    assert done.returncode != 0
    assert "image.b2nd" in done.stderr and "damaged" in done.stderr
    assert done.stderr.count("hstf student: ") <= 2
    assert not Layout.of(config).weights(1, "seed_0").exists()


# ---- every objective


def gradients(objective: str, folder: Path) -> dict[str, Tensor]:
    """Terms and gradients of the second of two steps, on this rank's part of a batch."""
    student = {**CURVE, **EVERY_PART, "consistency": {"noise": 0.0, "passes": 2}}
    config, _ = experiment(folder, len(BATCH), student=student)
    state = pair_state(config) if objective == "cross_teaching" else new_state(config, 4)
    whole, own = some_batch(config, BATCH), slice(rank(), None, ranks())
    part = {name: getattr(whole, name)[own] for name in ("weak", "target", "weight", "pseudo")}
    compute = in_step(state.network, OBJECTIVES[objective](config))
    for _ in range(2):
        state.network.zero_grad()
        terms = compute(state, replace(whole, **part))
        torch.stack(list(terms.values())).sum().backward()
    found = {name: value.detach() for name, value in terms.items()}
    return found | {
        f"grad {n}": p.grad for n, p in state.network.named_parameters() if p.grad is not None
    }


def pair_state(config: Config) -> TrainingState:
    shape = (PLAN.channels, PLAN.strides, PLAN.kernels, PLAN.spacing)
    torch.manual_seed(0)
    state = TrainingState.start(
        build(NetworkSpec("pair", 1, CLASSES, *shape, 1, 1, pair=("hybrid", "cnn"))), config.student
    )
    state.network.eval()
    state.step = 4
    return state


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Tensor]]]:
    out = tmp_path_factory.mktemp("ranks") / "gradients.pt"
    done = by_two(__file__, out)
    assert done.returncode == 0, done.stderr
    yield torch.load(out, weights_only=True)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_terms_and_gradients_are_those_of_one_rank(
    objective: str, of_two: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    expected, found = gradients(objective, tmp_path), of_two[objective]
    assert list(found) == list(expected)
    assert len([name for name in found if not name.startswith("grad ")]) >= (
        2 if objective != "bcp" else 1
    )
    scale = max(
        float(value.abs().max()) for name, value in expected.items() if name.startswith("grad ")
    )
    assert scale > 1e-4
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5 * scale), name


# ---- parts of a batch


def test_the_parts_of_the_ranks_are_the_batch(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, 3)
    folders = [Layout.of(config).preprocessed / f"l_{i}" for i in range(4)]
    cases = [
        TrainingCase(
            f.name, f / "image.b2nd", f / "label.b2nd", f / "locations.npy", pseudo=f.name == "l_3"
        )
        for f in folders
    ]
    whole = PatchSource(cases[:3], [], CLASSES, (8, 8, 8), 3, 0.5, 0.5, seed=7)
    parts = [replace(whole, rank=k, ranks=2) for k in range(2)]
    for step in range(6):
        batch, (first, second) = whole.batch(step), (part.batch(step) for part in parts)
        assert torch.equal(batch.region[[0, 2]], first.region)
        assert torch.equal(batch.region[[1]], second.region)
        assert batch.case_ids == first.case_ids == second.case_ids
        assert torch.equal(batch.pseudo[::2], first.pseudo)


@pytest.mark.parametrize(("batch_size", "mixed", "gpus"), [(3, 0.0, 3), (7, 0.5, 3)])
def test_a_batch_too_small_for_the_gpus_is_told(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, mixed: float, gpus: int
) -> None:
    training = TrainingConfig.model_validate({"mixing": {"probability": mixed}})
    _check_share(1, training)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        HstfError, match=rf"batch of {batch_size} patches.* for 4 GPUs.*to {gpus}, or a larger"
    ):
        _check_share(batch_size, training)
    _check_share(8, training)


# ---- the rules


def test_the_command_follows_from_gpus_of_the_round(tmp_path: Path) -> None:
    write_sheet(tmp_path, SPLITS)
    for row in (tmp_path / "cases.csv").read_text().splitlines()[1:]:
        for name in row.split(",")[1:3]:
            (tmp_path / name).touch()
    workspace = Workspace(tmp_path)
    workspace.configure(
        experiment="few", cases="cases.csv", rounds=3, warmup={"gpus": 4}, student={"gpus": 2},
        rounds_overrides={2: {"student": {"gpus": 3}}, 3: {"student": {"gpus": 1}}},
    )  # fmt: skip
    told = workspace.snakemake("--dry-run", "--printshellcmds").stdout
    assert told.count(": torchrun --standalone --nproc-per-node 4 -m hstf warmup --config") == 3
    commands = (
        ": torchrun --standalone --nproc-per-node 2 -m hstf",
        ": torchrun --standalone --nproc-per-node 3 -m hstf",
        ": hstf",
    )
    for number, command in enumerate(commands, 1):
        assert re.search(rf"{command} student --config \S+ --round {number} --member", told)


if __name__ == "__main__":
    with together("cpu"), tempfile.TemporaryDirectory() as scratch:
        content = {name: gradients(name, Path(scratch) / name) for name in OBJECTIVES}
        if is_first_rank():
            torch.save(content, sys.argv[1])
