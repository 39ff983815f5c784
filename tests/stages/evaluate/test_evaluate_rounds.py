"""Rounds are compared with the warm-up and with the control, and validation chooses a round."""

import shutil
from pathlib import Path

import pytest
from support.evaluation_files import (
    FakePredictor,
    evaluate_all,
    evaluate_shard,
    report_context,
    summarise_round,
    with_evaluate,
    write_pseudo_labels,
)

from hstf.config.experiment import Config
from hstf.experiment.comparison import control_layout
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS as LABELS_TABLE
from hstf.experiment.round_tables import LESIONS
from hstf.experiment.score_tables import EVALUATION_CASES, ROUNDS, VALIDATION_CASES
from hstf.runtime.errors import HstfError
from hstf.scoring.control import Control, ValidationScores, control_sentence, read_control
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.printed_rounds import print_rounds
from hstf.scoring.round_choice import choose_round
from hstf.scoring.round_comparison import compare_with_warmup
from hstf.scoring.rounds import rounds_table
from hstf.scoring.significance import Comparison, Interval
from hstf.stages.evaluate.summary import summarise_validation


def test_rounds_table_compares_rounds_with_the_warm_up(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    first, second = rounds_table(report_context(config))
    assert (first["round"], first["model"], first["members"]) == (0, "warm-up", 2)
    assert first["pseudo_labelled"] == 0
    assert (second["round"], second["model"], second["labelled"]) == (1, "student", 1)
    assert (second["pseudo_labelled"], second["rejected"]) == (1, 1)
    gain = student.dice.mean - warmup.dice.mean
    assert gain > 0.1
    assert second["gain"] == pytest.approx(gain, abs=1e-5)
    assert second["gain_low"] <= gain <= second["gain_high"]
    assert "only 2 patients" in second["note"]
    assert compare_with_warmup(report_context(config), 1).patients == 2
    assert second["dice_of_liver"] == student.classes["liver"].dice.mean
    assert second["pseudo_label_dice"] == student.pseudo_labels.dice.mean
    written = ROUNDS.records(Layout.of(config).rounds_table)
    assert written[1]["dice"] == pytest.approx(student.dice.mean, rel=1e-5)
    assert written[0]["gain"] is None


@pytest.mark.parametrize(
    ("name", "kept", "problem"),
    [
        ("labels.csv", 1, "u: is missing"),
        ("evaluation/cases.csv", 1, "a: is missing"),
        ("evaluation/cases.csv", 5, "c: is missing"),
        ("evaluation/cases.csv", 6, "c: has 1 rows, expected 2"),
    ],
)
def test_rounds_table_refuses_shortened_tables(
    config: Config, predictors: dict[int, FakePredictor], name: str, kept: int, problem: str
) -> None:
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    table = Layout.of(config).round(1) / name
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:kept]))
    with pytest.raises(HstfError, match=rf"(?s){table.name}: does not have.*{problem}"):
        rounds_table(report_context(config))


