"""Structure of label maps, on hand-made arrays with known answers and against scipy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from hstf.imaging.regions import Structures
from hstf.method.plr.anatomy_rules import (
    ClassShape,
    KnownStructure,
    StructureRule,
    beneath,
    contacts,
    describe,
    fill_holes,
    keep_components,
    learn_rule,
)

A: Structures = {"a": (1,)}
AB: Structures = {"a": (1,), "b": (2,)}
ABC: Structures = {"a": (1,), "b": (2,), "c": (3,)}
NESTED: Structures = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
ONE = StructureRule(maximum_components=1, minimum_mm3=0, has_holes=False, may_be_absent=False)


def box(label: np.ndarray, index: int, *ranges: tuple[int, int]) -> None:
    label[tuple(slice(*r) for r in ranges)] = index


@pytest.fixture
def two_blobs() -> np.ndarray:
    label = np.zeros((12, 12, 12), np.uint8)
    box(label, 1, (1, 6), (1, 6), (1, 6))  # 125 voxels
    box(label, 1, (8, 10), (8, 10), (8, 10))  # 8 voxels
    return label


def certain(label: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of ``label``: 200 for its class, 40 for class 2 elsewhere, 15 for the others."""
    probabilities = np.full((classes, *label.shape), 15, np.uint8)
    if classes > 2:
        probabilities[2] = 40
    for index in range(classes):
        probabilities[index][label == index] = 200
    return probabilities


def test_describe_counts_components_sizes_and_holes(two_blobs: np.ndarray) -> None:
    two_blobs[3, 3, 3] = 0
    shape = describe(two_blobs, A, voxel_mm3=2.0)["a"]
    assert sorted(shape.sizes_mm3) == [16.0, 248.0]
    assert shape.holes == 1


def test_components_that_touch_at_a_corner_are_one() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1
    assert describe(label, A, 1.0)["a"].sizes_mm3 == (2.0,)


def test_a_class_in_no_case_is_absent(two_blobs: np.ndarray) -> None:
    shapes = describe(two_blobs, ABC, 1.0)
    assert [shapes[name].sizes_mm3 for name in "bc"] == [(), ()]


def test_ignored_voxels_are_no_class() -> None:
    label = np.full((5, 5, 5), 255, np.uint8)
    label[2, 2, 2] = 1
    assert describe(label, A, 1.0)["a"].sizes_mm3 == (1.0,)


def test_the_background_beside_the_volume_face_is_no_hole() -> None:
    label = np.ones((5, 5, 5), np.uint8)
    label[2, 2, :3] = 0  # a pit that reaches the face
    assert describe(label, A, 1.0)["a"].holes == 0


def test_a_diagonal_gap_still_encloses() -> None:
    """Holes are 6-connected: the outside is not reached through a corner."""
    label = np.ones((5, 5, 5), np.uint8)
    label[2, 2, 2] = label[1, 1, 1] = 0
    label[0, 0, 0] = 0
    assert describe(label, A, 1.0)["a"].holes == 2


def test_rule_of_an_organ_and_of_lesions() -> None:
    organ = learn_rule([ClassShape((100.0,), 0), ClassShape((80.0,), 0)])
    assert organ == StructureRule(1, 40.0, has_holes=False, may_be_absent=False)
    lesions = learn_rule([ClassShape((5.0, 9.0, 7.0), 0), ClassShape((), 0), ClassShape((8.0,), 2)])
    assert lesions == StructureRule(6, 2.5, has_holes=True, may_be_absent=True)


def test_rule_of_a_class_that_no_labelled_case_has() -> None:
    rule = learn_rule([ClassShape((), 0), ClassShape((), 0)])
    assert rule.maximum_components == 0 and rule.may_be_absent


