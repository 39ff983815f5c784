"""Maps of probabilities against the formulas in floating point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.imaging.probabilities import apply_temperature, make_certain, most_likely
from hstf.imaging.slabs import slabs


def random_probabilities(seed: int, classes: int = 3) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (classes, 5, 6, 7))
    p = np.exp(logits)
    return np.rint(255 * p / p.sum(axis=0)).astype(np.uint8)


@given(st.integers(0, 1000), st.floats(0.3, 3))
@settings(max_examples=30, deadline=None)
def test_sharpen_is_temperature_scaling(seed: int, temperature: float) -> None:
    probabilities = random_probabilities(seed)
    p = probabilities / 255.0
    expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum(axis=0)
    np.testing.assert_allclose(
        apply_temperature(probabilities, temperature) / 255, expected, atol=0.6 / 255
    )


def test_temperature_one_changes_nothing() -> None:
    probabilities = np.array([[200, 0, 255], [55, 255, 0]], np.uint8)
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities)


def test_slabs_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.imaging.slabs.SLAB_VOXELS", 100)
    assert list(slabs((7, 5, 10))) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    whole = random_probabilities(1)
    np.testing.assert_array_equal(most_likely(whole), whole.argmax(axis=0))


def test_certain_voxels_have_all_of_their_class() -> None:
    given_to = np.array([[100, 200, 30], [100, 50, 200], [55, 5, 25]], np.uint8)
    make_certain(given_to, np.array([2, 2, 0]), np.array([True, False, True]), 255)
    np.testing.assert_array_equal(given_to, [[0, 200, 255], [0, 50, 0], [255, 5, 0]])
