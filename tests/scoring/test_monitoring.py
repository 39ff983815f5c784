"""A collapse is seen without any label, and the collapsed round is not exported."""

from pathlib import Path

import numpy as np
import pytest
from support.workspace import write_sheet

from hstf.config.experiment import Config
from hstf.config.monitor import MonitorConfig
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.scoring.monitoring import (
    LabelledStructure,
    RoundMonitor,
    StructureFound,
    collapse_findings,
    labelled_structures,
    never_found,
    pairwise_dice,
    refuse_collapsed,
    volumes_ml,
)
from hstf.scoring.round_choice import choice_of, choose_round

SECTION = MonitorConfig()
CASES = 20


def monitor(
    number: int,
    present: int,
    mean_ml: float,
    every_case: bool = True,
    agreement: float = 0.9,
    labelled_ml: float | None = 10.0,
) -> RoundMonitor:
    """Return the evidence about a round: the liver is sound, the ventricle may be lost."""
    return RoundMonitor(
        round=number,
        cases=CASES,
        structures={
            "liver": StructureFound(present=CASES, mean_ml=100.0),
            "ventricle": StructureFound(present=present, mean_ml=mean_ml),
        },
        labelled={
            "liver": LabelledStructure(every_case=True, mean_ml=100.0),
            "ventricle": LabelledStructure(every_case=every_case, mean_ml=labelled_ml),
        },
        member_dice={"liver": agreement, "ventricle": agreement},
        teacher_dice={},
        collapse=[],
        warnings=[],
    )


def findings(*rounds: RoundMonitor) -> list[str]:
    """Return what shows a collapse in the last of some rounds."""
    return collapse_findings(rounds[-1], rounds[:-1], SECTION)


def test_a_class_that_vanishes_in_round_2_is_a_collapse() -> None:
    """A class of all labelled cases fell from a Dice of 0.61 to 0.00, and nothing was reported."""
    found = findings(monitor(0, 18, 9.0), monitor(1, 19, 8.0), monitor(2, 0, 0.0))
    assert found == [
        "ventricle vanishes: found in 0 of 20 unlabelled cases; round 1 found it in 19, and no"
        " labelled case is known to lack it"
    ]


def test_a_class_that_shrinks_slowly_is_a_collapse() -> None:
    rounds = [monitor(0, 20, 9.0), monitor(1, 20, 6.5), monitor(2, 20, 4.4)]
    assert findings(*rounds[:2]) == []
    assert findings(*rounds) == [
        "ventricle shrinks: its mean volume is 4.4 ml, but 9 ml in round 0 and 10 ml in the"
        " labelled cases"
    ]


def test_a_correction_of_false_voxels_is_no_collapse() -> None:
    """The warm-up predicted five times the volume of the labelled cases."""
    assert findings(monitor(0, 20, 50.0), monitor(1, 20, 11.0)) == []


def test_small_patients_are_no_collapse() -> None:
    """All rounds find half of the volume of the labelled cases: the unlabelled ones are smaller."""
    assert findings(monitor(0, 20, 4.0), monitor(1, 20, 3.9)) == []


def test_a_class_that_shrinks_is_a_collapse_if_all_labels_are_scribbles() -> None:
    """The volume of scribbles is no volume of a structure: earlier rounds are."""
    before = monitor(0, 20, 9.0, labelled_ml=None)
    assert findings(before, monitor(1, 20, 5.0, labelled_ml=None)) == []
    assert findings(before, monitor(1, 20, 4.0, labelled_ml=None)) == [
        "ventricle shrinks: its mean volume is 4 ml, but 9 ml in round 0"
    ]


def test_a_lesion_may_be_absent_but_does_not_vanish_everywhere() -> None:
    rare = [monitor(0, 2, 1.0, every_case=False), monitor(1, 0, 0.0, every_case=False)]
    assert findings(*rare) == []
    frequent = [monitor(0, 9, 1.0, every_case=False), monitor(1, 0, 0.0, every_case=False)]
    assert findings(*frequent) == [
        "ventricle has vanished: found in 0 of 20 unlabelled cases; round 0 found it in 9"
    ]


def test_an_ensemble_that_agrees_on_nothing_is_a_collapse() -> None:
    (finding,) = findings(monitor(0, 20, 9.0, agreement=0.1))
    assert "agree on nothing" in finding
    assert "0.10" in finding


def test_a_class_that_no_round_finds_is_a_warning() -> None:
    rounds = [monitor(0, 3, 0.1), monitor(1, 2, 0.1)]
    assert findings(*rounds) == []
    (warning,) = never_found(rounds[1], rounds[:1])
    assert warning.startswith("ventricle is found in 2 of 20 unlabelled cases only")


def test_volumes_and_agreement_have_known_values() -> None:
    structures = {"a": (1,), "all": (1, 2)}
    label = np.zeros((4, 4, 4), np.uint8)
    label[:2] = 1
    label[2, :2] = 2
    assert volumes_ml(label, structures, 0.5) == {"a": 16.0, "all": 20.0}
    other = np.zeros_like(label)
    other[1:3] = 1
    dice = pairwise_dice([label, other], structures)
    assert dice == pytest.approx({"a": 0.5, "all": 2 * 24 / (40 + 32)})
    assert pairwise_dice([label], structures) == {}
    found = labelled_structures([{"a": 2.0}, {"a": 0.0}], [True, True])
    assert found["a"] == LabelledStructure(every_case=False, mean_ml=1.0)


