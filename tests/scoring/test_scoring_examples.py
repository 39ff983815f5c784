"""The examples in the docstrings of the package are run."""

import doctest
import importlib

import pytest

MODULES = ("averages", "lesion_detection", "metrics", "printed_rounds", "significance")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"hstf.scoring.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
