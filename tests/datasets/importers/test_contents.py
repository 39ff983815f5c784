"""Label maps are recognised among scans by their voxels, and segments of Slicer by their names."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.folder_files import LABEL, numbered, write, write_pairs, write_values
from support.import_files import imported, run_import
from support.volume_files import lower_bound_of_scans

from hstf.datasets.importers import contents
from hstf.datasets.importers.contents import label_values_of_scan

RNG = np.random.default_rng(0)
SHAPE = (24, 24, 12)
REGIONS = np.kron(np.arange(36, dtype=np.int16).reshape(3, 3, 4) * 3, np.ones((8, 8, 3), np.int16))
SCANS = {
    "MR": RNG.integers(0, 900, SHAPE).astype(np.int16),
    "float": RNG.random(SHAPE).astype(np.float32),
    "ultrasound": RNG.integers(0, 200, SHAPE).astype(np.uint8),
    "constant": np.full(SHAPE, 7, np.int16),
    "skull-stripped": RNG.integers(0, 900, SHAPE).astype(np.int16) * (RNG.random(SHAPE) > 0.9),
}
LABELS = {
    "mask": (RNG.random(SHAPE) > 0.5).astype(np.uint8),
    "mask of 255": (RNG.random(SHAPE) > 0.5).astype(np.uint8) * 255,
    "float": RNG.integers(0, 4, SHAPE).astype(np.float32),
    "many regions": REGIONS,
}


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_scans_do_not_look_like_label_maps(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    write_values(path, SCANS[name])
    assert label_values_of_scan(path) == []


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_label_maps_are_recognised(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    write_values(path, LABELS[name])
    assert label_values_of_scan(path) == np.unique(LABELS[name]).tolist()


def test_large_scans_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise does not compress; a label map does, so that it is read however large it is."""
    monkeypatch.setattr(contents, "SMALL_FILE", 0)
    read: list[Path] = []
    monkeypatch.setattr(contents, "read_image", lambda path, is_mask: read.append(path))
    write_values(tmp_path / "scan.nii.gz", SCANS["MR"])
    assert label_values_of_scan(tmp_path / "scan.nii.gz") == []
    assert read == []
    monkeypatch.undo()
    monkeypatch.setattr(contents, "SMALL_FILE", 0)
    write_values(tmp_path / "label.nii.gz", np.tile(LABEL, (4, 4, 4)))
    assert label_values_of_scan(tmp_path / "label.nii.gz") == [0, 1, 2]


def test_large_label_maps_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compress far better than a scan."""
    lower_bound_of_scans(monkeypatch)
    write_values(tmp_path / "label.nii.gz", np.tile(LABEL, (4, 4, 4)))
    assert label_values_of_scan(tmp_path / "label.nii.gz") == [0, 1, 2]


def test_unreadable_files_have_no_values(tmp_path: Path) -> None:
    (tmp_path / "c.nii.gz").write_bytes(b"x")
    assert label_values_of_scan(tmp_path / "c.nii.gz") == []


# --- headers


def test_import_warns_of_an_image_without_an_orientation(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("images/c{}.nii.gz", "labels/c{}.nii.gz"))
    values = np.asanyarray(nib.load("d/images/c2.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(values, None), "d/images/c2.nii.gz")
    imported("folder", Path("d"))
    output = " ".join(capsys.readouterr().out.split())
    assert "Warning: 1 files, for example d/images/c2.nii.gz: neither sform nor qform" in output


def test_import_refuses_an_image_in_metres(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("images/c{}.nii.gz", "labels/c{}.nii.gz"))
    values = np.asanyarray(nib.load("d/images/c2.nii.gz").dataobj)
    image = nib.Nifti1Image(values, np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, "d/images/c2.nii.gz")
    assert run_import("folder", Path("d")) == 1
    assert "d/images/c2.nii.gz: lengths in meter" in capsys.readouterr().err


# --- segmentations of 3D Slicer


def write_segments(path: Path, **values: int) -> None:
    """Write a segmentation with names of segments, as Slicer does."""
    write(path, "label")
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    lines = []
    for number, (name, value) in enumerate(values.items()):
        lines.append(f"Segment{number}_LabelValue:={value}\nSegment{number}_Name:={name}\n")
    path.write_bytes(head + b"\n" + "".join(lines).encode() + b"\n" + voxels)


def test_import_reads_the_names_of_segments(workplace: Path) -> None:
    write_pairs(Path("d"), numbered("c{}.nii.gz"))
    for number in (1, 2, 3):
        write_segments(Path(f"d/c{number}.seg.nrrd"), spleen=2, liver=1)
    config = imported("folder", Path("d"))
    assert config.labels == {"background": 0, "liver": 1, "spleen": 2}


def test_import_refuses_segments_with_different_values(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("c{}.nii.gz"))
    write_segments(Path("d/c1.seg.nrrd"), liver=1, spleen=2)
    write_segments(Path("d/c2.seg.nrrd"), liver=2, spleen=1)
    assert run_import("folder", Path("d")) == 1
    message = capsys.readouterr().err
    assert "liver is 1 in c1.seg.nrrd and 2 in c2.seg.nrrd" in message
    assert run_import("folder", Path("d"), "--labels", "a=1", "b=2") == 0


def test_import_checks_values_of_slicer_against_the_option(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        write(Path(f"d/c{number}.nrrd"), "image")
        write_segments(Path(f"d/c{number}.seg.nrrd"), liver=1, spleen=2)
    options = ["--labels", "liver=2", "spleen=1"]
    assert run_import("folder", Path("d"), *options) == 1
    assert "liver is 1 in c1.seg.nrrd, and 2 by --labels" in capsys.readouterr().err
    write_segments(Path("d/c2.seg.nrrd"), liver=2, spleen=1)
    assert run_import("folder", Path("d"), "--labels", "liver=1", "spleen=2") == 1
    message = capsys.readouterr().err
    assert "liver is 2 in c2.seg.nrrd, and 1 by --labels" in message and "c1" not in message
