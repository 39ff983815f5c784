"""The commands of docs/how-to/dicom.md run, in their order, on small series."""

import csv
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.dicom_series import Scan, write_scan
from support.workspace import ROOT

from hstf.cli import main
from hstf.datasets.dicom.codes import read_meanings

PAGE = ROOT / "docs" / "how-to" / "dicom.md"
NEED_A_RUN = ("--results", "--model")
"""Commands with these options need a finished experiment; tests of the command run them."""


def commands() -> list[list[str]]:
    lines = re.findall(r"^hstf (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if not set(line) & set(NEED_A_RUN)]


def test_codes_of_the_page_are_valid(tmp_path: Path) -> None:
    block = re.search(r"^```yml\n(.+?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert block is not None
    path = tmp_path / "codes.yaml"
    path.write_text(block[1])
    assert read_meanings(path, ["liver"])["liver"].type.meaning == "Liver"


def label_all(folder: Path) -> None:
    """Write a label, and the same as a prediction, for each image."""
    for path in (folder / "images").iterdir():
        image = nib.load(path)
        label = np.zeros(image.shape, np.uint8)
        label[2:4, 2:4, 1:3] = 1
        for target in (folder / "labels", Path("predictions")):
            target.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(label, image.affine), target / path.name)


def test_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scan = Scan()
    others = [Scan(patient_id=f"MRN-{number}") for number in range(2)]
    for volume in (scan, scan.other(), *others, scan.other(description="T2")):
        write_scan(volume, Path("scans"))
    ran = []
    for words in commands():
        if words[:2] == ["import", "folder"]:
            label_all(Path("data/liver"))
        assert main(words) == 0, words
        ran.append(words[0] if words[0] == "dicomseg" else " ".join(words[:2]))
    assert ran == ["import dicom", "import dicom", "import folder", "dicomseg"]
    with Path("config/liver/cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 and len({row["group"] for row in rows}) == 3
    assert all(row["case_id"].startswith(f"{row['group']}_") for row in rows)
    assert len(list(Path("objects").glob("*.dcm"))) == 4
