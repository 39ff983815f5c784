"""The home folder in paths of options."""

import argparse
from pathlib import Path

import pytest

from hstf.commands import arguments
from hstf.runtime.home import expand_home, path_option
from hstf.stages.arguments import add_config


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


def parser_of(add: object) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add(parser)  # type: ignore[operator]
    return parser


@pytest.mark.parametrize(
    "add",
    [
        add_config,
        arguments.add_config_arguments,
        arguments.add_models_arguments,
        arguments.add_predict_arguments,
        arguments.add_verify_arguments,
        arguments.add_forget_arguments,
        arguments.add_phantom_arguments,
        arguments.add_import_arguments,
    ],
)
def test_every_path_of_a_command_may_begin_with_the_home_folder(add: object, home: Path) -> None:
    """A shell does not replace ~ in ``--output=~/x``."""
    paths = [action for action in parser_of(add)._actions if action.metavar]
    converted = 0
    for action in paths:
        if any(word in str(action.metavar) for word in ("FILE", "FOLDER")):
            assert action.type is not None, action.dest
            assert action.type("~/x") == home / "x", action.dest
            converted += 1
    assert converted
