"""The examples in the docstrings of the method."""

import doctest
import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

from hstf import method


def modules() -> list[ModuleType]:
    """Return all modules of the package, without the packages themselves."""
    found = pkgutil.walk_packages(method.__path__, "hstf.method.")
    return [import_module(entry.name) for entry in found if not entry.ispkg]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_example_runs(module: ModuleType) -> None:
    """Every module has an example, and its output is as written."""
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
