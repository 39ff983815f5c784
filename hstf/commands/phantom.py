"""Synthetic 3D data sets with known truth: to try the workflow, and to test it.

A case shows a liver and a kidney that touch, a spleen, and lesions in some livers, among vessels, bowel and
spine. Cases differ in anatomy, contrast, bias field, noise, intensity scale and orientation, as scans do.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from hstf.datasets.phantom.dataset import write_dataset
from hstf.datasets.phantom.layouts import LAYOUTS, write_layout
from hstf.datasets.phantom.options import IGNORE_VALUE, PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import Phantom, generate_case

__all__ = [
    "LAYOUTS",
    "PHANTOM_LABELS",
    "Phantom",
    "PhantomOptions",
    "generate_case",
    "write_dataset",
    "write_layout",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``hstf phantom``."""
    default = PhantomOptions()
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the data set")
    add("--cases", type=int, default=default.cases, metavar="N", help="all cases")
    add(
        "--labelled",
        type=int,
        default=default.labelled,
        metavar="N",
        help="cases with a label for training",
    )
    add(
        "--test",
        type=int,
        default=default.test,
        metavar="N",
        help="test cases; the rest is unlabelled",
    )
    add(
        "--layout",
        choices=LAYOUTS,
        help="lay the files out as the owners of a data set do, for hstf import",
    )
    add("--size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels, at least 8")
    add("--spacing", type=float, nargs=3, metavar=("A", "B", "C"), help="mm")
    add("--size-variation", type=float, default=default.size_variation, metavar="SHARE",
        help="sizes and spacings differ between cases by up to this share")  # fmt: skip
    add("--modalities", nargs="+", metavar="NAME", help="one image per name")
    add("--oblique", action=argparse.BooleanOptionalAction, default=default.oblique,
        help="tilt and mirror the array axes; otherwise they run along RAS")  # fmt: skip
    add("--axis-aligned", dest="oblique", action="store_false", help="the same as --no-oblique")
    add("--seed", type=int, default=default.seed)
    add(
        "--lesions",
        type=float,
        default=default.lesions,
        metavar="MEAN",
        help="mean number of lesions in a case",
    )
    add(
        "--noise",
        type=float,
        default=default.noise,
        help="Rician noise, tissues lie between 0 and 1",
    )
    add("--bias", type=float, default=default.bias, help="strength of the bias field")
    add(
        "--variation",
        type=float,
        default=default.variation,
        help="difference between cases, 0 to 2",
    )
    add(
        "--sites",
        type=int,
        default=default.sites,
        metavar="N",
        help="hospitals; labelled cases come from the first",
    )
    add(
        "--site-shift",
        type=float,
        default=default.site_shift,
        help="how far other sites' contrast is off, 0 to 3",
    )
    add(
        "--scribbles",
        action="store_true",
        help="labelled cases have a few curves of each class in place of a dense label",
    )


def run(args: argparse.Namespace) -> int:
    """Write the data set and say how to use it."""
    layout = LAYOUTS[args.layout] if args.layout else None
    given = {field.name: getattr(args, field.name) for field in fields(PhantomOptions)}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= {
        key: tuple(values[key]) for key in ("size", "spacing", "modalities") if key in values
    }
    options = PhantomOptions(**(dict(layout.defaults) if layout else {}) | values)
    if layout is None:
        print(_configuration(write_dataset(args.output, options), options))
    else:
        folder = write_layout(args.output, layout, options)
        print(f"{folder}: written. Import it:\n  {layout.command(args.layout, folder, options)}")
    return 0


def _configuration(sheet: Path, options: PhantomOptions) -> str:
    """How to name the data set of ``sheet`` in a configuration."""
    unlabelled = options.cases - options.labelled - options.test
    named = PHANTOM_LABELS | ({"ignore": IGNORE_VALUE} if options.scribbles else {})
    labels = ", ".join(f"{name}: {value}" for name, value in named.items())
    modalities = ", ".join(f"{name}: mr" for name in options.modalities)
    return (
        f"{sheet}: {options.labelled} labelled, {unlabelled} unlabelled and {options.test} test cases.\n"
        f"In the configuration:\n"
        f"  cases: {sheet}\n"
        f"  labels: {{{labels}}}\n"
        f"  modalities: {{{modalities}}}"
    )
