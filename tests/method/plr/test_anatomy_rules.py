"""Anatomy rules: label maps with known results, and comparison with scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from hstf.imaging.regions import Structures
from hstf.method.plr.anatomy import AnatomyRule, CaseAnatomy, describe_anatomy, learn_rule
from hstf.method.plr.anatomy_rules import AnatomyRules, classes_below, fill_holes, keep_components
from hstf.method.plr.bridges import split_at_bridges
from hstf.method.plr.structure_components import contact_fractions, label_components

A: Structures = {"a": (1,)}
AB: Structures = {"a": (1,), "b": (2,)}
ABC: Structures = {"a": (1,), "b": (2,), "c": (3,)}
NESTED: Structures = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}


def rule(
    maximum_components: int,
    minimum_mm3: float = 0.0,
    has_holes: bool = False,
    may_be_absent: bool = False,
) -> AnatomyRule:
    """Return an anatomy rule."""
    return AnatomyRule(
        maximum_components=maximum_components,
        minimum_mm3=minimum_mm3,
        has_holes=has_holes,
        may_be_absent=may_be_absent,
    )


ONE = rule(1)
IN_CONTACT = ONE.model_copy(update={"contact": 0.9})


def box(label: np.ndarray, index: int, *ranges: tuple[int, int]) -> None:
    label[tuple(slice(*r) for r in ranges)] = index


@pytest.fixture
def two_blobs() -> np.ndarray:
    label = np.zeros((12, 12, 12), np.uint8)
    box(label, 1, (1, 6), (1, 6), (1, 6))  # 125 voxels
    box(label, 1, (8, 10), (8, 10), (8, 10))  # 8 voxels
    return label


def certain(label: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities of ``label``: 200 for its class, else 40 for class 2, 15 for others."""
    probabilities = np.full((classes, *label.shape), 15, np.uint8)
    if classes > 2:
        probabilities[2] = 40
    for index in range(classes):
        probabilities[index][label == index] = 200
    return probabilities


def test_describe_anatomy_measures_components_and_holes(two_blobs: np.ndarray) -> None:
    two_blobs[3, 3, 3] = 0
    shape = describe_anatomy(two_blobs, A, voxel_mm3=2.0)["a"]
    assert sorted(shape.sizes_mm3) == [16.0, 248.0]
    assert shape.holes == 1


def test_describe_anatomy_joins_components_at_corners() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = 1
    assert describe_anatomy(label, A, 1.0)["a"].sizes_mm3 == (2.0,)


def test_describe_anatomy_of_an_absent_class_is_empty(two_blobs: np.ndarray) -> None:
    shapes = describe_anatomy(two_blobs, ABC, 1.0)
    assert [shapes[name].sizes_mm3 for name in "bc"] == [(), ()]


def test_describe_anatomy_takes_ignored_voxels_as_background() -> None:
    label = np.full((5, 5, 5), 255, np.uint8)
    label[2, 2, 2] = 1
    assert describe_anatomy(label, A, 1.0)["a"].sizes_mm3 == (1.0,)


def test_describe_anatomy_counts_no_hole_at_the_face_of_the_volume() -> None:
    label = np.ones((5, 5, 5), np.uint8)
    label[2, 2, :3] = 0  # a pit that reaches the face
    assert describe_anatomy(label, A, 1.0)["a"].holes == 0


def test_describe_anatomy_separates_holes_at_corners() -> None:
    """Holes are 6-connected: no hole reaches the outside through a corner."""
    label = np.ones((5, 5, 5), np.uint8)
    label[2, 2, 2] = label[1, 1, 1] = 0
    label[0, 0, 0] = 0
    assert describe_anatomy(label, A, 1.0)["a"].holes == 2


def test_learn_rule_of_an_organ_and_of_lesions() -> None:
    organ = learn_rule([CaseAnatomy((100.0,), 0), CaseAnatomy((80.0,), 0)])
    assert organ == rule(1, 40.0).model_copy(update={"cut_bridges": True})
    lesions = learn_rule(
        [CaseAnatomy((5.0, 9.0, 7.0), 0), CaseAnatomy((), 0), CaseAnatomy((8.0,), 2)]
    )
    assert lesions == rule(6, 2.5, has_holes=True, may_be_absent=True)


