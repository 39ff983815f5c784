"""Words in names of files and folders that show what a volume is: image or label, and its split.

This module imports nothing heavy: the help text of ``hstf import`` lists the words.
"""

import re
from textwrap import wrap
from typing import NamedTuple

LABEL_WORDS = (
    "label",
    "labels",
    "labelmap",
    "labelmaps",
    "lbl",
    "lbls",
    "lab",
    "seg",
    "segs",
    "segm",
    "segmentation",
    "segmentations",
    "segmented",
    "dseg",
    "mask",
    "masks",
    "msk",
    "msks",
    "gt",
    "gts",
    "groundtruth",
    "groundtruths",
    "ground",
    "truth",
    "annotation",
    "annotations",
    "annot",
    "anno",
    "contour",
    "contours",
    "delineation",
    "delineations",
    "roi",
    "rois",
    "rtstruct",
    "target",
    "targets",
)
"""A file or folder whose name has such a word holds labels."""
WEAK_LABEL_WORDS = (
    "lesion",
    "lesions",
    "tumor",
    "tumors",
    "tumour",
    "tumours",
    "manual",
    "gtv",
    "ctv",
    "ptv",
    "structures",
    "organs",
)
"""Such a word shows a label only where an image of the same case has no such word."""
IMAGE_WORDS = (
    "image",
    "images",
    "img",
    "imgs",
    "imaging",
    "scan",
    "scans",
    "volume",
    "volumes",
    "vol",
    "vols",
)
"""A folder whose name has such a word holds images."""
WEAK_IMAGE_WORDS = (
    "data",
    "raw",
    "rawdata",
    "input",
    "inputs",
    "source",
    "sources",
    "original",
    "originals",
    "orig",
    "nifti",
    "nii",
    "anat",
    "ct",
    "cta",
    "cts",
    "mr",
    "mri",
    "mris",
    "pet",
    "us",
)
"""Such a folder holds images unless a folder above it holds labels."""
LABELLED_WORDS = ("train", "training", "tr", "labelled", "labeled", "annotated")
UNLABELLED_WORDS = ("un", "unlabelled", "unlabeled", "unlab", "unannotated", "unsupervised")
TEST_WORDS = ("test", "testing", "ts", "tst", "holdout")
VALIDATION_WORDS = ("val", "va", "valid", "validation", "dev")

NEGATED = re.compile(r"(?:un|non?|without)[-_ ]?(?:label|annot)", re.IGNORECASE)
NUMBERED = re.compile(r"(?<![a-z])label+ed[-_ ]?cases?", re.IGNORECASE)
"""``FLARE22_LabeledCase50`` is a folder of cases, although its name has a number."""
TOKEN = re.compile(r"\d+|[A-Z]+s?(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")

Tokens = tuple[str, ...]
"""Words and numbers of a name in lower case: ``label0003`` is ``label`` and ``0003``."""


class FolderName(NamedTuple):
    """What the name of a folder shows."""

    role: str = ""
    """``image``, ``label`` or empty."""
    split: str = ""
    """``labelled``, ``unlabelled``, ``test``, ``validation`` or empty."""
    weak: bool = False
    """Whether the role counts only if no other folder of the path has one."""

    @property
    def is_identity(self) -> bool:
        """Whether the folder may be that of a case, because its name has no other meaning."""
        return not self.role and not self.split


def tokens_of(name: str) -> Tokens:
    """Return the words and numbers of ``name`` in lower case."""
    return tuple(token.lower() for token in TOKEN.findall(name))


def without(tokens: Tokens, words: tuple[str, ...]) -> Tokens:
    """Return ``tokens`` without ``words``."""
    return tuple(token for token in tokens if token not in words)


def read_folder_name(name: str) -> FolderName:
    """Return what the name of a folder shows.

    A name with a number is that of a case, such as ``image_003`` or ``test_12``.
    """
    if NEGATED.search(name):
        return FolderName(split="unlabelled")
    tokens = tokens_of(name)
    split = _split(tokens)
    if any(token.isdigit() for token in tokens):
        return FolderName(split="labelled" if NUMBERED.search(name) else "")
    if _has(tokens, LABEL_WORDS):
        return FolderName("label", split)
    if _has(tokens, IMAGE_WORDS):
        return FolderName("image", split)
    if tokens and all(token in WEAK_LABEL_WORDS for token in tokens):
        return FolderName("label", split)
    if tokens and all(token in WEAK_IMAGE_WORDS or _split((token,)) for token in tokens):
        is_image = _has(tokens, WEAK_IMAGE_WORDS)
        return FolderName("image" if is_image else "", split, weak=is_image)
    return FolderName(split=split)


def _split(tokens: Tokens) -> str:
    """Return the split that the first or last word names, or ``""``."""
    by_split = {
        "unlabelled": UNLABELLED_WORDS,
        "test": TEST_WORDS,
        "validation": VALIDATION_WORDS,
        "labelled": LABELLED_WORDS,
    }
    ends = tokens[:1] + tokens[-1:]
    for split, words in by_split.items():
        if _has(ends, words):
            return split
    return ""


def _has(tokens: Tokens, words: tuple[str, ...]) -> bool:
    return any(token in words for token in tokens)


def help_text() -> list[str]:
    """Return the lines of the help text about names."""
    rows = {
        "labels": LABEL_WORDS + WEAK_LABEL_WORDS,
        "images": IMAGE_WORDS + WEAK_IMAGE_WORDS,
        "unlabelled": UNLABELLED_WORDS,
        "test": TEST_WORDS,
        "validation": VALIDATION_WORDS,
    }
    lines = ["words in names of a folder (upper or lower case, also joined, as in imagesTr):"]
    for title, words in rows.items():
        text = f"{title:<12}{', '.join(words)}"
        lines += wrap(text, 90, initial_indent="  ", subsequent_indent=" " * 14)
    return lines
