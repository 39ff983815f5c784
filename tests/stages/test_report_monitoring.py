"""The report states which round is exported, and why."""

from pathlib import Path

from support.report_files import Fabricated, fabricated

from hstf.scoring.monitoring import LabelledStructure, RoundMonitor, StructureFound
from hstf.scoring.round_choice import choice_of
from hstf.stages.report.headline import headline, look_first
from hstf.stages.report.monitoring import choice_note, monitoring_table
from hstf.stages.report.results import Results
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


def scored_results(folder: Path) -> Results:
    experiment = with_collapse(folder)
    for number in (1, 2):
        experiment.write_pseudo_labels(number)
    return experiment.results


def test_headline_is_that_of_the_exported_round(tmp_path: Path) -> None:
    results = scored_results(tmp_path)
    dice = {row["round"]: row["dice"] for row in results.scores}
    lines = headline(results).lines
    assert lines[0].startswith("After 1 round of self-training the mean test Dice")
    assert f"→ {dice[1]:.3f} (round 1)" in lines[0]
    assert lines[1].startswith(
        f"Exported is the model of round 1, not a later one (mean test Dice of round 2:"
        f" {dice[2]:.3f}). It is the last round whose model has not collapsed."
    )


def test_headline_of_an_exported_warm_up_names_the_later_rounds(tmp_path: Path) -> None:
    results = scored_results(tmp_path)
    results.choice = choice_of(2, {}, {0: 0.9, 1: 0.8, 2: 0.7}, 5)
    lines = headline(results).lines
    assert lines[0].startswith("The warm-up model reaches a mean test Dice of")
    assert "Exported is the model of warm-up, not a later one" in lines[1]
    assert "Its mean Dice on the 5 validation cases is 0.900" in lines[1]


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