def test_learn_rule_of_a_class_without_cases() -> None:
    learned = learn_rule([CaseAnatomy((), 0), CaseAnatomy((), 0)])
    assert learned.maximum_components == 0 and learned.may_be_absent


def test_learn_rule_takes_only_presence_from_scribbles() -> None:
    scribbles = np.full((9, 9, 9), 255, np.uint8)
    scribbles[2, 2, 2:5] = scribbles[6, 6, 2:4] = 1
    shapes = list(describe_anatomy(scribbles, AB, 1.0).values())
    assert [shape.dense for shape in shapes] == [False, False]
    present, missing = (learn_rule([shape, shape]) for shape in shapes)
    assert (present.maximum_components, present.minimum_mm3, present.may_be_absent) == (
        0,
        0.0,
        False,
    )
    assert missing.may_be_absent, "the scribbles do not show that every case has it"
    dense = CaseAnatomy((100.0,), 0)
    expected = rule(1, 50.0).model_copy(update={"cut_bridges": True})
    assert learn_rule([dense, shapes[0]]) == expected
    label = np.zeros((9, 9, 9), np.uint8)
    label[1:4, 1:4, 1:4] = label[7, 7, 7] = 1
    label[2, 2, 2] = 0
    np.testing.assert_array_equal(
        keep_components(label, certain(label, 2), A, {"a": present}, 1.0), label
    )
    np.testing.assert_array_equal(fill_holes(label, A, {"a": present}), label)


def test_describe_anatomy_finds_no_hole_inside_ignored_voxels() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    label[0], label[:, 0], label[..., 0], label[-1], label[:, -1], label[..., -1] = (255,) * 6
    label[3:6, 3:6, 3:6] = 1
    assert describe_anatomy(label[1:-1, 1:-1, 1:-1], A, 1.0) == {"a": CaseAnatomy((27.0,), 0)}
    assert describe_anatomy(label, A, 1.0)["a"].holes == 0


def test_keep_components_keeps_the_largest_component(two_blobs: np.ndarray) -> None:
    kept = keep_components(two_blobs, certain(two_blobs, 2), A, {"a": ONE}, 1.0)
    assert kept[:7].sum() == 125 and not kept[7:].any()


def test_keep_components_assigns_the_next_likely_class(two_blobs: np.ndarray) -> None:
    rules = {"a": ONE, "b": rule(3, 0, True, True)}
    kept = keep_components(two_blobs, certain(two_blobs, 3), AB, rules, 1.0)
    assert np.all(kept[8:10, 8:10, 8:10] == 2)


def test_keep_components_removes_new_fragments(two_blobs: np.ndarray) -> None:
    box(two_blobs, 2, (1, 6), (1, 6), (7, 9))
    rules = {"a": ONE, "b": ONE}  # the small blob would be a second component of class 2
    kept = keep_components(two_blobs, certain(two_blobs, 3), AB, rules, 1.0)
    assert not kept[8:10, 8:10, 8:10].any() and (kept == 2).sum() == 50


def test_keep_components_keeps_one_component_of_a_required_class(two_blobs: np.ndarray) -> None:
    small = rule(5, 1000.0, False, may_be_absent=False)
    kept = keep_components(two_blobs, certain(two_blobs, 2), A, {"a": small}, 1.0)
    assert kept.sum() == 125
    optional = rule(5, 1000.0, False, may_be_absent=True)
    assert not keep_components(two_blobs, certain(two_blobs, 2), A, {"a": optional}, 1.0).any()


def test_keep_components_measures_in_mm3(two_blobs: np.ndarray) -> None:
    limit = rule(5, 12.0, False, may_be_absent=True)
    assert keep_components(two_blobs, certain(two_blobs, 2), A, {"a": limit}, 1.0).sum() == 125
    assert keep_components(two_blobs, certain(two_blobs, 2), A, {"a": limit}, 2.0).sum() == 133


