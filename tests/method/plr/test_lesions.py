"""Lesions: components, their probability to be real, and voxels where a lesion is possible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.method.plr.lesions import (
    Component,
    LesionModel,
    find_components,
    fit_lesions,
    possible_bound,
    real_components,
)


def lesion(probability: float, ml: float = 1.0, agreement: float = 0.9) -> Component:
    return Component(1, ml, probability, agreement, (0.0, 0.0, 0.0))


def test_find_components_equals_values_by_hand() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # they touch at a corner
    mask[4, 3, 2] = True
    probability = np.zeros((6, 6, 6), np.uint8)
    probability[0, 0, 0], probability[1, 1, 1], probability[4, 3, 2] = 204, 102, 255
    scale_variance = np.zeros((6, 6, 6), np.uint8)
    scale_variance[0, 0, 0] = 255
    numbers, (first, second) = find_components(mask, probability, scale_variance, voxel_mm3=500.0)
    np.testing.assert_array_equal(numbers > 0, mask)
    assert (first.volume_ml, first.probability, first.centre) == (
        1.0,
        pytest.approx(0.6),
        (0.5, 0.5, 0.5),
    )
    assert first.agreement == pytest.approx((np.exp(-1) + 1) / 2)
    assert (second.volume_ml, second.probability) == (0.5, 1.0)
    assert second.agreement == 1.0 and second.centre == (4.0, 3.0, 2.0)


def test_find_components_is_the_same_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((6, 4, 4), bool)
    mask[1:5, 2, 3] = True
    probability = np.arange(96, dtype=np.uint8).reshape(6, 4, 4)
    whole = find_components(mask, probability, probability, 1.0)[1]
    monkeypatch.setattr("hstf.imaging.slabs.SLAB_VOXELS", 1)
    assert find_components(mask, probability, probability, 1.0)[1] == whole
    assert whole[0].centre == (2.5, 2.0, 3.0)


def test_find_components_of_an_empty_mask_is_empty() -> None:
    empty = np.zeros((3, 3, 3), bool)
    numbers, found = find_components(
        empty, np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8), 1.0
    )
    assert not numbers.any() and found == []
    assert real_components(numbers, found, empty, ~empty) == []


@given(st.floats(0.02, 0.98), st.floats(0.001, 100), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_fit_lesions_without_components_returns_the_mean_probability(
    p: float, ml: float, agreement: float
) -> None:
    assert fit_lesions([], [], 0.2).probability(lesion(p, ml, agreement)) == pytest.approx(p)


def test_fit_lesions_follows_the_components() -> None:
    typical = lesion(0.7)
    false, true = (
        fit_lesions([typical] * 6, [real] * 6, 0.2).probability(typical) for real in (False, True)
    )
    assert false < 0.4 < 0.7 < true
    one = fit_lesions([typical], [False], 0.2).probability(typical)
    assert false < one < 0.7  # one component has less influence than six


def test_fit_lesions_uses_the_volume() -> None:
    components = [lesion(0.7, ml) for ml in (0.01, 0.02, 0.02, 0.03, 3, 4, 5, 8)]
    model = fit_lesions(components, [c.volume_ml > 1 for c in components], 0.2)
    small, large = (model.probability(lesion(0.7, ml)) for ml in (0.02, 5))
    assert small < 0.35 and large > 0.65


@given(st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_fit_lesions_never_prefers_worse_features(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 12))
    components = [lesion(*rng.uniform((0.3, 0.01, 0), (1, 5, 1))) for _ in range(count)]
    model = fit_lesions(components, (rng.random(count) < 0.5).tolist(), 0.2)
    base = model.probability(lesion(0.5, 0.5, 0.5))
    assert 0 < base < 1
    for better in (lesion(0.6, 0.5, 0.5), lesion(0.5, 0.6, 0.5), lesion(0.5, 0.5, 0.6)):
        assert model.probability(better) >= base - 1e-9


def test_real_components_need_a_tenth_of_their_voxels() -> None:
    mask = np.zeros((40, 3, 3), bool)
    mask[:10, 1, 1] = mask[20:31, 1, 1] = True
    numbers, found = find_components(mask, mask.view(np.uint8), np.zeros(mask.shape, np.uint8), 1.0)
    truth = np.zeros_like(mask)
    truth[0, 1, 1] = truth[20, 1, 1] = True  # one of ten, one of eleven
    assert real_components(numbers, found, truth, np.ones_like(mask)) == [True, False]


def test_real_components_uses_known_voxels_only() -> None:
    mask = np.zeros((1, 40, 3, 3), bool)[0]
    mask[0:10, 1, 1] = mask[20:30, 1, 1] = mask[35:38, 1, 1] = True
    numbers, found = find_components(mask, mask.view(np.uint8), np.zeros(mask.shape, np.uint8), 1.0)
    lesion, known = np.zeros_like(mask), np.zeros_like(mask)
    lesion[4, 1, 1] = True
    known[4, 1, 1] = known[22:24, 1, 1] = True
    assert real_components(numbers, found, lesion, known) == [True, False, None]


def test_possible_bound_equals_values_by_hand() -> None:
    voxels, lesions = np.zeros(256, int), np.zeros(256, int)
    voxels[[0, 30, 60, 200]] = 100_000, 1_000, 100, 50
    lesions[[30, 60, 200]] = 5, 10, 50
    # 65 of 1,150 are too few, 60 of 150 are enough.
    assert possible_bound(voxels, lesions) == pytest.approx(31 / 255)
    assert possible_bound(voxels, np.zeros(256, int)) == 0.2
    lesions[[30, 60, 200]] = 0, 0, 1
    assert possible_bound(voxels, lesions) == 0.5  # one voxel in fifty: within the bounds


def test_lesion_model_is_restored_from_json() -> None:
    model = fit_lesions([lesion(0.7), lesion(0.4)], [True, False], 0.1)
    assert LesionModel.model_validate_json(model.model_dump_json()) == model
