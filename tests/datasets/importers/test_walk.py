"""What is stored below a folder: links are followed, and all that is not imported has a reason."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.folder_files import AFFINE, SHAPE, numbered, write, write_pairs
from support.import_files import L, U, imported, run_import, splits

from hstf.datasets.importers.walk import walk
from hstf.imaging.volume_files import SUFFIXES


def reasons(folder: Path) -> dict[str, str]:
    return {note.what: note.why for note in walk(folder).left_out}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in walk(folder).volumes)


def test_walk_follows_links_to_folders(tmp_path: Path) -> None:
    write(tmp_path / "disk/p2/image.nii.gz", "image")
    write(tmp_path / "set/p1/image.nii.gz", "image")
    (tmp_path / "set/p2").symlink_to(tmp_path / "disk/p2")
    assert names(tmp_path / "set") == ["p1/image.nii.gz", "p2/image.nii.gz"]
    assert reasons(tmp_path / "set") == {}


def test_walk_follows_a_link_to_a_folder_of_links(tmp_path: Path) -> None:
    write(tmp_path / "far/c1.nii.gz", "image")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/c1.nii.gz").symlink_to("../far/c1.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to("../near")
    assert names(tmp_path / "set") == ["images/c1.nii.gz"]


def test_walk_reads_a_folder_once(tmp_path: Path) -> None:
    write(tmp_path / "a/c1.nii.gz", "image")
    (tmp_path / "a/again").symlink_to("../a")
    (tmp_path / "0").symlink_to("a")
    (tmp_path / "up").symlink_to("..")
    assert names(tmp_path) == ["a/c1.nii.gz"]
    assert reasons(tmp_path) == {
        "0": "a link to a: read once",
        "a/again": "a link to a: read once",
        "up": "a link to a folder that contains this one: not followed",
    }


def test_walk_names_broken_links(tmp_path: Path) -> None:
    (tmp_path / "c1.nii.gz").symlink_to("/nowhere/c1.nii.gz")
    (tmp_path / "p2").symlink_to("/nowhere/p2")
    (tmp_path / "c3.nii.gz").symlink_to(".git/annex/objects/c3.nii.gz")
    (tmp_path / "notes.txt").symlink_to("/nowhere/notes.txt")
    problems = {Path(note.what).name: note.why for note in walk(tmp_path).problems}
    assert problems["c1.nii.gz"].startswith("a link to /nowhere/c1.nii.gz, which is missing")
    assert problems["p2"].startswith("a link to /nowhere/p2, which is missing")
    assert "datalad get" in problems["c3.nii.gz"]
    assert "notes.txt" in reasons(tmp_path)


def test_walk_counts_files_of_other_formats(tmp_path: Path) -> None:
    write(tmp_path / "c1.nii.gz", "image")
    for name in ("a.npy", "b.npy", "c.png", "d.zip", "x.dcm", "y.csv", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / ".hidden").write_bytes(b"x")
    (tmp_path / "._c1.nii.gz").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    found = reasons(tmp_path)
    assert found["2 files .npy, for example a.npy"].startswith(".npy is not read: convert it")
    assert found["c.png"].startswith(".png is not read")
    assert found["d.zip"] == "an archive. Unpack it first"
    assert "dcm2niix" in found["3 files of DICOM, for example 1.2.840.1"]
    assert found["2 files without scans, for example README"] == "no format of scans"
    assert found["2 hidden files and folders"] == "for example ._c1.nii.gz"
    assert found["pipe.nii.gz"] == "a device, pipe or socket, no file"
    assert names(tmp_path) == ["c1.nii.gz"]


@pytest.mark.parametrize("ending", [".mhd", ".mgz", ".hdr"])
def test_walk_reads_or_names_formats_with_two_files(ending: str, tmp_path: Path) -> None:
    """A format is read as far as ``hstf.imaging`` reads it, and else it is named."""
    values = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    if ending == ".mhd":
        sitk.WriteImage(sitk.GetImageFromArray(values.T), str(tmp_path / "c1.mhd"))
    elif ending == ".mgz":
        nib.save(nib.MGHImage(values.astype(np.float32), AFFINE), tmp_path / "c1.mgz")
    else:
        nib.save(nib.Nifti1Pair(values, AFFINE), tmp_path / "c1.hdr")
    if ending in SUFFIXES:
        assert names(tmp_path) == [f"c1{ending}"]
        assert reasons(tmp_path) == {}
    else:
        assert any(ending in what for what in reasons(tmp_path))


def import_without_privileges(*options: str) -> subprocess.CompletedProcess[str]:
    """Import ``d`` in a process that permissions stop, even if this one belongs to root."""
    command = [sys.executable, "-m", "hstf", "import", "folder", "d", "--output", "x.yaml"]
    if os.geteuid() == 0:
        drop = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", drop, *command]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_import_names_a_folder_that_cannot_be_read(workplace: Path) -> None:
    write_pairs(Path("d"), numbered("images/c{}.nii.gz", "labels/c{}.nii.gz"))
    write(Path("d/images/more/c4.nii.gz"), "image")
    Path("d/images/more").chmod(0)
    try:
        refused = import_without_privileges()
        kept = import_without_privileges("--leave-out-invalid")
    finally:
        Path("d/images/more").chmod(0o755)
    assert refused.returncode == 1
    assert "d/images/more: the folder cannot be read (Permission denied)" in refused.stderr
    assert kept.returncode == 0
    assert "d/images/more" in kept.stdout


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0, "d: the folder cannot be read"), (0o444, "d/c1.nii.gz: cannot be read")],
)
def test_import_names_a_data_set_that_cannot_be_read(
    mode: int,
    expected: str,
    workplace: Path,
) -> None:
    write(Path("d/c1.nii.gz"), "image")
    Path("d").chmod(mode)
    try:
        refused = import_without_privileges()
    finally:
        Path("d").chmod(0o755)
    assert refused.returncode == 1
    assert f"{expected} (Permission denied)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_import_follows_links_and_names_what_it_leaves_out(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("disk"), numbered("images/c{}.nii.gz", "labels/c{}.nii.gz"))
    Path("d").mkdir()
    Path("d/images").symlink_to("../disk/images")
    Path("d/labels").symlink_to("../disk/labels")
    write(Path("disk/images/c4.nii.gz"), "image")
    Path("disk/images/c5.npz").write_bytes(b"x")
    config = imported("folder", Path("d"))
    assert splits(config) == {L: 3, U: 1}
    output = " ".join(capsys.readouterr().out.split())
    assert "left out (1)" in output
    assert "c5.npz" in output
    Path("disk/images/c6.nii.gz").symlink_to("/nowhere/c6.nii.gz")
    assert run_import("folder", Path("d"), "--force") == 1
    assert "c6.nii.gz: a link to /nowhere/c6.nii.gz" in capsys.readouterr().err
