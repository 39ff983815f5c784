"""Maps of probabilities, compared with the formulas in floating point."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.imaging.probabilities import apply_temperature, make_certain, most_likely


def random_probabilities(seed: int, classes: int = 3) -> np.ndarray:
    """Return random probabilities ``(K, 5, 6, 7)`` as uint8."""
    logits = np.random.default_rng(seed).normal(0, 2, (classes, 5, 6, 7))
    odds = np.exp(logits)
    return np.rint(255 * odds / odds.sum(axis=0)).astype(np.uint8)


@given(st.integers(0, 1000), st.floats(0.3, 3))
@settings(max_examples=30, deadline=None)
def test_apply_temperature_follows_the_formula(seed: int, temperature: float) -> None:
    probabilities = random_probabilities(seed)
    powers = (probabilities / 255.0) ** (1 / temperature)
    expected = powers / powers.sum(axis=0)
    found = apply_temperature(probabilities, temperature) / 255
    np.testing.assert_allclose(found, expected, atol=0.6 / 255)


def test_apply_temperature_of_one_changes_nothing() -> None:
    probabilities = np.array([[200, 0, 255], [55, 255, 0]], np.uint8)
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities)


def test_most_likely_is_the_class_of_maximum_probability() -> None:
    probabilities = random_probabilities(1)
    np.testing.assert_array_equal(most_likely(probabilities), probabilities.argmax(axis=0))


def test_make_certain_changes_only_the_chosen_voxels() -> None:
    probabilities = np.array([[100, 200, 30], [100, 50, 200], [55, 5, 25]], np.uint8)
    label = np.array([2, 2, 0])
    where = np.array([True, False, True])
    make_certain(probabilities, label, where, full=255)
    expected = [[0, 200, 255], [0, 50, 0], [255, 5, 0]]
    np.testing.assert_array_equal(probabilities, expected)
