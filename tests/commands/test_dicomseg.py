"""``hstf dicomseg``: DICOM SEG objects on the original series, read again by highdicom."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import highdicom
import nibabel as nib
import numpy as np
import pytest
import yaml
from pydicom import Dataset, config, dcmread
from support.dicom_series import SECRETS, Scan, save, write_scan

from hstf.cli import main
from hstf.commands import dicomseg
from hstf.config.experiment import Config
from hstf.datasets.dicom.packages import quiet
from hstf.experiment.layout import Layout
from hstf.experiment.product_tables import DICOMSEG
from hstf.experiment.round_tables import LABELS
from hstf.experiment.scan_tables import CASE_SHEET, DICOM_SERIES
from hstf.runtime.files import sha256_file, write_csv, write_text

Capture = pytest.CaptureFixture[str]
CLASSES = ["--labels", "liver=1", "vessel=2", "tumour=5"]


@dataclass
class Hospital:
    """A folder with two scans that were imported."""

    folder: Path
    scans: list[Scan]
    names: list[str]

    @property
    def mapping(self) -> Path:
        return self.folder / "converted" / "dicom.csv"

    @property
    def output(self) -> Path:
        return self.folder / "objects"

    def image(self, name: str) -> nib.Nifti1Image:
        return nib.load(self.folder / "converted" / "images" / f"{name}.nii.gz")

    def segment(self, *, canonical: bool = False) -> dict[str, np.ndarray]:
        """Write a segmentation of each scan, and return them."""
        maps = {}
        for index, name in enumerate(self.names):
            image = self.image(name)
            labels = np.zeros(image.shape, np.uint8)
            labels[1:4, 2:4, 1 + index : 4] = 1
            labels[0, 5, 3] = labels[6, 0, 3] = 5
            maps[name] = labels
            written = nib.Nifti1Image(labels, image.affine)
            if canonical:
                written = nib.as_closest_canonical(written)
            (self.folder / "masks").mkdir(exist_ok=True)
            nib.save(written, self.folder / "masks" / f"{name}.nii.gz")
        return maps

    def write(self, *options: str, code: int = 0, labels: Sequence[str] = CLASSES) -> None:
        masks = ["--input", str(self.folder / "masks")]
        output = ["--output", str(self.output)]
        assert main(["dicomseg", str(self.mapping), *masks, *labels, *output, *options]) == code


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("hospital")
    scans = [Scan(), Scan(name="Grace", patient_id="MRN-2", modality="CT")]
    for scan in scans:
        write_scan(scan, folder / "scans")
    target = str(folder / "converted")
    assert main(["import", "dicom", str(folder / "scans"), "--extract", target]) == 0
    rows = {row["series_uid"]: row for row in DICOM_SERIES.records(folder / "converted/dicom.csv")}
    return Hospital(folder, scans, [rows[scan.series_uid]["case_id"] for scan in scans])


@pytest.fixture
def hospital(imported: Hospital, tmp_path: Path) -> Hospital:
    """Return a copy of the folder; the series are in the new place."""
    folder = tmp_path / "hospital"
    shutil.copytree(imported.folder, folder)
    mapping = folder / "converted" / "dicom.csv"
    mapping.write_text(mapping.read_text().replace(str(imported.folder), str(folder)))
    return Hospital(folder, imported.scans, imported.names)


def slices_of(hospital: Hospital, scan: Scan) -> dict[str, tuple[int, Path]]:
    """Return number and file of each slice by its SOPInstanceUID."""
    found = {}
    for path in (hospital.folder / "scans").iterdir():
        dataset = dcmread(path, stop_before_pixels=True)
        if dataset.SeriesInstanceUID == scan.series_uid:
            found[str(dataset.SOPInstanceUID)] = (dataset.InstanceNumber - 1, path)
    return found


@pytest.mark.parametrize("canonical", [False, True])
def test_objects_have_the_voxels_on_the_right_slices(
    hospital: Hospital, canonical: bool, capsys: Capture
) -> None:
    maps = hospital.segment(canonical=canonical)
    hospital.write("--algorithm", "liver model" + 70 * "x", "--algorithm-version", "7")
    for scan, name in zip(hospital.scans, hospital.names, strict=True):
        labels = maps[name]
        slices = slices_of(hospital, scan)
        result = highdicom.seg.segread(hospital.output / f"{name}.dcm")
        assert result.StudyInstanceUID == scan.study_uid
        assert result.PatientID == scan.patient_id and result.Modality == "SEG"
        assert result.FrameOfReferenceUID == scan.frame_uid
        assert [item.segment_label for item in result.SegmentSequence] == [
            "liver",
            "vessel",
            "tumour",
        ]
        seen = np.zeros_like(labels)
        for frame, pixels in zip(
            result.PerFrameFunctionalGroupsSequence, result.pixel_array, strict=True
        ):
            image = frame.DerivationImageSequence[0].SourceImageSequence[0]
            index, path = slices[image.ReferencedSOPInstanceUID]
            position = frame.PlanePositionSequence[0].ImagePositionPatient
            assert np.allclose(position, dcmread(path).ImagePositionPatient)
            number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            seen[:, :, index][pixels.T > 0] = (1, 2, 5)[number - 1]
        assert np.array_equal(seen, labels)
        uids = [uid for uid, _ in sorted(slices.items(), key=lambda item: item[1][0])]
        read = result.get_pixels_by_source_instance(
            source_sop_instance_uids=uids, combine_segments=True
        )
        assert np.array_equal(read.transpose(2, 1, 0), np.array([0, 1, 2, 0, 0, 3])[labels])
        segment = result.SegmentSequence[0]
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "liver model" + 53 * "x"
        identification = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert identification.AlgorithmVersion == "7"
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    rows = DICOMSEG.records(hospital.output / "dicomseg.csv")
    assert [row["segments"] for row in rows] == [["liver", "tumour"]] * 2
    assert sorted(row["frames"] for row in rows) == [3, 4]
    names = [path.name for path in hospital.output.iterdir()]
    texts = ["".join(capsys.readouterr()), *names, str(rows)]
    assert not any(secret in text.lower() for secret in SECRETS for text in texts)


def test_empty_segmentation_has_a_row_and_no_object(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    name = hospital.names[0]
    image = hospital.image(name)
    empty = nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    nib.save(empty, hospital.folder / "masks" / f"{name}.nii.gz")
    hospital.write()
    rows = {row["case_id"]: row for row in DICOMSEG.records(hospital.output / "dicomseg.csv")}
    assert rows[name]["state"] == "empty" and not (hospital.output / f"{name}.dcm").exists()
    assert "1 objects, 1 empty" in capsys.readouterr().out


def test_codes_are_those_of_the_file(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    codes = hospital.folder / "codes.yaml"
    codes.write_text(
        "liver: {category: [123037004, SCT, Anatomical Structure], type: [10200004, SCT, Liver]}\n"
    )
    hospital.write("--codes", str(codes))
    result = highdicom.seg.segread(hospital.output / f"{hospital.names[0]}.dcm")
    kind = result.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodeMeaning) == ("10200004", "Liver")
    codes.write_text("spleen: {}\nliver: {type: x}\nvessel: {category: [1, SCT], type: []}\n")
    shutil.rmtree(hospital.output)
    hospital.write("--codes", str(codes), code=1)
    error = capsys.readouterr().err
    assert "spleen: unknown class" in error and "liver: expected the keys" in error
    assert "vessel: [1, 'SCT'] is not [code, terminology, meaning]" in error


def test_other_voxels_and_values_are_refused(hospital: Hospital, capsys: Capture) -> None:
    maps = hospital.segment()
    first, second = hospital.names
    moved = hospital.image(first).affine.copy()
    moved[0, 3] += 1
    nib.save(nib.Nifti1Image(maps[first], moved), hospital.folder / f"masks/{first}.nii.gz")
    values = maps[second] + 1
    affine = hospital.image(second).affine
    nib.save(nib.Nifti1Image(values, affine), hospital.folder / f"masks/{second}.nii.gz")
    hospital.write(code=1)
    error = capsys.readouterr().err
    assert f"{first}: is not on the voxels of its series" in error
    assert f"{second}: has the values [6], expected [0, 1, 2, 5]" in error
    assert "2 segmentations were not written" in error
    assert list(hospital.output.glob("*.dcm")) == []


def test_changed_series_are_refused_and_others_written(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    first, second = hospital.scans
    _, path = next(iter(slices_of(hospital, first).values()))
    changed = dcmread(path)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(path)
    hospital.write(code=1)
    error = capsys.readouterr().err
    assert f"{hospital.names[0]}: its series s" in error and "has changed since" in error
    assert (hospital.output / f"{hospital.names[1]}.dcm").is_file()
    shutil.rmtree(hospital.output)
    for _, path in list(slices_of(hospital, second).values())[1:2]:
        path.unlink()
    hospital.write(code=1)
    assert capsys.readouterr().err.count("has changed since") == 2


def test_corrected_name_of_the_patient_is_no_change(hospital: Hospital) -> None:
    hospital.segment()
    for _, path in slices_of(hospital, hospital.scans[0]).values():
        dataset = dcmread(path)
        dataset.PatientName = "Byron^Ada"
        del dataset.StudyID
        dataset.save_as(path)
    hospital.write()
    written = dcmread(hospital.output / f"{hospital.names[0]}.dcm")
    assert written.PatientName == "Byron^Ada"


def test_series_that_have_moved_are_found(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    (hospital.folder / "scans").rename(hospital.folder / "archive")
    hospital.write(code=1)
    assert capsys.readouterr().err.count("is not in the folder of dicom.csv") == 2
    shutil.rmtree(hospital.output)
    other = hospital.folder / "masks"
    hospital.write("--source", str(other), code=1)
    assert capsys.readouterr().err.count(f"is not in {other}. Name the folder") == 2
    shutil.rmtree(hospital.output)
    hospital.write("--source", str(hospital.folder / "archive"))
    assert len(list(hospital.output.glob("*.dcm"))) == 2


def refusal(folder: Path, objects: list[Dataset], capsys: Capture) -> str:
    """Return why no object can be written for a series with these slices."""
    scan = Scan()
    save(objects, folder / "scans")
    target = folder / "converted"
    assert main(["import", "dicom", str(folder / "scans"), "--extract", str(target)]) == 0
    name = DICOM_SERIES.records(target / "dicom.csv")[0]["case_id"]
    hospital = Hospital(folder, [scan], [name])
    hospital.segment()
    hospital.write(code=1)
    return capsys.readouterr().err


def test_series_without_frame_of_reference_is_refused(tmp_path: Path, capsys: Capture) -> None:
    scan = Scan()
    objects = [scan.slice(index) for index in range(scan.shape[2])]
    for item in objects:
        del item.FrameOfReferenceUID
    error = refusal(tmp_path, objects, capsys)
    assert (
        "the headers of its series do not permit a segmentation object: FrameOfReferenceUID is"
        " missing. Correct the headers" in " ".join(error.split())
    )
    assert not any(secret in error.lower() for secret in SECRETS)


def test_invalid_attributes_are_named_without_their_values(tmp_path: Path, capsys: Capture) -> None:
    scan = Scan()
    objects = [scan.slice(index) for index in range(scan.shape[2])]
    for item in objects:
        with quiet(), config.disable_value_validation():
            item.PatientBirthDate = "12. March 1955"
            item.PatientSex = "female"
    error = refusal(tmp_path, objects, capsys)
    named = "the values of PatientBirthDate, PatientSex break a rule of DICOM"
    assert named in " ".join(error.split())
    assert "1955" not in error
    assert "female" not in error


def test_segmentations_of_other_cases_are_left_out(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    masks = hospital.folder / "masks"
    shutil.copy(masks / f"{hospital.names[0]}.nii.gz", masks / "c1.nii.gz")
    hospital.write()
    assert "left out: 1 segmentations of other cases, such as c1." in capsys.readouterr().out
    shutil.rmtree(hospital.output)
    for name in hospital.names:
        (masks / f"{name}.nii.gz").unlink()
    hospital.write(code=1)
    assert "none of 1 segmentations is of a case in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], [], "--input needs either --labels"),
        (["--labels", "a=0"], [], "the value 0 is the background"),
        (["--labels", "a=1", "b=1"], [], "two classes need two values"),
        (["--labels", "a=300"], [], "values from 1 to 255"),
        (CLASSES, ["--round", "1"], "--round goes with --results only"),
    ],
)
def test_wrong_options_are_refused(
    hospital: Hospital, labels: list[str], options: list[str], message: str, capsys: Capture
) -> None:
    hospital.segment()
    hospital.write(*options, labels=labels, code=1)
    assert message in capsys.readouterr().err


def test_model_names_the_classes(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.segment()
    labels = {"background": 0, "liver": 1, "tumour": 5}
    provenance = SimpleNamespace(hstf="1.2", round=2)
    model = SimpleNamespace(experiment="abdomen", labels=labels, provenance=provenance)
    monkeypatch.setattr(dicomseg, "read_exported_model", lambda folder: model)
    hospital.write(labels=["--model", "model"])
    segment = dcmread(hospital.output / f"{hospital.names[0]}.dcm").SegmentSequence[1]
    assert segment.SegmentLabel == "tumour" and segment.SegmentAlgorithmName == "hstf abdomen"


@pytest.fixture
def experiment(hospital: Hospital) -> Config:
    """Round 1 of an experiment: an automatic label, and a corrected one with ignored voxels."""
    config = Config(
        experiment="abdomen",
        cases=str(hospital.folder / "cases.csv"),
        output=str(hospital.folder / "results"),
        labels={"background": 0, "liver": 1, "tumour": 5, "ignore": 255},
        modalities={"image": "mr"},
    )
    layout = Layout.of(config)
    write_text(layout.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    rows = []
    labelled = {"label": "label.nii.gz", "split": "labelled", "image": "image.nii.gz"}
    sheet = [labelled | {"case_id": name} for name in ("a", "b")]
    for name, labels in hospital.segment().items():
        path = layout.labels(1) / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels[2, 2, 2] = 255
        nib.save(nib.Nifti1Image(labels, hospital.image(name).affine), path)
        row = {"case_id": name, "round": 1, "source": ("corrected" if rows else "automatic")}
        row |= dict.fromkeys(["reviewer", "reason", "review"], "")
        row |= {"predicted_dice": 0.8, "weight_mean": 0.9, "files": [f"labels/{path.name}"]}
        rows.append(row | {"sha256": [sha256_file(path)]})
        sheet.append({"case_id": name, "image": f"{name}.nii.gz", "split": "unlabelled"})
    LABELS.write(layout.labels_table(1), rows)
    columns = [column.name for column in CASE_SHEET.columns]
    filled = [dict.fromkeys(columns, "") | row for row in sheet]
    write_csv(Path(config.cases), filled, columns)
    return config


def test_labels_of_a_round(hospital: Hospital, experiment: Config, capsys: Capture) -> None:
    root = Layout.of(experiment).root
    arguments = ["dicomseg", str(hospital.mapping), "--output", str(hospital.output)]
    assert main([*arguments, "--results", str(root)]) == 0
    kinds = []
    for name in hospital.names:
        segment = dcmread(hospital.output / f"{name}.dcm").SegmentSequence[0]
        kinds.append(segment.SegmentAlgorithmType)
        version = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion
        assert version.endswith(", round 1")
    assert kinds == ["AUTOMATIC", "SEMIAUTOMATIC"]
    shutil.rmtree(hospital.output)
    assert main([*arguments, "--results", str(root), "--round", "0"]) == 1
    assert "no round has labels" in capsys.readouterr().err
    assert main([*arguments, "--results", str(root), *CLASSES]) == 1
    assert "--results knows the classes" in capsys.readouterr().err


def test_missing_mapping_is_explained(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    hospital.mapping.unlink()
    hospital.write(code=1)
    assert "is missing. hstf import dicom writes it" in capsys.readouterr().err


def test_existing_folder_is_not_touched(hospital: Hospital, capsys: Capture) -> None:
    hospital.segment()
    hospital.output.mkdir()
    hospital.write(code=1)
    assert "exists. Give a new folder" in capsys.readouterr().err
