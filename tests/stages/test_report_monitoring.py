"""The report states which round is exported, and why."""

from pathlib import Path

from support.report_files import Fabricated, fabricated

from hstf.scoring.monitoring import LabelledStructure, RoundMonitor, StructureFound
from hstf.stages.report.headline import look_first
from hstf.stages.report.monitoring import choice_note, monitoring_table
from hstf.stages.report.stage import _exported


def with_collapse(folder: Path) -> Fabricated:
    """Return an experiment whose second round has lost the spleen."""
    experiment = fabricated(folder, rounds=2)
    experiment.write_start()
    for number, present in enumerate((19, 18, 0)):
        experiment.write_evaluation(number)
        collapse = ["spleen vanishes: found in 0 of 20 unlabelled cases"] if number == 2 else []
        RoundMonitor(
            round=number,
            cases=20,
            structures={"spleen": StructureFound(present=present, mean_ml=present / 2)},
            labelled={"spleen": LabelledStructure(every_case=True, mean_ml=9.0)},
            member_dice={"spleen": 0.8},
            teacher_dice={},
            collapse=collapse,
            warnings=[],
        ).save(experiment.layout.monitor(number))
    return experiment


def test_report_names_the_exported_round_and_the_collapse(tmp_path: Path) -> None:
    experiment = with_collapse(tmp_path)
    results = experiment.results
    (note,) = choice_note(results)
    assert note.lines[0].startswith("Round 1 is exported. It is the last round whose model has not")
    assert "Round 2 has collapsed: spleen vanishes" in note.lines[0]
    assert note.tone == "warn"
    first = look_first(results)
    assert first is not None
    text = "The model of round 2 has collapsed: spleen vanishes: found in 0 of 20 unlabelled cases."
    assert f"{text} Exported is round 1." in first.lines


def test_report_shows_what_decided(tmp_path: Path) -> None:
    (table,) = monitoring_table(with_collapse(tmp_path).results)
    cells = [[cell.text for cell in row] for row in table.all_rows]
    assert [row[0] for row in cells] == ["warm-up", "round 1", "round 2"]
    assert cells[0][-2:] == ["9.50", "19"]
    assert cells[2][-2:] == ["0.00", "0"]


def test_end_of_a_run_states_why_an_earlier_round_is_exported(tmp_path: Path) -> None:
    text = _exported(with_collapse(tmp_path).context)
    assert text.startswith("Exported: the model of round 1 (")
    assert "Round 2 has collapsed: spleen vanishes" in text


def test_report_without_evidence_exports_the_last_round(tmp_path: Path) -> None:
    experiment = fabricated(tmp_path, rounds=1)
    experiment.write_start()
    for number in (0, 1):
        experiment.write_evaluation(number)
    (note,) = choice_note(experiment.results)
    assert note.lines[0].startswith("Round 1 is exported. It is the last round")
    assert monitoring_table(experiment.results) == []
