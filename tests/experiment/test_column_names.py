"""Columns that are made from names of classes, regions and metrics never collide with others."""

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hstf.config.experiment import Config
from hstf.config.names import MAXIMUM_LENGTH, RESERVED_MODALITIES
from hstf.experiment.round_tables import REFINE
from hstf.experiment.score_tables import ROUNDS
from hstf.experiment.tables import TABLES
from hstf.stages.compare.table import columns

FIXED = sorted({column.name for table in TABLES for column in table.columns})
OWN_PARTS = sorted({part for name in FIXED for part in (name, *name.split("_"), name + "_sd")})
"""Names that are most likely to collide: our columns, and parts of them."""

NAMES = st.one_of(
    st.sampled_from(OWN_PARTS),
    st.text(max_size=8),
    st.lists(st.sampled_from(OWN_PARTS), min_size=2, max_size=3).map("_".join),
)


def accepted(names: list[str]) -> list[str] | None:
    """Return the structures of a configuration with these classes; None if it is refused."""
    labels = {name: value for value, name in enumerate(names, start=1)}
    try:
        return list(Config(labels=labels).structures)
    except ValidationError:
        return None


def all_columns(table, structures: list[str]) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the columns of a file in which each optional column of each structure exists."""
    if table.name == "compare_table":
        return columns(structures)
    names = []
    for column in table.columns:
        copies = structures if "<structure>" in column.name else ["x"]
        names += [column.name.replace("<structure>", copy) for copy in copies]
    return names


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_table_columns_are_distinct_for_all_names_of_classes(names: list[str]) -> None:
    structures = accepted(names)
    if structures is None:
        return
    for table in TABLES:
        found = all_columns(table, structures)
        assert len(set(found)) == len(found), table.name
        for name in table.header(structures):
            assert table.column(name).kind, name


@pytest.mark.parametrize("name", ["low", "high", "single", "sd", "low_sd", "dice", "case_id"])
def test_config_accepts_names_of_classes_that_are_parts_of_our_columns(name: str) -> None:
    structures = accepted([name, "other"])
    assert structures == [name, "other"]
    assert REFINE.column(f"predicted_dice_of_{name}").meaning.startswith("Predicted Dice of each")
    assert ROUNDS.column("dice_low").meaning.startswith("Lower end")


def test_table_templates_do_not_match_columns_of_each_other() -> None:
    assert [name for name in FIXED if "_of_" in name and "<structure>" not in name] == []
    for table in TABLES:
        for template, other in permutations(table.columns, 2):
            if "_of_<structure>" not in template.name or "<metric>" in template.name:
                continue
            assert not template.matches(other.name), f"{table.name}: {template.name}, {other.name}"
            start = re.escape(template.name.removesuffix("<structure>"))
            assert not re.match(start, other.name), f"{table.name}: {template.name}, {other.name}"


@pytest.mark.parametrize("name", ["", " ", " liver", "a\nb", "a\rb", "a;b", "a=b", "x" * 101])
def test_config_refuses_names_that_a_cell_cannot_show(name: str) -> None:
    for content in (
        {"labels": {name: 1}},
        {"labels": {"a": 1}, "regions": {name: ["a"]}},
        {"modalities": {name: "mr"}},
    ):
        with pytest.raises(ValidationError, match=r"is not a name|separators|longer than"):
            Config.model_validate(content)
    assert len(name) <= MAXIMUM_LENGTH + 1


@pytest.mark.parametrize("name", RESERVED_MODALITIES)
def test_config_refuses_a_modality_with_the_name_of_another_column(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} cannot be the name of a modality"):
        Config.model_validate({"modalities": {"t1": "mr", name: "mr"}})