def test_scribbles_tell_nothing_but_that_a_class_is_there() -> None:
    scribbles = np.full((9, 9, 9), 255, np.uint8)
    scribbles[2, 2, 2:5] = scribbles[6, 6, 2:4] = 1
    shapes = list(describe(scribbles, AB, 1.0).values())
    assert [shape.whole for shape in shapes] == [False, False]
    alone, missing = (learn_rule([shape, shape]) for shape in shapes)
    assert (alone.maximum_components, alone.minimum_mm3, alone.may_be_absent) == (0, 0.0, False)
    assert missing.may_be_absent, "nothing shows that every case has it"
    dense = ClassShape((100.0,), 0)
    assert learn_rule([dense, shapes[0]]) == StructureRule(
        1, 50.0, has_holes=False, may_be_absent=False
    )
    label = np.zeros((9, 9, 9), np.uint8)
    label[1:4, 1:4, 1:4] = label[7, 7, 7] = 1
    label[2, 2, 2] = 0
    np.testing.assert_array_equal(
        keep_components(label, certain(label, 2), A, {"a": alone}, 1.0), label
    )
    np.testing.assert_array_equal(fill_holes(label, A, {"a": alone}), label)


def test_what_is_ignored_around_an_organ_is_no_shell() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    label[0], label[:, 0], label[..., 0], label[-1], label[:, -1], label[..., -1] = (255,) * 6
    label[3:6, 3:6, 3:6] = 1
    assert describe(label[1:-1, 1:-1, 1:-1], A, 1.0) == {"a": ClassShape((27.0,), 0)}
    assert describe(label, A, 1.0)["a"].holes == 0


def test_the_largest_component_stays(two_blobs: np.ndarray) -> None:
    kept = keep_components(two_blobs, certain(two_blobs, 2), A, {"a": ONE}, 1.0)
    assert kept[:7].sum() == 125 and not kept[7:].any()


def test_removed_voxels_take_the_next_best_class(two_blobs: np.ndarray) -> None:
    rules = {"a": ONE, "b": StructureRule(3, 0, True, True)}
    kept = keep_components(two_blobs, certain(two_blobs, 3), AB, rules, 1.0)
    assert np.all(kept[8:10, 8:10, 8:10] == 2)


def test_a_fragment_of_another_class_becomes_background(two_blobs: np.ndarray) -> None:
    box(two_blobs, 2, (1, 6), (1, 6), (7, 9))
    rules = {"a": ONE, "b": ONE}  # the small blob would be a second component of class 2
    kept = keep_components(two_blobs, certain(two_blobs, 3), AB, rules, 1.0)
    assert not kept[8:10, 8:10, 8:10].any() and (kept == 2).sum() == 50


def test_small_components_go_unless_the_class_must_be_there(two_blobs: np.ndarray) -> None:
    small = StructureRule(5, 1000.0, False, may_be_absent=False)
    kept = keep_components(two_blobs, certain(two_blobs, 2), A, {"a": small}, 1.0)
    assert kept.sum() == 125
    optional = StructureRule(5, 1000.0, False, may_be_absent=True)
    assert not keep_components(two_blobs, certain(two_blobs, 2), A, {"a": optional}, 1.0).any()


def test_sizes_are_in_mm3(two_blobs: np.ndarray) -> None:
    rule = StructureRule(5, 12.0, False, may_be_absent=True)
    assert keep_components(two_blobs, certain(two_blobs, 2), A, {"a": rule}, 1.0).sum() == 125
    assert keep_components(two_blobs, certain(two_blobs, 2), A, {"a": rule}, 2.0).sum() == 133


def test_an_unknown_class_is_left_alone(two_blobs: np.ndarray) -> None:
    unknown = StructureRule(0, 0.0, False, True)
    np.testing.assert_array_equal(
        keep_components(two_blobs, certain(two_blobs, 2), A, {"a": unknown}, 1.0), two_blobs
    )


