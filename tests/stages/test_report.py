"""The report tells what the files say, copes with what is not there, and needs nothing but itself."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.report_files import CLASSES, Fabricated, Page, fabricated, page_of

from hstf.cli import main
from hstf.imaging.overlays import overlay_path
from hstf.runtime.files import read_csv, write_csv, write_json, write_text
from hstf.stages.evaluate.summary import CASE_COLUMNS
from hstf.stages.report.figures import INK, Figures
from hstf.stages.report.gallery import picture_address
from hstf.stages.report.lesions import lesions_section
from hstf.stages.report.page import (
    TABLE_ROWS,
    Cell,
    Gallery,
    Table,
    interval_text,
    number_text,
    p_text,
)
from hstf.stages.report.pseudo_labels import (
    gallery_section,
    overrides_section,
    pseudo_labels_section,
)
from hstf.stages.report.results import Results
from hstf.stages.report.scores import headline, rounds_section
from hstf.stages.report.stage import report


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fabricated, Page]:
    experiment = fabricated(tmp_path_factory.mktemp("complete"))
    experiment.write_all()
    return experiment, Page(report(experiment.config).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    html = experiment.layout.report.read_text(encoding="utf-8")
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert not page.all("link") and not page.all("iframe")
    assert not re.findall(r"@import|url\((?!#)|src=\"(?!data:)", html)
    assert len(html) < 15e6


def test_the_page_is_accessible(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in page.all("a")} <= set(ids)


def test_the_headline_states_dice_interval_and_p(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    means = [case_means(experiment, number) for number in (0, 2)]
    change = float(np.mean(means[1] - means[0]))
    assert f"{means[0].mean():.3f} (warm-up) → {means[1].mean():.3f} (round 2)" in page.text
    assert f"a change of +{change:.3f} (95% CI +" in page.text
    assert "p < 0.001" in page.text  # 14 of 14 patients gained: 2 / 2**14


def test_two_patients_are_no_proof(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1, test=2, gain=0.1)
    experiment.write_all()
    lines = headline(Results(experiment.config)).lines
    assert "did not change beyond chance" in lines[0] and "only 2 patients differ" in lines[-1]


def case_means(experiment: Fabricated, number: int) -> np.ndarray:
    rows = read_csv(experiment.layout.evaluation_cases(number))
    return np.array([float(row["dice"]) for row in rows]).reshape(-1, len(CLASSES)).mean(axis=1)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(-0.05, "fell"), (0.0, "did not change beyond chance"), (0.05, "rose")]
)
def test_only_an_interval_without_zero_is_a_change(
    tmp_path: Path, gain: float, verdict: str
) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=gain, test=30)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    for number in (0, 1):
        experiment.write_evaluation(number)
    assert f"the mean test Dice {verdict}:" in headline(Results(experiment.config)).lines[0]


def test_the_command_writes_page_rounds_and_figures_and_removes_old_ones(
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
        "dice_by_round", "paired_cases", "training_round_0", "training_round_1", "training_round_2", "calibration",
        "predicted_dice", "predicted_dice_labelled", "predicted_against_true", "reliability", "csc", "froc",
        "pseudo_label_quality", "risk_coverage", "lesions_by_round",
    }  # fmt: skip
    assert [row["round"] for row in read_csv(experiment.layout.rounds_table)] == ["0", "1", "2"]


def test_lesions_are_told_by_round_and_size(complete: tuple[Fabricated, Page]) -> None:
    experiment, page = complete
    section = lesions_section(Results(experiment.config), Figures(experiment.layout.report.parent))
    tables = [block for block in section.blocks if isinstance(block, Table)]
    last = [cell.text for cell in tables[0].rows[-1]]
    assert last[:6] == ["lesion", "round 2", "42", "28", "14", "14"]
    assert last[6:10] == ["0.667 (0.667 to 0.667)", "0.667", "0.667", "1.00"]
    assert [cell.text for cell in tables[1].rows[0]][1:4] == [
        "below 65 mm³ (⌀ 5 mm)",
        "14",
        "0.000",
    ]
    assert "a match needs an IoU of at least 0.1" in page.text


def test_a_class_that_is_hardly_predicted_is_told_on_top(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1, gain=0.1, test=30)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    for number in (0, 1):
        experiment.write_evaluation(number)
    path = experiment.layout.evaluation_cases(1)
    rows = read_csv(path)
    for row in rows:
        if row["class"] == "spleen":
            row |= {"dice": "0", "empty": "prediction"}
    write_csv(path, rows, CASE_COLUMNS)
    results = Results(experiment.config)
    note = headline(results)
    assert (
        "spleen is predicted in none of the 30 test cases" in note.lines[0] and note.tone == "warn"
    )
    tables = {
        b.caption: b
        for b in rounds_section(results, Figures(tmp_path)).blocks
        if isinstance(b, Table)
    }
    found = [[cell.text for cell in row] for row in tables["Classes that a scan may lack"].rows]
    assert found[1] == ["spleen", "round 1", "30", "0.000", "0 of 30", "–"]


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("mean_teacher", "the labelled scans and the unlabelled ones as images"),
        ("supervised", "the labelled scans alone"),
        ("full", "the ceiling of a benchmark, not a result of learning from few labels"),
    ],
)
def test_methods_without_pseudo_labels(tmp_path: Path, method: str, told: str) -> None:
    experiment = fabricated(tmp_path, method=method)
    experiment.write_start()
    for number in range(3):
        experiment.write_training(number)
        experiment.write_evaluation(number)
    page = page_of(experiment)
    assert f"Method {method}:" in page.text and told in page.text
    assert ("sets it beside mean_teacher" in page.text) == (method == "mean_teacher")
    assert "This method learns without pseudo-labels" in page.text
    assert (
        "the networks were over-confident" in page.text and "A pseudo-label whose" not in page.text
    )
    assert "This part could not be written" not in page.text
    assert "Correct or judge a pseudo-label" not in page.text
    assert "After 2 rounds the mean test Dice" in page.text


@pytest.mark.parametrize(
    ("refine", "told"),
    [
        ({}, "whose predicted mean Dice is below 0.580 is not used"),
        ({"minimum_predicted_dice": 0.2}, "whose predicted mean Dice is below 0.200 is not used"),
        ({"select_cases": False}, "Every pseudo-label is used, however low its predicted Dice"),
    ],
)
def test_the_bound_that_is_told_is_the_one_in_force(
    tmp_path: Path, refine: dict[str, object], told: str
) -> None:
    experiment = fabricated(tmp_path, refine=refine)
    experiment.write_all()
    text = page_of(experiment).text
    assert told in text and "After 2 rounds of self-training" in text
    assert ("rejected below" in text) == ("select_cases" not in refine), "the line in the figure"


def test_what_is_known_of_structures_is_told(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert "at most 1 component of at least 0.42 ml, no holes, must not be absent" in page.text
    assert "of at least 0.42 ml, at least 25% of its surface touches others, no holes" in page.text
    assert (
        "at least 50% of its surface touches others, no holes, may be absent, not applied, as it costs 0.010 Dice"
        in page.text
    )


def test_figures_take_the_colours_of_the_page(complete: tuple[Fabricated, Page]) -> None:
    experiment, _ = complete
    html = experiment.layout.report.read_text(encoding="utf-8")
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 15
    assert all(
        "currentColor" in svg and "var(--series-0)" in svg and INK not in svg for svg in svgs
    )


def test_text_of_files_is_never_markup(complete: tuple[Fabricated, Page]) -> None:
    _, page = complete
    assert "<b>slices</b> may be missing" in page.text
    assert not page.all("b")


def test_pictures_are_least_certain_first_and_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = fabricated(tmp_path, rounds=1, report={"gallery": 3})
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    experiment.write_overlays(1, 5)
    overlay_path(
        experiment.layout.pseudo_labels(1), least := least_certain_ids(experiment)[0]
    ).write_bytes(b"torn")
    gallery = gallery_section(Results(experiment.config)).blocks[0]
    assert isinstance(gallery, Gallery)
    assert [picture.case_id for picture in gallery.pictures] == least_certain_ids(experiment)[
        1:4
    ], f"{least} is torn"
    monkeypatch.setattr(
        "hstf.stages.report.pseudo_labels.GALLERY_BYTES", len(gallery.pictures[0].source) + 1
    )
    gallery = gallery_section(Results(experiment.config)).blocks[0]
    assert (
        isinstance(gallery, Gallery) and len(gallery.pictures) == 2
    )  # the one that reaches the bound is the last


def least_certain_ids(experiment: Fabricated) -> list[str]:
    rows = read_csv(experiment.layout.refine(1))
    return [row["case_id"] for row in sorted(rows, key=lambda row: float(row["predicted_dice"]))]


def test_what_people_decided_is_told_with_name_and_reason(
    complete: tuple[Fabricated, Page],
) -> None:
    experiment, _ = complete
    tables = [
        block
        for block in overrides_section(Results(experiment.config)).blocks
        if isinstance(block, Table)
    ]
    assert [table.caption for table in tables[:2]] == [
        "Round 2: decided by people",
        "Round 1: decided by people",
    ]
    texts = [[cell.text for cell in row] for row in tables[0].rows]
    assert [row[:4] for row in texts] == [
        ["case_008", "corrected by a person", "A. Reader", "spleen redrawn"],
        ["case_009", "accepted by a person", "A. Reader", "small but right"],
        ["case_010", "not used", "B. Reader", "motion artefact"],
    ]


def test_steps_of_the_refinement_are_summed(complete: tuple[Fabricated, Page]) -> None:
    experiment, _ = complete
    blocks = pseudo_labels_section(
        Results(experiment.config), Figures(experiment.layout.report.parent)
    ).blocks
    table = next(
        b for b in blocks if isinstance(b, Table) and "step of the refinement" in b.caption
    )
    sums = {(row[0].text, row[1].text): row[3].sort for row in table.rows}
    assert sums["round 1", "low confidence"] == sum(900 + i for i in range(24))
    assert sums["round 1", "previous round"] == 0 and sums["round 2", "previous round"] == 24 * 1200


def test_an_experiment_that_has_not_begun(tmp_path: Path) -> None:
    page = page_of(fabricated(tmp_path))
    for text in (
        "No test scores yet",
        "No round is finished",
        "not checked yet",
        "no plan yet",
        "is missing",
    ):
        assert text in page.text, text
    assert "What to do next" in page.text


def test_an_experiment_without_rounds(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=0)
    experiment.write_all()
    page = page_of(experiment)
    assert "The warm-up model reaches a mean test Dice of" in page.text
    assert "this experiment has no rounds" in page.text


def test_an_experiment_without_test_cases_or_references(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    experiment.write_pseudo_labels(1)
    write_csv(experiment.layout.evaluation_cases(0), [], CASE_COLUMNS)
    page = page_of(experiment)
    assert "cannot say whether self-training helped" in page.text
    assert (
        "No scored test cases" in page.text and "Predicted Dice of the pseudo-labels" in page.text
    )


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_all()
    write_text(experiment.layout.calibration, '{"temperature": 1.')
    experiment.layout.refine(1).write_bytes(b"\xff\xfe\x00case_id")
    write_text(experiment.layout.evaluation_summary(1), "{}")
    page = page_of(experiment)
    assert "calibration.json could not be read" in page.text
    assert "refine.csv could not be read" in page.text
    assert "The table of rounds could not be made" in page.text


def test_an_odd_file_takes_only_its_own_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    write_json(experiment.layout.calibration, {"temperature": "warm"})
    page = page_of(experiment)
    assert "This part could not be written" in page.text and "Traceback" in capsys.readouterr().err
    assert "the median spacing of 46 scans" in page.text


def test_credentials_are_not_on_the_page(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path)
    experiment.write_start()
    written = experiment.layout.config.read_text(encoding="utf-8")
    old = written.replace("sqlite:///mlflow.db", "https://anna:geheim@server/mlflow")
    write_text(
        experiment.layout.config, old
    )  # of a version that let credentials into the configuration
    page = page_of(experiment)
    assert "geheim" not in page.text and "https://***@server/mlflow" in page.text


def test_show_prints_the_rounds_and_where_the_report_is(
    complete: tuple[Fabricated, Page], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, _ = complete
    assert main(["report", "--config", str(experiment.layout.config), "--show"]) == 0
    shown = capsys.readouterr().out
    assert str(experiment.layout.report) in shown.replace("\n", "")
    assert f"{case_means(experiment, 0).mean():.3f}" in shown


def test_there_is_nothing_to_show_before_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"experiment: e\noutput: {tmp_path}\n")
    assert main(["report", "--config", str(path), "--show"]) == 1
    assert "no report yet" in capsys.readouterr().err


def test_long_tables_say_how_much_they_leave_out() -> None:
    rows = [[Cell(str(i))] for i in range(TABLE_ROWS + 7)]
    table = Table("long", ("Case",), rows, "cases.csv")
    assert len(table.rows) == TABLE_ROWS and table.left_out == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number_text(0.12345), "0.123"), (number_text(-0.5, 2, signed=True), "−0.50"), (number_text("nan"), "–"),
        (number_text(None), "–"), (number_text(1234567.0, 0), "1\u202f234\u202f567"),
        (number_text(0.02, signed=True), "+0.020"), (number_text(-0.0001, signed=True), "0.000"),
        (interval_text(-0.01, 0.02, signed=True), "−0.010 to +0.020"), (interval_text(None, 1), "–"),
        (p_text(0.0004), "p < 0.001"), (p_text(0.0312), "p = 0.031"), (p_text(""), ""),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_a_picture_is_embedded_no_larger_than_asked(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), (10, 200, 30)).save(tmp_path / "a.png")
    address = picture_address(tmp_path / "a.png", 200)
    assert address is not None
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert image.size == (200, 100)
        assert np.abs(np.array(image.getpixel((100, 50))) - (10, 200, 30)).max() < 6
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert picture_address(tmp_path / "b.png", 200) is None
    assert picture_address(tmp_path / "missing.png", 200) is None


if __name__ == "__main__":  # to look at: python tests/test_report.py FOLDER
    import sys

    experiment = fabricated(Path(sys.argv[1]))
    experiment.write_all()
    print(report(experiment.config))
