"""Metrics against brute force, MONAI and scikit-learn."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hstf.imaging.label_values import IGNORED
from hstf.imaging.spacing import diagonal_mm
from hstf.imaging.sparse_labels import is_sparse
from hstf.scoring.confusion import confusion, structure_dice
from hstf.scoring.metrics import METRICS, dice, score
from hstf.scoring.surfaces import surface, surface_distances

ONE = {"a": (1,)}
TWO = {"a": (1,), "b": (2,)}
OVERLAP_METRICS = [name for name, metric in METRICS.items() if metric.kind == "overlap"]
DISTANCE_METRICS = [name for name, metric in METRICS.items() if metric.kind == "distance"]
SPACING = (0.7, 1.0, 2.5)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
spacings = st.tuples(*[st.floats(0.3, 5.0)] * 3)


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    return draw(arrays(bool, shape)), draw(arrays(bool, shape))


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    prediction = draw(arrays(np.uint8, shape, elements=st.integers(0, 2)))
    reference = draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORED])))
    return prediction, reference


def distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float | str]:
    """Return the distance metrics of two masks."""
    scores = score(a.astype(np.uint8), b.astype(np.uint8), spacing, ONE)["a"]
    return {name: scores[name] for name in DISTANCE_METRICS}


def brute_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Return the voxels of a mask with a face neighbour outside, voxel by voxel."""
    voxels = [tuple(voxel) for voxel in np.argwhere(mask).tolist()]
    inside = set(voxels)
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    found = []
    for voxel in voxels:
        neighbours = [tuple(neighbour) for neighbour in (steps + voxel).tolist()]
        if not inside.issuperset(neighbours):
            found.append(voxel)
    return found