def test_keep_components_does_not_change_an_unknown_class(two_blobs: np.ndarray) -> None:
    unknown = rule(0, 0.0, False, True)
    np.testing.assert_array_equal(
        keep_components(two_blobs, certain(two_blobs, 2), A, {"a": unknown}, 1.0), two_blobs
    )


def with_bridge() -> np.ndarray:
    """Return an organ (216 voxels), and a false structure (125) that two voxels connect with it."""
    label = np.zeros((20, 10, 10), np.uint8)
    box(label, 1, (2, 8), (2, 8), (2, 8))
    box(label, 1, (8, 10), (5, 6), (5, 6))
    box(label, 1, (10, 15), (3, 8), (3, 8))
    return label


def test_keep_components_cuts_at_a_bridge_that_no_label_has() -> None:
    label = with_bridge()
    whole = keep_components(label, certain(label, 2), A, {"a": ONE}, 1.0)
    np.testing.assert_array_equal(whole, label)
    cutting = ONE.model_copy(update={"cut_bridges": True})
    cut = keep_components(label, certain(label, 2), A, {"a": cutting}, 1.0)
    assert cut[2:8, 2:8, 2:8].all(), "the organ is not changed"
    assert not cut[10:].any()
    assert cut[8].sum() == 1, "half of the bridge is nearer to the organ"


def test_keep_components_keeps_the_piece_in_contact_with_other_structures() -> None:
    label = with_bridge()
    box(label, 2, (15, 17), (2, 9), (2, 9))  # touches the smaller piece
    rules = {"a": IN_CONTACT.model_copy(update={"cut_bridges": True, "contact": 0.15})}
    cut = keep_components(label, certain(label, 3), AB, rules, 1.0)
    assert (cut[10:15, 3:8, 3:8] == 1).all()
    assert not (cut[:8] == 1).any()


def test_thin_ends_of_a_structure_are_not_cut() -> None:
    """Vessels that leave an organ have no large core."""
    label = np.zeros((24, 10, 10), np.uint8)
    box(label, 1, (2, 8), (2, 8), (2, 8))
    box(label, 1, (8, 24), (4, 6), (4, 6))
    cutting = ONE.model_copy(update={"cut_bridges": True})
    cut = keep_components(label, certain(label, 2), A, {"a": cutting}, 1.0)
    np.testing.assert_array_equal(cut, label)


def test_structure_at_the_border_of_the_volume_is_not_cut() -> None:
    """What is outside of the field of view may continue there."""
    label = np.zeros((12, 8, 3), np.uint8)
    box(label, 1, (0, 12), (1, 7), (0, 3))
    assert not describe_anatomy(label, A, 1.0)["a"].has_bridge


def test_learn_rule_cuts_no_bridge_if_a_label_has_one() -> None:
    organ = with_bridge()
    organ[8:] = 0
    anatomy = [describe_anatomy(label, A, 1.0)["a"] for label in (organ, with_bridge())]
    assert [case.has_bridge for case in anatomy] == [False, True]
    assert not learn_rule(anatomy).cut_bridges


def test_learn_rule_cuts_bridges_if_no_label_has_one(two_blobs: np.ndarray) -> None:
    organ = with_bridge()
    organ[8:] = 0
    one, several = (describe_anatomy(label, A, 1.0)["a"] for label in (organ, two_blobs))
    assert learn_rule([one, one]).cut_bridges
    assert not learn_rule([one, several]).cut_bridges, "neighbours may touch each other"
    absent = describe_anatomy(np.zeros((4, 4, 4), np.uint8), A, 1.0)["a"]
    assert not learn_rule([absent]).cut_bridges, "nothing is known about it"


@settings(max_examples=30)
@given(arrays(bool, (7, 6, 5)))
def test_split_at_bridges_keeps_all_voxels_and_counts_them(mask: np.ndarray) -> None:
    components, sizes = label_components(mask)
    before = components.copy()
    split, new_sizes = split_at_bridges(components, sizes, 3)
    np.testing.assert_array_equal(components, before)
    np.testing.assert_array_equal(split > 0, mask)
    counted = np.bincount(split.ravel(), minlength=len(new_sizes) + 1)[1:]
    np.testing.assert_array_equal(new_sizes, counted)
    for number in range(1, len(new_sizes) + 1):
        assert len(np.unique(before[split == number])) <= 1, "a piece is of one component"


