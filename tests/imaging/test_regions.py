"""Structures of label maps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tumour_regions import TUMOUR

from hstf.imaging.regions import (
    box_around,
    class_boxes,
    class_count,
    membership,
    overlaps,
    structure_mask,
    structure_probability,
    with_margin,
)


def test_membership_marks_the_classes_of_each_structure() -> None:
    expected = [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert class_count(TUMOUR) == 4
    assert membership(TUMOUR).tolist() == expected


def test_structure_mask_has_all_classes_of_a_structure() -> None:
    label = np.array([0, 1, 2, 3, 255], np.uint8)
    expected = [False, True, False, True, False]
    assert structure_mask(label, (1, 3)).tolist() == expected


def test_structure_probability_is_a_sum_of_at_most_255() -> None:
    probabilities = np.array([[5, 0], [100, 128], [50, 127], [100, 1]], np.uint8)
    assert structure_probability(probabilities, (1, 2, 3)).tolist() == [250, 255]
    assert structure_probability(probabilities, (2,)).tolist() == [50, 127]
    too_much = np.full((4, 1), 200, np.uint8)
    assert structure_probability(too_much, (1, 2)).tolist() == [255]


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_overlaps_equals_counts_of_masks(seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(0, 4, (2, 40))
    table = np.zeros((4, 4), np.int64)
    np.add.at(table, (first, second), 1)
    found = overlaps(table, TUMOUR)
    for column, classes in enumerate(TUMOUR.values()):
        in_first = np.isin(first, classes)
        in_second = np.isin(second, classes)
        assert found[0, column] == (in_first & in_second).sum()
        assert found[1, column] == in_first.sum()
        assert found[2, column] == in_second.sum()


def test_class_boxes_and_box_around_are_tight() -> None:
    label = np.zeros((9, 8, 7), np.uint8)
    label[2:4, 1, 5] = 1
    label[7, 3, 6] = 3
    boxes = class_boxes(label, classes=4)
    assert boxes == {
        1: (slice(2, 4), slice(1, 2), slice(5, 6)),
        3: (slice(7, 8), slice(3, 4), slice(6, 7)),
    }
    assert box_around(boxes.values()) == (slice(2, 8), slice(1, 4), slice(5, 7))
    assert box_around([]) is None


def test_with_margin_stays_within_the_volume() -> None:
    box = (slice(0, 3), slice(2, 8))
    extended = with_margin(box)
    assert extended == (slice(0, 4), slice(1, 9))
    assert np.zeros((5, 8))[extended].shape == (4, 7)
