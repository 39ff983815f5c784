"""The refine stage on files: what is written, decided, skipped and refused."""

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from support.pseudo_label_files import (
    AFFINE,
    CASES,
    SHAPE,
    SHARD,
    ball,
    calibration,
    make_experiment,
    tta_summary,
)
from support.stages import bound_lesions, labels, merge_refined, refine

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.refine import RefineConfig
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LESIONS, REFINE
from hstf.imaging.geometry import Geometry
from hstf.imaging.overlays import best_slices, draw_overlay
from hstf.imaging.regions import Structures
from hstf.imaging.volumes import read_label
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.lesions import fit_lesions
from hstf.method.plr.predicted_dice import DiceInterval, DiceModel
from hstf.method.plr.refinement import judge, refine_case, select_best
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.errors import HstfError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_experiment(tmp_path)


def rows(config: Config, number: int = 1) -> dict[str, dict[str, Any]]:
    table = Layout.of(config).pseudo_labels_table(number, SHARD)
    return {row["case_id"]: row for row in REFINE.records(table)}


def test_refine_case_counts_the_voxels_of_each_step() -> None:
    probabilities = np.zeros((2, 8, 8, 8), np.uint8)
    probabilities[1, 1:6, 1:6, 1:6] = 230
    probabilities[1, 1, 1, 1] = 140  # right, but below the threshold of 0.6
    probabilities[1, 3, 3, 3] = 100  # a hole
    probabilities[1, 7, 7, 7] = 250  # a second component
    probabilities[0] = 255 - probabilities[1]
    output = tta_summary(
        probabilities,
        np.zeros((3, 8, 8, 8), np.uint8),
        {"scales": {"1.0": {"organ": 0.9}}, "foreground_entropy": {"organ": 0.1}},
    )
    refined = refine_case(output, calibration(), {"organ": (1,)}, 1.0, RefineConfig())
    expected = np.zeros((8, 8, 8), np.uint8)
    expected[1:6, 1:6, 1:6] = 1
    np.testing.assert_array_equal(refined.label, expected)
    assert refined.changed == {
        "uncertainty": 0,
        "low_confidence": 1,
        "components": 1,
        "holes": 1,
        "changed": 2,
    }
    assert refined.weight[1, 1, 1] == round(255 * 0.1)
    assert refined.weight[3, 3, 3] == refined.weight[7, 7, 7] == round(255 * 0.3)
    assert refined.weight[2, 2, 2] == refined.weight[0, 7, 0] == 255
    assert refined.probabilities[:, 3, 3, 3].tolist() == [0, 255]
    assert refined.probabilities[:, 7, 7, 7].tolist() == [255, 0]


def test_judge_states_its_reason() -> None:
    known = calibration()
    section = RefineConfig()
    features = {
        agreement: {"organ": {"confidence": 0.9, "scales": agreement}} for agreement in (0.6, 0.9)
    }
    good = judge(features[0.9], {"organ": True}, known, section)
    assert good.accepted and good.reason == "predicted Dice 0.900 reaches 0.700"
    assert (good.low, good.high) == pytest.approx((0.8, 1.0))
    assert (
        judge(features[0.6], {"organ": True}, known, section).reason
        == "predicted Dice 0.600 is below 0.700"
    )
    assert judge(
        features[0.6], {"organ": True}, known, RefineConfig(minimum_predicted_dice=0.5)
    ).accepted
    everything = judge(features[0.6], {"organ": False}, known, RefineConfig(select_cases=False))
    assert everything.accepted and everything.reason.startswith("every case is used")
    gone = judge(features[0.9], {"organ": False}, known, RefineConfig(minimum_predicted_dice=0))
    assert not gone.accepted and gone.reason == "organ is absent, but every labelled case has it"
    assert gone.predicted == {"organ": 0.0}


