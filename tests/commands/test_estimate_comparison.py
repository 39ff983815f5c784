"""``hstf estimate``: the time of a comparison, or of the control."""

from pathlib import Path

import pytest
from support.estimated_experiment import LAPTOP, experiment, seconds

from hstf.cli import main
from hstf.commands.estimate import (
    EstimateDocument,
    comparison_for_screen,
    comparison_text,
)
from hstf.experiment.cases import Split
from hstf.experiment.jobs import Jobs
from hstf.imaging.volume_files import open_nifti
from hstf.stages.plan.comparison_costs import compared_jobs, comparison_seconds
from hstf.stages.plan.cost_basis import estimated


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
