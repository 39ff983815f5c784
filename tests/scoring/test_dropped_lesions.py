"""A class of lesions of which no pseudo-label has any is named."""

import pytest

from hstf.scoring.dropped_lesions import MINIMUM_COMPONENTS, dropped_lesions


def rows(name: str, kept: list[bool]) -> list[dict[str, object]]:
    return [{"class": name, "kept": flag} for flag in kept]


def test_dropped_lesions_names_a_class_without_any_lesion() -> None:
    found = dropped_lesions(rows("tumour", [False] * 49), ["tumour"])
    assert len(found) == 1
    assert "all 49 components of tumour are dropped" in found[0]
    assert "refine.lesion_probability" in found[0]


@pytest.mark.parametrize("kept", [[], [False] * (MINIMUM_COMPONENTS - 1), [False] * 20 + [True]])
def test_dropped_lesions_reports_nothing_if_few_or_not_all_are_dropped(kept: list[bool]) -> None:
    assert dropped_lesions(rows("tumour", kept), ["tumour"]) == []


def test_dropped_lesions_judges_each_class_by_itself() -> None:
    table = rows("cyst", [True] * 9) + rows("tumour", [False] * 9)
    assert [text.split()[4] for text in dropped_lesions(table, ["cyst", "tumour"])] == ["tumour"]
