"""How well predicted Dice ranks cases, against known answers."""

from itertools import permutations

import numpy as np
import pytest

from hstf.scoring.ranking import worst_found

TRUE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_worst_found_of_equal_predictions_is_that_of_a_random_order() -> None:
    assert worst_found([0.7] * 10, TRUE) == pytest.approx(0.2)
    assert worst_found([0.7] * 10, TRUE[::-1]) == pytest.approx(0.2)


def test_worst_found_does_not_depend_on_the_order_of_the_cases() -> None:
    predicted = [0.5, 0.5, 0.6, 0.5, 0.9]
    true = [0.3, 0.8, 0.3, 0.7, 0.9]
    found = set()
    for order in permutations(range(5)):
        found.add(round(worst_found([predicted[k] for k in order], [true[k] for k in order]), 9))
    # Two cases have the lowest Dice, three the lowest prediction, and one case is in both.
    assert found == {round(0.5 * 1 / 3, 9)}


def test_worst_found_of_a_perfect_and_of_the_worst_order() -> None:
    assert worst_found(TRUE, TRUE) == 1
    assert worst_found((1 - np.array(TRUE)).tolist(), TRUE) == 0