def test_refine_writes_labels_weights_overlays_and_a_table(config: Config) -> None:
    assert refine(config, 1, SHARD) == 2
    folder = Layout.of(config).pseudo_labels(1)
    label = nib.load(folder / "good.nii.gz")
    weight = nib.load(folder / "good.weight.nii.gz")
    for image in (label, weight):
        assert image.shape == SHAPE and image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, AFFINE)
    data = np.asarray(label.dataobj)
    assert set(np.unique(data)) == {0, 3}
    truth = ball_in_native()
    assert 2 * (truth & (data == 3)).sum() / (truth.sum() + (data == 3).sum()) > 0.93
    row = rows(config)["good"]
    assert (row["components"], row["holes"], row["previous_round"]) == (1, 1, 0)
    assert row["volume_ml_of_organ"] == pytest.approx((data == 3).sum() * 2.4 / 1000, rel=1e-4)
    assert row["files"] == ["good.nii.gz", "good.weight.nii.gz", "good.target.b2nd"]
    for case_id in CASES:
        assert Image.open(folder / "overlays" / f"{case_id}.png").size[0] == 720


def ball_in_native() -> np.ndarray:
    centred = [
        (np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, (1.2, 1.0, 2.0), strict=True)
    ]
    return sum(np.square(axis) for axis in np.meshgrid(*centred, indexing="ij")) < 81  # type: ignore[return-value]


def test_merge_refined_lists_the_lowest_predicted_dice_first(config: Config) -> None:
    refine(config, 1, SHARD)
    merge_refined(config, 1)
    first, second = REFINE.records(Layout.of(config).refine(1))
    assert (first["case_id"], first["accepted"]) == ("bad", False)
    assert first["reason"] == "predicted Dice 0.300 is below 0.700"
    assert (second["case_id"], second["accepted"]) == ("good", True)
    assert second["files"][:2] == [
        "pseudo_labels/good.nii.gz",
        "pseudo_labels/good.weight.nii.gz",
    ]


def test_refine_does_not_repeat_finished_cases(config: Config) -> None:
    refine(config, 1, SHARD)
    assert refine(config, 1, SHARD) == 0
    assert (
        refine(config.model_copy(update={"refine": RefineConfig(changed_weight=0.5)}), 1, SHARD)
        == 2
    )


def test_refine_keeps_overlays_of_the_least_certain_cases(config: Config) -> None:
    refine(config, 1, SHARD)
    assert refine(config.model_copy(update={"refine": RefineConfig(overlays=1)}), 1, SHARD) == 0
    overlays = Layout.of(config).pseudo_labels(1) / "overlays"
    assert [path.name for path in overlays.iterdir()] == ["bad.png"]


def test_refine_lowers_the_weight_where_the_previous_round_differs(config: Config) -> None:
    refine(config, 1, SHARD)
    layout = Layout.of(config)
    other = np.asarray(nib.load(layout.pseudo_labels(1) / "good.nii.gz").dataobj).copy()
    moved = np.argwhere(other == 3)[:50]
    other[tuple(moved.T)] = 0
    other[0, 0, 0] = 9  # a person left this voxel open: it contradicts nothing
    (Path(config.overrides) / "round_1").mkdir(parents=True)
    nib.save(nib.Nifti1Image(other, AFFINE), Path(config.overrides) / "round_1" / "good.nii.gz")
    merge_refined(config, 1)
    labels(config, 1, SHARD)
    refine(config, 2, SHARD)
    row = rows(config, 2)["good"]
    assert row["previous_round"] == 50 and 0.9 < row["previous_round_dice"] < 1
    weight = read_label(layout.pseudo_labels(2) / "good.weight.nii.gz").data
    assert weight[tuple(moved.T)].max() <= round(255 * 0.3) < weight[0, 0, 0]
    assert (
        rows(config, 2)["bad"]["previous_round_dice"] is None
    )  # rejected in round 1: nothing to look back to


def test_refine_accepts_a_previous_label_that_shows_no_structure(config: Config) -> None:
    """A reviewer confirmed that the organ is not in the only slice with a class."""
    refine(config, 1, SHARD)
    merge_refined(config, 1)
    empty_slice = np.full(SHAPE, 9, np.uint8)
    empty_slice[..., 5] = 0
    layout = Layout.of(config)
    layout.override(1, "good").parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(empty_slice, AFFINE), layout.override(1, "good"))
    header = "round,case_id,action,reviewer,date,reason"
    layout.decisions.write_text(f"{header}\n1,good,replace,AB,2026-01-02,no organ here\n")
    labels(config, 1, SHARD)
    refine(config, 2, SHARD)
    row = rows(config, 2)["good"]
    assert row["previous_round_dice"] is None and row["previous_round"] > 0


