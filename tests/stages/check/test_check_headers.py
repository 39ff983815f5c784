"""``check`` compares the grids of a case, and finds headers that are invalid or unusual."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.check_files import AFFINE, SHAPE, Data

from hstf.experiment.layout import Layout
from hstf.imaging.affines import corner_distance


def test_check_compares_label_and_image_grid(data: Data) -> None:
    data.image("p0_label.nii.gz", data.mask(0)[:-1])
    moved = AFFINE.copy()
    moved[2, 3] += 0.5
    data.image("p1_label.nii.gz", data.mask(1), moved)
    nearly = AFFINE.copy()
    nearly[0, 0] += 0.001  # 8 voxels on: 0.008 mm
    data.image("p2_label.nii.gz", data.mask(2), nearly)
    message = data.errors()
    assert (
        "label.nii.gz: found: shape 8 x 8 x 7; expected: shape 9 x 8 x 7 as in p0.nii.gz (image)."
        in message
    )
    assert (
        "up to 0.5 mm away from those of p1.nii.gz (image); expected: at most 0.01 mm (check."
        in message
    )
    assert "2 errors" in message
    assert "3 errors" in data.errors(check={"workers": 1, "affine_tolerance_mm": 0.005})


def test_check_compares_the_grids_of_channels(data: Data) -> None:
    for number, row in enumerate(data.rows):
        row["flair"] = f"flair{number}.nii.gz"
        data.image(row["flair"], data.scan(number + 50))
    data.image("flair3.nii.gz", data.scan(53)[:, :, :4])
    message = data.errors(modalities={"image": "mr", "flair": "mr"})
    assert "1 errors" in message
    assert (
        "flair3.nii.gz: found: shape 9 x 8 x 4; expected: shape 9 x 8 x 7 as in p3.nii.gz (image)"
        in message
    )


def two_geometries(path: Path, qform: np.ndarray) -> None:
    image = nib.load(path)
    image.set_qform(qform, 1)
    image.set_sform(image.affine, 2)
    nib.save(image, path)


def test_check_accepts_a_label_with_either_geometry(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of ITK write the qform of the image into the label, others the sform."""
    qform = AFFINE.copy()
    qform[:3, 3] += 10, -5, 3
    two_geometries(data.folder / "p0.nii.gz", qform)
    two_geometries(data.folder / "p1.nii.gz", qform)
    q_only = nib.load(data.folder / "p0.nii.gz").get_qform()
    data.image("p0_label.nii.gz", data.mask(0), q_only)
    message = data.warnings(capsys)
    assert "0 errors and 2 warnings" in message
    for name in ("p0.nii.gz", "p1.nii.gz"):
        found = f"{name}: found: two geometries: sform and qform place corner voxels up to 11.5"
        assert found in message
    assert "The sform is used." in message
    elsewhere = AFFINE.copy()
    elsewhere[:3, 3] -= 10, -5, 3
    data.image("p0_label.nii.gz", data.mask(0), elsewhere)
    assert "1 errors" in data.errors()