def test_holes_take_the_class_around_them() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    box(label, 1, (1, 8), (1, 8), (1, 8))
    box(label, 2, (3, 6), (3, 6), (3, 6))
    label[4, 4, 4] = 0  # within class 2
    label[2, 2, 2] = 0  # within class 1
    filled = fill_holes(label, AB, {"a": ONE, "b": ONE})
    assert filled[4, 4, 4] == 2 and filled[2, 2, 2] == 1
    kept = fill_holes(label, AB, {"a": ONE, "b": StructureRule(1, 0, True, False)})
    assert kept[4, 4, 4] == 0 and kept[2, 2, 2] == 1


def test_empty_labels_stay_empty() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    assert not fill_holes(label, A, {"a": ONE}).any()
    assert not keep_components(label, certain(label, 2), A, {"a": ONE}, 1.0).any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 3), (3, 3, 3), (5, 5, 5), (1, 1, 9)])
def test_as_many_components_as_a_volume_can_have(shape: tuple[int, int, int]) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[::2, ::2, ::2] = 1
    assert len(describe(mask, A, 1.0)["a"].sizes_mm3) == mask.sum()
    assert keep_components(mask, certain(mask, 2), A, {"a": ONE}, 1.0).sum() == 1


def tumour() -> np.ndarray:
    """Oedema (2) around necrosis (1) with an enhancing rim (3), and apart from it a spot of the rim in a bit of oedema."""
    label = np.zeros((16, 12, 12), np.uint8)
    for index, (low, high) in {2: (1, 10), 3: (3, 8), 1: (4, 7)}.items():
        box(label, index, (low, high), (low, high), (low, high))
    box(label, 2, (12, 15), (3, 6), (3, 6))
    label[13, 4, 4] = 3
    return label


def test_components_and_holes_of_a_region_are_those_of_all_its_classes() -> None:
    label = tumour()
    label[5, 5, 5] = label[2, 2, 2] = 0  # within the necrosis, within the oedema
    shapes = describe(label, NESTED, 1.0)
    assert {name: sorted(shape.sizes_mm3) for name, shape in shapes.items()} == {
        "whole": [27.0, 9**3 - 2], "core": [1.0, 5**3 - 1], "enhancing": [1.0, 5**3 - 3**3]
    }  # fmt: skip
    assert {name: shape.holes for name, shape in shapes.items()} == {
        "whole": 2,
        "core": 1,
        "enhancing": 0,
    }


def test_what_leaves_a_region_goes_to_the_most_likely_class_outside_of_it() -> None:
    label = tumour()
    many = StructureRule(5, 0, True, True)
    core_alone = {"whole": many, "core": ONE, "enhancing": many}
    kept = keep_components(label, certain(label, 4), NESTED, core_alone, 1.0)
    assert kept[13, 4, 4] == 2 and np.array_equal(np.delete(kept, 13, 0), np.delete(label, 13, 0))
    whole_alone = {"whole": ONE, "core": many, "enhancing": many}
    kept = keep_components(label, certain(label, 4), NESTED, whole_alone, 1.0)
    assert not kept[12:].any() and np.array_equal(kept[:12], label[:12])


def test_a_fragment_leaves_its_region_and_no_other() -> None:
    """Of core oedema is left, of enhancement necrosis; of a class by itself nothing."""
    assert beneath("whole", NESTED) == {1: [0], 2: [0], 3: [0]}
    assert beneath("core", NESTED) == {1: [2], 3: [2]} and beneath("enhancing", NESTED) == {3: [1]}
    assert beneath("b", ABC) == {2: [0]}


def test_a_hole_is_filled_where_one_of_its_regions_has_none() -> None:
    label = tumour()
    label[5, 5, 5] = label[2, 2, 2] = 0
    holed = StructureRule(1, 0, True, False)
    filled = fill_holes(label, NESTED, {"whole": holed, "core": ONE, "enhancing": holed})
    assert filled[5, 5, 5] == 1 and filled[2, 2, 2] == 0