def test_refine_ignores_a_previous_round_without_pseudo_labels(
    config: Config,
) -> None:
    config = config.model_copy(
        update={"rounds_overrides": {1: {"student": {"learns_from": "labels"}}}}
    )
    assert refine(config, 2, SHARD) == 2
    assert {row["previous_round"] for row in rows(config, 2).values()} == {0}


def test_merge_refined_accepts_the_best_fraction_of_a_round(config: Config) -> None:
    every_case = RefineConfig(minimum_predicted_dice=0, previous_round=False)
    half = config.model_copy(
        update={"refine": every_case.model_copy(update={"accepted_fraction": (0.5, 1.0)})}
    )
    for number in (1, 2):
        refine(half, number, SHARD)
        merge_refined(half, number)
    layout = Layout.of(half)
    first = {row["case_id"]: row for row in REFINE.records(layout.refine(1))}
    second = {row["case_id"]: row for row in REFINE.records(layout.refine(2))}
    assert first["good"]["accepted"] and not first["bad"]["accepted"]
    assert (
        first["bad"]["reason"]
        == "predicted Dice 0.300 is number 2 of the 2 cases that pass the other checks; this round"
        " learns from the best 1"
    )
    assert second["bad"]["accepted"]
    wider = config.model_copy(
        update={"refine": every_case.model_copy(update={"accepted_fraction": (1.0,)})}
    )
    assert refine(wider, 1, SHARD) == 0  # no case is refined again
    merge_refined(wider, 1)
    assert {row["accepted"] for row in REFINE.records(layout.refine(1))} == {True}


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0.8, "abcd"), (0.5, "ab"), (0.01, "a"), (1.0, "abcde")]
)
def test_select_best_sorts_equal_cases_by_name(fraction: float, kept: str) -> None:
    rows = [
        {"case_id": name, "predicted_dice": dice, "accepted": True, "reason": ""}
        for name, dice in zip("edcba", (0.5, 0.7, 0.7, 0.9, 0.9), strict=True)
    ]
    select_best(rows, fraction)
    assert sorted(row["case_id"] for row in rows if row["accepted"]) == list(kept)


def test_select_best_ranks_accepted_cases_only() -> None:
    """The six cases with the best predicted Dice are rejected, because they lack a class."""
    rows = [
        {
            "case_id": f"c{k}",
            "predicted_dice": 0.9 - k / 100,
            "accepted": k >= 6,
            "reason": "absent",
        }
        for k in range(10)
    ]
    select_best(rows, 0.6)
    assert [row["case_id"] for row in rows if row["accepted"]] == ["c6", "c7", "c8", "c9"]
    select_best(rows, 0.3)
    assert [row["case_id"] for row in rows if row["accepted"]] == ["c6", "c7", "c8"]
    assert rows[9]["reason"] == (
        "predicted Dice 0.810 is number 4 of the 4 cases that pass the other checks; this round"
        " learns from the best 3"
    )
    assert {row["reason"] for row in rows[:6]} == {"absent"}


def random_output(classes: int, shape: tuple[int, int, int] = (9, 10, 11)) -> TtaSummary:
    rng = np.random.default_rng(classes)
    logits = ndimage.gaussian_filter(rng.normal(0, 6, (classes, *shape)), (0, 1, 1, 1))
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    agreement = {"scales": {"1.0": {f"c{k}": 0.9 for k in range(1, classes)}}}
    return tta_summary(
        np.rint(255 * p).astype(np.uint8),
        rng.integers(0, 256, (3, *shape)).astype(np.uint8),
        agreement,
    )


def known_classes(classes: int, lesions: int = 0) -> tuple[Calibration, Structures]:
    """What is known of ``classes`` classes, of which the last ``lesions`` are lesions."""
    names = ["background", *(f"c{k}" for k in range(1, classes))]
    organs = {
        name: AnatomyRule(
            maximum_components=1, minimum_mm3=3.0, has_holes=False, may_be_absent=False
        )
        for name in names[1:]
    }
    models = {name: fit_lesions([], [], 0.2) for name in names[classes - lesions :]}
    dice = {
        name: DiceModel(mean=0.9, slope=1.0, usual={"confidence": 0.8}, absent=0.0)
        for name in names[1:]
    }
    sd = dict.fromkeys(names[1:], 0.05)
    return Calibration(
        temperature=1.5,
        thresholds=dict.fromkeys(names, 0.7),
        anatomy_rules=organs,
        lesions=models,
        dice_models=dice,
        class_sd=sd,
        mean_sd=0.05,
        interval=DiceInterval(half_width=0.1, method="guess", patients=8),
        minimum_predicted_dice=0.5,
        evidence={},
    ), {name: (k,) for k, name in enumerate(names) if k}


