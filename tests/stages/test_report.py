"""The report shows what the files contain; files may be missing."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.report_files import CLASSES, Fabricated, Page, class_summary, fabricated, page_of

from hstf.cli import main
from hstf.experiment.tables import EVALUATION_CASES, LABELS, REFINE, ROUNDS
from hstf.imaging.overlays import overlay_path
from hstf.method.plr.calibration import Calibration
from hstf.runtime.files import write_csv, write_text
from hstf.scoring.documents import EvaluationSummary
from hstf.stages.report.figures import INK, Figures, as_svg, dice_by_round
from hstf.stages.report.gallery import gallery_section, picture_address
from hstf.stages.report.headline import headline
from hstf.stages.report.lesions import lesions_section
from hstf.stages.report.overrides import overrides_section
from hstf.stages.report.page import (
    MAXIMUM_ROWS,
    Cell,
    Gallery,
    Section,
    Table,
    interval_text,
    number_text,
    p_text,
)
from hstf.stages.report.pseudo_labels import pseudo_labels_section
from hstf.stages.report.rounds import rounds_section
from hstf.stages.report.stage import report
from hstf.stages.report.tables import Column, for_structures, make_table


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
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
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
    assert {str(link["href"])[1:] for link in page.all("a")} <= set(ids)


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
    assert "did not change beyond chance" in lines[0] and "only 2 patients differ" in lines[-1]


def case_means(experiment: Fabricated, number: int) -> np.ndarray:
    cases = EVALUATION_CASES.read(experiment.layout.evaluation_cases(number))
    return cases["dice"].to_numpy().reshape(-1, len(CLASSES)).mean(axis=1)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(-0.05, "decreased"), (0.0, "did not change beyond chance"), (0.05, "increased")],
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
        " not applied, because it lowers the out-of-fold Dice by 0.010" in page.text
    )


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
    gallery = gallery_section(experiment.results).blocks[0]
    assert isinstance(gallery, Gallery)
    assert [picture.case_id for picture in gallery.pictures] == least_certain_ids(experiment)[
        1:4
    ], f"{least} is torn"
    monkeypatch.setattr(
        "hstf.stages.report.gallery.GALLERY_BYTES", len(gallery.pictures[0].source) + 1
    )
    gallery = gallery_section(experiment.results).blocks[0]
    assert (
        isinstance(gallery, Gallery) and len(gallery.pictures) == 2
    )  # the one that reaches the bound is the last


def least_certain_ids(experiment: Fabricated) -> list[str]:
    refined = REFINE.read(experiment.layout.refine(1))
    return list(refined.sort_values("predicted_dice")["case_id"])


def test_overrides_section_names_reviewer_and_reason(
    complete: tuple[Fabricated, Page],
) -> None:
    experiment, _ = complete
    tables = tables_of(overrides_section(experiment.results))
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
    tables = tables_of(overrides_section(experiment.results))
    opened = texts_of(tables["Round 1: open, look at these pseudo-labels"])
    assert [row[:4] for row in opened] == [["case_009", "accepted automatically", "–", reason]]
    decided = texts_of(tables["Round 1: decisions of reviewers"])
    assert [row[:2] for row in decided] == [
        ["case_008", "corrected by a reviewer"],
        ["case_010", "not used, decided on an earlier version"],
    ]


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
