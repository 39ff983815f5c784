"""The report shows what the files contain; files may be missing."""

import base64
import errno
import io
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.report_files import (
    CLASSES,
    Fabricated,
    Page,
    class_summary,
    digest_of_name,
    fabricated,
    page_of,
)

from hstf.cli import main
from hstf.experiment.case_names import CaseNames
from hstf.experiment.comparison import control_layout
from hstf.experiment.decisions import read_decisions
from hstf.experiment.last_run import RUN_FILE, LastRun
from hstf.experiment.round_tables import HISTORY, LABELS, REFINE
from hstf.experiment.score_tables import EVALUATION_CASES, ROUNDS
from hstf.imaging.overlays import overlay_path
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesions import fit_lesions
from hstf.method.plr.predicted_dice import UNKNOWN_SD, DiceModel
from hstf.runtime.errors import WriteError
from hstf.runtime.files import write_csv, write_text
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.feedback import CorrectedCase, Feedback
from hstf.scoring.rounds import rounds_table
from hstf.stages.report.background import plan_section
from hstf.stages.report.calibration import calibration_section
from hstf.stages.report.figure_style import INK, Figures, as_svg, save_png
from hstf.stages.report.figures import by_round, dice_by_round, paired_cases, training_curves
from hstf.stages.report.gallery import gallery_section, picture_address
from hstf.stages.report.headline import headline, look_first
from hstf.stages.report.lesions import lesions_section
from hstf.stages.report.manifest import manifest
from hstf.stages.report.next_steps import next_steps_section
from hstf.stages.report.overrides import feedback_blocks, overrides_section
from hstf.stages.report.page import (
    MAXIMUM_ROWS,
    Cell,
    Chart,
    Gallery,
    Note,
    Section,
    Table,
    interval_text,
    number_text,
    p_text,
)
from hstf.stages.report.pseudo_labels import pseudo_labels_section
from hstf.stages.report.quality_figures import reliability
from hstf.stages.report.review import DecisionRows
from hstf.stages.report.rounds import rounds_section
from hstf.stages.report.stage import anchors, report
from hstf.stages.report.tables import Column, for_structures, make_table
from hstf.stages.report.test_cases import test_cases_section as cases_section


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fabricated, Page]:
    """A finished experiment and the page of its report."""
    experiment = fabricated(tmp_path_factory.mktemp("complete"))
    experiment.write_all()
    return experiment, Page(report(experiment.context).read_text(encoding="utf-8"))


def tables_of(section: Section) -> dict[str, Table]:
    """Return the tables of a section by their caption."""
    return {block.caption: block for block in section.blocks if isinstance(block, Table)}


def texts_of(table: Table) -> list[list[str]]:
    """Return the texts of the cells."""
    rows = []
    for row in table.all_rows:
        rows.append([cell.text for cell in row])
    return rows


def test_report_needs_no_other_file(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    html = experiment.layout.report.read_text(encoding="utf-8")
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    # Links to the volumes are of no use elsewhere, but the page does not need them.
    assert all(re.match(r"#|\.\./|[\w%./-]+$", str(link["href"])) for link in page.all("a"))
    assert not page.all("link") and not page.all("iframe")
    assert not re.findall(r"@import|url\((?!#)|src=\"(?!data:)", html)
    assert len(html) < 15e6


def test_report_is_accessible(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [str(link["href"])[1:] for link in page.all("a") if str(link["href"])[0] == "#"]
    assert inside and set(inside) <= set(ids)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("anatomical", "left-right, back-front and foot-head"), ("slices", "from slice to slice")],
)
def test_plan_section_names_the_axes(tmp_path: Path, axes: str, expected: str) -> None:
    experiment = fabricated(tmp_path, preprocess={"axes": axes})
    experiment.write_all()
    section = plan_section(experiment.results)
    assert expected in section.intro


@pytest.mark.parametrize("is_on", [True, False])
def test_training_section_shows_the_pre_training(tmp_path: Path, is_on: bool) -> None:
    experiment = fabricated(tmp_path, pretrain={"task": "masked" if is_on else "none"})
    layout = experiment.layout
    rows = [{"step": step, "learning_rate": 0.1, "loss": 1 / step} for step in (20, 40)]
    HISTORY.write(layout.pretraining_history, rows)
    Image.new("L", (400, 200), 90).save(layout.pretraining_examples)
    page = page_of(experiment)
    assert ("Patches of the pre-training" in page.text) == is_on
    pictures = [image["alt"] for image in page.all("img")]
    assert pictures == (["Patches of the pre-training"] if is_on else [])
    assert (experiment.layout.report.with_name("pretraining.png")).is_file() == is_on


def test_headline_states_dice_interval_and_p(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    means = [case_means(experiment, number) for number in (0, 2)]
    change = float(np.mean(means[1] - means[0]))
    assert f"{means[0].mean():.3f} (warm-up) → {means[1].mean():.3f} (round 2)" in page.text
    assert f"a change of +{change:.3f} (95% CI +" in page.text
    assert "p < 0.001" in page.text  # 14 of 14 patients gained: 2 / 2**14


def test_headline_of_two_patients_is_no_proof(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1, test=2, gain=0.1)
    experiment.write_all()
    lines = headline(experiment.results).lines
    assert "shows no clear change" in lines[0] and "only 2 patients differ" in lines[-1]


def case_means(experiment: Fabricated, number: int) -> np.ndarray:
    cases = EVALUATION_CASES.read(experiment.layout.evaluation_cases(number))
    return cases["dice"].to_numpy().reshape(-1, len(CLASSES)).mean(axis=1)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(-0.05, "decreased"), (0.0, "shows no clear change"), (0.05, "increased")],
)
def test_headline_needs_an_interval_without_zero_for_a_change(
    tmp_path: Path, gain: float, verdict: str
) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=gain, test=30)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    for number in (0, 1):
        experiment.write_evaluation(number)
    assert f"the mean test Dice {verdict}:" in headline(experiment.results).lines[0]