PARTS = (
    "calibrate",
    "keep_components",
    "judge_lesions",
    "fill_holes",
    "voxel_weights",
    "thresholds",
    "previous_round",
    "select_cases",
)
ALL_OFF = dict.fromkeys(PARTS, False)


@pytest.mark.parametrize(("classes", "voxel_mm3"), [(2, 1.0), (6, 1.0), (6, 0.5 * 0.5 * 5)])
def test_refine_case_without_parts_returns_the_most_likely_class(
    classes: int, voxel_mm3: float
) -> None:
    output = random_output(classes)
    known, names = known_classes(classes, lesions=1)
    refined = refine_case(output, known, names, voxel_mm3, RefineConfig.model_validate(ALL_OFF))
    np.testing.assert_array_equal(refined.label, output.probabilities.argmax(axis=0))
    np.testing.assert_array_equal(refined.probabilities, output.probabilities)
    assert np.all(refined.weight == 255) and refined.changed == {} and refined.lesions == []


STEP_OF = {
    "keep_components": {"components", "changed"},
    "judge_lesions": {"lesions", "lesion_weight", "possible_lesions", "changed"},
    "fill_holes": {"holes", "changed"},
    "voxel_weights": {"uncertainty"},
    "thresholds": {"low_confidence"},
}


@pytest.mark.parametrize("part", STEP_OF)
@pytest.mark.parametrize("classes", [2, 6])
def test_refine_case_runs_each_part_independently(part: str, classes: int) -> None:
    known, names = known_classes(classes, lesions=1)
    config = RefineConfig.model_validate({**ALL_OFF, part: True})
    refined = refine_case(random_output(classes), known, names, 1.0, config)
    assert set(refined.changed) == STEP_OF[part]
    touches_labels = part in ("keep_components", "judge_lesions", "fill_holes")
    same = refined.label == random_output(classes).probabilities.argmax(axis=0)
    assert touches_labels or same.all()
    assert np.all(refined.weight[~same] <= round(255 * config.changed_weight))


def test_refine_case_compares_calibrated_confidence_with_the_threshold() -> None:
    """Temperature 2 turns 0.8 into 2/3. The weight of an uncertain voxel becomes lower still."""
    known, names = known_classes(2)
    known = known.model_copy(update={"temperature": 2.0})
    organ = np.full((4, 4, 4), 204, np.uint8)
    uncertainty = np.zeros((3, 4, 4, 4), np.uint8)
    uncertainty[0, 0] = 51
    output = tta_summary(
        np.stack([255 - organ, organ]), uncertainty, {"scales": {"1.0": {"c1": 0.9}}}
    )
    config = RefineConfig(entropy_weight=1.0, below_threshold_weight=0.5)
    refined = refine_case(output, known, names, 1.0, config)
    assert refined.changed["low_confidence"] == 64
    assert refined.weight[0, 0, 0] == 102
    assert refined.weight[1, 0, 0] == round(255 * 0.5)
    uncalibrated = config.model_copy(update={"calibrate": False})
    assert refine_case(output, known, names, 1.0, uncalibrated).changed["low_confidence"] == 0


def lesion_case(likely: float) -> TtaSummary:
    """Return an organ (class 1) with a lesion (class 2) of three voxels.

    A lesion is possible in three other voxels.
    """
    p = np.zeros((3, 12, 12, 12))
    p[0] = 0.98
    p[1] = 0.02
    p[:, 2:10, 2:10, 2:10] = np.array([0.02, 0.96, 0.02])[:, None, None, None]
    p[:, 5, 5, 4:7] = np.array([0.02, 0.98 - likely, likely])[:, None]
    p[:, 8, 8, 4:7] = np.array([0.02, 0.68, 0.3])[:, None]
    uncertainty = np.zeros((3, 12, 12, 12), np.uint8)
    uncertainty[0, 5, 5, 4:7] = 200
    agreement = {"scales": {"1.0": {"c1": 0.9, "c2": 0.9}}}
    return tta_summary(np.rint(255 * p).astype(np.uint8), uncertainty, agreement)


