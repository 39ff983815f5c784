"""Command-line options of the commands that are no stage.

This module imports nothing heavy, so that ``hstf <command> --help`` is instant.
"""

import argparse
import re
from pathlib import Path

from hstf.datasets.importers.names import help_text
from hstf.datasets.importers.options import PATIENT
from hstf.datasets.importers.registry import CONVERTED, IMPORTERS
from hstf.datasets.phantom.options import LAYOUT_NAMES, PhantomOptions
from hstf.runtime.home import path_option
from hstf.stages.arguments import add_config

CONFIG_HELP = "configuration file; later files change earlier ones; default: no file, all defaults"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf config``."""
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--show",
        action="store_true",
        help="print the configuration with all defaults",
    )
    action.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and its case sheet",
    )
    action.add_argument(
        "--schema",
        action="store_true",
        help="print the JSON schema",
    )
    action.add_argument(
        "--document",
        action="store_true",
        help="print the meaning of all keys",
    )
    _add_optional_config(parser)


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf models``."""
    _add_optional_config(parser)
    parser.add_argument(
        "--patch",
        type=int,
        nargs=3,
        metavar="N",
        help="patch size in voxels; default: that of the plan",
    )


def _add_optional_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=path_option,
        nargs="+",
        default=[],
        metavar="FILE",
        help=CONFIG_HELP,
    )


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf predict``."""
    parser.add_argument(
        "--model",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="exported model: the folder that 'hstf export' wrote",
    )
    parser.add_argument(
        "--input",
        type=path_option,
        required=True,
        metavar="FILE_OR_FOLDER",
        help="a volume (.nii.gz, .nii, .mha, .mhd, .nrrd, .nhdr, .mgz, .mgh, .hdr) or a folder of"
        " volumes, with its subfolders; for several modalities, files named"
        " <case>_<modality>.nii.gz",
    )
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="folder for the segmentations",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device of the network; default: a GPU if there is one",
    )
    parser.add_argument(
        "--existing",
        choices=("refuse", "skip", "overwrite"),
        default="refuse",
        help="what to do if a segmentation already exists; skip keeps those of this model and these"
        " scans; default: refuse",
    )
    parser.add_argument(
        "--no-predicted-dice",
        action="store_true",
        help="do not predict the Dice of each segmentation, which takes most of the time",
    )


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf status``."""
    parser.add_argument(
        "results",
        type=path_option,
        nargs="?",
        default=Path("results"),
        metavar="FOLDER",
        help="results of an experiment (results/<name>), or a folder of several; default: results",
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="show it again every 10 seconds (or SECONDS) until nothing runs any more",
    )
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON for programs; its schema is in docs/reference/schemas",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Add the folder of an experiment."""
    parser.add_argument(
        "results",
        type=path_option,
        metavar="FOLDER",
        help="results of an experiment: results/<name>",
    )


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf audit``."""
    _add_results(parser)
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round that is shown first; default: the last one with pseudo-labels",
    )
    parser.add_argument(
        "--reviewer",
        default="",
        metavar="NAME",
        help="name of the reviewer; default: the page asks for it",
    )
    parser.add_argument(
        "--consensus",
        choices=("last", "third"),
        default="last",
        help="whose decision is in force if reviewers disagree: that of the last one, or of a third"
        " one; default: last",
    )
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="port on this machine; default: 8765, or a free one if it is taken",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="print the address, and do not open a browser",
    )


def add_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf nnunet``."""
    _add_results(parser)
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="new folder of the data set, $nnUNet_raw/Dataset<three digits>_<name>",
    )
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round whose pseudo-labels are written; 0: the labelled cases only; default: the last",
    )
    parser.add_argument(
        "--minimum-weight",
        type=float,
        default=0.25,
        metavar="W",
        help="nnU-Net ignores voxels of pseudo-labels with a lower weight, 0 to 1; default: 0.25",
    )
    _add_anyway(parser)


def _add_anyway(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes labels which are not up to date."""
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="write labels that the next run would make again, for instance with new decisions",
    )


def add_dicomseg_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf dicomseg``."""
    parser.add_argument(
        "mapping",
        type=path_option,
        metavar="FILE",
        help="the table dicom.csv that 'hstf import dicom' wrote",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        type=path_option,
        metavar="FOLDER",
        help="segmentations named <case>.nii.gz, for example the output of 'hstf predict'",
    )
    source.add_argument(
        "--results",
        type=path_option,
        metavar="FOLDER",
        help="results of an experiment: the labels of a round, without rejected ones",
    )
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="with --results: the round; default: the last one with labels",
    )
    parser.add_argument(
        "--labels",
        type=_label,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="with --input: the classes, such as liver=1 tumour=2",
    )
    parser.add_argument(
        "--model",
        type=path_option,
        metavar="FOLDER",
        help="with --input: the exported model that made the segmentations; it names the classes",
    )
    _add_dicomseg_output(parser)