def brute_distances(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of all surface voxels of each mask to the other, from all pairs."""
    pairs = np.array(brute_surface(a))[:, None] - np.array(brute_surface(b))[None]
    lengths = np.linalg.norm(pairs * spacing, axis=-1)
    return lengths.min(axis=1), lengths.min(axis=0)


@given(mask_pairs(), spacings)
@settings(max_examples=150, deadline=None)
def test_surface_distances_are_those_of_all_pairs(
    masks: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]
) -> None:
    a, b = masks
    assume(a.any() and b.any())
    forth, back = surface_distances(a, b, spacing)
    expected_forth, expected_back = brute_distances(a, b, spacing)
    np.testing.assert_allclose(forth, expected_forth, atol=1e-9)
    np.testing.assert_allclose(back, expected_back, atol=1e-9)


@given(label_pairs(), spacings)
@settings(max_examples=100, deadline=None)
def test_score_is_the_same_with_and_without_cropping(
    labels: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]
) -> None:
    prediction, reference = labels
    assume(not is_sparse(reference))
    scores = score(prediction, reference, spacing, TWO)
    valid = reference != IGNORED
    for name, (index,) in TWO.items():
        a, b = (prediction == index) & valid, reference == index
        assert scores[name]["dice"] == pytest.approx(dice(a, b))
        assert scores[name]["volume_difference_ml"] == pytest.approx(
            (int(a.sum()) - int(b.sum())) * np.prod(spacing) / 1000
        )
        if a.any() and b.any():
            forth, back = brute_distances(a, b, spacing)
            pooled = np.concatenate([forth, back])
            assert scores[name]["hd95_mm"] == pytest.approx(np.percentile(pooled, 95), abs=1e-9)
            assert scores[name]["asd_mm"] == pytest.approx(pooled.mean(), abs=1e-9)
            assert scores[name]["asd_directed_mm"] == pytest.approx(forth.mean(), abs=1e-9)


@given(label_pairs())
@settings(max_examples=60, deadline=None)
def test_score_agrees_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, reference = labels
    assume(not is_sparse(reference))
    valid = reference != IGNORED
    assume(valid.any())
    scores = score(prediction, reference, SPACING, TWO)
    for name, (index,) in TWO.items():
        p, r = prediction[valid] == index, reference[valid] == index
        absent = not (p.any() or r.any())
        expected = {
            "accuracy": sklearn.accuracy_score(r, p),
            "precision": sklearn.precision_score(r, p, zero_division=float(absent)),
            "recall": sklearn.recall_score(r, p, zero_division=float(absent)),
            "dice": sklearn.f1_score(r, p, zero_division=float(absent)),
            "jaccard": sklearn.jaccard_score(r, p, zero_division=float(absent)),
        }
        assert {metric: scores[name][metric] for metric in OVERLAP_METRICS} == pytest.approx(
            expected
        )


REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,), "apart": (2,)}


@st.composite
def region_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    prediction = draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))
    reference = draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORED])))
    return prediction, reference


@given(region_pairs(), spacings)
@settings(max_examples=100, deadline=None)
def test_score_of_a_region_is_that_of_the_union_of_its_classes(
    labels: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]
) -> None:
    prediction, reference = labels
    scores = score(prediction, reference, spacing, REGIONS)
    dices = structure_dice(prediction, reference, REGIONS)
    for (name, classes), found in zip(REGIONS.items(), dices, strict=True):
        # A label map in which the region is the only class.
        region_prediction = np.isin(prediction, classes).astype(np.uint8)
        region_reference = np.isin(reference, classes).astype(np.uint8)
        region_reference[reference == IGNORED] = IGNORED
        expected = score(region_prediction, region_reference, spacing, ONE)["a"]
        assert scores[name] == pytest.approx(expected, nan_ok=True)
        assert found == pytest.approx(expected["dice"], nan_ok=True)


def test_surface_distances_agree_with_monai() -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    grid = np.indices((20, 24, 16)).astype(float)
    a = ((grid - np.reshape([9, 11, 8], (3, 1, 1, 1))) ** 2).sum(0) < 36
    b = ((grid - np.reshape([11, 12, 8], (3, 1, 1, 1))) ** 2).sum(0) < 25
    forth, back = surface_distances(a, b, SPACING)
    tensors = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (a, b)]
    options = {"include_background": True, "spacing": list(SPACING)}
    symmetric = compute_average_surface_distance(*tensors, symmetric=True, **options)
    directed = compute_average_surface_distance(*tensors, symmetric=False, **options)
    larger_95 = compute_hausdorff_distance(*tensors, percentile=95, **options)
    found = distances(a, b, SPACING)
    assert found["asd_mm"] == pytest.approx(float(symmetric), rel=1e-5)
    assert found["asd_directed_mm"] == pytest.approx(float(directed), rel=1e-5)
    assert max(np.percentile(forth, 95), np.percentile(back, 95)) == pytest.approx(
        float(larger_95), rel=1e-5
    )


def test_score_of_a_shifted_cube_is_its_shift() -> None:
    a, b = np.zeros((2, 12, 6, 6), bool)
    a[2, 1:5, 1:5] = b[8, 1:5, 1:5] = True
    assert distances(a, b, (2.0, 1.0, 1.0)) == pytest.approx(dict.fromkeys(DISTANCE_METRICS, 12.0))


def test_hd95_pools_both_directions() -> None:
    """Distances are 0 and 30 in one direction and 0 in the other.

    The maximum of the two directed percentiles would be 28.5.
    """
    a, b = np.zeros((2, 40, 1, 1), bool)
    a[[0, 30], 0, 0] = True
    b[0, 0, 0] = True
    assert distances(a, b, (1, 1, 1))["hd95_mm"] == pytest.approx(27)


def test_surface_of_a_full_array_is_its_edge() -> None:
    edge = np.ones((4, 4, 4), bool)
    edge[1:3, 1:3, 1:3] = False
    np.testing.assert_array_equal(surface(np.ones((4, 4, 4), bool)), edge)


@given(label_pairs())
@settings(max_examples=50, deadline=None)
def test_confusion_counts_each_pair_once(labels: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = labels
    expected = [[np.sum((prediction == p) & (reference == r)) for r in range(3)] for p in range(3)]
    np.testing.assert_array_equal(confusion(prediction, reference, 3), expected)
    assume(not is_sparse(reference))
    np.testing.assert_allclose(
        structure_dice(prediction, reference, TWO),
        [dice((prediction == k) & (reference != IGNORED), reference == k) for k in (1, 2)],
    )


def test_confusion_is_the_same_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 4, (2, 9, 50, 40), dtype=np.uint8)
    whole = confusion(a, b, 4)
    monkeypatch.setattr("hstf.imaging.slabs.SLAB_VOXELS", 4000)
    np.testing.assert_array_equal(confusion(a, b, 4), whole)
    assert whole.sum() == a.size


def empty_and_one_voxel() -> tuple[np.ndarray, np.ndarray]:
    """Return a label map ``(3, 4, 12)`` without the class, and one with a voxel of it."""
    nothing = np.zeros((3, 4, 12), np.uint8)
    something = nothing.copy()
    something[1, 1, 1] = 1
    return nothing, something


def test_score_of_a_class_that_both_lack() -> None:
    nothing, _ = empty_and_one_voxel()
    both = score(nothing, nothing, (1, 1, 1), ONE)["a"]
    assert both["empty"] == "both"
    assert [both[name] for name in OVERLAP_METRICS] == [1] * len(OVERLAP_METRICS)
    assert [both[name] for name in DISTANCE_METRICS] == [0] * len(DISTANCE_METRICS)
    assert both["volume_difference_relative"] == 0
    excluded = score(nothing, nothing, (1, 1, 1), ONE, empty="exclude")["a"]
    assert np.isnan([excluded["dice"], excluded["hd95_mm"]]).all()
    assert excluded["accuracy"] == 1, "the background is correct"


def test_score_of_a_class_that_one_lacks() -> None:
    nothing, something = empty_and_one_voxel()
    missed = score(nothing, something, (1, 1, 1), ONE)["a"]
    assert missed["empty"] == "prediction"
    assert (missed["dice"], missed["precision"], missed["recall"]) == (0, 0, 0)
    # The diagonal of 3 x 4 x 12 voxels of 1 mm.
    assert missed["hd95_mm"] == missed["asd_mm"] == pytest.approx(13)
    assert missed["volume_difference_relative"] == -1
    invented = score(something, nothing, (1, 1, 1), ONE, empty="exclude")["a"]
    assert (invented["empty"], invented["dice"]) == ("reference", 0)
    assert np.isnan(invented["volume_difference_relative"])
    assert list(invented) == [*METRICS, "empty"]


def test_score_leaves_out_ignored_voxels() -> None:
    generator = np.random.default_rng(1)
    prediction, reference = generator.integers(0, 2, (2, 8, 8, 8), dtype=np.uint8)
    reference[4:] = IGNORED
    other = prediction.copy()
    other[4:] = 1 - other[4:]
    assert score(prediction, reference, SPACING, ONE) == score(other, reference, SPACING, ONE)


def test_score_with_a_sparse_reference_is_only_the_overlap_on_its_voxels() -> None:
    reference = np.full((8, 8, 8), IGNORED, np.uint8)
    reference[1, 1, :6] = 1
    reference[5, 5, :6] = 0
    prediction = np.zeros((8, 8, 8), np.uint8)
    # Four of the six voxels of class 1; all other predicted voxels are ignored in the reference.
    prediction[1:4, :, 2:] = 1
    prediction[6, 6, 6] = 2
    structures = {"a": (1,), "b": (2,), "c": (3,), "ab": (1, 2)}
    scores = score(prediction, reference, SPACING, structures)
    assert scores["a"]["dice"] == 0.8
    assert scores["a"]["recall"] == pytest.approx(4 / 6)
    assert scores["a"]["empty"] == ""
    others = [scores["a"][name] for name in METRICS if name not in OVERLAP_METRICS]
    assert np.isnan(others).all()
    for name in "bc":
        assert scores[name]["empty"] == "unknown"
        assert np.isnan([scores[name][metric] for metric in METRICS]).all()
    found = structure_dice(prediction, reference, structures)
    np.testing.assert_array_equal(found, [0.8, np.nan, np.nan, 0.8])
    missed = score(np.zeros_like(prediction), reference, SPACING, ONE)["a"]
    assert (missed["dice"], missed["empty"]) == (0, "prediction")


def test_dice_and_confusion_refuse_different_shapes() -> None:
    with pytest.raises(ValueError, match="shapes"):
        dice(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="shapes"):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_score_of_a_sheared_grid_is_in_mm() -> None:
    """Volumes by the determinant of the affine, distances by its axes."""
    axes = np.array([[0.7, 0.4, 0.1], [0.0, 1.5, -0.8], [0.2, 0.0, 3.0]])
    generator = np.random.default_rng(0)
    prediction = (generator.random((9, 8, 7)) > 0.7).astype(np.uint8)
    reference = (generator.random((9, 8, 7)) > 0.8).astype(np.uint8)
    found = score(prediction, reference, axes, {"liver": (1,)})["liver"]
    points = [np.argwhere(surface(label == 1)) @ axes.T for label in (prediction, reference)]
    distances = np.linalg.norm(points[0][:, None] - points[1], axis=2)
    both = [*distances.min(axis=1), *distances.min(axis=0)]
    assert found["hd95_mm"] == pytest.approx(np.percentile(both, 95))
    assert found["asd_mm"] == pytest.approx(np.mean(both))
    ml = abs(np.linalg.det(axes)) / 1000
    assert found["volume_ml"] == pytest.approx(prediction.sum() * ml)
    assert found["reference_ml"] == pytest.approx(reference.sum() * ml)
    absent = score(0 * prediction, reference, axes, {"liver": (1,)})["liver"]
    assert absent["hd95_mm"] == pytest.approx(diagonal_mm((9, 8, 7), axes))


def test_score_does_not_depend_on_how_the_axes_are_given() -> None:
    spacing = (0.7, 1.5, 3.0)
    generator = np.random.default_rng(1)
    prediction, reference = (generator.random((2, 9, 8, 7)) > 0.7).astype(np.uint8)
    by_spacing = score(prediction, reference, spacing, {"liver": (1,)})["liver"]
    by_axes = score(prediction, reference, np.diag(spacing), {"liver": (1,)})["liver"]
    assert by_axes == pytest.approx(by_spacing)