def test_refine_case_keeps_likely_lesions_and_ignores_possible_ones() -> None:
    known, names = known_classes(3, lesions=1)
    config = RefineConfig(calibrate=False, fill_holes=False)
    refined = refine_case(lesion_case(0.9), known, names, 1.0, config)
    assert (refined.label == 2).sum() == 3
    (judged,) = refined.lesions
    assert judged.kept and judged.probability == pytest.approx(0.9, abs=0.01)
    assert judged.component.centre == (
        5.0,
        5.0,
        5.0,
    ) and judged.component.volume_ml == pytest.approx(0.003)
    assert np.all(
        refined.weight[5, 5, 4:7] == round(255 * judged.probability)
    )  # by voxel it would be 55
    assert np.all(refined.weight[8, 8, 4:7] == 0) and np.all(refined.label[8, 8, 4:7] == 1)
    assert np.count_nonzero(refined.weight == 0) == 3


def test_refine_case_lowers_the_weight_of_dropped_lesions() -> None:
    known, names = known_classes(3, lesions=1)
    config = RefineConfig(calibrate=False, lesion_probability=0.7)
    refined = refine_case(lesion_case(0.6), known, names, 1.0, config)
    assert not (refined.label == 2).any() and np.all(refined.label[5, 5, 4:7] == 1)
    (judged,) = refined.lesions
    assert not judged.kept and np.all(refined.weight[5, 5, 4:7] == 0)
    assert refined.changed["lesions"] == 3 and refined.changed["possible_lesions"] == 6
    verdict = judge(refined.features, {"c1": True, "c2": False}, known, config)
    assert verdict.accepted  # a case may have no lesion


def test_refine_case_learns_a_lesion_that_is_kept_for_its_rank() -> None:
    known, names = known_classes(3, lesions=1)
    config = RefineConfig(calibrate=False, lesion_probability=0.7)
    refined = refine_case(lesion_case(0.6), known, names, 1.0, config, {"c2": 0.55})
    assert (refined.label == 2).sum() == 3
    (judged,) = refined.lesions
    assert judged.kept and judged.probability == pytest.approx(0.6, abs=0.01)
    assert np.all(refined.weight[5, 5, 4:7] == round(255 * 0.7))


@pytest.mark.parametrize("core", [0.46, 0.9])
def test_refine_case_raises_no_weight_by_a_region_of_several_classes(core: float) -> None:
    """The tumour is sure. Which of its classes is right is doubtful, except in a likely core."""
    known, _ = known_classes(3)
    regions = {"tumour": (1, 2), "core": (2,)}
    models = dict.fromkeys(regions, fit_lesions([], [], 0.5))
    known = known.model_copy(update={"lesions": models, "anatomy_rules": {}})
    inside = np.array([0.3 * (1 - core), 0.7 * (1 - core), core])
    p = np.zeros((3, 12, 12, 12))
    p[0] = 1.0
    p[:, 2:10, 2:10, 2:10] = np.array([0.02, 0.5, 0.48])[:, None, None, None]
    p[:, 4:8, 4:8, 4:8] = inside[:, None, None, None]
    uncertainty = np.zeros((3, 12, 12, 12), np.uint8)
    uncertainty[0, 2:10, 2:10, 2:10] = 155
    agreement = {"scales": {"1.0": {"tumour": 0.9, "core": 0.9}}}
    output = tta_summary(np.rint(255 * p).astype(np.uint8), uncertainty, agreement)
    config = RefineConfig(calibrate=False, thresholds=False)
    refined = refine_case(output, known, regions, 1.0, config)
    tumour, inner = refined.lesions
    assert (tumour.structure, tumour.kept) == ("tumour", True)
    assert tumour.probability > 0.9
    assert refined.weight[2, 2, 2] == 100, "the weight of its class"
    is_kept = core > 0.5
    assert (inner.structure, inner.kept) == ("core", is_kept)
    if is_kept:
        assert np.all(refined.weight[4:8, 4:8, 4:8] == round(255 * inner.probability))
    else:
        assert np.all(refined.weight[4:8, 4:8, 4:8] == round(255 * config.changed_weight))
        assert np.all(refined.label[4:8, 4:8, 4:8] == 1)