@pytest.mark.parametrize(
    ("gain", "text"),
    [(0.1, "Unlabelled scans add +0."), (-0.1, "Unlabelled scans make the Dice worse: -0.")],
)
def test_report_shows_the_control_beside_the_rounds(tmp_path: Path, gain: float, text: str) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=gain, test=30, evaluate={"control": True})
    experiment.write_all()
    assert "control: labels only" not in page_of(experiment).text
    control = control_layout(experiment.layout, experiment.config.seed)
    shutil.copytree(experiment.layout.evaluation(0), control.evaluation(1))
    assert headline(experiment.results).lines[1].startswith(text)
    section = rounds_section(experiment.results, Figures(tmp_path))
    rows = texts_of(tables_of(section)["Scores of the test cases in each round"])
    assert [row[0] for row in rows] == ["warm-up", "round 1", "control: labels only"]
    assert rows[2][5] == rows[0][5], "the fabricated control is the warm-up"
    (note,) = (block for block in section.blocks if getattr(block, "title", "").startswith("What"))
    assert note.lines[0].startswith(text)
    assert "The control differs in the same way" in section.intro
    assert page_of(experiment).text.count(text) == 2


def test_report_command_writes_page_rounds_and_figures_and_removes_old_figures(
    complete: tuple[Fabricated, Page], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _ = complete
    folder = experiment.layout.report.parent
    experiment.layout.report.unlink()
    (folder / "training_round_7.png").touch()
    assert main(["report", "--config", str(experiment.layout.config)]) == 0
    assert (
        experiment.layout.report.is_file()
        and str(experiment.layout.report) in capsys.readouterr().out
    )
    assert {path.stem for path in folder.glob("*.png")} == {
        "calibration",
        "csc",
        "dice_by_round",
        "froc",
        "lesions_by_round",
        "paired_cases",
        "predicted_against_true",
        "predicted_dice",
        "predicted_dice_labelled",
        "pseudo_label_quality",
        "reliability",
        "risk_coverage",
        "training_round_0",
        "training_round_1",
        "training_round_2",
    }
    rows = ROUNDS.records(experiment.layout.rounds_table)
    assert [row["round"] for row in rows] == [0, 1, 2]


def test_lesions_section_has_scores_by_round_and_size(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    section = lesions_section(experiment.results, Figures(experiment.layout.report.parent))
    counts, sizes = tables_of(section).values()
    last = texts_of(counts)[-1]
    assert last[:6] == ["lesion", "round 2", "42", "28", "14", "14"]
    assert last[6:10] == ["0.667 (0.667 to 0.667)", "0.667", "0.667", "1.00"]
    assert texts_of(sizes)[0][1:4] == [
        "below 65 mm³ (⌀ 5 mm)",
        "14",
        "0.000",
    ]
    assert "A match needs an IoU of at least 0.1" in page.text


def test_headline_warns_of_a_class_that_is_hardly_predicted(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=0.1, test=30)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    for number in (0, 1):
        experiment.write_evaluation(number)
    missed = {"dice": 0.0, "empty": "prediction"}
    path = experiment.layout.evaluation_cases(1)
    rows = EVALUATION_CASES.records(path)
    rows = [row | missed if row["class"] == "spleen" else row for row in rows]
    EVALUATION_CASES.write(path, rows)
    summary = EvaluationSummary.load(experiment.layout.evaluation_summary(1))
    spleen = class_summary([row for row in rows if row["class"] == "spleen"])
    classes = summary.classes | {"spleen": spleen}
    summary.model_copy(update={"classes": classes}).save(experiment.layout.evaluation_summary(1))
    results = experiment.results
    note = headline(results)
    assert (
        "spleen is predicted in none of the 30 test cases" in note.lines[0] and note.tone == "warn"
    )
    tables = tables_of(rounds_section(results, Figures(tmp_path)))
    found = texts_of(tables["Classes that a scan may lack"])
    assert found[1] == ["spleen", "round 1", "30", "0.000", "0 of 30", "–"]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("mean_teacher", "the labelled scans and the images of the unlabelled scans"),
        ("supervised", "only the labelled scans"),
        ("full", "the upper bound of a benchmark. It is not a result of learning from few labels"),
    ],
)
def test_report_of_a_method_without_pseudo_labels(tmp_path: Path, method: str, text: str) -> None:
    experiment = fabricated(tmp_path, method=method)
    experiment.write_start()
    for number in range(3):
        experiment.write_training(number)
        experiment.write_evaluation(number)
    page = page_of(experiment)
    assert f"Method {method}:" in page.text and text in page.text
    assert ("compares supervised with mean_teacher" in page.text) == (method == "mean_teacher")
    assert "This method learns without pseudo-labels" in page.text
    assert (
        "the networks were over-confident" in page.text
        and "Pseudo-labels with a predicted" not in page.text
    )
    assert "This section could not be written" not in page.text
    assert "Correct or judge a pseudo-label" not in page.text
    assert "After 2 rounds the mean test Dice" in page.text