def test_fill_holes_uses_the_surrounding_class() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    box(label, 1, (1, 8), (1, 8), (1, 8))
    box(label, 2, (3, 6), (3, 6), (3, 6))
    label[4, 4, 4] = 0  # within class 2
    label[2, 2, 2] = 0  # within class 1
    filled = fill_holes(label, AB, {"a": ONE, "b": ONE})
    assert filled[4, 4, 4] == 2 and filled[2, 2, 2] == 1
    kept = fill_holes(label, AB, {"a": ONE, "b": rule(1, 0, True, False)})
    assert kept[4, 4, 4] == 0 and kept[2, 2, 2] == 1


def test_empty_labels_are_not_changed() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    assert not fill_holes(label, A, {"a": ONE}).any()
    assert not keep_components(label, certain(label, 2), A, {"a": ONE}, 1.0).any()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 3), (3, 3, 3), (5, 5, 5), (1, 1, 9)])
def test_keep_components_takes_the_maximum_number_of_components(
    shape: tuple[int, int, int],
) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[::2, ::2, ::2] = 1
    assert len(describe_anatomy(mask, A, 1.0)["a"].sizes_mm3) == mask.sum()
    assert keep_components(mask, certain(mask, 2), A, {"a": ONE}, 1.0).sum() == 1


def tumour() -> np.ndarray:
    """Return oedema (2) around necrosis (1) with an enhancing rim (3).

    A second, small oedema contains an enhancing spot.
    """
    label = np.zeros((16, 12, 12), np.uint8)
    for index, (low, high) in {2: (1, 10), 3: (3, 8), 1: (4, 7)}.items():
        box(label, index, (low, high), (low, high), (low, high))
    box(label, 2, (12, 15), (3, 6), (3, 6))
    label[13, 4, 4] = 3
    return label


def test_describe_anatomy_of_a_region_joins_its_classes() -> None:
    label = tumour()
    label[5, 5, 5] = label[2, 2, 2] = 0  # within the necrosis, within the oedema
    shapes = describe_anatomy(label, NESTED, 1.0)
    assert {name: sorted(shape.sizes_mm3) for name, shape in shapes.items()} == {
        "whole": [27.0, 9**3 - 2],
        "core": [1.0, 5**3 - 1],
        "enhancing": [1.0, 5**3 - 3**3],
    }
    assert {name: shape.holes for name, shape in shapes.items()} == {
        "whole": 2,
        "core": 1,
        "enhancing": 0,
    }


def test_keep_components_assigns_the_most_likely_class_outside_a_region() -> None:
    label = tumour()
    many = rule(5, 0, True, True)
    core_only = {"whole": many, "core": ONE, "enhancing": many}
    kept = keep_components(label, certain(label, 4), NESTED, core_only, 1.0)
    assert kept[13, 4, 4] == 2 and np.array_equal(np.delete(kept, 13, 0), np.delete(label, 13, 0))
    whole_only = {"whole": ONE, "core": many, "enhancing": many}
    kept = keep_components(label, certain(label, 4), NESTED, whole_only, 1.0)
    assert not kept[12:].any() and np.array_equal(kept[:12], label[:12])


def test_classes_below_keep_the_other_regions() -> None:
    """Core becomes oedema, enhancement becomes necrosis, a single class becomes background."""
    assert classes_below("whole", NESTED) == {1: [0], 2: [0], 3: [0]}
    assert classes_below("core", NESTED) == {1: [2], 3: [2]} and classes_below(
        "enhancing", NESTED
    ) == {3: [1]}
    assert classes_below("b", ABC) == {2: [0]}


def test_fill_holes_fills_if_one_region_has_no_holes() -> None:
    label = tumour()
    label[5, 5, 5] = label[2, 2, 2] = 0
    holed = rule(1, 0, True, False)
    filled = fill_holes(label, NESTED, {"whole": holed, "core": ONE, "enhancing": holed})
    assert filled[5, 5, 5] == 1 and filled[2, 2, 2] == 0