def test_refine_case_keeps_a_lesion_exactly_at_the_bound() -> None:
    """The bound of a round is the probability of the last component that is kept."""
    known, names = known_classes(3, lesions=1)
    config = RefineConfig(calibrate=False)
    (judged,) = refine_case(lesion_case(0.9), known, names, 1.0, config).lesions
    bounds = {"c2": judged.probability}
    (again,) = refine_case(lesion_case(0.9), known, names, 1.0, config, bounds).lesions
    assert again.kept


def test_refine_case_does_not_judge_a_core_that_was_dropped_with_its_tumour() -> None:
    known, _ = known_classes(3)
    regions = {"core": (2,), "tumour": (1, 2)}
    models = {"core": fit_lesions([], [], 0.5), "tumour": fit_lesions([], [], 0.5)}
    known = known.model_copy(update={"lesions": models, "anatomy_rules": {}})
    p = np.zeros((3, 8, 8, 8))
    p[0] = 1.0
    p[:, 2:6, 2:6, 2:6] = np.array([0.3, 0.4, 0.3])[:, None, None, None]
    p[:, 3, 3, 3] = np.array([0.1, 0.1, 0.8])
    agreement = {"scales": {"1.0": {"tumour": 0.9, "core": 0.9}}}
    zeros = np.zeros((3, 8, 8, 8), np.uint8)
    output = tta_summary(np.rint(255 * p).astype(np.uint8), zeros, agreement)
    config = RefineConfig(calibrate=False)
    bounds = {"tumour": 0.99, "core": 0.5}
    refined = refine_case(output, known, regions, 1.0, config, bounds)
    assert [lesion.structure for lesion in refined.lesions] == ["tumour"]
    assert not refined.label.any()


def test_refine_case_keeps_lesions_of_any_number_and_size() -> None:
    known, names = known_classes(2, lesions=1)
    probabilities = np.zeros((2, 10, 10, 10), np.uint8)
    probabilities[1, 1:9:3, 1:9:3, 1:9:3] = 240  # 27 single voxels
    probabilities[0] = 255 - probabilities[1]
    output = tta_summary(
        probabilities, np.zeros((3, 10, 10, 10), np.uint8), {"scales": {"1.0": {"c1": 1.0}}}
    )
    refined = refine_case(output, known, names, 1.0, RefineConfig(calibrate=False))
    assert (refined.label == 1).sum() == 27 and len(refined.lesions) == 27


def test_merge_refined_writes_the_table_of_lesions(tmp_path: Path) -> None:
    config = make_experiment(tmp_path, lesions=["organ"])
    known = calibration().model_copy(update={"lesions": {"organ": fit_lesions([], [], 0.2)}})
    known.save(Layout.of(config).calibration)
    bound_lesions(config, 1)
    refine(config, 1, SHARD)
    merge_refined(config, 1)
    assert rows(config)["good"]["files"] == [
        "good.nii.gz",
        "good.weight.nii.gz",
        "good.target.b2nd",
        "good.lesions.csv",
    ]
    found = LESIONS.records(Layout.of(config).lesions(1))
    assert [row["class"] for row in found] == [
        "organ"
    ] * 4  # a ball and a stray voxel in either case
    ball_row = max(found[:2], key=lambda row: row["volume_ml"])
    assert ball_row["kept"] and ball_row["probability"] == pytest.approx(230 / 255, abs=0.01)
    centre = AFFINE @ [*((np.array(SHAPE) - 1) / 2), 1]
    np.testing.assert_allclose(
        [ball_row[c] for c in ("x_mm", "y_mm", "z_mm")], centre[:3], atol=0.5
    )
    assert rows(config)["good"]["lesions_kept"] == 2


