"""The bound of the lesions of a round: at least a fraction of the expected lesions is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hstf.config.refine import RefineConfig
from hstf.method.plr.lesion_bounds import lesion_bound, lesion_bounds
from hstf.method.plr.lesions import fit_lesions

CONFIG = RefineConfig(lesion_probability=0.5, minimum_lesion_fraction=0.5)


@pytest.mark.parametrize(
    ("probabilities", "expected", "bound", "kept"),
    [
        ([0.9, 0.8, 0.1], 4.0, 0.5, 2),  # enough are likely
        ([0.4, 0.3, 0.2, 0.1], 4.0, 0.3, 2),  # the best two of four
        ([0.4, 0.3], 10.0, 0.3, 2),  # the teacher finds fewer than five
        ([0.4, 0.3], 1.9, 0.5, 0),  # half of 1.9 lesions is none
        ([0.4, 0.3], 0.0, 0.5, 0),  # no labelled case has a lesion
        ([], 10.0, 0.5, 0),
        ([0.4, 0.4, 0.4, 0.1], 4.0, 0.4, 3),  # equal components are kept or dropped together
    ],
)
def test_lesion_bound_keeps_the_most_probable_components(
    probabilities: list[float], expected: float, bound: float, kept: int
) -> None:
    found = lesion_bound(probabilities, expected, CONFIG)
    assert (found.probability, found.kept) == (bound, kept)
    assert found.is_lowered == (bound < 0.5)
    assert found.components == len(probabilities)


@given(
    st.lists(st.floats(0, 1), max_size=30),
    st.floats(0, 40),
    st.floats(0, 1),
)
def test_lesion_bound_never_drops_a_likely_lesion(
    probabilities: list[float], expected: float, fraction: float
) -> None:
    config = RefineConfig(lesion_probability=0.5, minimum_lesion_fraction=fraction)
    found = lesion_bound(probabilities, expected, config)
    likely = sum(probability >= 0.5 for probability in probabilities)
    assert found.kept >= max(likely, min(len(probabilities), int(fraction * expected)))
    assert found.probability <= 0.5


def test_lesion_bounds_multiplies_the_lesions_of_a_labelled_case_by_the_cases() -> None:
    models = {"tumour": fit_lesions([], [], 0.2, lesions_per_case=1.5)}
    bounds = lesion_bounds({"tumour": [0.4, 0.3, 0.2, 0.1]}, models, 4, CONFIG)
    assert bounds["tumour"].expected == 6
    assert bounds["tumour"].kept == 3