def test_check_names_two_geometries_with_other_directions(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    two_geometries(data.folder / "p0.nii.gz", AFFINE @ np.diag([-1, 1, 1, 1]))
    assert "mm apart (LAS and RAS)" in data.warnings(capsys)
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.05
    two_geometries(data.folder / "p0.nii.gz", nearly)
    assert "0 warnings" in data.warnings(capsys)


@pytest.mark.parametrize(
    ("affine", "advice"),
    [
        (np.eye(4), "Its geometry seems to be lost. If the voxels correspond one to one, copy"),
        (np.diag([-1, -1, 1, 1.0]), "Its geometry seems to be lost."),
        (AFFINE + np.eye(4, k=3) * 7, "one to one, copy the geometry of"),
    ],
)
def test_check_does_not_advise_to_resample_a_label_of_the_same_shape(
    data: Data, affine: np.ndarray, advice: str
) -> None:
    data.image("p0_label.nii.gz", data.mask(0), affine)
    message = data.errors()
    assert advice in message
    assert "esample" not in message


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_check_names_a_label_with_other_axes(data: Data, axes: tuple[int, ...]) -> None:
    """Such a file is what a program writes that stores all volumes in one orientation."""
    label = nib.load(data.folder / "p0_label.nii.gz")
    order = np.array([(axis, -1 if axis == 0 else 1) for axis in axes])
    nib.save(label.as_reoriented(order), data.folder / "p0_label.nii.gz")
    message = data.errors()
    assert "It has the same voxels with the axes" in message
    assert "Reorder the axes as in" in message and "esample" not in message


def test_corner_distance_of_a_rotation() -> None:
    """A turn by t about z moves the far corner at radius r by 2 r sin(t/2)."""
    turn = 0.01
    rotated = np.eye(4)
    rotated[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    distance = corner_distance(np.eye(4), rotated, (101, 101, 5))
    assert distance == pytest.approx(2 * np.hypot(100, 100) * np.sin(turn / 2))


def test_check_refuses_four_dimensions_and_singular_affines(data: Data) -> None:
    data.image("p0.nii.gz", np.stack([data.scan(0)] * 2, axis=-1))
    content = bytearray(gzip.decompress((data.folder / "p1.nii.gz").read_bytes()))
    content[280:296] = bytes(16)
    (data.folder / "p1.nii.gz").write_bytes(gzip.compress(content))
    message = data.errors()
    assert "p0.nii.gz: found: has shape (9, 8, 7, 2), expected three axes" in message
    assert "p1.nii.gz: found: the affine is singular" in message


def header_edit(path: Path, place: int, content: bytes) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[place : place + len(content)] = content
    path.write_bytes(gzip.compress(raw))


def test_check_warns_about_unusual_headers(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    thick = np.diag([1, 1, 25, 1])
    for name, array in (("p0.nii.gz", data.scan(0)), ("p0_label.nii.gz", data.mask(0))):
        data.image(name, array, thick)
    for name, array in (("p1.nii.gz", data.scan(1)), ("p1_label.nii.gz", data.mask(1))):
        data.image(name, array[:, :, :3])
    header_edit(data.folder / "p2.nii.gz", 80, struct.pack("<3f", -1, 0, 1))
    header_edit(data.folder / "p3.nii.gz", 123, b"\x01")  # metres
    header_edit(data.folder / "p4.nii.gz", 352 + 2 * int(np.prod(SHAPE)), b"tail")
    message = data.warnings(capsys)
    for sentence in (
        "p0.nii.gz: found: spacing 1 x 1 x 25 mm; expected: at most 20 mm.",
        "p1.nii.gz: found: shape 9 x 8 x 3; expected: at least 4 voxels along each axis.",
        "p2.nii.gz: found: voxel sizes -1 x 0 x 1 in the header (pixdim); expected: positive",
        "p3.nii.gz: found: lengths in meter; expected: mm.",
        "p4.nii.gz: found: 4 bytes after the last voxel; expected: only the voxels of shape",
    ):
        assert sentence in message
    header_edit(data.folder / "p2.nii.gz", 252, struct.pack("<2h", 0, 0))
    message = data.errors()
    assert "There is no sform that could be used instead" in message
    assert "neither sform nor qform" in message


def test_check_warns_of_text_in_headers_without_repeating_it(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data.folder / "p1.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"DOE^JOHN 1961-04-02"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born in Springfield"))
    nib.save(image, path)
    printed = data.warnings(capsys)
    assert "0 errors and 1 warnings" in printed
    assert "text in the header of 1 files that may identify a patient: p1" in printed
    assert "descrip, extension 6)" in printed
    cache = Layout.of(data.config()).root / ".check_cache.json"
    written = Layout.of(data.config()).check.read_text() + cache.read_text()
    for secret in ("DOE", "1961", "Springfield"):
        assert secret not in printed + written