masks = arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 1))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_fill_holes_equals_scipy(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_holes(mask, A, {"a": ONE}), ndimage.binary_fill_holes(mask))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_keep_components_equals_scipy(mask: np.ndarray) -> None:
    kept = keep_components(mask, certain(mask, 2), A, {"a": ONE}, 1.0)
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    assert kept.sum() == (sizes.max() if count else 0)
    assert ndimage.label(kept, np.ones((3, 3, 3)))[1] == min(count, 1)


@given(
    arrays(np.uint8, (6, 6, 6), elements=st.integers(0, 3)), st.integers(1, 3), st.integers(0, 5)
)
@settings(max_examples=60, deadline=None)
def test_keep_components_result_obeys_the_rules(label: np.ndarray, count: int, size: int) -> None:
    for structures in (ABC, NESTED):
        rules = {name: rule(count, float(size), False, True) for name in structures}
        cleaned = keep_components(label, certain(label, 4), structures, rules, 1.0)
        for shape in describe_anatomy(cleaned, structures, 1.0).values():
            assert len(shape.sizes_mm3) <= count and min(shape.sizes_mm3, default=size) >= size
        again = keep_components(cleaned, certain(label, 4), structures, rules, 1.0)
        np.testing.assert_array_equal(again, cleaned)


def test_contact_fractions_count_faces_with_other_structures() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    box(label, 1, (1, 3), (1, 3), (1, 3))  # 24 faces, 4 of them with b
    box(label, 2, (3, 5), (1, 3), (1, 3))
    box(label, 1, (6, 9), (6, 9), (6, 9))  # in a corner: 27 faces inside the volume, none with b
    components = np.where(label == 1, 1, 0).astype(np.uint32)
    components[6:, 6:, 6:] = 2
    assert contact_fractions(components, label == 2).tolist() == [4 / 24, 0.0]
    shapes = describe_anatomy(label, AB, 1.0)
    assert (shapes["a"].contact, shapes["b"].contact) == (0.0, 4 / 24), (
        "that of the largest component"
    )
    assert learn_rule([CaseAnatomy((9.0,), 0, contact=c) for c in (0.4, 0.2)]).contact == 0.2
    assert learn_rule([CaseAnatomy((), 0), CaseAnatomy((9.0,), 0, contact=0.3)]).contact == 0.3


def heart() -> np.ndarray:
    """Return a wall (b) around a cavity (a), and a larger component of a without a wall."""
    label = np.zeros((16, 16, 16), np.uint8)
    box(label, 2, (1, 7), (1, 7), (1, 7))
    box(label, 1, (2, 6), (2, 6), (2, 6))
    box(label, 1, (9, 15), (9, 15), (9, 15))
    return label


def test_keep_components_prefers_components_with_contact() -> None:
    label = heart()
    by_size = keep_components(label, certain(label, 3), AB, {"a": ONE}, 1.0)
    assert by_size[10, 10, 10] == 1 and by_size[3, 3, 3] != 1, "without contact, size decides"
    rules = {"a": IN_CONTACT, "b": ONE}
    cleaned = keep_components(label, certain(label, 3), AB, rules, 1.0)
    label[9:] = 0
    np.testing.assert_array_equal(cleaned > 0, label > 0)
    np.testing.assert_array_equal(cleaned[:9], label[:9])


def test_apply_to_probabilities_changes_broken_voxels_only() -> None:
    label = heart()
    given = certain(label, 3).astype(np.float32) / 255
    rules = AnatomyRules(classes=dict(AB), rules={"a": IN_CONTACT, "b": ONE})
    probabilities = given.copy()
    rules.apply_to_probabilities(probabilities, 1.0)
    false = np.zeros(label.shape, bool)
    false[9:15, 9:15, 9:15] = True
    np.testing.assert_array_equal(probabilities[:, ~false], given[:, ~false])
    assert probabilities[:, false].max(axis=0).tolist() == [1.0] * false.sum()
    assert not (probabilities.argmax(axis=0)[false] == 1).any()
    once = probabilities.copy()
    rules.apply_to_probabilities(probabilities, 1.0)
    np.testing.assert_array_equal(probabilities, once)
    assert AnatomyRules.model_validate_json(rules.model_dump_json()) == rules
