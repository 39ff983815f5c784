"""How the prediction of an external teacher is mixed, and how its weights are chosen."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.volume_files import lower_bound_of_scans, save_nifti

from hstf.config.experiment import Config
from hstf.config.external import ExternalTeacher
from hstf.experiment.label_maps import (
    Values,
    read_label_map,
    refuse_wrong_label_maps,
    values_of,
)
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import IGNORED
from hstf.method.external import (
    WEIGHTS,
    Groups,
    case_dice,
    choose_weight,
    gain,
    group_dice,
    in_our_classes,
    mix,
)
from hstf.method.external_weights import read_on_grid
from hstf.runtime.errors import HstfError

TWO = Groups(((1,), (2,)), classes=3)
STRUCTURES = {"liver": (1,), "spleen": (2,)}
SHAPE = (6, 6, 6)


def uncertain(label: np.ndarray, classes: int = 3, sure: float = 0.8) -> np.ndarray:
    """Return probabilities that are ``sure`` of a label map."""
    rest = (1 - sure) / (classes - 1)
    chosen = label[None] == np.arange(classes).reshape(-1, 1, 1, 1)
    return np.rint(255 * np.where(chosen, sure, rest)).astype(np.uint8)


def truth() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 1:5, 1:5] = 1
    label[4:6, 1:5, 1:5] = 2
    return label


def values_in(folder: Path, content: str, labels: dict) -> Values:
    """Return the values of an external teacher with a label map."""
    path = folder / "dataset.json"
    path.write_text(content, encoding="utf-8")
    return values_of(
        ExternalTeacher(files="soft/{case}.nii.gz", labels=labels, label_map=str(path))
    )


@pytest.mark.parametrize(
    ("content", "labels", "message"),
    [
        (
            '{"liver": 1, "tumour": 1}',
            {"liver": "liver", "tumour": "tumour"},
            "value 1 belongs to 'liver' .labels of liver. and to 'tumour' .labels of tumour.",
        ),
        ('{"liver": 1}', {"tumour": 1, "liver": "liver"}, "value 1 belongs to 1 .* and to 'liver'"),
        (
            '{"whole": [1, 2], "core": [2]}',
            {"liver": "whole", "tumour": "core"},
            "value 2 belongs to 'whole'",
        ),
        ('{"labels": {"liver": 1, "liver": 2}}', {"liver": "liver"}, "'liver' twice, with 1 and"),
        ('{"1": "liver", "1": "tumour"}', {"liver": "liver"}, "'1' twice, with 'liver' and"),
    ],
)
def test_values_of_refuses_a_value_of_two_classes(
    tmp_path: Path, content: str, labels: dict, message: str
) -> None:
    with pytest.raises(HstfError, match=f"dataset.json: .*{message}"):
        values_in(tmp_path, content, labels)


@pytest.mark.parametrize(
    ("content", "names", "expected"),
    [
        ('{"liver": 1, "hepar": 1}', ["liver", "hepar"], (1,)),
        ('{"left": 1, "right": 2}', ["left", "right"], (1, 2)),
        ('{"1": "liver", "2": "liver", "3": "spleen"}', ["liver"], (1, 2)),
        ('{"labels": {"background": 0, "whole": [1, 2], "core": [2]}}', ["whole"], (1, 2)),
        ('{"liver": 1, "liver": 1, "other": 1}', ["liver"], (1,)),
    ],
)
def test_values_of_accepts_several_values_and_names_of_a_class(
    tmp_path: Path, content: str, names: list[str], expected: tuple[int, ...]
) -> None:
    assert values_in(tmp_path, content, {"liver": names}) == {"liver": expected}


@pytest.mark.parametrize(
    "content",
    ["[1, 2]", '[["liver", 1]]', '{"labels": 1}', "liver: 1", '{"liver": 1.5}', '{"a": [1, 2.5]}'],
)
def test_read_label_map_refuses_other_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(HstfError, match="cannot be read as a label map"):
        read_label_map(path)


def test_read_label_map_accepts_whole_numbers_with_a_point(tmp_path: Path) -> None:
    assert values_in(tmp_path, '{"liver": 2.0}', {"liver": "liver"}) == {"liver": (2,)}


def test_refuse_wrong_label_maps_lists_all_problems(tmp_path: Path) -> None:
    names = tmp_path / "dataset.json"
    names.write_text('{"liver": 1}', encoding="utf-8")
    nowhere = tmp_path / "nowhere.json"

    def config(**of_teachers: dict) -> Config:
        external = {
            name: {"files": "soft/{case}.nii.gz", **teacher}
            for name, teacher in of_teachers.items()
        }
        return Config(labels={"background": 0, "liver": 1}, teacher={"external": external})

    known = {"labels": {"liver": "liver"}, "label_map": str(names)}
    refuse_wrong_label_maps(config(known=known, values={"labels": {"liver": 1}}))
    wrong = {"labels": {"liver": "hepar"}, "label_map": str(names)}
    missing = {"labels": {"liver": "liver"}, "label_map": str(nowhere)}
    with pytest.raises(HstfError) as raised:
        refuse_wrong_label_maps(config(known=known, wrong=wrong, missing=missing))
    first, second = str(raised.value).splitlines()[1:]
    assert f"teacher.external.wrong: {names}: has no name 'hepar' (labels of liver)" in first
    assert f"teacher.external.missing: {nowhere}: cannot be read as a label map" in second


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float64, (3, 40), elements=st.floats(0.001, 1)),
    numbers=arrays(np.uint8, 40, elements=st.integers(0, 2)),
    weights=st.tuples(st.sampled_from(WEIGHTS), st.sampled_from(WEIGHTS)),
)
def test_mixture_is_a_distribution(
    values: np.ndarray, numbers: np.ndarray, weights: tuple[float, float]
) -> None:
    probabilities = np.rint(255 * values / values.sum(axis=0)).astype(np.uint8)
    mixed = mix(probabilities, numbers, TWO, weights)
    before = probabilities.sum(axis=0, dtype=int)
    assert (abs(mixed.sum(axis=0, dtype=int) - before) <= 2).all(), "rounding only"
    if not any(weights):
        np.testing.assert_array_equal(mixed, probabilities)


def test_equal_weights_give_the_weighted_mean() -> None:
    probabilities = np.array([[51], [153], [51]], np.uint8)
    spleen = np.array([2], np.uint8)
    assert mix(probabilities, spleen, TWO, [0.5, 0.5]).ravel().tolist() == [26, 76, 153]


def test_unknown_classes_keep_the_probability_of_the_ensemble() -> None:
    liver_only = Groups(((1,),), classes=3)
    probabilities = np.array([[51], [51], [153]], np.uint8)  # mostly spleen
    for number in (0, 1):
        mixed = mix(probabilities, np.array([number], np.uint8), liver_only, [0.75])
        assert mixed[2] == 153
    assert mixed.ravel().tolist() == [13, 89, 153]


def test_region_is_divided_among_its_classes_by_the_ensemble() -> None:
    tumour = Groups(((1, 2),), classes=3)
    mean = np.array([[0.6], [0.3], [0.1]])
    inside = in_our_classes(mean, np.array([[0.0], [1.0]]), tumour)
    assert inside.ravel().tolist() == pytest.approx([0, 0.75, 0.25])
    nothing = in_our_classes(np.array([[1.0], [0], [0]]), np.array([[0.0], [1.0]]), tumour)
    assert nothing.ravel().tolist() == [0, 0.5, 0.5]


def test_soft_and_hard_predictions_agree() -> None:
    probabilities = uncertain(truth())
    numbers = np.roll(truth(), 1, axis=1)
    soft = 255 * (numbers[None] == np.arange(3).reshape(-1, 1, 1, 1)).astype(np.uint8)
    np.testing.assert_array_equal(
        mix(probabilities, numbers, TWO, [0.25, 0.5]), mix(probabilities, soft, TWO, [0.25, 0.5])
    )


def weights_of(ensemble: np.ndarray, external: np.ndarray, label: np.ndarray) -> list[float]:
    """Return the weight of each group on three patients with the same scan."""
    case = case_dice(ensemble, external, label, TWO, STRUCTURES)
    chosen = []
    for row in range(2):
        choice = choose_weight(np.array([case.gains[row]] * 3), ["a", "b", "c"])
        chosen.append(choice.weight if choice else 0.0)
    return chosen


def test_perfect_teacher_gets_the_maximum_weight() -> None:
    label = truth()
    wrong = uncertain(np.zeros_like(label), sure=1.0)  # the ensemble is certain of background
    assert weights_of(wrong, label, label) == [0.75, 0.75]


def test_teacher_that_adds_nothing_gets_no_weight() -> None:
    label = truth()
    assert weights_of(uncertain(label), label, label) == [0, 0]


def test_bad_teacher_gets_no_weight() -> None:
    label = truth()
    for bad in (np.zeros_like(label), np.roll(label, 3, axis=2), label[::-1].copy()):
        assert weights_of(uncertain(label, sure=0.5), bad, label) == [0, 0]


def test_each_class_has_its_own_weight() -> None:
    label = truth()
    ensemble = uncertain(np.zeros_like(label), sure=0.7)
    half = np.where(label == 2, 0, label).astype(np.uint8)  # knows the liver, never finds spleens
    assert weights_of(ensemble, half, label)[0] > 0
    assert weights_of(ensemble, half, label)[1] == 0


def test_neighbours_that_win_do_not_give_a_wrong_class_a_weight() -> None:
    """The wrong class takes voxels from the background, so that another class wins there."""
    label = np.where(truth() == 1, 1, 0).astype(np.uint8)
    ensemble = uncertain(label, sure=0.4)
    ensemble[0] = np.where(label == 1, 130, 250)
    ensemble[1] = np.where(label == 1, 120, 3)
    wrong = np.where(label == 1, 2, 0).astype(np.uint8)
    assert weights_of(ensemble, wrong, label)[1] == 0


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [(0.1, [0.2, 0.0], 0.1), (0.1, [-0.3, 0.1], -0.1), (-0.1, [0.5], -0.1)],
)
def test_gain_counts_what_others_lose(own: float, others: list[float], expected: float) -> None:
    assert gain(own, np.array(others)) == pytest.approx(expected)


def test_gain_below_its_standard_error_is_dropped() -> None:
    gains = np.array([[0, 0.2, 0, 0], [0, -0.1, 0, 0], [0, 0.0, 0, 0]])
    choice = choose_weight(gains, ["a", "b", "c"])
    assert choice is not None
    assert (choice.weight, choice.best) == (0, 0.25)
    assert choice.gain == pytest.approx(0.1 / 3)
    assert choice.standard_error == pytest.approx(np.std([0.2, -0.1, 0], ddof=1) / 3**0.5)


def test_patient_counts_once() -> None:
    """Four scans of one patient are no evidence about others."""
    gains = np.array([[0, 0.1, 0.1, 0.1]] * 4)
    one = choose_weight(gains, ["a"] * 4)
    two = choose_weight(gains, ["a", "a", "a", "b"])
    assert one is not None and one.weight == 0 and one.standard_error == float("inf")
    assert two is not None and two.weight == 0.25


def test_class_that_sparse_labels_do_not_show_is_not_measured() -> None:
    sparse = np.full(SHAPE, IGNORED, np.uint8)
    sparse[2, 2, 2] = 1
    case = case_dice(uncertain(truth()), truth(), sparse, TWO, STRUCTURES)
    assert np.isnan(case.external[1]) and np.isnan(case.gains[1]).all()
    assert not np.isnan(case.gains[0]).any()
    assert choose_weight(case.gains[1][None], ["a"]) is None


def test_group_dice_of_a_region() -> None:
    regions = Groups(((1, 2),), classes=3)
    label = truth()
    assert group_dice(np.where(label > 0, 2, 0), label, regions).tolist() == [1.0]


def test_gains_equal_a_mixture_of_all_voxels() -> None:
    """Only voxels that can change are mixed; the result is that of all voxels."""
    random = np.random.default_rng(4)
    values = random.dirichlet([2, 1, 1], SHAPE).transpose(3, 0, 1, 2)
    probabilities = np.rint(255 * values).astype(np.uint8)
    external = random.integers(0, 3, SHAPE).astype(np.uint8)
    label = truth()
    case = case_dice(probabilities, external, label, TWO, STRUCTURES)
    mixed = mix(probabilities, external, TWO, [0.5, 0]).argmax(axis=0)
    after = group_dice(mixed, label, TWO)
    own, other = after - case.ensemble_groups
    assert case.gains[0, WEIGHTS.index(0.5)] == pytest.approx(own + min(0, other))


def test_read_on_grid_reads_labels_that_compress_better_than_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bound_of_scans(monkeypatch)
    labels = np.kron(truth(), np.ones((3, 3, 3), np.uint8))
    save_nifti(tmp_path / "a.nii.gz", labels, np.eye(4))
    geometry = Geometry.of(labels.shape, np.eye(4), (1.0, 1.0, 1.0))
    numbers = read_on_grid(tmp_path, "a", geometry, {"spleen": (2,)}, is_soft=False)
    np.testing.assert_array_equal(numbers, labels == 2)
