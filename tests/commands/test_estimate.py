"""``hstf estimate``: time, memory and disk before a run."""

import json
import platform
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.workspace import ROOT, write_sheet

from hstf.cli import main
from hstf.commands.estimate import preset_file, text_for_screen, with_preset
from hstf.commands.models import choose_plan, cost
from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config
from hstf.experiment.jobs import Jobs
from hstf.models.registry import network_spec
from hstf.stages.plan.cost_basis import estimated, measured_speed
from hstf.stages.plan.costs import Machine, patch_operations, step_cost, windows

LAPTOP = Machine(cores=2, has_gpu=False, speed=20.0)


def experiment(folder: Path, **sections: object) -> Config:
    """Write an experiment with nine scans of 36 x 50 x 36 voxels."""
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 4 + ["test"] * 2)
    scan = nibabel.Nifti1Image(np.zeros((36, 50, 36), np.int16), np.eye(4))
    for number in range(9):
        nibabel.save(scan, folder / f"case_{number:03d}.nii.gz")
    return resolve_config({"experiment": "x", "cases": str(folder / "cases.csv"), **sections})


def seconds(config: Config, machine: Machine = LAPTOP) -> float:
    found = estimated(Jobs(config), machine)
    assert found is not None
    return found[1].seconds


@pytest.mark.parametrize("name", ["config", "hippocampus", "la"])
def test_patch_operations_are_near_the_exact_number(name: str) -> None:
    config = load_config(ROOT / "config" / f"{name}.yaml")
    plan = choose_plan(config, (48, 48, 48))
    modalities, classes = len(config.modalities), len(config.class_names)
    exact = cost(network_spec(config.network, plan, modalities, classes, config.heads)).operations
    assert patch_operations(plan, config) == pytest.approx(exact / 1e9, rel=0.3)


def test_estimate_grows_with_steps_and_rounds(workplace: Path) -> None:
    short = seconds(experiment(workplace, warmup={"steps": 100}))
    long = seconds(experiment(workplace, warmup={"steps": 1000}))
    assert long > short
    assert seconds(experiment(workplace, rounds=3)) > seconds(experiment(workplace, rounds=2))


def test_estimate_is_shorter_on_a_gpu_and_on_a_cluster(workplace: Path) -> None:
    config = experiment(workplace)
    gpu = Machine(cores=8, has_gpu=True)
    cluster = Machine(cores=8, has_gpu=False, cores_per_job=8, jobs=50)
    assert seconds(config, gpu) < seconds(config, cluster) < seconds(config)


def test_estimate_of_the_demo_is_near_its_measured_time(workplace: Path) -> None:
    """The demo took 20 minutes on two cores of 20 GFLOP/s."""
    config = load_config(ROOT / "config" / "config.yaml").model_copy(
        update={"cases": str(ROOT / "config" / "demo" / "cases.csv")}
    )
    found = estimated(Jobs(config), LAPTOP)
    assert found is not None
    assert 13 * 60 < found[1].seconds < 30 * 60
    assert 0.05 < found[1].disk_gb < 0.3
    assert 1.0 < found[1].memory_gb < 4.0


def test_estimate_without_readable_scans_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sheet(workplace, ["labelled"] * 3 + ["unlabelled"])
    (workplace / "c.yaml").write_text("cases: cases.csv\n")
    assert main(["estimate", "--config", "c.yaml"]) == 1
    assert "neither a plan nor a scan can be read" in capsys.readouterr().err


def test_estimate_prints_stages_and_offers_the_preset(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(workplace)
    (workplace / "c.yaml").write_text("experiment: x\ncases: cases.csv\ndevice: cpu\n")
    assert main(["estimate", "--config", "c.yaml", "--cores", "2"]) == 0
    text = capsys.readouterr().out
    assert "warmup, round 0" in text
    assert "Estimate for x on 2 cores without a GPU: about" in text
    assert "nothing was measured here yet" in text
    assert "snakemake --cores 2 --configfile c.yaml" in text
    assert "presets/cpu.yaml" in text


def test_preset_takes_at_most_a_tenth_of_the_time(workplace: Path) -> None:
    config = experiment(workplace)
    preset = preset_file()
    assert preset is not None
    smaller = with_preset(config, preset)
    assert smaller is not None
    assert 10 * seconds(smaller) < seconds(config)
    jobs = Jobs(smaller)
    text, _, _ = text_for_screen(jobs, jobs.all(), 2, None, ["c.yaml"])
    assert "presets/cpu.yaml" not in text


def test_text_for_screen_is_empty_without_trainings(workplace: Path) -> None:
    jobs = Jobs(experiment(workplace))
    without = [job for job in jobs.all() if job.stage in ("check", "report")]
    assert text_for_screen(jobs, without, 2, None, [])[0] == ""


def test_text_for_screen_never_stops_a_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("hstf.commands.estimate.estimated", fail)
    text, costs, _ = text_for_screen(Jobs(experiment(workplace)), [], 2, None, [])
    assert (text, costs) == ("No estimate (ZeroDivisionError: division by zero).", None)


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


def test_step_cost_counts_cross_scale_consistency() -> None:
    config = Config()
    assert step_cost(config.warmup) == 1.0
    assert 1.3 < step_cost(config.student) < 1.5
    every_step = resolve_config({"student": {"csc": {"every": 1}}})
    assert step_cost(every_step.student) > 2
    supervised = resolve_config({"method": "mean_teacher"})
    assert step_cost(supervised.student) == 1.4


@pytest.mark.parametrize(
    ("shape", "patch", "overlap", "count"),
    [((32, 32, 32), (32, 32, 32), 0.5, 1), ((40, 40, 32), (32, 32, 32), 0.25, 4)],
)
def test_windows_cover_a_scan(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float, count: int
) -> None:
    assert windows(shape, patch, overlap) == count
