"""What a reviewer needs to open, correct and judge a pseudo-label, ready to copy."""

import csv
import io
import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hstf.experiment.decisions import COLUMNS, VERSION, version_of
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_sheet
from hstf.stages.report.page import Link, Review
from hstf.stages.report.results import Results

SEPARATORS = ",;\t"
NAME = "<your name>"
REASON = "<reason>"


class Reviewing:
    """Files, commands and rows for the review of the pseudo-labels of an experiment."""

    def __init__(self, results: Results) -> None:
        """Read nothing yet."""
        self.layout = results.layout
        self.images = results.images

    def links(self, case_id: str, number: int) -> tuple[Link, ...]:
        """Return links to the image, the pseudo-label and the weights of a case."""
        files = [("image", image) for image in self.images.get(case_id, ())]
        label = self.layout.pseudo_label(number, case_id)
        files.append(("label", label))
        files.append(("weights", label.with_name(f"{case_id}.weight.nii.gz")))
        return tuple(Link(text, address(path, self.layout.report)) for text, path in files)

    def review(self, case: dict[str, Any], number: int) -> Review:
        """Return everything that is needed to review a case.

        Args:
            case: a row of :attr:`Results.pseudo_labels`.
            number: the round.
        """
        case_id = case["case_id"]
        action = "accept" if case["source"] == "rejected" else "reject"
        return Review(
            self.links(case_id, number),
            self.command(case_id, number),
            str(self.layout.override(number, case_id)),
            self.decisions.lines(number, case_id, action, version_of(case)),
        )

    def command(self, case_id: str, number: int) -> str:
        """Return the command that opens a case in ITK-SNAP.

        It also makes the folder for the corrected label: the editor cannot save into a folder that
        does not exist.
        """
        main, *others = [str(image) for image in self.images.get(case_id, ())] or ["<image>"]
        words = ["itksnap", "-g", main]
        if others:
            words += ["-o", *others]
        words += ["-s", str(self.layout.pseudo_label(number, case_id))]
        words += ["-l", str(self.layout.itksnap_labels)]
        folder = shlex.quote(str(self.layout.override(number, case_id).parent))
        return f"mkdir -p {folder} && {shlex.join(words)}"

    @cached_property
    def decisions(self) -> "DecisionRows":
        """How a row of the table of decisions is written."""
        return DecisionRows(self.layout)


class DecisionRows:
    """Writes rows for the table of decisions with the columns and the separator that it has."""

    def __init__(self, layout: Layout) -> None:
        """Read the header of the table, if there is one."""
        self.columns: Sequence[str] = (*COLUMNS, VERSION)
        self.separator = ","
        self.has_header = False
        path = layout.decisions
        if not path.is_file():
            return
        try:
            header, _ = read_sheet(path, self.columns)
        except HstfError:
            return  # the next run describes what is wrong with it
        if set(COLUMNS) <= set(header):
            self.columns = header
            self.separator = _separator(path)
            self.has_header = True

    def lines(self, number: int, case_id: str, action: str, version: str) -> str:
        """Return a row, after the header if the table does not exist yet.

        Args:
            number: the round.
            case_id: the case.
            action: the decision.
            version: SHA-256 of the pseudo-label.
        """
        values = {
            "round": number,
            "case_id": case_id,
            "action": action,
            "reviewer": NAME,
            "date": f"{datetime.now():%Y-%m-%d}",
            "reason": REASON,
            VERSION: version,
        }
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=self.separator, lineterminator="\n")
        if not self.has_header:
            writer.writerow(self.columns)
        writer.writerow([values.get(name, "") for name in self.columns])
        return buffer.getvalue().rstrip("\n")


def _separator(path: Path) -> str:
    """Return the most frequent separator of the first line of a table that can be read."""
    text = path.read_bytes().replace(b"\0", b"").decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if "round" in line.casefold()]
    return max(SEPARATORS, key=lines[0].count) if lines else SEPARATORS[0]


def address(path: Path, page: Path) -> str:
    """Return the address of a file, relative to a page that links it."""
    return quote(os.path.relpath(path, page.parent).replace(os.sep, "/"))


def anchor(case_id: str) -> str:
    """Return the address of the pictures of a case in the page."""
    return f"picture-{case_id}"
