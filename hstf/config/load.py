"""Loading and checking of configurations."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hstf.config.experiment import Config
from hstf.config.merge import merge
from hstf.config.renamed import RENAMED_VALUES
from hstf.config.validation import problems
from hstf.config.yaml_files import read_yaml
from hstf.runtime.encoding import refuse_unreadable_names
from hstf.runtime.errors import HstfError, join_problems

HEADER = (
    "# The whole configuration, defaults included. Written by the workflow: edit config/ instead.\n"
)


def load_config(*paths: Path) -> Config:
    """Load a configuration: later files change earlier ones, all change the defaults.

    Raises:
        HstfError: if a file is missing, is not YAML, or has unknown keys or invalid values. The
            message names all of them.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return resolve_config(merged, source=", ".join(map(str, paths)))


def config_of_results(results: Path) -> Config:
    """Load the configuration with which an experiment was run.

    Args:
        results: folder of the experiment.

    Raises:
        HstfError: if the folder has no ``config.yaml``, or as :func:`load_config`.
    """
    path = results / "config.yaml"
    if not path.is_file():
        raise HstfError(
            f"{results}: has no config.yaml. Give the folder of an experiment, results/<name>."
        )
    return load_config(path)


def config_in_place(results: Path) -> Config:
    """Load the configuration of an experiment whose files are read or written.

    Args:
        results: folder of the experiment.

    Raises:
        HstfError: if its configuration is about another folder, or as :func:`config_of_results`.
    """
    config = config_of_results(results)
    root = Path(config.output) / config.experiment
    if not root.is_dir() or not root.samefile(results):
        raise HstfError(
            f"{results}: its configuration is about {root.absolute()}. Start the command in the"
            " folder in which the workflow was started. If the results were copied or renamed, move"
            " them back, or change 'output' and 'experiment' in their config.yaml."
        )
    return config


def resolve_config(raw: Mapping[str, Any], source: str = "configuration") -> Config:
    """Check the keys and values of ``raw`` and fill in the defaults.

    Args:
        raw: a merged configuration, for instance that of Snakemake.
        source: the files it comes from, for messages.

    Raises:
        HstfError: if there are unknown keys or invalid values. The message has a line for each.
            Also if the locale cannot encode the names of files.
    """
    try:
        config = Config.model_validate(replace_renamed_values(raw, source))
    except ValidationError as error:
        raise join_problems(
            f"{source}: not a valid configuration.", problems(error, Config)
        ) from None
    names = (config.cases, config.output, config.overrides)
    refuse_unreadable_names(source, filter(None, names))
    return config


def replace_renamed_values(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return ``raw`` with new values instead of those of earlier versions, and print them."""
    if not isinstance(raw, Mapping):
        return raw  # validation reports it
    replaced = dict(raw)
    for (path, old), new in RENAMED_VALUES.items():
        section, _, key = path.partition(".")
        content = replaced.get(section)
        if isinstance(content, Mapping) and content.get(key) == old:
            replaced[section] = {**content, key: new}
            print(f"{source}: {path}: '{old}' is now called '{new}'", file=sys.stderr, flush=True)
    rounds = replaced.get("rounds_overrides")
    if isinstance(rounds, Mapping):
        replaced["rounds_overrides"] = {
            number: replace_renamed_values(sections, source) for number, sections in rounds.items()
        }
    return replaced


def config_text(config: Config) -> str:
    """Return ``config`` as YAML with every default, below a comment."""
    values = config.model_dump(mode="json")
    text = yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return HEADER + text