@pytest.mark.parametrize(
    ("volumes", "are_dense", "expected"),
    [
        ((2.0, 0.1), (True, False), LabelledStructure(every_case=True, mean_ml=2.0)),
        ((2.0, 0.0), (True, False), LabelledStructure(every_case=True, mean_ml=2.0)),
        ((0.0, 0.1), (True, False), LabelledStructure(every_case=False, mean_ml=0.0)),
        ((0.1, 0.1, 0.0), (False,) * 3, LabelledStructure(every_case=True, mean_ml=None)),
        ((0.1, 0.0, 0.0), (False,) * 3, LabelledStructure(every_case=False, mean_ml=None)),
        ((0.0, 0.0), (False, False), LabelledStructure(every_case=False, mean_ml=None)),
    ],
)
def test_labelled_structures_take_presence_only_from_sparse_labels(
    volumes: tuple[float, ...], are_dense: tuple[bool, ...], expected: LabelledStructure
) -> None:
    found = labelled_structures([{"a": volume} for volume in volumes], are_dense)
    assert found["a"] == expected


# --- from the files of an experiment


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_sheet(tmp_path, ["labelled", "unlabelled"])
    sheet = str(tmp_path / "cases.csv")
    return Config(output=str(tmp_path), experiment="x", rounds=2, cases=sheet)


@pytest.fixture
def layout(config: Config) -> Layout:
    """Return an experiment whose second round has collapsed; its files are written by hand."""
    layout = Layout.of(config)
    rounds = [monitor(0, 18, 9.0), monitor(1, 19, 8.0), monitor(2, 0, 0.0)]
    for number, found in enumerate(rounds):
        collapse = collapse_findings(found, rounds[:number], SECTION)
        found.model_copy(update={"collapse": collapse}).save(layout.monitor(number))
    return layout


def test_a_collapsed_round_is_not_exported(config: Config, layout: Layout) -> None:
    choice = choose_round(StageContext.of(config, "export"))
    assert choice.round == 1
    assert choice.chosen_by == "collapse"
    assert "Round 2 has collapsed: ventricle vanishes" in choice.reason


def test_choose_round_ignores_the_monitor_of_an_earlier_run(config: Config, layout: Layout) -> None:
    assert layout.monitor(2).is_file()
    unmonitored = config.model_copy(update={"monitor": MonitorConfig(cases=0)})
    choice = choose_round(StageContext.of(unmonitored, "export"))
    assert (choice.round, choice.chosen_by, choice.collapsed) == (2, "last", {})


def test_choice_of_names_the_compared_rounds_only() -> None:
    choice = choice_of(1, {1: ["liver vanishes"]}, {0: 0.7, 1: 0.9}, 10)
    assert choice.round == 0
    assert "0.700, the highest of all rounds that have not collapsed." in choice.reason


def test_choice_of_does_not_count_rounds_that_were_scored_on_other_cases() -> None:
    choice = choice_of(2, {}, {1: 0.7, 2: 0.9}, 10)
    assert "0.900, the highest of all rounds that were scored on them (round 1:" in choice.reason
    choice = choice_of(2, {2: ["liver vanishes"]}, {1: 0.7, 2: 0.9}, 10)
    assert "of all rounds that were scored on them and have not collapsed." in choice.reason


def test_no_round_is_started_from_a_collapsed_one(layout: Layout) -> None:
    refuse_collapsed(layout, 1, SECTION)
    with pytest.raises(HstfError, match=r"(?s)round 2 has collapsed.*ventricle vanishes"):
        refuse_collapsed(layout, 2, SECTION)
    refuse_collapsed(layout, 2, MonitorConfig(on_collapse="continue"))
    refuse_collapsed(layout, 2, MonitorConfig(cases=0))
    layout.monitor(2).unlink()
    refuse_collapsed(layout, 2, SECTION)


def test_refuse_collapsed_names_the_keys_of_the_warm_up(layout: Layout) -> None:
    collapsed = RoundMonitor.load(layout.monitor(2)).model_copy(update={"round": 0})
    collapsed.save(layout.monitor(0))
    with pytest.raises(HstfError, match=r"warmup\.steps") as refused:
        refuse_collapsed(layout, 0, SECTION)
    assert "student" not in str(refused.value) and "set rounds" not in str(refused.value)


# --- the choice


def test_without_evidence_the_last_round_is_exported() -> None:
    choice = choice_of(2, {}, {}, 0)
    assert (choice.round, choice.chosen_by) == (2, "last")


def test_validation_chooses_the_best_sound_round() -> None:
    dice = {0: 0.70, 1: 0.81, 2: 0.81, 3: 0.95}
    choice = choice_of(3, {3: ["x vanishes"]}, dice, 10)
    assert (choice.round, choice.chosen_by) == (2, "validation")
    assert "10 validation cases is 0.810" in choice.reason
    assert "round 0: 0.700" in choice.reason
    assert "Round 3 has collapsed: x vanishes." in choice.reason


def test_if_all_rounds_have_collapsed_the_last_is_exported_with_a_warning() -> None:
    choice = choice_of(1, {0: ["a"], 1: ["b"]}, {}, 0)
    assert choice.round == 1
    assert "WARNING: no round is sound." in choice.reason
