"""``hstf estimate``: time, memory and disk before a run."""

import json
import platform
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.workspace import ROOT, write_sheet

from hstf.cli import main
from hstf.commands.estimate import (
    EstimateDocument,
    comparison_for_screen,
    comparison_text,
    needs_measurement,
    preset_file,
    text_for_screen,
    with_preset,
)
from hstf.commands.models import choose_plan, cost
from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config
from hstf.experiment.cases import Split
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.plan import Triple
from hstf.imaging.volume_files import open_nifti
from hstf.models.registry import network_spec
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.stages.plan.comparison_costs import compared_jobs, comparison_seconds
from hstf.stages.plan.cost_basis import estimated, measured_speed, probable_plan
from hstf.stages.plan.costs import (
    CORE_GFLOPS,
    START_SECONDS,
    Costs,
    Machine,
    patch_operations,
    step_cost,
    windows,
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


# --- a comparison, or the control


def test_comparison_seconds_counts_each_experiment_once(workplace: Path) -> None:
    """Cells reuse the warm-up of the experiment, and the second seed needs one of its own."""
    methods = {"methods": ["supervised", "hstf"], "seeds": [0, 1]}
    jobs = Jobs(experiment(workplace, compare=methods))
    compared = compared_jobs(jobs)
    assert "warmup_seed_1" in compared and "warmup_seed_0" not in compared
    expected = 0.0
    for others in compared.values():
        own = estimated(others, LAPTOP)
        assert own is not None
        expected += own[1].seconds
    assert comparison_seconds(jobs, LAPTOP) == pytest.approx(expected)
    cell = compared["hstf_seed_0"]
    only = {"hstf_seed_0": cell.all()}
    own = estimated(cell, LAPTOP)
    assert own is not None
    assert comparison_seconds(jobs, LAPTOP, only) == pytest.approx(own[1].seconds)


def test_comparison_seconds_of_the_control_is_less_than_the_experiment(workplace: Path) -> None:
    """It trains students for as many steps, but has no warm-up and no teacher."""
    jobs = Jobs(experiment(workplace, evaluate={"control": True}))
    control = comparison_seconds(jobs, LAPTOP)
    assert control is not None and 0 < control < seconds(jobs.config)
    assert comparison_seconds(Jobs(experiment(workplace)), LAPTOP) == 0


def test_comparison_seconds_counts_the_withheld_labels_of_full(workplace: Path) -> None:
    jobs = Jobs(experiment(workplace, compare={"methods": ["supervised", "full"], "seeds": [0]}))
    sheet = compared_jobs(jobs)["full_seed_0"].sheet
    assert len(sheet.of(Split.LABELLED)) == 7


def test_comparison_seconds_is_unknown_without_readable_scans(workplace: Path) -> None:
    """A sum without one of the experiments would be too small."""
    jobs = Jobs(experiment(workplace, evaluate={"control": True}))
    for scan in workplace.glob("case_*.nii.gz"):
        scan.write_bytes(b"no scan")
    assert comparison_seconds(jobs, LAPTOP) is None
    assert comparison_text(jobs.config, None) == (
        "The control (evaluate.control) cannot be estimated."
    )


def test_comparison_seconds_reads_each_header_once(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> object:
        read.append(path)
        return open_nifti(path)

    monkeypatch.setattr("hstf.stages.plan.cost_basis.open_nifti", counted)
    methods = {"methods": ["supervised", "hstf", "full"], "seeds": [0, 1]}
    assert comparison_seconds(Jobs(experiment(workplace, compare=methods)), LAPTOP)
    assert len(read) == len(set(read)) == 7


def test_estimate_prints_the_time_of_the_control(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(workplace)
    text = "experiment: x\ncases: cases.csv\ndevice: cpu\nevaluate: {control: true}\n"
    (workplace / "c.yaml").write_text(text)
    assert main(["estimate", "--config", "c.yaml", "--cores", "2"]) == 0
    assert "The control (evaluate.control) takes about" in capsys.readouterr().out
    assert main(["estimate", "--config", "c.yaml", "--cores", "2", "--json"]) == 0
    printed = EstimateDocument.model_validate_json(capsys.readouterr().out)
    assert printed.comparison_seconds is not None and printed.comparison_seconds > 0


def test_comparison_for_screen_never_stops_a_run(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(experiment(workplace, evaluate={"control": True}))
    found = estimated(jobs, LAPTOP)
    assert found is not None
    compared = {name: others.all() for name, others in compared_jobs(jobs).items()}
    count = sum(map(len, compared.values()))
    assert f"{count} jobs of the control take about" in comparison_for_screen(
        jobs, found[0], compared
    )
    assert "are not in an estimate" in comparison_for_screen(jobs, None, compared)
    monkeypatch.setattr("hstf.commands.estimate.comparison_seconds", lambda *_: 1 / 0)
    assert "No estimate of the control (ZeroDivisionError" in comparison_for_screen(
        jobs, found[0], compared
    )
