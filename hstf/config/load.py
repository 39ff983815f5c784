"""Loading and checking of configurations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hstf.config.experiment import Config
from hstf.config.merge import merge
from hstf.config.validation import problems
from hstf.config.yaml_files import read_yaml
from hstf.runtime.errors import HstfError, join_problems

HEADER = (
    "# The whole configuration, defaults included. Written by the workflow: edit config/ instead.\n"
)


def load_config(*paths: Path) -> Config:
    """Load the configuration of ``paths``: later files change earlier ones, all change the defaults.

    Raises:
        HstfError: if a file is missing, is not YAML, or has unknown keys or invalid values. The
            message names all of them.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path))
    return resolve_config(merged, source=", ".join(map(str, paths)))


def resolve_config(raw: Mapping[str, Any], source: str = "configuration") -> Config:
    """Check the keys and values of ``raw`` and fill in the defaults.

    Args:
        raw: a merged configuration, for instance that of Snakemake.
        source: the files it comes from, for messages.

    Raises:
        HstfError: if there are unknown keys or invalid values. The message has a line for each.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise join_problems(
            f"{source}: not a valid configuration.", problems(error, Config)
        ) from None


def config_text(config: Config) -> str:
    """Return ``config`` as YAML with every default, below a comment."""
    values = config.model_dump(mode="json")
    text = yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return HEADER + text
