"""``hstf phantom``: write a synthetic 3D data set with known labels, to try and test the workflow.

A case shows a liver and a kidney that touch, a spleen, and lesions in some livers, among vessels,
bowel and spine. As in real scans, anatomy, contrast, bias field, noise, intensity scale and
orientation differ between cases.
"""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hstf.datasets.phantom.dataset import write_dataset
from hstf.datasets.phantom.layouts.registry import LAYOUTS, write_layout
from hstf.datasets.phantom.options import IGNORE_VALUE, PHANTOM_LABELS, PhantomOptions


def run(args: argparse.Namespace) -> int:
    """Write the data set and print how to use it."""
    if args.layout is None:
        options = _options(args, {})
        sheet = write_dataset(args.output, options)
        print(_configuration(sheet, options))
        return 0
    layout = LAYOUTS[args.layout]
    options = _options(args, layout.defaults)
    folder = write_layout(args.output, layout, options)
    command = layout.command(args.layout, folder, options)
    print(f"Wrote {folder}. Import it:\n  {command}")
    return 0


def _options(args: argparse.Namespace, defaults: Mapping[str, Any]) -> PhantomOptions:
    """Return the options of the data set: those of ``args``, then ``defaults`` of the layout."""
    values = dict(defaults)
    for field in fields(PhantomOptions):
        value = getattr(args, field.name)
        if isinstance(value, list):
            value = tuple(value)
        if value is not None:
            values[field.name] = value
    return PhantomOptions(**values)


def _configuration(sheet: Path, options: PhantomOptions) -> str:
    """Return the keys that refer to the data set in a configuration."""
    unlabelled = options.cases - options.labelled - options.test
    values = dict(PHANTOM_LABELS)
    if options.scribbles:
        values["ignore"] = IGNORE_VALUE
    labels = ", ".join(f"{name}: {value}" for name, value in values.items())
    modalities = ", ".join(f"{name}: mr" for name in options.modalities)
    return (
        f"{sheet}: {options.labelled} labelled, {unlabelled} unlabelled and {options.test} test"
        " cases.\n"
        f"In the configuration:\n"
        f"  cases: {sheet}\n"
        f"  labels: {{{labels}}}\n"
        f"  modalities: {{{modalities}}}"
    )
