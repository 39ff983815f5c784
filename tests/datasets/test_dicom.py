"""``hstf import dicom``: images, case sheet, mapping, and what must appear nowhere."""

import csv
import gzip
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGLSLossless, RLELossless, generate_uid
from support.dicom_series import (
    FOLDER_WITH_NAME,
    NAME,
    PATIENT_ID,
    SECRETS,
    Scan,
    save,
    write_scan,
    write_structures,
)

from hstf.cli import main
from hstf.commands import import_dicom as import_dicom_command
from hstf.datasets.dicom import packages
from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.runtime import optional_packages

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return an empty folder of DICOM files, whose subfolder has the name of a patient."""
    folder = tmp_path / "scans" / FOLDER_WITH_NAME
    folder.mkdir(parents=True)
    return folder


def import_dicom(source: Path, *options: str, code: int = 0) -> Path:
    """Import the folder of a fixture and return the folder of the images."""
    target = source.parents[1] / "converted"
    arguments = ["import", "dicom", str(source.parent), "--extract", str(target), *options]
    assert main(arguments) == code
    return target


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def image_of(target: Path, scan: Scan) -> nib.Nifti1Image:
    rows = {row["series_uid"]: row for row in DICOM_SERIES.records(target / "dicom.csv")}
    return nib.load(target / "images" / f"{rows[scan.series_uid]['case_id']}.nii.gz")


def assert_nothing_identifies(text: str, folder: Path, scans: list[Scan]) -> None:
    """Check all bytes of messages and files; only the mapping may identify a patient."""
    uids = [uid for scan in scans for uid in (scan.series_uid, scan.study_uid)]
    contents = {"messages": text.encode()}
    for path in folder.rglob("*"):
        contents[f"name of {path}"] = str(path.relative_to(folder)).encode()
        if path.is_file() and path.name != "dicom.csv":
            content = path.read_bytes()
            contents[str(path)] = content
            if path.name.endswith(".gz"):
                contents[f"{path} unpacked"] = gzip.decompress(content)
    for place, content in contents.items():
        for secret in (*SECRETS, *uids):
            assert secret.encode() not in content.lower(), f"{secret} in {place}"


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, np.int16), (2, -1024, np.int16), (400, 7, np.int32), (0.25, -3.5, np.float32)],
)
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_image_has_values_and_grid_of_the_series(
    source: Path, slope: float, intercept: float, dtype: type, modality: str
) -> None:
    scan = Scan(slope=slope, intercept=intercept, modality=modality)
    write_scan(scan, source)
    image = image_of(import_dicom(source), scan)
    assert image.get_data_dtype() == dtype
    assert np.array_equal(
        np.asanyarray(image.dataobj), scan.stored.astype(float) * slope + intercept
    )
    assert np.allclose(image.affine, scan.affine, atol=1e-4)
    assert np.allclose(image.get_qform(), scan.affine, atol=1e-4)


def test_rescale_of_each_slice_is_its_own(source: Path) -> None:
    scan = Scan()
    objects = []
    for index in range(scan.shape[2]):
        dataset = scan.slice(index)
        dataset.RescaleSlope = 1 + index / 2
        dataset.RescaleIntercept = index
        objects.append(dataset)
    save(objects, source)
    image = image_of(import_dicom(source), scan)
    index = np.arange(scan.shape[2])
    assert np.allclose(image.get_fdata(), scan.stored * (1 + index / 2) + index)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_shown_colours_do_not_change_the_values(
    source: Path, bits: int, is_compressed: bool
) -> None:
    """MONOCHROME1 shows low values bright. The Hounsfield units are those of any other CT."""
    changes = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": bits, "HighBit": bits - 1}
    scan = Scan(modality="CT", slope=1, intercept=-1024, changes=changes, shape=(32, 16, 2))
    objects = [scan.slice(index) for index in range(scan.shape[2])]
    for item in objects:
        if is_compressed:
            item.compress(JPEGLSLossless)
    save(objects, source)
    image = image_of(import_dicom(source), scan)
    assert np.array_equal(np.asanyarray(image.dataobj), scan.stored.astype(int) - 1024)


@pytest.mark.parametrize("compression", [RLELossless, JPEGLSLossless])
def test_signed_values_of_12_bits_and_compressed_pixels(source: Path, compression: UID) -> None:
    # GDCM does not decode RLE of images with a few pixels.
    changes = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    scan = Scan(changes=changes, shape=(32, 16, 2))
    objects = []
    for index in range(scan.shape[2]):
        dataset = scan.slice(index)
        values = scan.stored[:, :, index].astype(np.int16) - 1500
        dataset.PixelData = values.T.tobytes()
        dataset.compress(compression)
        objects.append(dataset)
    save(objects, source)
    image = image_of(import_dicom(source), scan)
    assert np.array_equal(np.asanyarray(image.dataobj), scan.stored.astype(int) - 1500)


def test_folder_is_sorted_into_scans_and_the_rest(source: Path, capsys: Capture) -> None:
    scan = Scan()
    second = scan.other(description="T2 coronal")
    other = Scan(name="Grace", patient_id="MRN-2", modality="CT")
    for volume in (scan, second, other):
        write_scan(volume, source)
    overview = scan.other(changes={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    write_scan(overview, source)
    three_planes = scan.other()
    planes = [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)]
    save([replace(three_planes, orientation=plane).slice(0) for plane in planes], source)
    write_scan(scan.other(shape=(7, 6, 1)), source)
    write_structures(scan.other(), source)
    write_scan(scan.other(changes={"NumberOfFrames": 2}), source)
    write_scan(scan.other(changes={"SamplesPerPixel": 3}), source)
    write_scan(scan.other(changes={"PhotometricInterpretation": "PALETTE COLOR"}), source)
    (source / "report.pdf").write_text(NAME)
    target = import_dicom(source)
    output = "".join(capsys.readouterr())
    assert "3 series of 2 patients: 1 CT, 2 MR." in output
    reasons = (
        "a localiser",
        "slices that are not parallel",
        "a single slice",
        "no image (RTSTRUCT)",
        "many frames",
        "colour pictures",
        "1 files: not DICOM",
    )
    assert [reason for reason in reasons if f": {reason}" not in output] == ["many frames"]
    assert "with many frames" in output
    sheet = rows_of(target / "cases.csv")
    groups = [row["group"] for row in sheet]
    assert len(sheet) == 3 and len(set(groups)) == 2
    assert {row["split"] for row in sheet} == {"unlabelled"}
    mapping = DICOM_SERIES.records(target / "dicom.csv")
    assert sorted(row["state"] for row in mapping) == ["imported"] * 3 + ["left out"] * 7
    assert_nothing_identifies(output, target, [scan, second, overview])


def test_mapping_is_private_and_keeps_names(source: Path, capsys: Capture) -> None:
    scan = Scan()
    write_scan(scan, source)
    target = import_dicom(source)
    mapping = target / "dicom.csv"
    assert stat.S_IMODE(mapping.stat().st_mode) == 0o600
    row = rows_of(mapping)[0]
    assert row["folder"] == str(source) and row["study_uid"] == scan.study_uid
    before = rows_of(target / "cases.csv")
    later = Scan(patient_id="MRN-3")
    write_scan(later, source)
    import_dicom(source, code=1)
    assert "already exists. Add --force" in capsys.readouterr().err
    image = target / before[0]["image"]
    os.utime(image, (1, 1))
    import_dicom(source, "--force")
    after = rows_of(target / "cases.csv")
    assert len(after) == 2 and before[0] in after
    assert image.stat().st_mtime == 1, "an image that is up to date is not written again"
    assert stat.S_IMODE(mapping.stat().st_mode) == 0o600
    mapping.unlink()
    import_dicom(source, "--force")
    assert before[0]["case_id"] not in {row["case_id"] for row in rows_of(target / "cases.csv")}


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


def test_positions_with_few_digits_are_accepted(source: Path) -> None:
    scan = Scan(spacing=(1, 1, 0.625))
    objects = [scan.slice(index) for index in range(scan.shape[2])]
    for item in objects:
        item.ImagePositionPatient = [round(float(x), 2) for x in item.ImagePositionPatient]
    save(objects, source)
    assert np.allclose(image_of(import_dicom(source), scan).affine, scan.affine, atol=0.02)


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


def test_series_are_chosen_by_modality_and_description(source: Path, capsys: Capture) -> None:
    scan = Scan()
    for volume in (scan, scan.other(description="T2 axial"), scan.other(modality="CT")):
        write_scan(volume, source)
    target = import_dicom(source, "--modality", "mr", "--series", "t1*")
    assert "1 series of 1 patients: 1 MR." in capsys.readouterr().out
    assert "2 series that --modality" not in (target / "cases.csv").read_text()
    import_dicom(source, "--force", "--series", "T9*", code=1)
    error = capsys.readouterr().err
    assert "no series can be imported; 3 are not chosen" in error
    rows = {row["series_uid"]: row for row in rows_of(target / "dicom.csv")}
    assert rows[scan.series_uid]["case_id"], "the earlier import is not forgotten"


def test_identifiers_are_kept_if_asked(source: Path, capsys: Capture) -> None:
    scan = Scan()
    write_scan(scan, source)
    write_scan(scan.other(shape=(7, 6, 1)), source)
    target = import_dicom(source, "--keep-identifiers")
    row = rows_of(target / "cases.csv")[0]
    assert row["case_id"].startswith(f"{PATIENT_ID}_3-s") and row["group"] == PATIENT_ID
    assert f"in {source}: a single slice" in capsys.readouterr().out


def test_scans_without_a_patient_are_grouped_by_study(source: Path) -> None:
    scan = Scan(patient_id="")
    other = Scan(patient_id="", study_uid=generate_uid(prefix=None))
    for volume in (scan, scan.other(), other):
        write_scan(volume, source)
    groups = [row["group"] for row in rows_of(import_dicom(source) / "cases.csv")]
    assert sorted(map(groups.count, set(groups))) == [1, 2]


def test_changed_series_is_converted_again_only_by_force(source: Path, capsys: Capture) -> None:
    scan = Scan()
    paths = write_scan(scan, source)
    target = import_dicom(source)
    (target / "cases.csv").unlink()
    changed = scan.slice(0)
    changed.PixelData = bytes(len(changed.PixelData))
    save([changed, *(scan.slice(index) for index in range(1, scan.shape[2]))], source)
    assert len(list(source.iterdir())) == len(paths)
    import_dicom(source, code=1)
    assert "has changed since it was imported" in capsys.readouterr().err
    import_dicom(source, "--force")
    assert not image_of(target, scan).get_fdata()[:, :, 0].any()


def test_pipe_is_not_opened(source: Path) -> None:
    write_scan(Scan(), source)
    os.mkfifo(source / "pipe.dcm")
    assert len(rows_of(import_dicom(source) / "cases.csv")) == 1


def test_dry_run_writes_nothing(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source)
    assert not import_dicom(source, "--dry-run").exists()
    assert "Nothing was written" in capsys.readouterr().out


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


def test_sheet_elsewhere_keeps_the_names_of_cases(source: Path, tmp_path: Path) -> None:
    write_scan(Scan(), source)
    target = import_dicom(source)
    sheet = tmp_path / "sheets" / "more.csv"
    import_dicom(source, "--sheet", str(sheet))
    before = [row["case_id"] for row in rows_of(target / "cases.csv")]
    assert [row["case_id"] for row in rows_of(sheet)] == before
    assert not (sheet.parent / "dicom.csv").exists()


def test_names_are_stored_before_the_first_image(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that is killed goes on with the same names."""
    write_scan(Scan(), source)
    mapping = source.parents[1] / "converted" / "dicom.csv"
    stored: list[bool] = []
    convert = import_dicom_command.convert

    def record(*args: Any) -> None:
        stored.append(mapping.is_file())
        convert(*args)

    monkeypatch.setattr(import_dicom_command, "convert", record)
    import_dicom(source)
    assert stored == [True]


def test_series_that_cannot_be_decoded_are_not_counted(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source)
    broken = Scan(patient_id="MRN-2")
    save(truncated([broken.slice(index) for index in range(5)]), source)
    target = import_dicom(source, "--leave-out-invalid")
    assert "1 series of 1 patients: 1 MR." in capsys.readouterr().out
    assert len(rows_of(target / "cases.csv")) == 1


def test_images_of_an_earlier_import_are_named(source: Path, capsys: Capture) -> None:
    scan = Scan()
    write_scan(scan, source)
    write_scan(scan.other(description="T2"), source)
    import_dicom(source)
    assert "not in the case sheet" not in capsys.readouterr().out
    import_dicom(source, "--force", "--series", "T1*")
    assert "has 1 images that are not in the case sheet" in capsys.readouterr().out


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
