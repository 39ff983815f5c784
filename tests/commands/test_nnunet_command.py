"""``hstf nnunet``: a data set of nnU-Net from labelled and pseudo-labelled cases."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from support.volume_files import lower_bound_of_scans

from hstf.cli import main
from hstf.commands.nnunet import Source, _write_images, by_size, next_steps, region_order
from hstf.config.experiment import Config
from hstf.datasets.phantom.dataset import write_dataset
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.product_tables import NNUNET_CASES
from hstf.experiment.round_tables import LABELS
from hstf.imaging.volumes import read_label
from hstf.runtime.files import sha256_file, write_text

BRATS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
LOW_WEIGHT = 30


GOOD = "case_003"
BAD = "case_004"


@pytest.fixture
def experiment(tmp_path: Path) -> Config:
    """Two labelled cases, a test case, and in round 1 a pseudo-label of one of two cases."""
    options = PhantomOptions(size=(16, 16, 12), cases=5, labelled=2, test=1)
    sheet = write_dataset(tmp_path / "scans", options)
    config = Config(
        experiment="heart",
        cases=str(sheet),
        output=str(tmp_path / "results"),
        labels={name: 2 * value for name, value in PHANTOM_LABELS.items()},
        modalities={"image": "mr"},
    )
    for path in (tmp_path / "scans/labels").iterdir():
        label = nib.load(path)
        nib.save(nib.Nifti1Image(2 * np.asarray(label.dataobj), label.affine), path)
    layout = Layout.of(config)
    write_text(layout.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    folder = layout.labels(1)
    folder.mkdir(parents=True)
    image = nib.load(case_named(config, GOOD).images[0])
    label = np.zeros(image.shape, np.uint8)
    label[2:5, 2:5, 2:5] = config.class_values[1]
    weight = np.full(image.shape, 255, np.uint8)
    weight[4] = LOW_WEIGHT
    files = []
    for name, data in ((f"{GOOD}.nii.gz", label), (f"{GOOD}.weight.nii.gz", weight)):
        nib.save(nib.Nifti1Image(data, image.affine), folder / name)
        files.append(folder / name)
    common = {"round": 1, "reviewer": "", "reason": "", "review": "", "predicted_dice": 0.8}
    used = {
        "case_id": GOOD,
        "source": "automatic",
        "weight_mean": 0.7,
        "files": [f"labels/{path.name}" for path in files],
        "sha256": [sha256_file(path) for path in files],
    }
    unused = {
        "case_id": BAD,
        "source": "rejected",
        "weight_mean": None,
        "files": [],
        "sha256": [],
    }
    LABELS.write(layout.labels_table(1), [common | used, common | unused])
    return config


def case_named(config: Config, name: str) -> Case:
    return next(case for case in read_cases(config).cases if case.case_id == name)


def test_nnunet_writes_labelled_cases_and_pseudo_labels(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "raw" / "Dataset501_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    rows = {row["case_id"]: row for row in NNUNET_CASES.records(target / "cases.csv")}
    labelled = read_cases(experiment).of(Split.LABELLED)
    assert set(rows) == {GOOD, *(case.case_id for case in labelled)}
    assert rows[GOOD]["source"] == "automatic"
    description = json.loads((target / "dataset.json").read_text())
    ignore = len(experiment.class_names)
    expected = {name: index for index, name in enumerate(experiment.class_names)}
    assert description["labels"] == expected | {"ignore": ignore}
    assert description["numTraining"] == len(rows)
    label = read_label(target / "labelsTr" / f"{GOOD}.nii.gz")
    assert (label.data[4] == ignore).all(), "voxels with a low weight"
    assert (label.data[2:4, 2:5, 2:5] == 1).all(), "class indices"
    assert (label.data != ignore).sum() == label.data.size - label.data[4].size
    image = nib.load(target / "imagesTr" / f"{GOOD}_0000.nii.gz")
    assert np.allclose(image.affine, label.affine)
    assert "nnUNetv2_plan_and_preprocess -d 501" in capsys.readouterr().out


def test_nnunet_keeps_patients_together_and_validates_on_labelled_cases(
    experiment: Config, tmp_path: Path
) -> None:
    source = Source.opened(Layout.of(experiment).root, 1, 0.25)
    labelled = [Case(name, (), None, Split.LABELLED, name[0], "") for name in ("a1", "a2", "b1")]
    unlabelled = [Case(name, (), None, Split.UNLABELLED, name[0], "") for name in ("a3", "c1")]
    splits = source._splits(labelled, unlabelled)
    assert sorted(sorted(split["val"]) for split in splits) == [["a1", "a2"], ["b1"]]
    for split in splits:
        assert "c1" in split["train"] and "c1" not in split["val"]
        assert ("a3" in split["train"]) == ("a1" in split["train"]), "a patient is on one side"


def test_nnunet_divides_the_scans_of_a_single_patient(experiment: Config) -> None:
    source = Source.opened(Layout.of(experiment).root, 1, 0.25)
    labelled = [Case(name, (), None, Split.LABELLED, "a", "") for name in ("a1", "a2")]
    unlabelled = [Case("b1", (), None, Split.UNLABELLED, "b", "")]
    splits = source._splits(labelled, unlabelled)
    assert sorted(split["val"] for split in splits) == [["a1"], ["a2"]]
    assert sorted(sorted(split["train"]) for split in splits) == [["a1", "b1"], ["a2", "b1"]]


def test_nnunet_of_round_0_reads_no_pseudo_label(experiment: Config, tmp_path: Path) -> None:
    target = tmp_path / "Dataset502_heart"
    root = Layout.of(experiment).root
    assert main(["nnunet", str(root), "--output", str(target), "--round", "0"]) == 0
    rows = NNUNET_CASES.records(target / "cases.csv")
    assert {row["source"] for row in rows} == {"labelled"}


def test_nnunet_writes_images_without_text_of_the_scanner(
    experiment: Config, tmp_path: Path
) -> None:
    named, plain = (case.images[0] for case in read_cases(experiment).of(Split.LABELLED))
    image = nib.load(named)
    voxels = np.asarray(image.dataobj)
    image.header["descrip"] = b"DOE^JOHN 1961-04-02"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"MRN 4711123"))
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), named)
    target = tmp_path / "Dataset504_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    written = target / "imagesTr" / named.name.replace(".nii.gz", "_0000.nii.gz")
    content = gzip.decompress(written.read_bytes())
    assert b"DOE" not in content and b"4711123" not in content
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), voxels)
    np.testing.assert_array_equal(nib.load(written).affine, image.affine)
    copy = target / "imagesTr" / plain.name.replace(".nii.gz", "_0000.nii.gz")
    assert copy.read_bytes() == plain.read_bytes()


def test_nnunet_writes_no_file_name_of_gzip(experiment: Config, tmp_path: Path) -> None:
    """``gzip DOE_JOHN.nii`` stores this name in the header of the file."""
    scan = read_cases(experiment).of(Split.LABELLED)[0].images[0]
    content = gzip.decompress(scan.read_bytes())
    with scan.open("wb") as stream, gzip.GzipFile("DOE_JOHN.nii", "wb", fileobj=stream) as zipped:
        zipped.write(content)
    assert b"DOE_JOHN" in scan.read_bytes()
    target = tmp_path / "Dataset506_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    written = target / "imagesTr" / scan.name.replace(".nii.gz", "_0000.nii.gz")
    assert b"DOE_JOHN" not in written.read_bytes()


def write_anew(path: Path, affine: np.ndarray) -> None:
    """Write a volume with another affine in the sform, and without a qform."""
    voxels = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def test_nnunet_writes_labels_with_the_geometry_of_the_image(
    experiment: Config, tmp_path: Path
) -> None:
    """nnU-Net compares the voxel sizes with a relative tolerance of 1e-5."""
    case = read_cases(experiment).of(Split.LABELLED)[0]
    affine = nib.load(case.images[0]).affine
    rounded = affine.copy()
    rounded[:3, 0] *= 1.0003
    write_anew(case.training_label, rounded)
    target = tmp_path / "Dataset508_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    name = case.case_id
    spacing = sitk.ReadImage(target / "imagesTr" / f"{name}_0000.nii.gz").GetSpacing()
    label = sitk.ReadImage(target / "labelsTr" / f"{name}.nii.gz")
    np.testing.assert_allclose(label.GetSpacing(), spacing)
    found = np.asarray(nib.load(target / "labelsTr" / f"{name}.nii.gz").dataobj)
    np.testing.assert_array_equal(2 * found, nib.load(case.training_label).dataobj)


def test_nnunet_writes_images_that_itk_opens(experiment: Config, tmp_path: Path) -> None:
    scan = read_cases(experiment).of(Split.LABELLED)[0].images[0]
    sheared = nib.load(scan).affine
    sheared[0, 1] += 0.02 * sheared[1, 1]
    write_anew(scan, sheared)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(scan)
    target = tmp_path / "Dataset509_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    written = target / "imagesTr" / scan.name.replace(".nii.gz", "_0000.nii.gz")
    found = sitk.GetArrayFromImage(sitk.ReadImage(written))
    np.testing.assert_array_equal(found.T, nib.load(scan).dataobj)


def test_nnunet_writes_nifti_1_of_nifti_2(experiment: Config, tmp_path: Path) -> None:
    scan = read_cases(experiment).of(Split.LABELLED)[0].images[0]
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj)
    nib.save(nib.Nifti2Image(voxels, image.affine), scan)
    with pytest.raises(RuntimeError, match="ImageIO"):
        sitk.ReadImage(scan)
    target = tmp_path / "Dataset510_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    name = scan.name.removesuffix(".nii.gz")
    written = sitk.ReadImage(target / f"imagesTr/{name}_0000.nii.gz")
    label = sitk.ReadImage(target / f"labelsTr/{name}.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written).T, voxels)
    assert written.GetSpacing() == label.GetSpacing()
    assert written.GetOrigin() == label.GetOrigin()
    assert written.GetDirection() == label.GetDirection()


def test_write_images_uses_the_geometry_of_the_first_channel(tmp_path: Path) -> None:
    """nnU-Net refuses channels with different voxel sizes."""
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    paths = []
    for name, edge in (("t1", 0.7421875), ("t2", 0.7422)):
        paths.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, np.diag([edge, edge, 5, 1])), paths[-1])
    case = Case("a", tuple(paths), None, Split.TEST, "a", "")
    _write_images(tmp_path / "imagesTs", case, {"t1": "mr", "t2": "mr"})
    first, second = (sitk.ReadImage(tmp_path / f"imagesTs/a_000{i}.nii.gz") for i in range(2))
    assert first.GetSpacing() == second.GetSpacing()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(second).T, voxels)


def test_nnunet_refuses_results_that_were_copied(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Layout.of(experiment).root
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    assert main(["nnunet", str(copy), "--output", str(tmp_path / "Dataset507_heart")]) == 1
    assert f"its configuration is about {root.absolute()}" in capsys.readouterr().err


def test_nnunet_names_a_damaged_scan_and_writes_nothing(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = case_named(experiment, GOOD).images[0]
    content = bytearray(scan.read_bytes())
    content[-8] ^= 1  # the checksum
    scan.write_bytes(content)
    target = tmp_path / "Dataset505_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 1
    assert f"{scan}: the voxels cannot be read" in capsys.readouterr().err
    assert not target.exists()


def test_nnunet_reads_masks_that_compress_better_than_scans(
    experiment: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modalities = experiment.model_copy(update={"modalities": {"image": "mask"}})
    text = yaml.safe_dump(modalities.model_dump(mode="json"), sort_keys=False)
    write_text(Layout.of(experiment).config, text)
    path = case_named(experiment, GOOD).images[0]
    image = nib.load(path)
    mask = np.zeros(image.shape, np.uint8)
    mask[2:5, 2:5, 2:5] = 1
    nib.save(nib.Nifti1Image(mask, image.affine), path)
    lower_bound_of_scans(monkeypatch)
    target = tmp_path / "Dataset506_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    np.testing.assert_array_equal(
        nib.load(target / "imagesTr" / f"{GOOD}_0000.nii.gz").dataobj, mask
    )


def test_nnunet_writes_no_label_of_test_cases(experiment: Config, tmp_path: Path) -> None:
    target = tmp_path / "Dataset503_heart"
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    test_cases = {case.case_id for case in read_cases(experiment).of(Split.TEST)}
    written = {path.name.removesuffix(".nii.gz") for path in (target / "labelsTr").iterdir()}
    assert test_cases and not written & test_cases
    assert not list(target.glob("labelsTs/*"))
    images = {path.name for path in (target / "imagesTs").iterdir()}
    assert images == {f"{name}_0000.nii.gz" for name in test_cases}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "heart"], "Dataset<three digits>_<name>"),
        (["--output", "Dataset501_heart", "--round", "7"], "Rounds that can be written: 0, 1"),
        (["--output", "Dataset501_heart", "--minimum-weight", "2"], "expected 0 to 1"),
    ],
)
def test_nnunet_refuses_wrong_options(
    experiment: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    root = str(Layout.of(experiment).root.resolve())
    monkeypatch.chdir(tmp_path)
    assert main(["nnunet", root, *options]) == 1
    assert message in capsys.readouterr().err


def test_nnunet_removes_what_a_killed_command_left(experiment: Config, tmp_path: Path) -> None:
    target = tmp_path / "Dataset501_heart"
    leftover = tmp_path / f".tmp-0123abcd-{target.name}"
    (leftover / "imagesTr").mkdir(parents=True)
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 0
    assert not leftover.exists()
    assert (target / "dataset.json").is_file()


def test_nnunet_replaces_no_folder(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "Dataset501_heart"
    target.mkdir()
    assert main(["nnunet", str(Layout.of(experiment).root), "--output", str(target)]) == 1
    assert "exists" in capsys.readouterr().err


def test_region_order_writes_inner_regions_last() -> None:
    """Write regions as nnU-Net does: each voxel gets its class back."""
    order = region_order(BRATS)
    assert order is not None
    for index in (1, 2, 3):
        written = 0
        for value, indices in zip(order, by_size(BRATS).values(), strict=True):
            if index in indices:
                written = value
        assert written == index


def test_region_order_is_none_where_classes_cannot_be_found_again() -> None:
    assert region_order({"left": (1, 2), "right": (2, 3)}) is None
    assert region_order({"whole": (1, 2, 3)}) is None


def test_next_steps_quotes_folders_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my data" / "Dataset501_heart"
    steps = next_steps(folder, has_splits=True)
    assert steps[0] == f"export nnUNet_raw='{tmp_path}/my data'"
    assert steps[2].startswith(f"cp '{folder}/splits_final.json' ")
