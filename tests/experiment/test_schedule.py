"""The rounds of an experiment: ensemble members, what they learn from, and cross-fitting."""

from typing import Any

import pytest

from hstf.config.load import resolve_config
from hstf.experiment.cases import Case, Split
from hstf.experiment.folds import held_out_cases
from hstf.experiment.schedule import RoundSchedule, Schedule, start_of_seed
from hstf.runtime.errors import HstfError


def schedule(**keys: Any) -> Schedule:
    return Schedule.of(resolve_config(keys))


def test_model_of_the_warmup_has_seen_all_labels_and_folds_are_for_the_calibration() -> None:
    found = schedule(warmup={"folds": 3, "seeds": 2})
    assert found.members(0) == ["seed_0", "seed_1"]
    assert found.folds == ["fold_0", "fold_1", "fold_2"]
    assert found.trained(0) == ["fold_0", "fold_1", "fold_2", "seed_0", "seed_1"]


def test_folds_are_the_model_without_seeds() -> None:
    found = schedule(warmup={"folds": 2, "seeds": 0})
    assert found.members(0) == found.folds == found.trained(0) == ["fold_0", "fold_1"]


def test_every_round_has_an_ensemble_by_default() -> None:
    found = schedule(rounds=2)
    assert found.members(0) == ["seed_0", "seed_1", "seed_2"]
    for number in (1, 2):
        assert found.members(number) == ["seed_0", "seed_1"]
        assert not found.rounds[number].is_cross_fitted


def test_single_is_the_first_member() -> None:
    found = schedule(rounds=1, student={"members": 3})
    assert [found.single(number) for number in (0, 1)] == ["seed_0", "seed_0"]


@pytest.mark.parametrize(
    ("seed_start", "member", "expected"),
    [
        ("fold", "seed_0", "fold_0"),
        ("fold", "seed_3", "fold_1"),
        ("fold", "fold_1", None),
        ("scratch", "seed_0", None),
    ],
)
def test_start_of_seed_is_the_fold_with_the_same_index(
    seed_start: str, member: str, expected: str | None
) -> None:
    config = resolve_config({"warmup": {"folds": 2, "seeds": 4, "seed_start": seed_start}})
    assert start_of_seed(config.warmup, member) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"steps": 9}, 4),
        ({"steps": 1}, 1),
        ({"steps": 9, "seed_steps": 7}, 7),
        ({"steps": 9, "seed_start": "scratch"}, 9),
        ({"steps": 9, "seed_start": "scratch", "seed_steps": 7}, 7),
    ],
)
def test_training_of_a_seed_has_its_own_steps(keys: dict[str, Any], expected: int) -> None:
    warmup = resolve_config({"warmup": {**keys, "learning_rate": 0.5}}).warmup
    assert warmup.of_member("seed_0").steps == expected
    assert warmup.of_member("fold_0").steps == keys["steps"]
    assert warmup.of_member("seed_0").learning_rate == 0.5


def test_of_puts_the_warmup_first() -> None:
    found = schedule(rounds=1, warmup={"folds": 2, "seeds": 0}, student={"members": 1})
    assert found.rounds == (
        RoundSchedule(("fold_0", "fold_1"), "labels", is_cross_fitted=False),
        RoundSchedule(("seed_0",), "pseudo_labels", is_cross_fitted=False),
    )


def test_of_without_rounds_has_only_the_warmup() -> None:
    found = schedule(rounds=0)
    assert len(found.rounds) == 1
    assert found.last == 0


def test_last_is_the_number_of_rounds() -> None:
    assert schedule(rounds=3).last == 3


def test_members_follow_the_overrides_of_a_round() -> None:
    found = schedule(
        rounds=2,
        student={"members": 2},
        rounds_overrides={2: {"student": {"members": 3}}},
    )
    assert found.members(1) == ["seed_0", "seed_1"]
    assert found.members(2) == ["seed_0", "seed_1", "seed_2"]


@pytest.mark.parametrize(
    ("members", "cross_fit", "expected"), [(1, True, False), (2, True, True), (2, False, False)]
)
def test_round_is_cross_fitted_with_several_members(
    members: int, cross_fit: bool, expected: bool
) -> None:
    found = schedule(rounds=1, student={"members": members, "cross_fit": cross_fit})
    assert found.rounds[1].is_cross_fitted is expected


def test_round_is_not_cross_fitted_without_pseudo_labels() -> None:
    found = schedule(method="mean_teacher", student={"members": 2, "cross_fit": True})
    assert found.learns_from(1) == "images"
    assert not found.rounds[1].is_cross_fitted


@pytest.mark.parametrize(
    ("method", "learns_from", "expected"),
    [("hstf", "pseudo_labels", True), ("uamt", "images", False), ("supervised", "labels", False)],
)
def test_has_pseudo_labels_depends_on_the_method(
    method: str, learns_from: str, expected: bool
) -> None:
    found = schedule(method=method)
    assert found.learns_from(1) == learns_from
    assert found.has_pseudo_labels(1) is expected


@pytest.mark.parametrize("number", [-1, 0])
def test_has_pseudo_labels_is_false_before_the_first_round(number: int) -> None:
    assert not schedule(rounds=2).has_pseudo_labels(number)


def test_check_accepts_rounds_of_self_training() -> None:
    found = schedule(rounds=2)
    found.check(1)
    found.check(2)


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_check_refuses_other_rounds(number: int) -> None:
    with pytest.raises(HstfError, match=rf"--round {number}: pseudo-labels .* rounds 1 to 2"):
        schedule(rounds=2).check(number)


def test_two_networks_leave_out_each_fold() -> None:
    """Each labelled case has two predictions by networks that have not seen it."""
    found = schedule(rounds=1, warmup={"folds": 3, "seeds": 1, "fold_members": 2})
    assert found.members(0) == ["seed_0"]
    assert found.trained(0) == [*(f"fold_{k}" for k in range(6)), "seed_0"]
    assert found.held_out == {
        "fold_0": ["fold_0", "fold_3"],
        "fold_1": ["fold_1", "fold_4"],
        "fold_2": ["fold_2", "fold_5"],
    }
    cases = [Case(f"p{k}", ("i",), "l", Split.LABELLED, f"p{k}", "") for k in range(7)]
    for networks in found.held_out.values():
        first, second = (held_out_cases(member, cases, 3, seed=0) for member in networks)
        assert first == second
