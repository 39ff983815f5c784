"""Command-line options of ``hstf import``. Nothing heavy is imported."""

import argparse

from hstf.commands.option_types import (
    entity_option,
    label_option,
    label_or_pattern,
    modality_option,
    number_or_file,
    pattern_option,
)
from hstf.datasets.importers.names import help_text
from hstf.datasets.importers.options import PATIENT
from hstf.datasets.importers.registry import CONVERTED, IMPORTERS
from hstf.runtime.home import path_option


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf import``."""
    kinds = ["kinds:"]
    for name, importer in IMPORTERS.items():
        kinds.append(f"  {name:8}{importer.description}")
    kinds += [f"  {name:8}{description}" for name, description in CONVERTED.items()]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join([*kinds, "", *help_text()])
    parser.add_argument(
        "kind",
        choices=[*IMPORTERS, *CONVERTED],
        metavar="KIND",
        help="layout of the folder, see below",
    )
    parser.add_argument(
        "folder",
        type=path_option,
        metavar="FOLDER",
        help="the unpacked data set",
    )
    _add_import_files(parser)
    _add_import_selection(parser)
    _add_import_splits(parser)
    _add_import_names(parser)
    _add_import_dicom(parser)


def _add_import_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=path_option,
        metavar="FILE",
        help="the configuration config/NAME.yaml; the case sheet is config/NAME/cases.csv; required"
        " unless --dry-run is given",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print a table of all pairs of image and label, and write nothing",
    )
    parser.add_argument(
        "--sheet",
        type=path_option,
        metavar="FILE",
        help="write only this case sheet; --output must exist, and its classes and modalities must"
        " suit the data set",
    )
    parser.add_argument(
        "--extract",
        type=path_option,
        metavar="FOLDER",
        help="folder for the channels of 4D images, one file each, and for labels that are combined"
        " from masks of structures; dicom: folder of the images and the case sheet",
    )
    parser.add_argument(
        "--leave-out-invalid",
        action="store_true",
        help="import the cases without problems, leave out the others",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace an existing configuration and case sheet",
    )


def _add_import_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        action="extend",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="folder: paths of the images, such as 'scans/*.nii.gz'; ** stands for any folders",
    )
    parser.add_argument(
        "--labels",
        type=label_or_pattern,
        action="extend",
        nargs="+",
        default=[],
        metavar="GLOB|NAME=VALUE",
        help="folder: paths of the labels, such as '**/*_seg.nii.gz'; folder, bids: the classes,"
        " such as liver=1",
    )
    parser.add_argument(
        "--classes",
        type=label_option,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="folder, bids: the classes; the same as --labels NAME=VALUE",
    )
    parser.add_argument(
        "--match",
        type=pattern_option,
        default="",
        metavar="REGEX",
        help="folder: the groups of this pattern in a path are the case; images and labels with"
        " equal groups belong together",
    )
    parser.add_argument(
        "--filter",
        type=entity_option,
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="bids: use files with this entity, such as run=1, acq=highres, space=MNI152 or"
        " desc=preproc; desc=none: files without it",
    )
    parser.add_argument(
        "--accept-few-values",
        action="store_true",
        help="import images that have few whole numbers as scans; without it, they are questioned,"
        " because they look like labels",
    )


def _add_import_splits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labelled",
        type=number_or_file,
        metavar="N|FILE",
        help="number of labelled patients to draw, or a list of them; the labels of the others are"
        " withheld; default: all",
    )
    parser.add_argument(
        "--test",
        type=number_or_file,
        default=0,
        metavar="N|FILE",
        help="number or list of test patients, if there is no official test set; default: none",
    )
    parser.add_argument(
        "--validation",
        type=number_or_file,
        default=0,
        metavar="N|FILE",
        help="number or list of validation patients, on which the round to export is chosen;"
        " default: none",
    )
    parser.add_argument(
        "--test-site",
        nargs="+",
        default=[],
        metavar="NAME",
        help="sites (hospitals) that are used only for testing: leave-one-site-out",
    )
    parser.add_argument(
        "--order",
        type=path_option,
        metavar="FILE",
        help="list of patients instead of a draw: the first are labelled, the last are for testing",
    )
    parser.add_argument(
        "--split",
        type=path_option,
        metavar="FILE",
        help="table with case_id (or group) and split, such as an earlier case sheet",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the draw",
    )


def _add_import_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modalities",
        type=modality_option,
        nargs="+",
        default=[],
        metavar="NAME[=TYPE]",
        help="folder, bids: images of a case; TYPE is mr, ct, pet, us, mask or other",
    )
    parser.add_argument(
        "--patient",
        type=pattern_option,
        default=PATIENT,
        metavar="REGEX",
        help="folder, nnunet, msd: the first group of this pattern in the name of a case is the"
        " patient; an empty pattern makes each scan a patient",
    )
    parser.add_argument(
        "--site",
        type=pattern_option,
        default="",
        metavar="REGEX",
        help="folder: the first group of this pattern in a name is the site",
    )


def _add_import_dicom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modality",
        default="",
        metavar="NAME",
        help="dicom: only series of this modality, such as MR or CT",
    )
    parser.add_argument(
        "--series",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="dicom: only series whose description matches, such as 'T1*'; letter case is ignored",
    )
    parser.add_argument(
        "--mapping",
        type=path_option,
        metavar="FILE",
        help="dicom: the private table that leads from a case back to its series; default:"
        " dicom.csv beside the case sheet",
    )
    parser.add_argument(
        "--keep-identifiers",
        action="store_true",
        help="dicom: name cases and files by PatientID, and series in messages by their UID",
    )