def _add_dicomseg_output(parser: argparse.ArgumentParser) -> None:
    """Add what the objects contain and where they are written."""
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="new folder of the objects",
    )
    _add_anyway(parser)
    parser.add_argument(
        "--codes",
        type=path_option,
        metavar="FILE",
        help="YAML file with the coded category and type of classes; default: Tissue (SNOMED CT)",
    )
    parser.add_argument(
        "--source",
        type=path_option,
        metavar="FOLDER",
        help="where the series are now, if they have moved; default: the folders in dicom.csv",
    )
    parser.add_argument(
        "--algorithm",
        default="",
        metavar="NAME",
        help="name of the algorithm in the objects; default: the experiment or the model",
    )
    parser.add_argument(
        "--algorithm-version",
        default="",
        metavar="TEXT",
        help="its version; default: that of hstf, and the round",
    )
    parser.add_argument(
        "--series-number",
        type=int,
        default=900,
        metavar="N",
        help="SeriesNumber of the objects; default: 900",
    )


def add_suggest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf suggest``."""
    _add_results(parser)
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round whose predictions are used; default: the last one with pseudo-labels",
    )
    parser.add_argument(
        "--scans", type=int, default=5, metavar="N", help="number of whole scans; default: 5"
    )
    parser.add_argument(
        "--slices", type=int, default=10, metavar="N", help="number of slices; default: 10"
    )
    parser.add_argument(
        "--time",
        type=int,
        default=1,
        metavar="N",
        help="1 if you ask for the first time, 2 after labels were added, and so on: the noise"
        " decays; default: 1",
    )
    parser.add_argument(
        "--random-fraction",
        type=float,
        default=1 / 3,
        metavar="F",
        help="part that is drawn at random over foreground, 0 to 1; default: 1/3",
    )
    parser.add_argument(
        "--no-features",
        action="store_true",
        help="do not compare scans by deep features: faster, but two alike may be suggested",
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="CASE", help="never suggest these cases"
    )
    parser.add_argument(
        "--later",
        nargs="+",
        default=[],
        metavar="CASE",
        help="do not suggest these cases until a later round has pseudo-labels",
    )
    parser.add_argument(
        "--output",
        type=path_option,
        metavar="FOLDER",
        help="where the table and the templates are written; default: results/<name>/suggest",
    )


def add_estimate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf estimate``."""
    add_config(parser)
    parser.add_argument(
        "--cores",
        type=int,
        metavar="N",
        help="cores of the machine; default: those of this one",
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="estimate for the nodes of a cluster: up to 50 jobs at once, of 8 cores each",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="time some training steps and windows on this machine first (a minute), and keep the"
        " result for later estimates",
    )
    _add_json(parser)


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf verify``."""
    _add_results(parser)
    parser.add_argument(
        "--no-data",
        action="store_true",
        help="do not check the scans and labels of the data set",
    )
    _add_json(parser)


def add_forget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf forget``."""
    parser.add_argument(
        "case",
        metavar="CASE",
        help="case to remove, as in the case sheet",
    )
    parser.add_argument(
        "--results",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="results of an experiment: results/<name>",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="remove the files without a question",
    )


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
        type=_label_or_pattern,
        action="extend",
        nargs="+",
        default=[],
        metavar="GLOB|NAME=VALUE",
        help="folder: paths of the labels, such as '**/*_seg.nii.gz'; folder, bids: the classes,"
        " such as liver=1",
    )
    parser.add_argument(
        "--classes",
        type=_label,
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="folder, bids: the classes; the same as --labels NAME=VALUE",
    )
    parser.add_argument(
        "--match",
        type=_pattern,
        default="",
        metavar="REGEX",
        help="folder: the groups of this pattern in a path are the case; images and labels with"
        " equal groups belong together",
    )
    parser.add_argument(
        "--filter",
        type=_entity,
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
        type=_number_or_file,
        metavar="N|FILE",
        help="number of labelled patients to draw, or a list of them; the labels of the others are"
        " withheld; default: all",
    )
    parser.add_argument(
        "--test",
        type=_number_or_file,
        default=0,
        metavar="N|FILE",
        help="number or list of test patients, if there is no official test set; default: none",
    )
    parser.add_argument(
        "--validation",
        type=_number_or_file,
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
        type=_modality,
        nargs="+",
        default=[],
        metavar="NAME[=TYPE]",
        help="folder, bids: images of a case; TYPE is mr, ct, pet, us, mask or other",
    )
    parser.add_argument(
        "--patient",
        type=_pattern,
        default=PATIENT,
        metavar="REGEX",
        help="folder, nnunet, msd: the first group of this pattern in the name of a case is the"
        " patient; an empty pattern makes each scan a patient",
    )
    parser.add_argument(
        "--site",
        type=_pattern,
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


def _number_or_file(text: str) -> int | Path:
    if text.isdigit():
        return int(text)
    return path_option(text)


def _modality(text: str) -> tuple[str, str]:
    """Split ``NAME=TYPE``. The type is ``""`` if it is not given."""
    name, _, modality = text.partition("=")
    return name, modality


def _label_or_pattern(text: str) -> tuple[str, int] | str:
    """Return a class ``NAME=VALUE``, or a pattern of paths."""
    if "=" in text and not re.search(r"[*?/\[.]", text):
        return _label(text)
    return text


def _entity(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, for example run=1")
    return key.removesuffix("-"), value


def _label(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, int(value)


def _pattern(text: str) -> str:
    """Check a regular expression with at least one group. An empty text is allowed."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    if text and not groups:
        raise argparse.ArgumentTypeError(
            f"{text!r} needs a group in parentheses, as in '(case[0-9]+)'"
        )
    return text
