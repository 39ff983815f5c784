"""``hstf import dicom``: images, case sheet, mapping, and what must appear nowhere."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID, JPEGLSLossless, RLELossless, generate_uid
from support.dicom_files import Capture, assert_nothing_identifies, image_of, import_dicom, rows_of
from support.dicom_series import NAME, PATIENT_ID, Scan, save, write_scan, write_structures

from hstf.commands import import_dicom as import_dicom_command
from hstf.experiment.scan_tables import DICOM_SERIES


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


def test_positions_with_few_digits_are_accepted(source: Path) -> None:
    scan = Scan(spacing=(1, 1, 0.625))
    objects = [scan.slice(index) for index in range(scan.shape[2])]
    for item in objects:
        item.ImagePositionPatient = [round(float(x), 2) for x in item.ImagePositionPatient]
    save(objects, source)
    assert np.allclose(image_of(import_dicom(source), scan).affine, scan.affine, atol=0.02)


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


def test_series_are_chosen_by_modality_and_description(source: Path, capsys: Capture) -> None:
    scan = Scan()
    for volume in (scan, scan.other(description="T2 axial"), scan.other(modality="CT")):
        write_scan(volume, source)
    target = import_dicom(source, "--modality", "mr", "--series", "t1*")
    output = capsys.readouterr().out
    assert "1 series of 1 patients: 1 MR." in output
    assert "left out: 2 series that --modality and --series do not choose." in output
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


def test_dry_run_writes_nothing(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source)
    assert not import_dicom(source, "--dry-run").exists()
    assert "Nothing was written" in capsys.readouterr().out


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


def test_images_of_an_earlier_import_are_named(source: Path, capsys: Capture) -> None:
    scan = Scan()
    write_scan(scan, source)
    write_scan(scan.other(description="T2"), source)
    import_dicom(source)
    assert "not in the case sheet" not in capsys.readouterr().out
    import_dicom(source, "--force", "--series", "T1*")
    assert "has 1 images that are not in the case sheet" in capsys.readouterr().out