def test_refine_keeps_the_lesions_that_the_bound_of_the_round_allows(tmp_path: Path) -> None:
    """Labelled cases have five lesions each: half of the ten that are expected are kept."""
    config = make_experiment(tmp_path, lesions=["organ"])
    pessimistic = fit_lesions([], [], 0.2, lesions_per_case=5.0).model_copy(
        update={"intercept": -20.0}
    )
    known = calibration().model_copy(update={"lesions": {"organ": pessimistic}})
    known.save(Layout.of(config).calibration)
    bound = bound_lesions(config, 1).structures["organ"]
    assert (bound.expected, bound.components, bound.kept) == (10, 4, 4)
    assert bound.is_lowered and 0 < bound.probability < 0.01
    refine(config, 1, SHARD)
    merge_refined(config, 1)
    assert rows(config)["good"]["lesions_kept"] == 2


def test_refine_drops_unlikely_lesions_if_no_fraction_is_kept(tmp_path: Path) -> None:
    config = make_experiment(
        tmp_path, lesions=["organ"], refine={"minimum_lesion_fraction": 0, "overlays": 0}
    )
    pessimistic = fit_lesions([], [], 0.2, lesions_per_case=5.0).model_copy(
        update={"intercept": -20.0}
    )
    known = calibration().model_copy(update={"lesions": {"organ": pessimistic}})
    known.save(Layout.of(config).calibration)
    assert bound_lesions(config, 1).probabilities == {"organ": 0.5}
    refine(config, 1, SHARD)
    assert rows(config)["good"]["lesions_dropped"] == 2


def test_refine_refuses_a_changed_teacher_file(config: Config) -> None:
    path = Layout.of(config).teacher(1) / "good" / "agreement.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(HstfError, match=r"good/agreement\.json was changed"):
        refine(config, 1, SHARD)


def test_refine_refuses_unknown_rounds_and_shards(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 3):
        with pytest.raises(HstfError, match="rounds 1 to 2"):
            refine(config, number, SHARD)
    with pytest.raises(HstfError, match="--shard unlabelled_7: there is no such shard"):
        refine(config, 1, "unlabelled_7")


def test_main_joins_the_tables_without_a_shard(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json())
    assert main(["refine", "--config", str(file), "--round", "1", "--shard", SHARD]) == 0
    assert main(["refine", "--config", str(file), "--round", "1"]) == 0
    assert len(REFINE.records(Layout.of(config).refine(1))) == 2


def test_best_slices_show_the_maximum_cross_sections() -> None:
    label = np.zeros((8, 9, 10), np.uint8)
    label[2, 3:6, 4:7] = 1
    label[2:5, 4, 5] = 1
    assert best_slices(label) == [2, 4, 5]
    assert best_slices(np.zeros((8, 9, 10), np.uint8)) == [4, 4, 5]


def test_draw_overlay_is_fast_and_shows_the_label_upright(tmp_path: Path) -> None:
    shape = Geometry.of((160, 160, 80), np.eye(4), (1.0, 1.0, 1.0)).grid_shape
    label = np.zeros(shape, np.uint8)
    label[120:140, 120:140, 60:70] = 1  # right of the patient, in front, high up: axes are RAS
    image = np.zeros((1, *shape), np.float16)
    started = time.perf_counter()
    draw_overlay(
        tmp_path / "a.png", image, label, np.full(shape, 255, np.uint8), (1, 1, 2), "a", "b"
    )
    assert time.perf_counter() - started < 1
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    for left in (
        0,
        240,
        480,
    ):  # front, right and right are on the left; head, head and front are up
        tile = pixels[:240, left : left + 240]
        red = np.argwhere(tile[..., 0] > tile[..., 2] + 30)
        assert red[:, 0].mean() < 120 and red[:, 1].mean() < 120


def test_draw_overlay_removes_half_of_a_picture_that_a_killed_job_left(tmp_path: Path) -> None:
    leftover = tmp_path / ".tmp-0123abcd-a.png"
    leftover.write_bytes(b"half")
    label = np.zeros((4, 4, 4), np.uint8)
    draw_overlay(tmp_path / "a.png", np.zeros((1, 4, 4, 4), np.float16), label, label, (1, 1, 1))
    assert not leftover.exists()


def test_ball_has_the_volume_of_a_ball() -> None:
    assert ball((21, 21, 15)).sum() * 4.5 == pytest.approx(4 / 3 * np.pi * 729, rel=0.1)
