"""``hstf estimate``: the speed that is measured on this machine."""

import json
import platform
from pathlib import Path

import pytest
from support.estimated_experiment import LAPTOP, experiment
from support.workspace import ROOT

from hstf.cli import main
from hstf.commands.estimate import (
    needs_measurement,
    text_for_screen,
)
from hstf.config.load import load_config
from hstf.experiment.jobs import Jobs
from hstf.experiment.plan import Triple
from hstf.runtime.errors import HstfError
from hstf.stages.plan.cost_basis import estimated, measured_speed, probable_plan
from hstf.stages.plan.costs import (
    CORE_GFLOPS,
    START_SECONDS,
    Costs,
    Machine,
    patch_operations,
    step_cost,
)
from hstf.stages.plan.fingerprint import ScanSummary
from hstf.stages.plan.speeds import (
    SPEED_FILE,
    Measured,
    Speeds,
    Timing,
    find,
    speed_key,
    store,
)


def test_measured_speed_is_that_of_trainings_on_this_machine(workplace: Path) -> None:
    config = experiment(workplace)
    found = estimated(Jobs(config), LAPTOP)
    assert found is not None
    costs, _ = found
    root = workplace / "results" / "x"
    state = root / "round_0" / "state" / "fold_0"
    state.mkdir(parents=True)
    (root / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    plan = costs.plan.model_copy(update={"normalisation": ()})
    plan.save(root / "plan.json")
    log = root / "logs" / "warmup" / "fold_0.log"
    log.parent.mkdir(parents=True)
    log.write_text("round 0 fold_0: 9/9, 0.5/s, 0 s left\n")
    facts = {"machine": platform.node(), "device": "cpu", "threads": 1}
    (state / "made_by.json").write_text(json.dumps(facts))
    operations = 3 * costs.operations * plan.batch_size * 0.5
    assert measured_speed(workplace / "results", on_gpu=False) == pytest.approx(operations)
    assert measured_speed(workplace / "results", on_gpu=True) is None
    (state / "made_by.json").write_text(json.dumps(facts | {"machine": "another"}))
    assert measured_speed(workplace / "results", on_gpu=False) is None


def measured_here(costs: Costs, warmup: float, student: float, window: float) -> Measured:
    def timing(seconds: float) -> Timing:
        return Timing(seconds=seconds, threads=1, side_by_side=2)

    return Measured(
        key=speed_key(costs.config, costs.plan, costs.machine.cores, costs.machine.has_gpu),
        processor="test",
        torch="2",
        warmup=timing(warmup),
        student=timing(student),
        window=timing(window),
    )


def test_estimate_is_the_number_of_steps_times_what_was_measured(workplace: Path) -> None:
    config = experiment(
        workplace,
        rounds=1,
        warmup={"steps": 500, "folds": 3, "seeds": 0},
        student={"steps": 300, "members": 2},
    )
    jobs = Jobs(config)
    found = estimated(jobs, LAPTOP)
    assert found is not None
    store(jobs.layout.root, measured_here(found[0], warmup=2.0, student=5.0, window=0.0))
    again = estimated(jobs, LAPTOP)
    assert again is not None
    costs, estimate = again
    trainings = [job for job in jobs.all() if job.stage in ("warmup", "student")]
    assert {job.stage: costs.seconds(job) - START_SECONDS for job in trainings} == {
        "warmup": 1000.0,
        "student": 1500.0,
    }
    # Three folds on two cores: two, then one. Then two students side by side.
    total = costs.estimate("", 1.0, trainings).seconds - 3 * START_SECONDS
    assert total == 2 * 1000 + 1500
    assert estimate.factor < 1.5
    assert "a warm-up step takes 2 s, a student step 5 s" in estimate.basis
    other_cores = estimated(jobs, Machine(cores=4, has_gpu=False))
    assert other_cores is not None
    assert "a warm-up step" not in other_cores[1].basis


def test_measurement_is_kept_and_replaced(workplace: Path) -> None:
    jobs = Jobs(experiment(workplace))
    found = estimated(jobs, LAPTOP)
    assert found is not None
    first, second = (measured_here(found[0], seconds, 1.0, 1.0) for seconds in (1.0, 2.0))
    store(jobs.layout.root, first)
    store(jobs.layout.root, second)
    assert find(Path(jobs.config.output), second.key) == second
    assert len(Speeds.load(jobs.layout.root / SPEED_FILE).measurements) == 1
    (jobs.layout.root / SPEED_FILE).write_text("{}x")
    assert find(Path(jobs.config.output), second.key) is None


def test_measure_times_each_training_and_a_window(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    experiment(workplace)
    small = {"patch_size": [16, 16, 16], "base_channels": 4, "max_channels": 8, "stages": 2}
    values = {"experiment": "x", "cases": "cases.csv", "device": "cpu", "rounds": 1, "plan": small}
    (workplace / "c.yaml").write_text(json.dumps(values))
    command = ["estimate", "--config", "c.yaml", "--cores", "1"]
    monkeypatch.setattr("hstf.stages.plan.measuring.BUDGET_SECONDS", 0.1)
    monkeypatch.setattr("hstf.stages.plan.measuring.MINIMUM_CORES", 2.0)
    assert main([*command, "--measure"]) == 0
    captured = capsys.readouterr()
    assert "other programs use this machine: a training got" in captured.err
    assert "nothing was measured here yet" in captured.out
    monkeypatch.setattr("hstf.stages.plan.measuring.MINIMUM_CORES", 0.0)
    assert main([*command, "--measure"]) == 0
    text = capsys.readouterr().out
    assert "what was measured here: a warm-up step takes" in text
    (measured,) = Speeds.load(workplace / "results" / "x" / SPEED_FILE).measurements
    assert measured.student is not None
    for timing in (measured.warmup, measured.student, measured.window):
        assert 0 < timing.seconds < 10
        assert timing.threads == 1
    assert main(command) == 0
    assert str(measured) in capsys.readouterr().out


def test_long_runs_measure_first_and_short_or_known_ones_do_not(workplace: Path) -> None:
    jobs = Jobs(experiment(workplace))
    found = estimated(jobs, LAPTOP)
    assert found is not None
    costs, estimate = found
    assert needs_measurement(costs, estimate, jobs.all())
    without = [job for job in jobs.all() if job.stage == "check"]
    assert not needs_measurement(costs, estimate, without)
    short = estimate.model_copy(update={"seconds": 60.0})
    assert not needs_measurement(costs, short, jobs.all())
    (jobs.layout.root / "round_0" / "state" / "fold_0").mkdir(parents=True)
    (jobs.layout.root / "round_0" / "state" / "fold_0" / "made_by.json").write_text("{}")
    assert not needs_measurement(costs, estimate, jobs.all())


def test_estimate_goes_on_without_a_measurement(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(costs: Costs) -> Measured:
        raise HstfError("no memory")

    monkeypatch.setattr("hstf.commands.estimate.measure", fail)
    jobs = Jobs(experiment(workplace))
    text, _, _ = text_for_screen(jobs, jobs.all(), 2, None, ["c.yaml"], may_measure=True)
    assert "nothing was measured here yet" in text
    assert "warning: nothing was measured: no memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "warmup", "student"),
    [
        ("hippocampus", (36, 50, 36), (1.0, 1.0, 1.0), 1.82, 2.34),
        ("acdc", (216, 256, 10), (1.5, 1.5, 10.0), 3.06, 4.45),
    ],
)
def test_unmeasured_step_is_near_that_of_a_core_with_avx2(
    name: str,
    shape: Triple,
    spacing: tuple[float, float, float],
    warmup: float,
    student: float,
) -> None:
    """CPU seconds of a step, measured on two cores without bfloat16."""
    config = load_config(ROOT / "config" / f"{name}.yaml")
    scan = ScanSummary(
        case_id="a", shape=shape, spacing=spacing, orientation="RAS", cropped_shape=shape
    )
    plan = probable_plan(config, [scan])
    seconds = 3 * patch_operations(plan, config) * plan.batch_size / CORE_GFLOPS
    assert warmup / 1.5 < seconds < warmup * 1.5
    assert student / 1.5 < seconds * step_cost(config.student) < student * 1.5