def test_report_leaves_out_pseudo_labels_of_an_earlier_run(tmp_path: Path) -> None:
    """The method was changed to one without pseudo-labels in the same experiment."""
    fabricated(tmp_path).write_all()
    experiment = fabricated(tmp_path, method="supervised")
    page = page_of(experiment)
    assert "This method learns without pseudo-labels" in page.text
    assert "used in round" not in page.text and ": decisions of reviewers" not in page.text
    assert not page.all("img")
    rounds_table(experiment.context)
    assert all(
        "refine" not in found.tables and "labels" not in found.tables
        for found in manifest(experiment.context).rounds
    )


@pytest.mark.parametrize(
    ("method", "control", "text"),
    [
        ("hstf", False, "set “evaluate.control: true”, or run “snakemake compare”"),
        ("hstf", True, "wait for the scores of the control, or run “snakemake compare”"),
        ("noisy_student", False, "To separate the two, run “snakemake compare”"),
    ],
)
def test_rounds_section_names_the_control_only_where_it_has_an_effect(
    tmp_path: Path, method: str, control: bool, text: str
) -> None:
    experiment = fabricated(
        tmp_path, method=method, evaluate={"control": control, "bootstrap": 200}
    )
    experiment.write_start()
    intro = rounds_section(experiment.results, Figures(tmp_path)).intro
    assert text in intro
    assert "networks have each seen a part of the labels" in intro, "the model are the folds"
    seeds = fabricated(tmp_path, method=method, warmup={"folds": 2, "seeds": 1})
    assert "a part of the labels" not in rounds_section(seeds.results, Figures(tmp_path)).intro


@pytest.mark.parametrize(
    ("refine", "sentence"),
    [
        ({}, "with a predicted mean Dice below 0.580 are not used"),
        ({"minimum_predicted_dice": 0.2}, "with a predicted mean Dice below 0.200 are not used"),
        ({"select_cases": False}, "All pseudo-labels are used, whatever their predicted Dice"),
    ],
)
def test_report_states_the_bound_that_applies(
    tmp_path: Path, refine: dict[str, object], sentence: str
) -> None:
    experiment = fabricated(tmp_path, refine=refine)
    experiment.write_all()
    text = page_of(experiment).text
    assert sentence in text and "After 2 rounds of self-training" in text
    assert ("rejected below" in text) == ("select_cases" not in refine), "the line in the figure"


