"""The home folder in paths of options."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from hstf.commands import arguments, import_arguments, phantom_arguments
from hstf.runtime.home import expand_home, path_option
from hstf.stages import arguments as stage_arguments


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_expand_home_changes_only_the_start_of_a_path(home: Path) -> None:
    assert expand_home("~") == str(home)
    assert expand_home("~/data/~x") == f"{home}/data/~x"
    for path in ("data/~", "./~", "", "a~b", "/~"):
        assert expand_home(path) == path


def test_path_option_names_an_unknown_user() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"no user 'nobody_here'.*\./~nobody_here"):
        path_option("~nobody_here")


OPTIONS = [
    getattr(module, name)
    for module in (arguments, import_arguments, phantom_arguments, stage_arguments)
    for name in dir(module)
    if name.startswith("add_")
]
"""The functions that add options to the parser of a command."""


@pytest.mark.parametrize("add_options", OPTIONS)
def test_every_path_of_a_command_may_begin_with_the_home_folder(
    add_options: Callable[[argparse.ArgumentParser], None], home: Path
) -> None:
    """A shell does not replace ~ in ``--output=~/x``."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    for action in parser._actions:
        if any(word in str(action.metavar) for word in ("FILE", "FOLDER")):
            assert action.type is not None, action.dest
            assert action.type("~/x") == home / "x", action.dest