def test_rounds_table_leaves_out_rounds_without_evaluation(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    assert rounds_table(report_context(config)) == []
    evaluate_all(config, 0)
    assert [row["round"] for row in rounds_table(report_context(config))] == [0]


def test_print_rounds_warns_of_a_round_without_pseudo_labels(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    table = Layout.of(config).labels_table(1)
    rows = [row | {"source": "rejected"} for row in LABELS_TABLE.records(table)]
    LABELS_TABLE.write(table, rows)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Warning: Round 1 learned from no unlabelled case: all 2 are rejected" in printed
    assert not Layout.of(config).rounds_table.exists(), "printing writes nothing"
    rounds_table(report_context(config))
    assert "all 2 are rejected" in ROUNDS.records(Layout.of(config).rounds_table)[1]["warnings"]


def test_print_rounds_warns_of_lesions_that_no_pseudo_label_has(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    name = next(iter(config.structures))
    config = config.model_copy(update={"lesions": (name,)})
    write_pseudo_labels(config)
    columns = [column.name for column in LESIONS.columns]
    lesion = dict.fromkeys(columns, 0) | {"case_id": "a", "class": name, "kept": False}
    LESIONS.write(Layout.of(config).lesions(1), [lesion] * 7)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Round 1: all 7 components of {name} are dropped" in printed


def test_print_rounds_shows_dice_and_gain(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    print_rounds(report_context(config))
    printed = capsys.readouterr().out
    assert f"{student.dice.mean:.3f}" in printed
    assert f"{student.dice.mean - warmup.dice.mean:+.3f}" in printed
    assert "report.html" in printed
    assert "longer training" in printed
    assert "evaluate: {control: true}" in printed


def test_print_rounds_notes_a_warm_up_with_other_test_cases(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    evaluate_all(config, 1)
    other = Path("other")
    shutil.copytree(Layout.of(config).round(0), other / "round_0")
    reuse = config.reuse.model_copy(update={"warmup": str(other)})
    config = config.model_copy(update={"reuse": reuse})
    print_rounds(report_context(config))
    assert "other test cases" not in capsys.readouterr().out
    table = Layout.of(config).evaluation_cases(0)
    rows = [row for row in EVALUATION_CASES.records(table) if row["case_id"] != "a"]
    EVALUATION_CASES.write(table, rows)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "was scored on other test cases: its Dice cannot be compared" in printed


def test_print_rounds_of_another_method_does_not_name_the_control(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config.model_validate({**config.model_dump(mode="json"), "method": "noisy_student"})
    write_pseudo_labels(config)
    evaluate_all(config, 0)
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert "compare methods" in printed and "evaluate: {control" not in printed


def test_print_rounds_shows_the_control(
    config: Config, predictors: dict[int, FakePredictor], capsys: pytest.CaptureFixture[str]
) -> None:
    """A control with the scores of the warm-up: the whole change comes from unlabelled scans."""
    config = with_evaluate(config, control=True)
    write_pseudo_labels(config)
    warmup = evaluate_all(config, 0)
    student = evaluate_all(config, 1)
    capsys.readouterr()
    print_rounds(report_context(config))
    assert "The control has no scores yet" in " ".join(capsys.readouterr().out.split())
    layout = Layout.of(config)
    shutil.copytree(layout.evaluation(0), control_layout(layout, config.seed).evaluation(1))
    print_rounds(report_context(config))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"control: 1 0 {warmup.dice.mean:.3f} +0.000" in printed
    assert f"scans help: {student.dice.mean - warmup.dice.mean:+.3f} (95% CI +" in printed
    assert "round 1 against the control" in printed
    assert "longer training" not in printed
    control = read_control(report_context(config))
    assert control is not None
    gain = compare_with_warmup(report_context(config), 1)
    assert control.comparison == gain, "the same as the change from an equal warm-up"
    assert "corrected" not in control_sentence(control)
    labels = [{"case_id": "u", "source": "corrected"}, {"case_id": "v", "source": "corrected"}]
    LABELS_TABLE.write(layout.labels_table(1), labels)
    corrected = read_control(report_context(config))
    assert corrected is not None
    assert "Round 1 has learned from 2 corrected labels, too, and the control has not." in (
        control_sentence(corrected)
    )


@pytest.mark.parametrize(
    ("low", "high", "p_value", "text"),
    [
        (0.012, 0.055, 0.02, "Unlabelled scans add +0.034 (95% CI +0.012 to +0.055, p = 0.020)"),
        (0.012, 0.055, 0.0002, "p < 0.001): round 2 against the control, which has the same"),
        (-0.012, 0.055, 0.02, "It is not clear whether unlabelled scans help: +0.034 (95% CI"),
        (0.012, 0.055, 0.2, "It is not clear whether unlabelled scans help: +0.034 (95% CI"),
        (-0.055, -0.012, 0.02, "Unlabelled scans make the Dice worse: -0.034 (95% CI -0.055"),
        (None, None, None, "It is not clear whether unlabelled scans help: +0.034: round 2"),
    ],
)
def test_control_sentence_states_whether_unlabelled_scans_help(
    low: float | None, high: float | None, p_value: float | None, text: str
) -> None:
    mean = -0.034 if high is not None and high < 0 else 0.034
    interval = Interval(mean=mean, low=low, high=high, scans=9, patients=9)
    comparison = Comparison(difference=interval, p_value=p_value, patients=9)
    assert text in control_sentence(Control(2, {}, comparison))


def test_control_sentence_names_classes_that_are_worse_than_in_the_control() -> None:
    interval = Interval(mean=-0.1, low=-0.2, high=-0.05, scans=9, patients=9)
    comparison = Comparison(difference=interval, p_value=0.148, patients=9)
    sentence = control_sentence(Control(2, {}, comparison, {"lesion": (0.0, 0.525)}))
    assert sentence.startswith("It is not clear whether unlabelled scans help: -0.100 (95% CI")
    assert sentence.endswith("Lower than in the control: lesion 0.000 (0.525).")


def with_validation(config: Config) -> None:
    """Give the two test scans of patient p1 the split ``validation``."""
    path = Path(config.cases)
    path.write_text(path.read_text().replace("test,p1", "validation,p1"))


def test_validation_cases_are_scored_apart_from_test_cases(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    with_validation(config)
    write_pseudo_labels(config)
    layout = Layout.of(config)
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        evaluate_shard(config, number, "test_0")
        validation = summarise_validation(StageContext.of(config, "evaluate", number))
        test = summarise_round(config, number)
        assert (validation.cases, test.cases) == (2, 1)
        assert EvaluationSummary.load(layout.validation_summary(number)) == validation
        names = {
            row["case_id"] for row in VALIDATION_CASES.records(layout.validation_table(number))
        }
        assert names == {"a", "b"}
        tested = {
            row["case_id"] for row in EVALUATION_CASES.records(layout.evaluation_cases(number))
        }
        assert tested == {"c"}
    choice = choose_round(report_context(config))
    assert (choice.round, choice.chosen_by) == (1, "validation")
    # Test scores decide nothing: the choice is the same without them.
    for number in (0, 1):
        layout.evaluation_summary(number).unlink()
    assert choose_round(report_context(config)) == choice


def test_read_control_compares_the_exported_round_with_it_on_the_validation_cases(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """The control has the scores of the warm-up here."""
    config = with_evaluate(config, control=True)
    with_validation(config)
    write_pseudo_labels(config)
    validation = []
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        evaluate_shard(config, number, "test_0")
        validation.append(summarise_validation(StageContext.of(config, "evaluate", number)))
        summarise_round(config, number)
    layout = Layout.of(config)
    folder = control_layout(layout, config.seed)
    shutil.copytree(layout.evaluation(0), folder.evaluation(1))
    control = read_control(report_context(config))
    assert control is not None
    assert control.validation == ValidationScores(
        cases=2,
        round=1,
        exported=validation[1].dice.mean,
        control=validation[0].dice.mean,
        target=f"supervised_seed_{config.seed}_export",
    )
    assert "validation" not in control_sentence(control), "the exported round is better"
    folder.validation_summary(1).unlink()
    assert read_control(report_context(config)) is None, "its scores are not complete"


def test_control_sentence_names_the_command_that_exports_a_better_control() -> None:
    interval = Interval(mean=-0.02, low=-0.048, high=-0.003, scans=12, patients=12)
    comparison = Comparison(difference=interval, p_value=0.007, patients=12)
    scores = ValidationScores(10, 2, 0.859, 0.879, "supervised_seed_0_export")
    sentence = control_sentence(Control(2, {}, comparison, validation=scores))
    assert sentence.endswith(
        "On the 10 validation cases the control is better: 0.879, and 0.859 for round 2, which is"
        " exported. To export the control, run snakemake again with the target"
        " supervised_seed_0_export."
    )
    equal = ValidationScores(10, 2, 0.879, 0.879, "supervised_seed_0_export")
    assert "validation" not in control_sentence(Control(2, {}, comparison, validation=equal))


def test_choose_round_ignores_scores_of_cases_that_are_no_validation_cases_now(
    config: Config, predictors: dict[int, FakePredictor]
) -> None:
    """The cases of the earlier run may be test cases now."""
    with_validation(config)
    write_pseudo_labels(config)
    for number in (0, 1):
        evaluate_shard(config, number, "validation_0")
        summarise_validation(StageContext.of(config, "evaluate", number))
    assert choose_round(report_context(config)).chosen_by == "validation"
    sheet = Path(config.cases)
    text = sheet.read_text()
    sheet.write_text(text.replace("validation", "test"))
    assert choose_round(report_context(config)).chosen_by == "last"
    lines = [line for line in text.splitlines() if not line.startswith("b,")]
    sheet.write_text("\n".join(lines) + "\n")
    assert choose_round(report_context(config)).validation == {}


def test_summary_of_validation_needs_validation_cases(config: Config) -> None:
    with pytest.raises(HstfError, match="no validation cases"):
        summarise_validation(StageContext.of(config, "evaluate", 0))
