"""``hstf import dicom``: broken series and files, options of other kinds, and missing packages."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from support.dicom_files import Capture, assert_nothing_identifies, import_dicom, rows_of
from support.dicom_series import FOLDER_WITH_NAME, NAME, Scan, save, write_scan

from hstf.cli import main
from hstf.datasets.dicom import packages
from hstf.runtime import optional_packages


def missing(objects: list[Dataset]) -> list[Dataset]:
    return objects[:2] + objects[3:]


def twice(objects: list[Dataset]) -> list[Dataset]:
    copy = objects[1].copy()
    copy.InstanceNumber = 99
    return [*objects, copy]


def time_points(objects: list[Dataset]) -> list[Dataset]:
    return [*objects, *(item.copy() for item in objects)]


def unequal(objects: list[Dataset]) -> list[Dataset]:
    for index, item in enumerate(objects):
        item.ImagePositionPatient = Scan().position(index + 0.05 * index**2)
    return objects


def beside(objects: list[Dataset]) -> list[Dataset]:
    row = np.array(Scan().orientation[:3])
    objects[2].ImagePositionPatient = list(np.array(objects[2].ImagePositionPatient) + 2 * row)
    return objects


def tilted(objects: list[Dataset]) -> list[Dataset]:
    row = np.array(Scan().orientation[:3])
    for index, item in enumerate(objects):
        item.ImagePositionPatient = list(np.array(item.ImagePositionPatient) + index * row)
    return objects


def other_size(objects: list[Dataset]) -> list[Dataset]:
    objects[1].Rows, objects[1].Columns = 7, 6
    return objects


def other_pixels(objects: list[Dataset]) -> list[Dataset]:
    objects[1].PixelSpacing = [1, 1]
    return objects


def two_patients(objects: list[Dataset]) -> list[Dataset]:
    objects[1].PatientID = "MRN-5"
    return objects


def no_position(objects: list[Dataset]) -> list[Dataset]:
    del objects[1].ImagePositionPatient
    return objects


def no_rescale(objects: list[Dataset]) -> list[Dataset]:
    for item in objects[1:]:
        item.RescaleSlope, item.RescaleIntercept = 1, -1024
    return objects


def no_intercept(objects: list[Dataset]) -> list[Dataset]:
    for item in objects:
        item.RescaleSlope, item.RescaleIntercept = 1, -1024
    objects[1].RescaleIntercept = None
    return objects


def truncated(objects: list[Dataset]) -> list[Dataset]:
    objects[1].PixelData = objects[1].PixelData[:20]
    return objects


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (missing, "1 slices are missing: after slice 2 of 4 there is a gap of 6 mm"),
        (twice, "6 slices at 5 places: some slices exist twice"),
        (time_points, "10 slices at 5 places, 2 at each"),
        (unequal, "mm apart, expected one distance"),
        (beside, "slices are up to 2 mm away from a grid"),
        (tilted, "the grid is sheared"),
        (other_size, "slices of several sizes (6 x 7, 7 x 6)"),
        (other_pixels, "slices of several pixel sizes"),
        (two_patients, "its files name 2 patients"),
        (no_rescale, "1 of 5 slices have no RescaleSlope or RescaleIntercept"),
        (no_intercept, "1 of 5 slices have no RescaleSlope or RescaleIntercept"),
        (no_position, "1 of 5 slices have no position"),
        (truncated, "the pixels of slice 2 cannot be decoded"),
    ],
)
def test_broken_series_is_named_by_a_hash(
    source: Path,
    damage: Callable[[list[Dataset]], list[Dataset]],
    found: str,
    capsys: Capture,
) -> None:
    scan, good = Scan(), Scan(patient_id="MRN-2")
    save(damage([scan.slice(index) for index in range(scan.shape[2])]), source)
    write_scan(good, source / "other")
    target = import_dicom(source, code=1)
    output = "".join(capsys.readouterr())
    assert found in output and not (target / "cases.csv").exists()
    row = next(r for r in rows_of(target / "dicom.csv") if r["series_uid"] == scan.series_uid)
    assert f"series {row['series']}: " in output and row["folder"] == str(source)
    assert row["case_id"] == "" and row["state"] == "problem" and found in row["reason"]
    target = import_dicom(source, "--leave-out-invalid")
    output += (shown := "".join(capsys.readouterr()))
    assert f"left out: series {row['series']}: " in shown
    assert len(rows_of(target / "cases.csv")) == 1
    assert_nothing_identifies(output, target, [scan, good])


def test_damaged_files_and_values_stay_unnamed(source: Path, capsys: Capture) -> None:
    changes = {"PatientName": f"{NAME}=\\===", "PatientBirthDate": "1815-12-10"}
    scan = Scan(changes=changes)
    with packages.quiet():
        paths = write_scan(scan, source)
    bad = source / f"{FOLDER_WITH_NAME}.dcm"
    bad.write_bytes(paths[0].read_bytes()[:300])
    import_dicom(source, "--dry-run")
    import_dicom(source, code=1)
    target = import_dicom(source, "--leave-out-invalid")
    output = "".join(capsys.readouterr())
    assert "1 DICOM files: their headers cannot be read" in output
    assert_nothing_identifies(output, target, [scan])


def test_series_that_cannot_be_decoded_are_not_counted(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source)
    broken = Scan(patient_id="MRN-2")
    save(truncated([broken.slice(index) for index in range(5)]), source)
    target = import_dicom(source, "--leave-out-invalid")
    assert "1 series of 1 patients: 1 MR." in capsys.readouterr().out
    assert len(rows_of(target / "cases.csv")) == 1


def test_pipe_is_not_opened(source: Path) -> None:
    write_scan(Scan(), source)
    os.mkfifo(source / "pipe.dcm")
    assert len(rows_of(import_dicom(source) / "cases.csv")) == 1


def test_folder_with_a_name_of_windows_is_imported(source: Path, capsys: Capture) -> None:
    scan = Scan()
    folder = source / os.fsdecode(b"LOVELACE_\xdc")
    write_scan(scan, folder)
    (folder / "lost.dcm").symlink_to("missing")
    target = import_dicom(source, code=1)
    output = "".join(capsys.readouterr())
    assert "may be lost slices" in output and "LOVELACE" not in output
    (folder / "lost.dcm").unlink()
    import_dicom(source)
    assert rows_of(target / "dicom.csv")[0]["folder"] == str(source)


@pytest.mark.parametrize(
    "option", [["--labels", "a=1"], ["--labelled", "2"], ["--output", "x.yaml"]]
)
def test_options_of_other_kinds_are_refused(
    source: Path, option: list[str], capsys: Capture
) -> None:
    import_dicom(source, *option, code=1)
    assert f"{option[0]}" in (error := capsys.readouterr().err) and "does not use it" in error


def test_options_of_dicom_are_refused_by_other_kinds(tmp_path: Path, capsys: Capture) -> None:
    assert main(["import", "folder", str(tmp_path), "--series", "T1*", "--dry-run"]) == 1
    assert "--series: kind folder does not use it, only dicom." in capsys.readouterr().err


def test_missing_packages_are_named(
    source: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    import_dicom(source, code=1)
    assert "pip install 'hstf[dicom]'" in capsys.readouterr().err


def test_folder_without_dicom_is_refused(source: Path, capsys: Capture) -> None:
    (source / "notes.txt").write_text("no DICOM")
    import_dicom(source, code=1)
    assert "contains no DICOM series: 1 other files" in capsys.readouterr().err
    assert main(["import", "dicom", str(source / "x"), "--extract", str(source / "y")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_damaged_mapping_is_not_replaced(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source)
    mapping = import_dicom(source) / "dicom.csv"
    salt = rows_of(mapping)[0]["salt"]
    mapping.write_text(mapping.read_text().replace(salt, ""))
    import_dicom(source, "--force", code=1)
    assert "the column 'salt'" in capsys.readouterr().err
