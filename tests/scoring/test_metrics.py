"""Metrics against brute force, MONAI and scikit-learn."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hstf.imaging.label_values import IGNORED
from hstf.imaging.sparse_labels import is_sparse
from hstf.scoring.metrics import (
    DISTANCE_METRICS,
    METRICS,
    OVERLAP_METRICS,
    confusion,
    dice,
    distance_metrics,
    score,
    structure_dice,
    surface,
    surface_distances,
)

ONE, TWO = {"a": (1,)}, {"a": (1,), "b": (2,)}
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
    return draw(arrays(np.uint8, shape, elements=st.integers(0, 2))), draw(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, IGNORED]))
    )


def brute_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels of a mask with one of six neighbours outside, voxel by voxel."""
    voxels = set(map(tuple, np.argwhere(mask).tolist()))
    steps = [tuple(s * (i == axis) for i in range(3)) for axis in range(3) for s in (-1, 1)]
    return [
        v for v in sorted(voxels) if any(tuple(np.add(v, s).tolist()) not in voxels for s in steps)
    ]


def brute_distances(
    a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
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
def test_score_crops_without_changing_anything(
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
def test_overlap_agrees_with_scikit_learn(labels: tuple[np.ndarray, np.ndarray]) -> None:
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


@given(shapes.flatmap(lambda shape: st.tuples(
    arrays(np.uint8, shape, elements=st.integers(0, 3)),
    arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, IGNORED])),
)), spacings)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_region_scores_as_the_union_of_its_classes_does(
    labels: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]
) -> None:
    """Against each region drawn as a label map of its own, one class in it."""
    prediction, reference = labels
    scores = score(prediction, reference, spacing, REGIONS)
    dices = structure_dice(prediction, reference, REGIONS)
    for (name, members), found in zip(REGIONS.items(), dices, strict=True):
        p, r = (np.isin(label, members).astype(np.uint8) for label in labels)
        r[reference == IGNORED] = IGNORED
        alone = score(p, r, spacing, ONE)["a"]
        assert scores[name] == pytest.approx(alone, nan_ok=True) and found == pytest.approx(
            alone["dice"], nan_ok=True
        )


def test_average_surface_distance_agrees_with_monai() -> None:
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
    found = distance_metrics(a, b, SPACING)
    assert found["asd_mm"] == pytest.approx(float(symmetric), rel=1e-5)
    assert found["asd_directed_mm"] == pytest.approx(float(directed), rel=1e-5)
    assert max(np.percentile(forth, 95), np.percentile(back, 95)) == pytest.approx(
        float(larger_95), rel=1e-5
    )


def test_shifted_cube_has_the_distances_of_its_shift() -> None:
    a, b = np.zeros((2, 12, 6, 6), bool)
    a[2, 1:5, 1:5] = b[8, 1:5, 1:5] = True
    assert distance_metrics(a, b, (2.0, 1.0, 1.0)) == pytest.approx(
        dict.fromkeys(DISTANCE_METRICS, 12.0)
    )


def test_hd95_is_the_percentile_of_both_directions_pooled() -> None:
    """Distances 0 and 30 one way, 0 the other: the larger of the two directed percentiles would be 28.5."""
    a, b = np.zeros((2, 40, 1, 1), bool)
    a[[0, 30], 0, 0], b[0, 0, 0] = True, True
    assert distance_metrics(a, b, (1, 1, 1))["hd95_mm"] == pytest.approx(27)


def test_surface_of_a_mask_that_fills_the_array_is_its_edge() -> None:
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


def test_empty_classes() -> None:
    nothing, something = np.zeros((2, 3, 4, 12), np.uint8)
    something[1, 1, 1] = 1
    diagonal = 13.0  # of 3 x 4 x 12 voxels of 1 mm
    both = score(nothing, nothing, (1, 1, 1), ONE)["a"]
    assert both["empty"] == "both"
    assert (
        both["dice"]
        == both["jaccard"]
        == both["precision"]
        == both["recall"]
        == both["accuracy"]
        == 1
    )
    assert both["hd95_mm"] == both["asd_mm"] == both["volume_difference_relative"] == 0
    excluded = score(nothing, nothing, (1, 1, 1), ONE, empty="exclude")["a"]
    assert np.isnan([excluded["dice"], excluded["hd95_mm"]]).all()
    missed = score(nothing, something, (1, 1, 1), ONE)["a"]
    assert (missed["empty"], missed["dice"], missed["precision"], missed["recall"]) == (
        "prediction",
        0,
        0,
        0,
    )
    assert missed["hd95_mm"] == missed["asd_mm"] == pytest.approx(diagonal)
    assert missed["volume_difference_relative"] == -1
    invented = score(something, nothing, (1, 1, 1), ONE, empty="exclude")["a"]
    assert (invented["empty"], invented["dice"]) == ("reference", 0)
    assert np.isnan(invented["volume_difference_relative"])
    assert set(METRICS) | {"empty"} == invented.keys()


def test_voxels_to_ignore_count_for_nothing() -> None:
    generator = np.random.default_rng(1)
    prediction, reference = generator.integers(0, 2, (2, 8, 8, 8), dtype=np.uint8)
    reference[4:] = IGNORED
    other = prediction.copy()
    other[4:] = 1 - other[4:]
    assert score(prediction, reference, SPACING, ONE) == score(other, reference, SPACING, ONE)


def test_a_sparse_reference_tells_overlap_on_its_voxels_and_nothing_else() -> None:
    reference = np.full((8, 8, 8), IGNORED, np.uint8)
    reference[1, 1, :6], reference[5, 5, :6] = 1, 0
    prediction = np.zeros((8, 8, 8), np.uint8)
    prediction[1:4, :, 2:], prediction[6, 6, 6] = (
        1,
        2,
    )  # four of six; the others lie where nothing is known
    structures = {"a": (1,), "b": (2,), "c": (3,), "ab": (1, 2)}
    scores = score(prediction, reference, SPACING, structures)
    assert (scores["a"]["dice"], scores["a"]["recall"], scores["a"]["empty"]) == (
        0.8,
        pytest.approx(4 / 6),
        "",
    )
    assert np.isnan([scores["a"][name] for name in METRICS if name not in OVERLAP_METRICS]).all()
    for name in "bc":
        assert scores[name]["empty"] == "unknown"
        assert np.isnan([scores[name][metric] for metric in METRICS]).all()
    found = structure_dice(prediction, reference, structures)
    np.testing.assert_array_equal(found, [0.8, np.nan, np.nan, 0.8])
    missed = score(np.zeros_like(prediction), reference, SPACING, ONE)["a"]
    assert (missed["dice"], missed["empty"]) == (0, "prediction")


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        dice(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="shapes"):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
