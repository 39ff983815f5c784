"""Command-line options of ``hstf phantom``. Nothing heavy is imported."""

import argparse

from hstf.datasets.phantom.options import LAYOUT_NAMES, PhantomOptions
from hstf.runtime.home import path_option


def add_phantom_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf phantom``."""
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="folder of the data set",
    )
    _add_phantom_cases(parser)
    _add_phantom_images(parser)
    _add_phantom_appearance(parser)


def _add_phantom_cases(parser: argparse.ArgumentParser) -> None:
    default = PhantomOptions()
    parser.add_argument(
        "--cases",
        type=int,
        default=default.cases,
        metavar="N",
        help="number of cases",
    )
    parser.add_argument(
        "--labelled",
        type=int,
        default=default.labelled,
        metavar="N",
        help="number of labelled cases",
    )
    parser.add_argument(
        "--test",
        type=int,
        default=default.test,
        metavar="N",
        help="number of test cases; the remaining cases are unlabelled",
    )
    parser.add_argument(
        "--sites",
        type=int,
        default=default.sites,
        metavar="N",
        help="number of hospitals; all labelled cases are from the first one",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUT_NAMES,
        help="use the file layout of a public data set, for 'hstf import'",
    )
    parser.add_argument(
        "--scribbles",
        action="store_true",
        help="labelled cases have a few curves of each class instead of a dense label",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=default.seed,
        help="seed of all random numbers",
    )


def _add_phantom_images(parser: argparse.ArgumentParser) -> None:
    default = PhantomOptions()
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="voxels along each axis, at least 8",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("A", "B", "C"),
        help="voxel size in mm along each axis",
    )
    parser.add_argument(
        "--size-variation",
        type=float,
        default=default.size_variation,
        metavar="FRACTION",
        help="sizes and spacings differ between cases by up to this fraction",
    )
    parser.add_argument(
        "--modalities",
        nargs="+",
        metavar="NAME",
        help="names of the modalities, with an image for each",
    )
    parser.add_argument(
        "--oblique",
        action=argparse.BooleanOptionalAction,
        default=default.oblique,
        help="tilt and flip the array axes at random; otherwise they are parallel to RAS",
    )
    parser.add_argument(
        "--axis-aligned",
        dest="oblique",
        action="store_false",
        help="the same as --no-oblique",
    )


def _add_phantom_appearance(parser: argparse.ArgumentParser) -> None:
    default = PhantomOptions()
    parser.add_argument(
        "--lesions",
        type=float,
        default=default.lesions,
        metavar="MEAN",
        help="mean number of lesions of a case",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=default.noise,
        help="standard deviation of the Rician noise; tissues are between 0 and 1",
    )
    parser.add_argument(
        "--bias",
        type=float,
        default=default.bias,
        help="strength of the bias field",
    )
    parser.add_argument(
        "--variation",
        type=float,
        default=default.variation,
        help="difference between cases, 0 to 2",
    )
    parser.add_argument(
        "--site-shift",
        type=float,
        default=default.site_shift,
        help="difference in contrast between the first hospital and the others, 0 to 3",
    )
