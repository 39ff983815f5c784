"""``hstf plan``: choose spacing, patch, batch and network from the scans, each with its reason.

The stage reads the labelled and unlabelled images. It reads labels of labelled cases only for CT
intensities, and never a test case.
"""

import argparse

from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.stages.plan.decide import make_plan
from hstf.stages.plan.fingerprint import take_fingerprint
from hstf.stages.plan.intensities import intensity_warnings
from hstf.stages.plan.orientation import mixed_slices


def run(args: argparse.Namespace) -> int:
    """Plan an experiment and print the choices."""
    result = plan(StageContext.of_arguments(args, "plan"))
    for name, reason in result.reasons.items():
        value = getattr(result, name, None)
        print(f"{name}: {reason}" if value is None else f"{name}: {value}. {reason}")
    return 0


def plan(context: StageContext) -> Plan:
    """Write ``fingerprint.json`` and ``plan.json``, and print warnings about intensities.

    Raises:
        HstfError: if scans cannot be read, or if the configuration does not fit them.
    """
    fingerprint = take_fingerprint(context)
    fingerprint.save(context.layout.fingerprint)
    result = make_plan(context.config, fingerprint)
    result.save(context.layout.plan)
    if result.quarter_turns:
        print(f"plan: warning: {result.reasons['quarter_turns']}", flush=True)
    mixed = mixed_slices(fingerprint.scans)
    if mixed:
        print(f"plan: warning: {mixed}", flush=True)
    for warning in intensity_warnings(context.config, fingerprint, result):
        print(f"plan: warning: {warning}", flush=True)
    return result
