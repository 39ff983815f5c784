"""``hstf estimate``: time, memory and disk before a run, and what is printed."""

from pathlib import Path

import pytest
from support.estimated_experiment import LAPTOP, experiment, seconds
from support.workspace import ROOT, write_sheet

from hstf.cli import main
from hstf.commands.estimate import (
    EstimateDocument,
    preset_file,
    text_for_screen,
    with_preset,
)
from hstf.commands.models import choose_plan, cost
from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.models.registry import network_spec
from hstf.runtime.files import write_text
from hstf.stages.plan.cost_basis import estimated
from hstf.stages.plan.costs import (
    START_SECONDS,
    Machine,
    patch_operations,
    step_cost,
    windows,
)


@pytest.mark.parametrize(
    ("name", "error"),
    [("config", 0.4), ("hippocampus", 0.3), ("la", 0.3)],  # attention counts more in small networks
)
def test_patch_operations_are_near_the_exact_number(name: str, error: float) -> None:
    config = load_config(ROOT / "config" / f"{name}.yaml")
    plan = choose_plan(config, (48, 48, 48))
    modalities, classes = len(config.modalities), len(config.class_names)
    exact = cost(network_spec(config.network, plan, modalities, classes, config.heads)).operations
    assert patch_operations(plan, config) == pytest.approx(exact / 1e9, rel=error)


def test_estimate_grows_with_steps_and_rounds(workplace: Path) -> None:
    short = seconds(experiment(workplace, warmup={"steps": 100}))
    long = seconds(experiment(workplace, warmup={"steps": 1000}))
    assert long > short
    assert seconds(experiment(workplace, rounds=3)) > seconds(experiment(workplace, rounds=2))


def test_estimate_counts_the_pre_training(workplace: Path) -> None:
    section = {"task": "masked", "steps": 500}
    jobs = Jobs(experiment(workplace, pretrain=section))
    found = estimated(jobs, LAPTOP)
    assert found is not None
    costs, _ = found
    seconds_of = {job.name: costs.seconds(job) for job in jobs.all()}
    step = (seconds_of["warmup.round_0.fold_0"] - START_SECONDS) / jobs.config.warmup.steps
    assert "pretrain" in seconds_of
    threads = costs.machine.threads(1) / costs.machine.threads(3)
    assert 0.4 < (seconds_of["pretrain"] - START_SECONDS) / 500 / step * threads < 1.1


def test_estimate_counts_external_teachers_as_soon_as_their_time_is_known(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"external": {"other": {"command": "cp {image} {output}", "labels": {"foreground": 1}}}}
    config = experiment(workplace, teacher=keys)
    jobs = Jobs(config)
    costs, estimate = estimated(jobs, LAPTOP) or pytest.fail("no estimate")
    assert "the external teachers is left out" in estimate.basis
    unlabelled = Job("external_shard", part="unlabelled_0")
    assert costs.seconds(unlabelled) == START_SECONDS
    table = jobs.layout.root / "benchmarks" / "external" / "labelled_0.tsv"
    write_text(table, "s\th:m:s\n60.0\t0:01:00\n")
    costs, known = estimated(jobs, LAPTOP) or pytest.fail("no estimate")
    assert "left out" not in known.basis
    assert costs.seconds(unlabelled) == START_SECONDS + 4 * 20, "4 cases, 60 s for 3 labelled ones"
    assert known.seconds > estimate.seconds


def test_estimate_is_shorter_on_a_gpu_and_on_a_cluster(workplace: Path) -> None:
    config = experiment(workplace)
    gpu = Machine(cores=8, has_gpu=True)
    cluster = Machine(cores=8, has_gpu=False, cores_per_job=8, jobs=50)
    assert seconds(config, gpu) < seconds(config, cluster) < seconds(config)


def test_estimate_has_a_training_at_a_time_on_one_gpu(workplace: Path) -> None:
    """16 cores could run all folds at once, but they wait for the GPU."""
    config = experiment(workplace)
    jobs = Jobs(config)
    one = estimated(jobs, Machine(cores=16, has_gpu=True, gpus=1)) or pytest.fail("no estimate")
    many = estimated(jobs, Machine(cores=16, has_gpu=True, gpus=8)) or pytest.fail("no estimate")
    fold = next(job for job in jobs.all() if job.rule == "warmup_member")
    side_by_side = {job.name: job.side_by_side for job in one[0].run_jobs()}
    assert side_by_side[fold.name] == 1
    assert {job.name: job.side_by_side for job in many[0].run_jobs()}[fold.name] > 1
    trainings = [one[0].seconds(job) for job in jobs.all() if job.rule == "warmup_member"]
    assert one[1].seconds >= sum(trainings)
    assert many[1].seconds < one[1].seconds


def test_estimate_of_the_demo_is_near_its_measured_time(workplace: Path) -> None:
    """The demo took 661 CPU seconds on two cores of 20 GFLOP/s."""
    config = load_config(ROOT / "config" / "config.yaml").model_copy(
        update={"cases": str(ROOT / "config" / "demo" / "cases.csv")}
    )
    found = estimated(Jobs(config), LAPTOP)
    assert found is not None
    assert 661 / 2 / 1.5 < found[1].seconds < 661 / 2 * 1.5
    assert 0.02 < found[1].disk_gb < 0.3
    assert 1.0 < found[1].memory_gb < 4.0


def test_estimate_without_readable_scans_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sheet(workplace, ["labelled"] * 3 + ["unlabelled"])
    (workplace / "c.yaml").write_text("cases: cases.csv\n")
    assert main(["estimate", "--config", "c.yaml"]) == 1
    assert "neither a plan nor a scan can be read" in capsys.readouterr().err


def test_estimate_prints_json_for_programs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(workplace)
    (workplace / "c.yaml").write_text("experiment: x\ncases: cases.csv\ndevice: cpu\n")
    assert main(["estimate", "--config", "c.yaml", "--cores", "2", "--json"]) == 0
    printed = EstimateDocument.model_validate_json(capsys.readouterr().out)
    assert printed.experiment == "x"
    assert printed.whole.seconds > 0 and printed.whole.device == "cpu"
    stages = {(stage.stage, stage.round): stage for stage in printed.stages}
    students = stages["student", 1]
    assert students.jobs == 2
    assert students.longest_seconds <= students.seconds <= 2 * students.longest_seconds


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


def test_estimate_of_days_lists_the_keys_of_the_preset(workplace: Path) -> None:
    config = experiment(workplace, warmup={"steps": 100_000})
    jobs = Jobs(config)
    text, _, _ = text_for_screen(jobs, jobs.all(), 2, None, ["c.yaml"])
    assert "warmup.steps (100000 → 400)" in text
    assert "plan.base_channels (32 → 16)" in text


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