def test_calibration_section_describes_anatomy_rules(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert "at most 1 component of at least 0.42 ml, no holes, must be present" in page.text
    assert (
        "of at least 0.42 ml, at least 25% of its surface touches other structures, no holes"
        in page.text
    )
    assert (
        "at least 50% of its surface touches other structures, no holes, may be absent,"
        " not applied, because it lowers the out-of-fold Dice by 0.010"
        " (standard error 0.004)" in page.text
    )


def calibration_text(experiment: Fabricated, **changes: Any) -> str:
    """Return the text of the section about a calibration with ``changes``."""
    calibration = Calibration.load(experiment.layout.calibration)
    calibration.model_copy(update=changes).save(experiment.layout.calibration)
    section = calibration_section(experiment.results, Figures(experiment.layout.report.parent))
    lines = []
    for block in section.blocks:
        if isinstance(block, Note):
            lines += block.lines
        if isinstance(block, Table):
            lines += [" ".join(row) for row in texts_of(block)]
    return " ".join(lines)


def test_calibration_section_without_temperature_claims_no_calibration(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, refine={"calibrate": False})
    experiment.write_start()
    text = calibration_text(experiment, temperature=1.0)
    assert "used as predicted, without temperature scaling (refine.calibrate: false)" in text
    assert "well calibrated" not in text


def test_calibration_section_states_that_an_error_is_assumed(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    text = calibration_text(experiment, mean_sd=UNKNOWN_SD)
    assert "is not known: a standard deviation of 0.200 is assumed" in text
    assert "has a standard deviation" in calibration_text(experiment, mean_sd=0.041)


def test_calibration_section_has_no_rule_where_none_is_applied(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    rule = AnatomyRule(maximum_components=1, minimum_mm3=4.0, has_holes=False, may_be_absent=False)
    model = fit_lesions([], [], possible=0.2)
    rules = {
        "liver": rule,
        "spleen": rule.model_copy(update={"maximum_components": 0}),
        "lesion": rule,
    }
    text = calibration_text(experiment, anatomy_rules=rules, lesions={"lesion": model})
    assert "at most 1 component of at least 4.0 mm³, no holes" in text
    assert "none: no dense label has it" in text
    assert "none: each lesion is judged by its own probability" in text
    assert text.count("at most") == 1


def test_pseudo_labels_section_names_the_features_that_are_used(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    usual = {"confidence": 0.9, "scales": 0.8}
    models = {"liver": DiceModel(mean=0.8, slope=1.0, usual=usual, absent=0.0)}
    calibration = Calibration.load(experiment.layout.calibration)
    calibration.model_copy(update={"dice_models": models}).save(experiment.layout.calibration)
    section = pseudo_labels_section(experiment.results, Figures(tmp_path))
    [caption] = [block.caption for block in section.blocks if isinstance(block, Chart)]
    assert caption.endswith("on the confidence of the teacher, the agreement of scales.")


def test_report_has_the_acceptance_bound_of_the_mixture_with_an_external_teacher(
    tmp_path: Path,
) -> None:
    """Round 1 is refined with the calibration of the mixture, not with that of the ensemble."""
    other = {"files": "other/{case}.nii.gz", "labels": {"liver": 5}, "rounds": [1]}
    experiment = fabricated(tmp_path, teacher={"external": {"other": other}})
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    experiment.write_pseudo_labels(2)
    ensemble = Calibration.load(experiment.layout.calibration)
    ensemble.model_copy(update={"minimum_predicted_dice": 0.61}).save(experiment.layout.calibration)
    mixture = ensemble.model_copy(update={"minimum_predicted_dice": 0.87})
    mixture.save(experiment.layout.round_calibration(1))
    found = experiment.results.round_calibrations
    bounds = {number: known.minimum_predicted_dice for number, known in found.items() if known}
    assert bounds == {1: 0.87, 2: 0.61}
    section = calibration_section(experiment.results, Figures(tmp_path))
    notes = [block for block in section.blocks if isinstance(block, Note)]
    assert "predicted mean Dice below 0.870" in " ".join(notes[0].lines)


def test_manifest_names_the_calibration_of_a_round_with_an_external_teacher(tmp_path: Path) -> None:
    other = {"files": "other/{case}.nii.gz", "labels": {"liver": 5}, "rounds": [1]}
    experiment = fabricated(tmp_path, teacher={"external": {"other": other}})
    experiment.write_all()
    calibration = Calibration.load(experiment.layout.calibration)
    calibration.save(experiment.layout.round_calibration(1))
    rounds_table(experiment.context)
    found = [entry.tables.get("calibration") for entry in manifest(experiment.context).rounds]
    assert found == [None, "round_1/calibration.json", None]


def test_report_is_not_complete_without_a_figure_that_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for a moment. A page with a gap would count as finished."""
    experiment = fabricated(tmp_path)
    experiment.write_all()
    saved = Figure.savefig

    def refuse(figure: Figure, target: Any, **options: Any) -> None:
        if Path(target).name.endswith("dice_by_round.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved(figure, target, **options)

    monkeypatch.setattr(Figure, "savefig", refuse)
    with pytest.raises(WriteError, match=r"dice_by_round\.png: could not be written \(No space"):
        report(experiment.context)
    assert not experiment.layout.report.exists()


def test_as_svg_uses_the_colours_of_the_page(complete: tuple[Fabricated, Page]) -> None:
    experiment, _ = complete
    html = experiment.layout.report.read_text(encoding="utf-8")
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 15
    assert all(
        "currentColor" in svg and "var(--series-0)" in svg and INK not in svg for svg in svgs
    )


def test_report_escapes_text_of_files(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert "<b>slices</b> may be missing" in page.text
    assert not page.all("b")


def test_gallery_section_is_limited_and_least_certain_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = fabricated(tmp_path, rounds=1, report={"gallery": 3})
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    experiment.write_overlays(1, 5)
    overlay_path(
        experiment.layout.pseudo_labels(1), least := least_certain_ids(experiment)[0]
    ).write_bytes(b"torn")
    gallery = gallery_of(experiment)
    shown = [case.case_id for case in gallery.cases]
    assert shown == least_certain_ids(experiment)[1:4], f"{least} is torn"
    size = len(gallery.cases[0].pictures[0].source)
    monkeypatch.setattr("hstf.stages.report.gallery.GALLERY_BYTES", size + 1)
    # The case that reaches the bound is the last.
    assert len(gallery_of(experiment).cases) == 2


def gallery_of(experiment: Fabricated) -> Gallery:
    gallery = gallery_section(experiment.results).blocks[0]
    assert isinstance(gallery, Gallery)
    return gallery


def test_gallery_section_names_the_axes(tmp_path: Path) -> None:
    for axes, text in (("anatomical", "seen from the left"), ("slices", "as it was scanned")):
        experiment = fabricated(tmp_path / axes, rounds=1, preprocess={"axes": axes})
        experiment.write_start()
        experiment.write_pseudo_labels(1)
        assert text in gallery_section(experiment.results).intro


def test_gallery_shows_rounds_side_by_side_the_last_first(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=2)
    experiment.write_start()
    for number, maximum in ((1, 1), (2, 2)):
        experiment.write_pseudo_labels(number)
        experiment.write_overlays(number, maximum)
    rounds = {
        case.case_id: [picture.number for picture in case.pictures]
        for case in gallery_of(experiment).cases
    }
    first, second = least_certain_ids(experiment)[:2]
    assert rounds == {first: [2, 1], second: [2]}


def test_review_has_the_command_the_file_and_the_row_of_a_case(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_all()
    layout = experiment.layout
    case = gallery_of(experiment).cases[0]
    name = case.case_id
    review = case.review
    label = layout.pseudo_label(1, name)
    assert review.command == (
        f"mkdir -p {tmp_path}/overrides/round_1 && itksnap -g {tmp_path}/{name}.nii.gz"
        f" -s {label} -l {layout.itksnap_labels}"
    )
    assert review.save_as == str(layout.override(1, name))
    targets = [link.address for link in review.links]
    expected = [f"../../../{name}.nii.gz", f"../round_1/pseudo_labels/{name}.nii.gz"]
    assert targets[:2] == expected and targets[2].endswith(f"{name}.weight.nii.gz")
    header, row = review.row.splitlines()
    assert header == "round,case_id,action,reviewer,date,reason,sha256"
    assert row.startswith(f"1,{name},accept,<your name>,")
    assert row.endswith(f",{digest_of_name(name)}")


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (
            "Round;Case_id;Action;Reviewer;Date;Reason;Ward\n",
            "2;a;reject;<your name>;DATE;<reason>;",
        ),
        (
            "round\tcase_id\taction\treviewer\tdate\tsha256\treason\n",
            "2\ta\treject\t<your name>\tDATE\tabc\t<reason>",
        ),
    ],
)
def test_decision_rows_have_the_columns_and_the_separator_of_the_table(
    tmp_path: Path, table: str, row: str
) -> None:
    experiment = fabricated(tmp_path, rounds=2)
    write_text(experiment.layout.decisions, table)
    written = DecisionRows(experiment.layout).lines(2, "a", "reject", "abc")
    assert re.sub(r"\d{4}-\d\d-\d\d", "DATE", written) == row


def test_decision_rows_are_read_again(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=2)
    path = experiment.layout.decisions
    version = "a" * 64
    write_text(path, DecisionRows(experiment.layout).lines(1, "case_a", "accept", version) + "\n")
    more = DecisionRows(experiment.layout).lines(2, "case_a", "reject", version) + "\n"
    write_text(path, path.read_text(encoding="utf-8") + more)
    problems: list[str] = []
    decisions = read_decisions(experiment.layout, 2, CaseNames(["case_a"]), problems)
    assert not problems and decisions[1, "case_a"][0].version == version
    assert decisions[2, "case_a"][0].action == "reject"


def test_look_first_names_pseudo_labels_and_no_test_case(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=-0.2)
    experiment.write_all()
    results = experiment.results
    note = look_first(results, anchors([gallery_section(results)]))
    assert note is not None
    named = [link.text.split()[0] for link in note.links]
    undecided = [name for name in least_certain_ids(experiment) if name not in decided(experiment)]
    assert named == undecided[:8]
    pictured = [link for link in note.links if link.address.startswith("#picture-")]
    assert 0 < len(pictured) < 8 and note.links[-1].address.endswith(f"{named[-1]}.nii.gz")
    test_cases = experiment.case_ids[-experiment.test :]
    assert not any(name in " ".join(note.lines) for name in test_cases)
    section = cases_section(results)
    assert "test scans decreased by more than" in section.blocks[0].lines[0]


def decided(experiment: Fabricated) -> list[str]:
    return experiment.unlabelled_ids[:3]


def test_next_steps_continue_the_last_run_with_the_target_first(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    texts = continue_commands(experiment)
    assert texts[-1] == ("snakemake round_1_labels --cores 8 --configfile <your configuration>")
    LastRun(
        experiment="fabricated",
        machine="here",
        process=1,
        folder=str(tmp_path),
        started="now",
        is_cluster=False,
        arguments=("--profile", "slurm", "--configfile", "a b.yaml"),
        jobs=(),
    ).save(experiment.layout.root / RUN_FILE)
    assert continue_commands(experiment) == [
        "snakemake -n --profile slurm --configfile 'a b.yaml'",
        "snakemake --profile slurm --configfile 'a b.yaml'",
        "snakemake round_1_labels --profile slurm --configfile 'a b.yaml'",
    ]


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({"rounds": 0}, ["evaluate 0"]),
        ({"rounds": 1, "test": 0}, ["refine 1", "labels 1"]),
        (
            {"rounds_overrides": {1: {"student": {"learns_from": "labels"}}}},
            ["refine 2", "labels 2", "evaluate 2"],
        ),
    ],
)
def test_next_steps_name_rounds_and_shards_that_exist(
    tmp_path: Path, changes: dict[str, Any], commands: list[str]
) -> None:
    experiment = fabricated(tmp_path, **changes)
    experiment.write_start()
    [text] = next_step(experiment, "Run one stage").commands
    found = re.findall(r"hstf (\w+) .*--round (\d)", text)
    assert [" ".join(words) for words in found] == commands


def test_next_steps_state_which_round_is_exported(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    [line] = next_step(experiment, "Use the model").lines
    assert "the last round that has not collapsed" in line
    assert "with validation cases, that of the round with the best Dice on them" in line


def continue_commands(experiment: Fabricated) -> list[str]:
    return next_step(experiment, "Continue").commands[0].splitlines()


def next_step(experiment: Fabricated, title: str) -> Note:
    notes = next_steps_section(experiment.results).blocks
    return next(note for note in notes if isinstance(note, Note) and note.title == title)


KEYS_TEST = """
<script>
const seen = [], large = () => document.querySelector("li.large")?.id ?? "";
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
document.querySelector("button.picture").click(); seen.push(large());
press("ArrowRight"); seen.push(large());
for (let count = 0; count < 5; count++) press("ArrowRight");
seen.push(large(), document.querySelector("details.more").open);
press("ArrowLeft"); seen.push(large());
press("Escape"); seen.push(large());
press("ArrowRight"); seen.push(large());
document.title = seen.join("|");
</script>
</body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_gallery_is_used_by_keyboard(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    experiment.write_overlays(1, 7)
    page = report(experiment.context)
    html = page.read_text(encoding="utf-8").replace("</body>", KEYS_TEST)
    page.write_text(html, encoding="utf-8")
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    ids = [f"picture-{name}" for name in least_certain_ids(experiment)[:7]]
    expected = [ids[0], ids[1], ids[6], "true", ids[5], "", ""]
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None and title[1].split("|") == expected


def least_certain_ids(experiment: Fabricated) -> list[str]:
    refined = REFINE.read(experiment.layout.refine(experiment.config.rounds))
    return list(refined.sort_values("predicted_dice")["case_id"])


def test_overrides_section_names_reviewer_and_reason(
    complete: tuple[Fabricated, Page],
) -> None:
    experiment, _ = complete
    tables = tables_of(
        overrides_section(experiment.results, Figures(experiment.layout.report.parent))
    )
    assert list(tables)[:2] == [
        "Round 2: decisions of reviewers",
        "Round 1: decisions of reviewers",
    ]
    texts = texts_of(tables["Round 2: decisions of reviewers"])
    assert [row[:4] for row in texts] == [
        ["case_008", "corrected by a reviewer", "A. Reader", "spleen redrawn"],
        ["case_009", "accepted by a reviewer", "A. Reader", "small but right"],
        ["case_010", "not used", "B. Reader", "motion artefact"],
    ]


def test_overrides_section_shows_open_acceptances(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_pseudo_labels(1)
    labels = LABELS.read(experiment.layout.labels_table(1)).set_index("case_id")
    reason = "accepted by AB for an earlier version; look at it again"
    changes = {"source": "automatic", "reviewer": "", "reason": reason, "review": "open"}
    labels.loc["case_009", list(changes)] = list(changes.values())
    labels.loc["case_010", "review"] = "earlier version"
    LABELS.write(experiment.layout.labels_table(1), labels.reset_index())
    tables = tables_of(
        overrides_section(experiment.results, Figures(experiment.layout.report.parent))
    )
    opened = texts_of(tables["Round 1: open, look at these pseudo-labels"])
    assert [row[:4] for row in opened] == [["case_009", "accepted automatically", "–", reason]]
    decided = texts_of(tables["Round 1: decisions of reviewers"])
    assert [row[:2] for row in decided] == [
        ["case_008", "corrected by a reviewer"],
        ["case_010", "not used, decided on an earlier version"],
    ]


def test_overrides_section_compares_predicted_and_measured_dice(tmp_path: Path) -> None:
    cases = [CorrectedCase("a", 1, "AB", 0.8, 0.7, 0.9, 0.85)]
    blocks = feedback_blocks(Feedback(cases, changed=["b"]), Figures(tmp_path))
    assert isinstance(blocks[0], Note) and isinstance(blocks[1], Note)
    assert "Of 1 corrected case: predicted Dice 0.80, measured 0.85." in blocks[0].lines[0]
    assert "1 corrected case cannot be compared" in blocks[1].lines[0]
    assert isinstance(blocks[2], Table) and texts_of(blocks[2]) == [
        ["a", "1", "AB", "0.800 (0.700 to 0.900)", "0.850"]
    ]
    assert (tmp_path / "feedback.png").is_file()
    assert not feedback_blocks(Feedback(), Figures(tmp_path))


def test_pseudo_labels_section_sums_the_steps_of_the_refinement(
    complete: tuple[Fabricated, Page],
) -> None:
    experiment, _ = complete
    section = pseudo_labels_section(experiment.results, Figures(experiment.layout.report.parent))
    table = tables_of(section)["What each step of the refinement changed"]
    sums = {(row[0].text, row[1].text): row[3].sort for row in table.rows}
    assert sums["round 1", "low confidence"] == sum(900 + i for i in range(24))
    assert sums["round 1", "previous round"] == 0 and sums["round 2", "previous round"] == 24 * 1200


@pytest.mark.parametrize("sites", [("rome", "oslo", "oslo"), ("rome", "rome", "rome")])
def test_pseudo_labels_section_compares_several_sites(
    tmp_path: Path, sites: tuple[str, ...]
) -> None:
    experiment = fabricated(tmp_path, labelled=0, unlabelled=3, test=0, rounds=1)
    experiment.write_pseudo_labels(1)
    names = experiment.unlabelled_ids
    sheet = []
    for name, site in zip(names, sites, strict=True):
        sheet.append({"case_id": name, "image": "x.nii.gz", "split": "unlabelled", "site": site})
    write_csv(tmp_path / "cases.csv", sheet, ["case_id", "image", "split", "site"])
    refined = REFINE.read(experiment.layout.refine(1)).set_index("case_id").loc[names].reset_index()
    refined["predicted_dice"] = [0.9, 0.5, 0.7]
    refined["weight_mean"] = 0.5
    REFINE.write(experiment.layout.refine(1), refined, CLASSES)
    labels = LABELS.read(experiment.layout.labels_table(1))
    labels["source"] = ["automatic", "rejected", "corrected"]
    LABELS.write(experiment.layout.labels_table(1), labels)
    tables = tables_of(pseudo_labels_section(experiment.results, Figures(tmp_path)))
    if len(set(sites)) == 1:
        assert "Pseudo-labels by site" not in tables
        return
    assert texts_of(tables["Pseudo-labels by site"]) == [
        ["round 1", "oslo", "2", "1", "0.600", "0.500"],
        ["round 1", "rome", "1", "1", "0.900", "0.500"],
    ]


def test_report_of_an_experiment_without_files(tmp_path: Path) -> None:
    page = page_of(fabricated(tmp_path))
    for text in (
        "no test scores yet",
        "No round is evaluated",
        "not checked yet",
        "no plan yet",
        "is missing",
    ):
        assert text in page.text, text
    assert "What to do next" in page.text


def test_report_of_an_experiment_without_rounds(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=0)
    experiment.write_all()
    page = page_of(experiment)
    assert "The warm-up model reaches a mean test Dice of" in page.text
    assert "this experiment has no rounds" in page.text


def test_report_of_an_experiment_without_test_cases(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    EVALUATION_CASES.write(experiment.layout.evaluation_cases(0), [])
    page = page_of(experiment)
    assert "cannot show whether self-training improved" in page.text
    assert (
        "no scored test cases" in page.text and "Predicted Dice of the pseudo-labels" in page.text
    )


def test_headline_asks_for_test_cases_only_if_there_are_none(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    assert "Add test cases" not in " ".join(headline(experiment.results).lines)
    without = fabricated(tmp_path, rounds=1, test=0, method="supervised")
    without.write_start()
    text = " ".join(headline(without.results).lines)
    assert "Add test cases" in text and "predicted Dice of the pseudo-labels" not in text


def test_report_names_files_that_cannot_be_read(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_all()
    write_text(experiment.layout.calibration, '{"temperature": 1.')
    experiment.layout.refine(1).write_bytes(b"\xff\xfe\x00case_id")
    write_text(experiment.layout.evaluation_summary(1), "{}")
    page = page_of(experiment)
    assert "calibration.json could not be read" in page.text
    assert "refine.csv could not be read" in page.text
    assert "The table of rounds could not be made" in page.text


def test_report_loses_only_the_section_of_an_invalid_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    calibration = Calibration.load(experiment.layout.calibration)
    calibration.model_copy(update={"evidence": {}}).save(experiment.layout.calibration)
    page = page_of(experiment)
    assert (
        "This section could not be written" in page.text and "Traceback" in capsys.readouterr().err
    )
    assert "the median spacing of 46 scans" in page.text


def test_report_hides_credentials(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    written = experiment.layout.config.read_text(encoding="utf-8")
    old = written.replace("sqlite:///mlflow.db", "https://anna:geheim@server/mlflow")
    write_text(
        experiment.layout.config, old
    )  # of a version that let credentials into the configuration
    page = page_of(experiment)
    assert "geheim" not in page.text and "https://***@server/mlflow" in page.text


def test_report_show_prints_rounds_and_path(
    complete: tuple[Fabricated, Page], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _ = complete
    assert main(["report", "--config", str(experiment.layout.config), "--show"]) == 0
    shown = capsys.readouterr().out
    assert str(experiment.layout.report) in shown.replace("\n", "")
    assert f"{case_means(experiment, 0).mean():.3f}" in shown
    assert "Exported" not in shown


def test_report_show_describes_the_exported_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    for path in (experiment.layout.report, experiment.layout.export / "model.json"):
        write_text(path, "")
    assert main(["report", "--config", str(experiment.layout.config), "--show"]) == 0
    shown = capsys.readouterr().out
    assert "Exported: the model of round 2 (" in shown
    assert f"hstf predict --model {experiment.layout.export}" in shown


def test_report_show_refuses_a_missing_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"experiment: e\noutput: {tmp_path}\n")
    assert main(["report", "--config", str(path), "--show"]) == 1
    assert "is missing. Run the workflow" in capsys.readouterr().err


def test_table_counts_the_rows_that_it_leaves_out() -> None:
    rows = [[Cell(str(i))] for i in range(MAXIMUM_ROWS + 7)]
    table = Table("long", ("Case",), rows, "cases.csv")
    assert len(table.rows) == MAXIMUM_ROWS and table.left_out == 7


def test_make_table_shows_the_listed_columns() -> None:
    columns = (
        Column("case_id", "Case"),
        Column("dice", "Dice (90% interval)", digits=3, interval=True),
        Column("found", "Found", of="lesions"),
        Column("volume_ml_<structure>", "<structure> (ml)", digits=1),
    )
    row = {"case_id": "a", "dice": 0.8, "dice_low": 0.7, "dice_high": 0.9, "found": 1, "lesions": 2}
    row["volume_ml_liver"] = 12.34
    table = make_table("Cases", for_structures(columns, ["liver", "spleen"]), [row])
    assert table.columns == ("Case", "Dice (90% interval)", "Found", "liver (ml)", "spleen (ml)")
    assert texts_of(table) == [["a", "0.800 (0.700 to 0.900)", "1 of 2", "12.3", "–"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number_text(0.12345), "0.123"),
        (number_text(-0.5, 2, signed=True), "−0.50"),
        (number_text("nan"), "–"),
        (number_text(None), "–"),
        (number_text(1234567.0, 0), "1\u202f234\u202f567"),
        (number_text(0.02, signed=True), "+0.020"),
        (number_text(-0.0001, signed=True), "0.000"),
        (interval_text(-0.01, 0.02, signed=True), "−0.010 to +0.020"),
        (interval_text(None, 1), "–"),
        (p_text(0.0004), "p < 0.001"),
        (p_text(0.0312), "p = 0.031"),
        (p_text(""), ""),
    ],
)
def test_number_texts(text: str, expected: str) -> None:
    assert text == expected


def test_picture_address_limits_the_size(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), (10, 200, 30)).save(tmp_path / "a.png")
    address = picture_address(tmp_path / "a.png", 200)
    assert address is not None
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (200, 100)
        assert np.abs(np.array(image.getpixel((100, 50))) - (10, 200, 30)).max() < 6
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert picture_address(tmp_path / "b.png", 200) is None
    assert picture_address(tmp_path / "missing.png", 200) is None


if __name__ == "__main__":  # to look at: python tests/stages/test_report.py FOLDER
    import sys

    experiment = fabricated(Path(sys.argv[1]))
    experiment.write_all()
    print(report(experiment.context))


def test_dice_by_round_shows_names_with_dollars_as_they_are() -> None:
    names = {"a $x^$": [0.5, 0.6], "b": [0.4, 0.5]}
    figure = dice_by_round([0, 1], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], names)
    assert "a $x^$" in as_svg(figure, "names")


def names_in_legend(figure: Figure) -> list[str]:
    [axes] = figure.axes
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend is not None else []


def test_reliability_has_no_names_of_many_classes(tmp_path: Path) -> None:
    """The names of 40 classes left no room for the curves."""
    curve = ([0.5, 0.9], [0.4, 0.8])
    assert len(names_in_legend(reliability({f"class {k}": curve for k in range(12)}))) == 12
    figure = reliability({f"class {k}": curve for k in range(40)})
    save_png(figure, tmp_path / "figure.png")
    assert names_in_legend(figure) == []
    assert figure.axes[0].get_position().width > 0.7


def test_training_curves_show_the_names_of_all_members() -> None:
    curve = ([1.0, 2.0], [0.5, 0.4])
    figure = training_curves({"loss": {f"fold_{k}": curve for k in range(8)}})
    figure.draw_without_rendering()
    width = figure.get_figwidth() * figure.dpi
    assert figure.legends[0].get_window_extent().x1 <= width


def test_figures_of_many_rounds_have_room_for_their_names() -> None:
    rounds = list(range(13))
    values = [0.8] * 13
    lines = {"accepted": dict(zip(rounds, values, strict=True))}
    for figure in (
        dice_by_round(rounds, values, values, values, {"liver": values, "spleen": values}),
        by_round({"first": lines, "second": lines}),
    ):
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert all(box.x1 <= after.x0 for box, after in pairwise(boxes))


def test_paired_cases_keeps_its_size_with_long_names(tmp_path: Path) -> None:
    names = ["1.2.840.113619.2.55.3.604688119.969.1267429" + end for end in "ab"]
    figure = paired_cases(names, [0.6, 0.95], [0.5, 0.7], ("warm-up", "round 2"))
    save_png(figure, tmp_path / "figure.png")
    assert figure.axes[0].get_position().width > 0.7
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["1.2.840.1136…969.1267429b", "1.2.840.1136…969.1267429a"]


def test_training_curves_have_one_colour_for_each_round_in_all_panels() -> None:
    """The terms of round 1 may lack one that round 2 has."""
    curve = ([1.0, 2.0], [0.5, 0.4])
    panels = {"first": {"round 2": curve}, "second": {"round 1": curve, "round 2": curve}}
    figure = training_curves(panels)
    first, second = figure.axes
    of_round_1, of_round_2 = second.lines
    assert first.lines[0].get_color() == of_round_2.get_color()
    assert of_round_1.get_color() != of_round_2.get_color()
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["round 2", "round 1"]


def test_means_by_site_weight_the_classes_equally(tmp_path: Path) -> None:
    """Site A has the third class in all scans, site B in one of five; both have the same Dice."""
    experiment = fabricated(tmp_path, rounds=1, test=10)
    experiment.write_all()
    table = experiment.layout.evaluation_cases(1)
    rows = []
    for row in EVALUATION_CASES.records(table):
        number = int(row["case_id"].removeprefix("case_")) % 10
        is_rare = row["class"] == CLASSES[2]
        site = "A" if number < 5 else "B"
        dice = 0.5 if is_rare else 0.95
        if is_rare and site == "B" and number != 5:
            dice = None
        rows.append(row | {"site": site, "dice": dice})
    EVALUATION_CASES.write(table, rows)
    section = cases_section(experiment.results)
    found = {row[0]: row[2] for row in texts_of(tables_of(section)["Means by site"])}
    assert found == {"A": "0.800", "B": "0.800"}


def test_headline_with_a_warm_up_of_other_test_cases_has_no_change(tmp_path: Path) -> None:
    """The warm-up belongs to another experiment, which had one test case less."""
    experiment = fabricated(tmp_path, rounds=1, test=8, gain=0.1)
    experiment.write_all()
    other = fabricated(tmp_path, rounds=1, test=8, gain=0.1, experiment="other")
    table = other.layout.evaluation_cases(0)
    rows = EVALUATION_CASES.records(experiment.layout.evaluation_cases(0))
    EVALUATION_CASES.write(table, [row for row in rows if row["case_id"] != rows[0]["case_id"]])
    summary = EvaluationSummary.load(experiment.layout.evaluation_summary(0))
    summary.save(other.layout.evaluation_summary(0))
    root = str(other.layout.root)
    reusing = fabricated(tmp_path, rounds=1, test=8, gain=0.1, reuse={"data": root, "warmup": root})
    lines = headline(reusing.results).lines
    assert "reaches a mean test Dice of" in lines[0]
    assert any("scored on other test scans" in line for line in lines)
    only_warmup = fabricated(
        tmp_path, rounds=0, test=8, experiment="third", reuse={"data": root, "warmup": root}
    )
    assert any("scored on other test scans" in line for line in headline(only_warmup.results).lines)
    row = reusing.results.scores[1]
    assert "compared on the 7 test cases that both have" in row["note"]
