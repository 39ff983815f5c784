"""Cross-fitting: no network labels a case that it has learned from."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import learned_cases, members, teachers_by_case

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, read_cases
from hstf.method.cross_fitting import parts_of_cases
from hstf.runtime.files import write_csv

PATIENTS = 11


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven unlabelled patients with two scans each, and one labelled patient."""
    rows = [
        {
            "case_id": f"p{p}_{scan}",
            "split": "unlabelled",
            "group": f"p{p}",
            "image": "i.nii.gz",
            "label": "",
        }
        for p in range(PATIENTS)
        for scan in ("a", "b")
    ]
    rows.append(
        {
            "case_id": "known",
            "split": "labelled",
            "group": "known",
            "image": "i.nii.gz",
            "label": "l.nii.gz",
        }
    )
    path = tmp_path_factory.mktemp("sheet") / "cases.csv"
    write_csv(path, rows, ["case_id", "split", "group", "image", "label"])
    return path


def experiment(sheet: Path, count: int, **student: object) -> Config:
    return Config.model_validate(
        {
            "cases": str(sheet),
            "rounds": 3,
            "warmup": {"seeds": 0},
            "student": {"members": count, "cross_fit": True, **student},
        }
    )


def test_teachers_by_case_are_all_members_without_pseudo_labels(sheet: Path) -> None:
    config = experiment(sheet, 3).model_copy(
        update={"rounds_overrides": {1: {"student": {"learns_from": "images"}}}}
    )
    everyone = members(config, 1)
    assert set(map(tuple, teachers_by_case(config, 2, unlabelled(config)).values())) == {
        tuple(everyone)
    }
    assert {len(names) for names in teachers_by_case(config, 3, unlabelled(config)).values()} == {1}


def unlabelled(config: Config) -> list[str]:
    return [case.case_id for case in read_cases(config).cases if case.case_id != "known"]


@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_teachers_by_case_have_not_learned_from_the_case(
    sheet: Path, count: int, number: int, seed: int
) -> None:
    config = experiment(sheet, count).model_copy(update={"seed": seed})
    cases = unlabelled(config)
    learned = {
        name: set(learned_cases(config, number, name, cases)) for name in members(config, number)
    }
    teachers = teachers_by_case(config, number + 1, cases)
    for case_id in cases:
        assert teachers[case_id] == [name for name, seen in learned.items() if case_id not in seen]
        assert len(teachers[case_id]) == 1


def test_parts_of_cases_are_even_and_keep_patients_together(sheet: Path) -> None:
    config = experiment(sheet, 3)
    parts = parts_of_cases(read_cases(config).of(Split.UNLABELLED), 3, config.seed)
    assert all(parts[f"p{p}_a"] == parts[f"p{p}_b"] for p in range(PATIENTS))
    assert sorted(list(parts.values()).count(part) for part in range(3)) == [6, 8, 8]


def test_learned_cases_keeps_the_order_of_the_given_cases(sheet: Path) -> None:
    config = experiment(sheet, 2)
    given_cases = unlabelled(config)[::-3]
    found = [set(learned_cases(config, 1, name, given_cases)) for name in members(config, 1)]
    assert found[0] | found[1] == set(given_cases) and not found[0] & found[1]
    kept = learned_cases(config, 1, "seed_0", given_cases)
    assert kept == [case for case in given_cases if case in kept]


def test_all_members_label_each_case_unless_cross_fitting_is_asked_for(sheet: Path) -> None:
    config = Config.model_validate(
        {"cases": str(sheet), "rounds": 2, "warmup": {"seeds": 2}, "student": {"members": 3}}
    )
    cases = unlabelled(config)
    assert teachers_by_case(config, 1, cases) == {case: ["seed_0", "seed_1"] for case in cases}
    assert teachers_by_case(config, 2, cases) == dict.fromkeys(cases, members(config, 1))
    assert len(members(config, 1)) == 3
    assert learned_cases(config, 1, "seed_2", cases) == cases


@pytest.mark.parametrize(("count", "cross_fit"), [(1, True), (2, False)])
def test_learned_cases_are_all_without_cross_fitting(
    sheet: Path, count: int, cross_fit: bool
) -> None:
    config = experiment(sheet, count, cross_fit=cross_fit)
    cases = unlabelled(config)
    assert learned_cases(config, 1, "seed_0", cases) == cases
    assert teachers_by_case(config, 2, cases) == dict.fromkeys(cases, members(config, 1))


def test_teachers_by_case_of_round_1_are_all_members_of_the_warmup(sheet: Path) -> None:
    config = experiment(sheet, 2)
    assert teachers_by_case(config, 1, ["p0_a"]) == {"p0_a": ["fold_0", "fold_1", "fold_2"]}
    assert len(learned_cases(config, 0, "fold_0", unlabelled(config))) == 2 * PATIENTS


def test_learned_cases_follows_the_settings_of_the_round(sheet: Path) -> None:
    """The last round labels no cases: its students may learn from all."""
    config = experiment(sheet, 2).model_copy(
        update={"rounds_overrides": {2: {"student": {"cross_fit": False}}}}
    )
    cases = unlabelled(config)
    assert learned_cases(config, 2, "seed_0", cases) == cases
    assert teachers_by_case(config, 3, cases) == dict.fromkeys(cases, members(config, 2))
    assert len(learned_cases(config, 1, "seed_0", cases)) < len(cases)


@pytest.mark.parametrize("second", [{"members": 3}, {"members": 2, "cross_fit": True}])
def test_config_refuses_a_start_from_members_with_other_parts(
    sheet: Path, second: dict[str, int]
) -> None:
    """The weights would come from a member that has learned from the part to label."""
    one = {"members": 2, "cross_fit": second["members"] == 3, "start": "previous_round"}
    values = {"cases": str(sheet), "labels": {"organ": 1}, "rounds": 3, "student": one}
    with pytest.raises(
        ValueError, match=r"round 2 cross-fits . members that start from the members of round 1"
    ):
        Config.model_validate(values | {"rounds_overrides": {2: {"student": second}}})
    # The last round labels no cases.
    Config.model_validate(values | {"rounds_overrides": {3: {"student": second}}})
    Config.model_validate(
        values
        | {"student": {**one, "start": "scratch"}, "rounds_overrides": {2: {"student": second}}}
    )
