"""``check`` finds equal cases, patients in two splits, and unusual labels and intensities."""

import gzip

import numpy as np
import pytest
from support.check_files import SHAPE, Data
from support.stages import check
from support.volume_files import lower_bound_of_scans


def test_check_finds_patients_in_two_splits(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.rows[0]["group"] = data.rows[2]["group"] = "anna"
    message = data.warnings(capsys)
    assert "2 warnings" in message
    assert "patient anna is labelled here and has another split in p2 (unlabelled)" in message
    data.rows[4]["group"] = "anna"
    assert "patient anna is labelled (p0) and unlabelled (p2) and test (p4)" in data.errors()


def test_check_finds_duplicate_files_and_voxels(data: Data) -> None:
    data.rows[5]["image"] = "./p0.nii.gz"
    recompressed = gzip.compress(
        gzip.decompress((data.folder / "p1.nii.gz").read_bytes()), 9, mtime=1
    )
    (data.folder / "p2.nii.gz").write_bytes(recompressed)
    message = data.errors()
    assert f"the same file as in p5 (image: {data.folder / 'p0.nii.gz'})" in message
    assert (
        f"p2.nii.gz: found: the same voxels as in p1 (image: {data.folder / 'p1.nii.gz'})"
        in message
    )
    assert "4 errors" in message


def test_check_accepts_equal_empty_labels(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p2_label.nii.gz", "p3_label.nii.gz"):
        data.image(name, np.zeros(SHAPE, np.uint8))
    assert "0 warnings" in data.warnings(capsys)
    data.image("p5_label.nii.gz", data.mask(4))
    assert "2 warnings" in data.warnings(capsys)
    data.rows[5]["label"] = "p4_label.nii.gz"
    assert "the same file as in p4 (label" in data.errors()


def test_check_accepts_equal_masks(data: Data) -> None:
    """Clicks are absent in many cases, and registered scans may have one atlas."""
    for number, row in enumerate(data.rows):
        row["prior"] = f"p{number}_prior.nii.gz"
        data.image(row["prior"], np.zeros(SHAPE, np.uint8))
    modalities = {"image": "mr", "prior": "mask"}
    findings = check(data.config(modalities=modalities))
    assert not [finding for finding in findings if "the same" in finding.found]
    atlas = np.zeros(SHAPE, np.uint8)
    atlas[1:8, 1:7, 1:6] = 1
    for number in (1, 2):
        data.image(f"p{number}_prior.nii.gz", atlas)
    findings = check(data.config(modalities=modalities))
    equal = [finding for finding in findings if "the same voxels as in" in finding.found]
    assert [(finding.level, finding.case_id) for finding in equal] == [
        ("warning", "p1"),
        ("warning", "p2"),
    ]
    data.image("p1_prior.nii.gz", data.mask(1))
    assert "the same voxels as in p1 (label: " in data.errors(modalities=modalities)


def test_check_finds_a_label_used_as_image(data: Data) -> None:
    data.rows[0]["image"] = data.rows[0]["label"]
    assert "the same file as in p0 (label: " in data.errors()


def test_check_finds_invalid_label_values(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.image("p0_label.nii.gz", np.zeros(SHAPE, np.uint8))
    data.image(
        "p1_label.nii.gz", data.mask(1).astype(np.float64)
    )  # whole numbers of any type will do
    data.image("p4_label.nii.gz", np.zeros(SHAPE, np.uint8))  # a test case may be empty
    message = data.warnings(capsys)
    assert "0 errors and 1 warnings" in message
    assert "p0_label.nii.gz: found: an empty label in a labelled case" in message
    odd = data.mask(2).astype(np.float32)
    odd[0, 0, :5] = [0.5, -1, np.nan, 255, 300]
    data.image("p2_label.nii.gz", odd)
    each = ", ".join(f"{value} (1 voxels)" for value in ("-1", "0.5", "255", "300", "nan"))
    assert f"label values {each}; expected: only 0 (background), 1 (foreground)" in data.errors()
    odd[0, 0, :5] = 255
    data.image("p2_label.nii.gz", odd)
    check(data.config(labels={"foreground": 1, "ignore": 255}))
    data.image("p2_label.nii.gz", data.scan(9).astype(np.float32) + 0.25)
    assert "and perhaps more" in data.errors()


@pytest.mark.parametrize("value", [256, 1001, -1, 2.5])
def test_check_does_not_advise_to_add_values_that_labels_cannot_have(
    data: Data, value: float
) -> None:
    mask = data.mask(0).astype(np.float32)
    mask[0, 0, 0] = value
    data.image("p0_label.nii.gz", mask)
    message = data.errors()
    assert f"found: label values {value:g} (1 voxels)" in message
    assert "Number the classes of the file anew" in message and "Add the values" not in message


def test_check_finds_classes_without_scribbles(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"labels": {"foreground": 1, "rim": 2, "ignore": 255}}
    for number in (0, 1):
        scribbles = np.full(SHAPE, 255, np.uint8)
        scribbles[2, 3 + number, 1:4] = 1
        data.image(f"p{number}_label.nii.gz", scribbles)
    check(data.config(**config))
    message = capsys.readouterr().out
    assert "0 errors and 2 warnings" in message
    assert "no labelled case with a voxel of background (0)" in message
    assert "no labelled case with a voxel of rim (2)" in message
    data.image("p1_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    data.image("p4_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    errors = data.errors(**config)
    assert errors.count("a label in which every voxel is ignored") == 2
    assert "2 errors" in errors


def test_check_finds_ct_without_the_offset_of_hounsfield_units(data: Data) -> None:
    for number in range(6):
        scan = data.scan(number)
        scan[:, 4:] -= 1100  # air
        data.image(f"p{number}.nii.gz", scan + 1024 * (number == 3))
    findings = check(data.config(modalities={"image": "ct"}))
    shifted = [finding.case_id for finding in findings if "1024 above" in finding.found]
    assert shifted == ["p3"]
    findings = check(data.config(modalities={"image": "other"}))
    assert not [finding for finding in findings if "1024 above" in finding.found]


def test_check_finds_scans_unlike_the_others(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        data.rows.append(data.rows[2] | {"case_id": f"q{number}", "label": ""})
        data.rows[-1]["image"] = f"q{number}.nii.gz"
        data.image(f"q{number}.nii.gz", data.scan(20 + number))
    data.image("p5.nii.gz", (data.scan(5) / 1000).astype(np.float32))  # a test case
    data.image("q3.nii.gz", data.scan(23) - 400)
    message = data.warnings(capsys)
    assert "2 warnings" in message
    assert "p5.nii.gz: found: intensities unlike those of the training scans: a narrower" in message
    assert "q3.nii.gz: found: intensities unlike those of the training scans: negative" in message


def test_check_accepts_what_compresses_well_only_as_a_mask(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bound_of_scans(monkeypatch)
    for number, row in enumerate(data.rows):
        row["prior"] = f"p{number}_prior.nii.gz"
        data.image(row["prior"], 1 - data.mask(number))
    message = data.errors(modalities={"image": "mr", "prior": "other"})
    assert message.count("_prior.nii.gz: found: ") == 6
    assert message.count("almost constant, no scan (a mask needs the modality mask)") == 6
    findings = check(data.config(modalities={"image": "mr", "prior": "mask"}))
    assert {finding.level for finding in findings} == {"ok"}


def test_check_requires_two_labelled_patients(data: Data) -> None:
    data.rows = data.rows[:1]
    message = data.errors()
    assert "1 labelled cases of 1 patients; expected: at least 2 patients" in message
    assert "1 errors and 2 warnings" in message


def test_check_warns_about_a_single_labelled_patient(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, row in enumerate(data.rows):
        row["group"] = "a" if row["split"] == "labelled" else f"b{number}"
    message = data.warnings(capsys)
    assert "labelled cases of 1 patients; expected: at least 2 patients" in message
    assert "weights of external teachers are too optimistic" in message


def test_check_warns_if_withheld_labels_are_used(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    check(data.config(method="full"))
    message = capsys.readouterr().out
    assert "the model learns from the withheld labels of the unlabelled cases" in message
    assert "unlabelled cases of 0 patients" in message
