"""The configuration as classes: one section per stage, one documented default per key."""

from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config

__all__ = ["Config", "load_config", "resolve_config"]
