"""Series with objects that are no slices, small tilts and tables of values; names of any script."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from support.dicom_series import Scan, save, write_scan

from hstf.cli import main
from hstf.datasets.dicom.headers import read_headers
from hstf.datasets.dicom.segmentation import Segments, in_axes_of
from hstf.datasets.dicom.series import build_series
from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.imaging.volumes import Volume
from hstf.runtime.errors import HstfError

Capture = pytest.CaptureFixture[str]
LABELS = ["--labels", "Läsion=1", "печень=2"]


def slices(scan: Scan) -> list[Dataset]:
    """Return the objects of a series."""
    return [scan.slice(index) for index in range(scan.shape[2])]


def import_dicom(source: Path, *options: str, code: int = 0) -> Path:
    """Import a folder and return the folder of the images."""
    target = source.parent / "converted"
    assert main(["import", "dicom", str(source), "--extract", str(target), *options]) == code
    return target


def image_of(target: Path) -> nib.Nifti1Image:
    """Return the only image."""
    (path,) = (target / "images").iterdir()
    return nib.load(path)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "scans"


def dose_picture(item: Dataset) -> None:
    item.SamplesPerPixel, item.PhotometricInterpretation, item.PlanarConfiguration = 3, "RGB", 0
    item.PixelData = item.PixelData * 3
    del item.ImagePositionPatient


def report(item: Dataset) -> None:
    item.Modality = "SR"
    del item.Rows, item.Columns, item.PixelData


def many_frames(item: Dataset) -> None:
    item.NumberOfFrames = 2
    item.PixelData = item.PixelData * 2


def marked_overview(item: Dataset) -> None:
    item.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


@pytest.mark.parametrize("change", [dose_picture, report, many_frames, marked_overview])
@pytest.mark.parametrize("place", [0, 5])
def test_object_that_is_no_slice_is_left_out_of_its_series(
    source: Path, change: Callable[[Dataset], None], place: int, capsys: Capture
) -> None:
    """The order of the files decides nothing."""
    scan = Scan(modality="CT")
    objects = slices(scan)
    foreign = scan.slice(0)
    foreign.SOPInstanceUID = foreign.file_meta.MediaStorageSOPInstanceUID
    change(foreign)
    for index, item in enumerate([*objects[:place], foreign, *objects[place:]]):
        source.mkdir(exist_ok=True)
        item.save_as(source / f"IM{index}", enforce_file_format=True)
    target = import_dicom(source, "--modality", "CT")
    assert image_of(target).shape == scan.shape
    assert np.allclose(image_of(target).affine, scan.affine, atol=1e-4)
    assert "left out: 1 files of series" in capsys.readouterr().out


def test_slice_that_is_not_parallel_is_a_problem_of_its_series(
    source: Path, capsys: Capture
) -> None:
    """An overview image that is not marked: the scan must not be left out without a problem."""
    objects = slices(Scan())
    objects[4].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    save(objects, source)
    import_dicom(source, code=1)
    assert "1 of 5 slices are not parallel to the others" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("length", "is_read"), [(0.999, True), (2.0, False), (0.9, False)])
def test_directions_have_the_length_1(
    source: Path, length: float, is_read: bool, capsys: Capture
) -> None:
    scan = Scan(orientation=(1, 0, 0, 0, 1, 0))
    objects = slices(scan)
    for item in objects:
        item.ImageOrientationPatient = [length, 0, 0, 0, length, 0]
    save(objects, source)
    target = import_dicom(source, code=0 if is_read else 1)
    if is_read:
        assert np.allclose(image_of(target).affine, scan.affine, atol=1e-4)
    else:
        assert f"has the length {length:g}, expected 1" in "".join(capsys.readouterr())


def test_table_of_values_is_not_ignored(source: Path, capsys: Capture) -> None:
    objects = slices(Scan())
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.add_new("LUTData", "US", [7, 9, 11, 13])
    for item in objects:
        item.ModalityLUTSequence = Sequence([table])
    save(objects, source)
    import_dicom(source, code=1)
    assert "ModalityLUTSequence" in "".join(capsys.readouterr())


def test_several_images_at_one_place_are_named_as_such(source: Path, capsys: Capture) -> None:
    scan = Scan()
    save([scan.slice(0) for _ in range(3)], source)
    import_dicom(source, code=1)
    assert "3 slices at one place, 3 at each" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("scan.nii", b"nifti", "For NIfTI and other volumes use hstf import folder."),
        ("slice", bytes(128) + b"DICM" + b"damaged", "Export the series from the PACS again."),
    ],
)
def test_folder_without_series_gets_the_advice_for_what_is_in_it(
    source: Path, name: str, content: bytes, advice: str, capsys: Capture
) -> None:
    source.mkdir()
    (source / name).write_bytes(content)
    import_dicom(source, code=1)
    message = "".join(capsys.readouterr())
    assert advice in message
    assert "Fix the links" not in message


def tilted(source: Path, degrees: float) -> Scan:
    """Write a series whose slices are shifted along their rows."""
    scan = Scan(shape=(7, 6, 20), orientation=(1, 0, 0, 0, 1, 0))
    objects = slices(scan)
    shift = scan.spacing[2] * np.tan(np.radians(degrees))
    for index, item in enumerate(objects):
        x, y, z = item.ImagePositionPatient
        item.ImagePositionPatient = [float(x) + index * shift, y, z]
    save(objects, source)
    return scan


def test_small_tilt_is_reported_and_labels_of_both_geometries_are_accepted(
    source: Path, capsys: Capture
) -> None:
    scan = tilted(source, 2.0)
    image = image_of(import_dicom(source))
    assert "its slices are tilted by 2.0 degrees" in capsys.readouterr().out
    assert not np.allclose(image.get_qform(), image.get_sform(), rtol=0, atol=0.01)
    (headers,) = read_headers([source]).series.values()
    series = build_series(headers)
    labels = np.zeros(scan.shape, np.uint8)
    labels[1, 2, 3] = 1
    for affine in (image.get_sform(), image.get_qform()):
        assert np.array_equal(
            in_axes_of(series, Volume(labels, affine, nib.Nifti1Header())), labels
        )
    elsewhere = image.get_qform()
    elsewhere[0, 3] += 0.5
    with pytest.raises(HstfError, match="is not on the voxels"):
        in_axes_of(series, Volume(labels, elsewhere, image.header))


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("", "Lovelace^Ada"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_segmentation_object_has_names_of_any_script(
    source: Path, tmp_path: Path, characters: str | list[str], name: str
) -> None:
    scan = Scan(name=name, changes={"SpecificCharacterSet": characters})
    write_scan(scan, source)
    target = import_dicom(source)
    (row,) = [row for row in DICOM_SERIES.records(target / "dicom.csv") if row["case_id"]]
    labels = np.zeros(scan.shape, np.uint8)
    labels[1:3, 2, 2] = 1
    labels[4, 4, 3] = 2
    masks = tmp_path / "masks"
    masks.mkdir()
    nib.save(nib.Nifti1Image(labels, image_of(target).affine), masks / f"{row['case_id']}.nii.gz")
    output = tmp_path / "objects"
    command = ["dicomseg", str(target / "dicom.csv"), "--input", str(masks), *LABELS]
    assert main([*command, "--algorithm", "Größe 山", "--output", str(output)]) == 0
    result = dcmread(output / f"{row['case_id']}.dcm")
    assert str(result.PatientName) == name
    assert [item.SegmentLabel for item in result.SegmentSequence] == ["Läsion", "печень"]
    assert result.SeriesDescription == "Segmentation: Größe 山"


def test_classes_with_equal_first_letters_are_refused() -> None:
    long = "tumour" * 11
    with pytest.raises(HstfError, match="2 classes have the same first 64 letters"):
        Segments({f"{long}_a": 1, f"{long}_b": 2}, {})