masks = arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 1))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_holes_of_one_class_are_those_that_scipy_finds(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_holes(mask, A, {"a": ONE}), ndimage.binary_fill_holes(mask))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_the_largest_component_is_that_of_scipy(mask: np.ndarray) -> None:
    kept = keep_components(mask, certain(mask, 2), A, {"a": ONE}, 1.0)
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    assert kept.sum() == (sizes.max() if count else 0)
    assert ndimage.label(kept, np.ones((3, 3, 3)))[1] == min(count, 1)


@given(
    arrays(np.uint8, (6, 6, 6), elements=st.integers(0, 3)), st.integers(1, 3), st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_cleaned_labels_keep_their_rules(label: np.ndarray, count: int, size: int) -> None:
    for structures in (ABC, NESTED):
        rules = {name: StructureRule(count, float(size), False, True) for name in structures}
        cleaned = keep_components(label, certain(label, 4), structures, rules, 1.0)
        for shape in describe(cleaned, structures, 1.0).values():
            assert len(shape.sizes_mm3) <= count and min(shape.sizes_mm3, default=size) >= size
        again = keep_components(cleaned, certain(label, 4), structures, rules, 1.0)
        np.testing.assert_array_equal(again, cleaned)


def test_contact_is_the_share_of_faces_with_other_structures() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    box(label, 1, (1, 3), (1, 3), (1, 3))  # 24 faces, 4 of them with b
    box(label, 2, (3, 5), (1, 3), (1, 3))
    box(label, 1, (6, 9), (6, 9), (6, 9))  # in a corner: 27 faces inside the volume, none with b
    components = np.where(label == 1, 1, 0).astype(np.uint32)
    components[6:, 6:, 6:] = 2
    assert contacts(components, label == 2).tolist() == [4 / 24, 0.0]
    shapes = describe(label, AB, 1.0)
    assert (shapes["a"].contact, shapes["b"].contact) == (0.0, 4 / 24), "that of the largest"
    assert learn_rule([ClassShape((9.0,), 0, contact=c) for c in (0.4, 0.2)]).contact == 0.2
    assert learn_rule([ClassShape((), 0), ClassShape((9.0,), 0, contact=0.3)]).contact == 0.3


def heart() -> np.ndarray:
    """A wall (b) around a cavity (a), and in a corner a larger a with nothing of b around it."""
    label = np.zeros((16, 16, 16), np.uint8)
    box(label, 2, (1, 7), (1, 7), (1, 7))
    box(label, 1, (2, 6), (2, 6), (2, 6))
    box(label, 1, (9, 15), (9, 15), (9, 15))
    return label


def test_a_component_in_its_place_is_kept_before_a_larger_one_elsewhere() -> None:
    label = heart()
    alone = keep_components(label, certain(label, 3), AB, {"a": ONE}, 1.0)
    assert alone[10, 10, 10] == 1 and alone[3, 3, 3] != 1, (
        "of a rule without contact the largest stays"
    )
    rules = {"a": replace(ONE, contact=0.9), "b": ONE}
    cleaned = keep_components(label, certain(label, 3), AB, rules, 1.0)
    label[9:] = 0
    np.testing.assert_array_equal(cleaned > 0, label > 0)
    np.testing.assert_array_equal(cleaned[:9], label[:9])


def test_final_probabilities_are_certain_where_a_rule_was_broken_and_else_untouched() -> None:
    label = heart()
    given = certain(label, 3).astype(np.float32) / 255
    known = KnownStructure(AB, {"a": replace(ONE, contact=0.9), "b": ONE})
    probabilities = given.copy()
    known.clean(probabilities, 1.0)
    false = np.zeros(label.shape, bool)
    false[9:15, 9:15, 9:15] = True
    np.testing.assert_array_equal(probabilities[:, ~false], given[:, ~false])
    assert probabilities[:, false].max(axis=0).tolist() == [1.0] * false.sum()
    assert not (probabilities.argmax(axis=0)[false] == 1).any()
    once = probabilities.copy()
    known.clean(probabilities, 1.0)
    np.testing.assert_array_equal(probabilities, once)
    assert KnownStructure.of_json(json.loads(json.dumps(known.to_json()))) == known
