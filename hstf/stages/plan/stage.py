"""``hstf plan``: how scans are brought to the network and what the network looks like, each choice with its reason.

Reads the labelled and unlabelled images, and labels of labelled cases only where CT intensities need them; never a test
case.
"""

import argparse
from typing import TYPE_CHECKING

from hstf.experiment.plan import Normalisation, Plan
from hstf.experiment.reuse import own_stage

if TYPE_CHECKING:  # imports of the command wait until it runs: the network and hstf.imaging.intensity need the plan alone
    from hstf.config.experiment import Config

__all__ = ["Normalisation", "Plan", "add_arguments", "plan", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``hstf plan``."""
    from hstf.stages.arguments import add_config

    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Plan an experiment and print the choices."""
    from hstf.config.load import load_config

    result = plan(own_stage(load_config(*args.config), "plan"))
    for name, reason in result.reasons.items():
        value = getattr(result, name, None)
        print(f"{name}: {value}. {reason}" if value is not None else f"{name}: {reason}")
    return 0


def plan(config: "Config") -> Plan:
    """Write ``fingerprint.json`` and ``plan.json`` of an experiment; returns the plan.

    Raises:
        HstfError: scans that cannot be read, or a configuration that they do not allow.
    """
    from hstf.experiment.cases import read_cases
    from hstf.experiment.layout import Layout
    from hstf.runtime.files import write_json
    from hstf.stages.plan.decide import make_plan
    from hstf.stages.plan.fingerprint import take_fingerprint

    layout = Layout.of(config)
    fingerprint = take_fingerprint(config, read_cases(config))
    write_json(layout.fingerprint, fingerprint.to_json())
    result = make_plan(config, fingerprint)
    write_json(layout.plan, result.to_json())
    return result
