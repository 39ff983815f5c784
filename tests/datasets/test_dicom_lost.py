"""``hstf import dicom``: linked folders, broken links, and files that may be lost slices."""

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.dicom_series import SECRETS, Scan, save, write_scan, write_structures

from hstf.cli import main
from hstf.datasets.dicom.headers import read_headers
from hstf.datasets.dicom.lost import Form
from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.runtime.errors import HstfError

Capture = pytest.CaptureFixture[str]
Row = dict[str, object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return an empty folder of DICOM files."""
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


def import_dicom(source: Path, *options: str, code: int = 0) -> list[Row]:
    """Import a folder and return the rows of its series."""
    target = source.parent / "converted"
    assert main(["import", "dicom", str(source), "--extract", str(target), *options]) == code
    mapping = target / "dicom.csv"
    return DICOM_SERIES.records(mapping) if mapping.exists() else []


def states(rows: list[Row]) -> list[tuple[object, object]]:
    return sorted((row["state"], row["slices"]) for row in rows)


def write_numbered(scan: Scan, folder: Path, name: str = "IM{:04d}.dcm") -> list[Path]:
    """Write a series to files that are named in the order of the slices."""
    paths = []
    for index, path in enumerate(write_scan(scan, folder)):
        paths.append(path.rename(folder / name.format(index + 1)))
    return paths


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/.git/annex/objects/key")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def unmarked(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


# --- links


def test_linked_folder_is_read_once(source: Path, capsys: Capture) -> None:
    store = source.parent / "store"
    write_scan(Scan(patient_id="A"), source / "a")
    write_scan(Scan(patient_id="B"), store)
    (source / "b").symlink_to(store)
    (source / "again").symlink_to(store)
    (source / "a" / "up").symlink_to(source)
    rows = import_dicom(source)
    assert states(rows) == [("imported", 5), ("imported", 5)]
    assert str(store) in {row["folder"] for row in rows}
    assert "left out: 2 links: to folders that are read already" in capsys.readouterr().out


def test_linked_files_are_read_once(source: Path) -> None:
    paths = write_scan(Scan(), source / "a")
    (source / "b").mkdir()
    for path in paths:
        (source / "b" / path.name).symlink_to(path)
    assert states(import_dicom(source)) == [("imported", 5)]
    headers = read_headers([source / "b", source / "a", source])
    assert [len(files) for files in headers.series.values()] == [5]


def test_segmentation_goes_back_to_linked_series(source: Path, tmp_path: Path) -> None:
    write_scan(Scan(), tmp_path / "store")
    (source / "linked").symlink_to(tmp_path / "store")
    (row,) = import_dicom(source)
    image = nib.load(tmp_path / "converted" / "images" / f"{row['case_id']}.nii.gz")
    label = nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine)
    (tmp_path / "labels").mkdir()
    nib.save(label, tmp_path / "labels" / f"{row['case_id']}.nii.gz")
    command = ["dicomseg", str(tmp_path / "converted" / "dicom.csv"), "--labels", "liver=1"]
    for option, folder in (("--input", "labels"), ("--output", "objects")):
        command += [option, str(tmp_path / folder)]
    assert main(command) == 0
    assert (tmp_path / "objects" / f"{row['case_id']}.dcm").is_file()


def test_hidden_files_are_counted(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source / "a")
    (source / "a" / "._IM0001").write_bytes(b"")
    (source / ".lovelace").mkdir()
    assert states(import_dicom(source)) == [("imported", 5)]
    output = "".join(capsys.readouterr())
    assert "left out: 2 hidden files and folders: not read." in output
    assert SECRETS[0] not in output


def test_folder_that_cannot_be_read_stops_the_import(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scan(Scan(), source / "a")
    (source / "closed").mkdir()
    original = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(HstfError, match=r"cannot be read \(Permission denied\)") as caught:
        read_headers([source])
    assert "closed" not in str(caught.value)


def test_broken_link_to_a_folder_is_a_problem(source: Path, capsys: Capture) -> None:
    write_scan(Scan(), source / "a")
    (source / "lovelace").symlink_to(source.parent / "lovelace-unmounted")
    import_dicom(source, code=1)
    output = "".join(capsys.readouterr())
    assert "files of no imported series: 1 broken links, which may be lost slices." in output
    assert "git annex get" in output and SECRETS[0] not in output
    import_dicom(source, "--dry-run", "--keep-identifiers")
    assert f"Files: {source / 'lovelace'}" in capsys.readouterr().out
    assert states(import_dicom(source, "--leave-out-invalid")) == [("imported", 5)]


def test_folder_of_broken_links_has_no_series(source: Path, capsys: Capture) -> None:
    for path in write_scan(Scan(), source / "a"):
        link(path)
    import_dicom(source, code=1)
    assert "no DICOM series: 5 broken links. Fix the links." in capsys.readouterr().err


# --- lost slices


@pytest.mark.parametrize("name", ["IM{:04d}.dcm", "IM{:04d}", "1.2.840.113619.{}.7", "{:08X}"])
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (link, "2 broken links"),
        (empty, "2 empty files"),
        (zeros, "2 files of zeros"),
        (unmarked, "2 files without the mark of DICOM (DICM)"),
    ],
)
def test_lost_last_slices_are_a_problem_of_their_series(
    source: Path,
    damage: Callable[[Path], None],
    found: str,
    name: str,
    capsys: Capture,
) -> None:
    scan = Scan(shape=(7, 6, 8))
    paths = write_numbered(scan, source / "lovelace", name)
    write_scan(Scan(patient_id="B"), source / "b")
    for path in paths[-2:]:
        damage(path)
    rows = import_dicom(source, code=1)
    output = "".join(capsys.readouterr())
    assert states(rows) == [("imported", 5), ("problem", 6)]
    row = next(row for row in rows if row["series_uid"] == scan.series_uid)
    assert f"series {row['series']}: {found}, which may be lost slices." in output
    assert SECRETS[0] not in output, "messages have no names of files"
    assert str(paths[-1]) in str(row["reason"]), "dicom.csv is private and has them"
    import_dicom(source, "--leave-out-invalid")
    assert "1 series of 1 patients" in (output := capsys.readouterr().out)
    assert f"left out: series {row['series']}: {found}" in output


def test_lost_slices_of_a_single_one_are_a_problem(source: Path, capsys: Capture) -> None:
    """One slice remains, which would be left out as a series of one slice."""
    paths = write_numbered(Scan(), source / "a")
    write_scan(Scan(patient_id="B"), source / "b")
    for path in paths[1:]:
        link(path)
    assert states(import_dicom(source, code=1)) == [("imported", 5), ("problem", 1)]
    assert "4 broken links, which may be lost slices" in capsys.readouterr().err


def test_lost_slices_of_a_whole_series_are_a_problem(source: Path, capsys: Capture) -> None:
    """No header remains that would name the series: names of other slices show what was lost."""
    write_numbered(Scan(), source / "a", "IM{:04d}")
    for path in write_numbered(Scan(patient_id="B"), source / "b", "IM{:04d}"):
        empty(path)
    for path in write_numbered(Scan(patient_id="C"), source / "c", "slice{}.dcm"):
        unmarked(path)
    rows = import_dicom(source, code=1)
    assert states(rows) == [("imported", 5)]
    found = "5 empty files, 5 files without the mark of DICOM (DICM), which may be lost slices"
    assert f"files of no imported series: {found}" in capsys.readouterr().err


def test_lost_slices_beside_an_object_without_pixels_are_a_problem(
    source: Path, capsys: Capture
) -> None:
    write_scan(Scan(), source / "a")
    paths = write_numbered(Scan(patient_id="B"), source / "b")
    write_structures(Scan(patient_id="B"), source / "b")
    for path in paths:
        link(path)
    assert states(import_dicom(source, code=1)) == [("imported", 5), ("left out", 1)]
    assert "files of no imported series: 5 broken links" in capsys.readouterr().err


def test_lost_slice_belongs_to_the_series_with_similar_names(source: Path) -> None:
    ct = write_numbered(Scan(), source, "CT{:04d}.dcm")
    write_numbered(Scan().other(description="T2"), source, "MR{:04d}.dcm")
    empty(ct[-1])
    assert states(import_dicom(source, code=1)) == [("imported", 5), ("problem", 4)]
    empty(source / "unknown")
    assert states(import_dicom(source, code=1)) == [("problem", 4), ("problem", 5)]


def test_export_of_a_pacs_with_its_other_files_is_imported(source: Path, capsys: Capture) -> None:
    """A disc for patients: an index, a viewer, notes, previews, and empty marks."""
    scan = Scan()
    save([scan.slice(index) for index in range(scan.shape[2])], source)
    write_numbered(scan.other(), source / "DICOM" / "S1", "IM{}")
    for folder in (source, source / "DICOM" / "S1"):
        for name in ("LOCKFILE", "VERSION", "README", "export.log", "done.txt"):
            (folder / name).write_bytes(b"")
        for name in ("DICOMDIR", "AUTORUN.INF", "viewer.exe", "preview1.JPG", "index.htm"):
            (folder / name).write_bytes(b"content")
        for name in ("Thumbs.db", "report.pdf", "a.json", "b.xml", "c.csv", "volume.nii.gz"):
            (folder / name).write_bytes(b"content")
    (source / "VIEWER").mkdir()
    (source / "VIEWER" / "data").write_bytes(b"")
    (source / "VIEWER" / "library.bin").write_bytes(bytes(500))
    assert states(import_dicom(source)) == [("imported", 5), ("imported", 5)]
    assert "left out: 34 files: not DICOM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IM0012.dcm", Form("IM0", ".DCM")),
        ("im-0001-0023.dcm", Form("IM-0-0", ".DCM")),
        ("1.2.840.113619.2", Form("0", "")),
        ("CT.1.2.840.12.dcm", Form("CT.0", ".DCM")),
        ("0A1B2C3D", Form("0", "")),
        ("7", Form("0", "")),
        ("notes", Form("NOTES", "")),
    ],
)
def test_names_of_slices_have_one_form(name: str, expected: Form) -> None:
    assert Form.of(Path("folder") / name) == expected
