"""The section of the report about external teachers."""

from pathlib import Path

import pytest
from support.external_files import external, make_external, weigh

from hstf.experiment.context import StageContext
from hstf.stages.report.external import external_section
from hstf.stages.report.page import Note, Table
from hstf.stages.report.results import Results

pytestmark = pytest.mark.usefixtures("workplace")


def test_report_shows_weights_and_missing_cases_with_their_reasons(tmp_path: Path) -> None:
    config = make_external(tmp_path, "crash")
    results = Results(StageContext.of(config, "report"))
    assert external_section(results).blocks == [], "nothing is measured yet"
    external(config, "labelled_0")
    weigh(config)
    external(config, "unlabelled_0")
    section = external_section(Results(StageContext.of(config, "report")))
    table, values, missing = section.blocks
    assert isinstance(table, Table) and isinstance(values, Note) and isinstance(missing, Note)
    (row,) = table.rows
    cells = dict(zip(table.columns, (cell.text for cell in row), strict=True))
    assert (cells["External teacher"], cells["Class"]) == ("other", "organ")
    assert cells["Its Dice"] == "1.000" and float(cells["Weight"]) > 0
    assert "changes the Dice by +" in cells["Because"]
    assert values.lines == ["other: values without a class are background: 200."]
    assert missing.title.startswith("other: 1 of 5 predictions are missing.")
    assert missing.lines == ["1 prediction: exit code 3: weights.bin is damaged (case_4)"]


def test_report_names_a_dropped_teacher(tmp_path: Path) -> None:
    config = make_external(tmp_path, "bad")
    external(config, "labelled_0")
    weigh(config)
    table, note = external_section(Results(StageContext.of(config, "report"))).blocks
    assert isinstance(table, Table) and isinstance(note, Note)
    cells = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert cells["Weight"] == "dropped"
    assert "at best, expected more than" in cells["Because"]
    assert "does not predict the unlabelled cases" in note.lines[0]
