"""Weights of external teachers, from the labelled cases, and the mixture with the ensemble."""

from pathlib import Path

import numpy as np
import pytest
from support.external_files import (
    LABELLED,
    THEIRS,
    calls,
    external,
    make_external,
    organ,
    pseudo_labels,
    rows,
    run_all,
    weigh,
    with_teacher,
)
from support.stages import refine

from hstf.config.load import resolve_config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.imaging.volumes import read_label
from hstf.method.external import CaseDice, choose_weight
from hstf.method.external_weights import Mixture, calibration_path
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.errors import HstfError
from hstf.stages.calibrate.stage import calibrate
from hstf.stages.external import stage
from hstf.stages.external.weights import _group_weight

pytestmark = pytest.mark.usefixtures("workplace")


def test_good_teacher_gets_a_weight(tmp_path: Path) -> None:
    config = make_external(tmp_path, version_command="echo model 1.2")
    weights = run_all(config).teachers["other"]
    found = weights.groups["organ"]
    assert found.dice == 1.0
    assert found.ensemble_dice is not None and found.ensemble_dice < 0.7
    assert found.weight > 0 and found.mixed_dice == 1.0
    assert weights.other_values == (200,)
    row = rows(config, "unlabelled_0")["case_3"]
    assert row["values"] == ["0", str(THEIRS), "200"]
    assert row["version"] == "model 1.2"
    assert row["program"].endswith("foreign.sh") and len(row["program_sha256"]) == 64
    refine(config, 1, "unlabelled_0")
    label = read_label(Layout.of(config).pseudo_labels(1) / "case_3.nii.gz").data
    np.testing.assert_array_equal(label == 3, organ("case_3"))


def test_bad_teacher_changes_nothing(tmp_path: Path) -> None:
    config = make_external(tmp_path, "bad")
    weights = run_all(config).teachers["other"]
    assert weights.groups["organ"].weight == 0
    assert "at best, expected more than" in weights.groups["organ"].reason
    assert rows(config, "unlabelled_0") == {}, "it does not predict the unlabelled cases"
    assert calls() == len(LABELLED)
    mixed = pseudo_labels(config)
    plain = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"external": {}})}
    )
    assert pseudo_labels(plain) == mixed


def test_region_is_measured_as_a_whole(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    regions = {"whole": ["organ", "vessel"], "vessel": ["vessel"]}
    content = config.model_dump(mode="json") | {"regions": regions}
    content["teacher"]["external"]["other"]["labels"] = {"whole": THEIRS}
    whole = resolve_config(content)
    external(whole, "labelled_0")
    found = weigh(whole).teachers["other"].groups["whole"]
    assert (found.dice, found.mixed_dice) == (1.0, 1.0)
    assert found.weight > 0


def case_with_gains(gains: list[float]) -> CaseDice:
    """Return the Dice 0.6 of the ensemble and 0.7 of the teacher in a case that may show them."""
    known = not np.isnan(gains).any()
    dices = np.array([[0.6], [0.7]]) if known else np.full((2, 1), np.nan)
    return CaseDice(np.array([0.5]), dices[0], dices[1], np.array([gains]))


def test_group_weight_counts_the_patients_whose_labels_show_the_class() -> None:
    unknown = case_with_gains([np.nan] * 4)
    cases = [case_with_gains([0, 0.05, 0.1, 0.08]), unknown, unknown]
    choice = choose_weight(np.array([case.gains[0] for case in cases]), list("abc"))
    mixed = [case.ensemble_groups for case in cases]
    found = _group_weight((1,), choice, list("abc"), cases, 0, mixed, is_harmful=False)
    assert (found.weight, found.standard_error) == (0.0, None)
    assert found.reason == "1 labelled patient is too few to measure it"


def test_group_weight_of_a_harmful_mixture_is_that_of_the_ensemble() -> None:
    """The class is not mixed itself, but the mixture of another class has changed its Dice."""
    cases = [case_with_gains([0, -0.1, -0.2, -0.3])] * 2
    choice = choose_weight(np.array([case.gains[0] for case in cases]), list("ab"))
    mixed = [np.array([0.4])] * 2
    found = _group_weight((1,), choice, list("ab"), cases, 0, mixed, is_harmful=True)
    assert (found.weight, found.mixed_dice) == (0.0, pytest.approx(0.6))


@pytest.mark.parametrize(("rounds", "is_measured_with_first"), [([2], False), ([1, 2], True)])
def test_measure_mixes_earlier_teachers_of_the_same_rounds_only(
    tmp_path: Path, rounds: list[int], is_measured_with_first: bool
) -> None:
    """Both teachers know the same. The second helps only where the first is no teacher."""
    config = make_external(tmp_path, rounds=[1])
    content = config.model_dump(mode="json") | {"rounds": 2}
    teachers = content["teacher"]["external"]
    teachers["second"] = teachers["other"] | {"rounds": rounds}
    both = resolve_config(content)
    external(both, "labelled_0")
    weights = weigh(both).teachers
    first = weights["other"].groups["organ"]
    second = weights["second"].groups["organ"]
    assert first.weight > 0
    if is_measured_with_first:
        assert (second.weight, second.ensemble_dice) == (0, first.mixed_dice)
    else:
        assert second.model_dump() == first.model_dump()


def test_all_rounds_or_some_of_them(tmp_path: Path) -> None:
    config = make_external(tmp_path, rounds=[2])
    with pytest.raises(HstfError, match="no round has an external teacher"):
        stage.used_teachers(StageContext.of(config, "external"))


def test_mixture_raises_the_uncertainty_where_the_teachers_disagree(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    mixture = Mixture.of_shard(StageContext.of(config, "refine", 1), "unlabelled_0")
    ensemble = TtaSummary.load(Layout.of(config).teacher(1) / "case_3")
    mixed = mixture.mixed("case_3", ensemble)
    moved = (mixed.probabilities != ensemble.probabilities).any(axis=0)
    assert moved.any()
    assert (mixed.uncertainty[2] >= ensemble.uncertainty[2]).all()
    assert (mixed.uncertainty[2][moved] > ensemble.uncertainty[2][moved]).any()
    np.testing.assert_array_equal(mixed.uncertainty[1], ensemble.uncertainty[1])


def test_calibration_of_a_round_is_a_file_of_the_round(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    layout = Layout.of(config)
    assert calibration_path(StageContext.of(config, "calibrate", 1)) == layout.round_calibration(1)
    assert calibration_path(StageContext.of(config, "calibrate")) == layout.calibration
    later = with_teacher(config, rounds=[2]).model_copy(update={"rounds": 2})
    with pytest.raises(HstfError, match="--round 1: has no external teacher"):
        calibrate(StageContext.of(later, "calibrate", 1))
