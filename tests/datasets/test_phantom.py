"""Synthetic data sets: files, case sheet, options and scribbles."""

import hashlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.datasets.phantom.dataset import case_seed, write_dataset
from hstf.datasets.phantom.options import PHANTOM_LABELS, SHEET_COLUMNS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.experiment.cases import OPTIONAL_COLUMNS, Split, read_cases
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError

SMALL = PhantomOptions(
    size=(24, 22, 20),
    cases=5,
    labelled=2,
    test=1,
)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(folder))
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def load_voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_write_dataset_writes_a_readable_case_sheet(tmp_path: Path) -> None:
    options = replace(SMALL, modalities=("t1", "t2"), spacing=(1.0, 1.2, 3.0))
    sheet = write_dataset(tmp_path, options)
    config = Config(
        cases=str(sheet),
        labels=PHANTOM_LABELS,
        modalities={"t1": "mr", "t2": "mr"},
    )
    cases = read_cases(config)
    splits = (Split.LABELLED, Split.UNLABELLED, Split.VALIDATION, Split.TEST)
    assert [len(cases.of(split)) for split in splits] == [2, 2, 0, 1]
    sites = {case.site for case in cases.of(Split.LABELLED)}
    assert sites == {"site_0"}
    patients = {case.group for case in cases.cases}
    assert len(patients) == 5
    last = cases.cases[4]
    expected = generate_case(case_seed(0, 4), options)
    assert last.reference is not None
    assert np.array_equal(read_label(last.reference).data, expected.label)
    for path, image in zip(last.images, expected.images, strict=True):
        volume = read_image(path)
        assert np.array_equal(volume.data, image)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
        np.testing.assert_allclose(volume.spacing, options.spacing, rtol=1e-5)


def test_write_dataset_with_scribbles_changes_training_labels_only(tmp_path: Path) -> None:
    options = PhantomOptions(
        cases=3,
        labelled=1,
        test=1,
        size=(32, 28, 24),
        lesions=3,
        seed=1,
    )
    write_dataset(tmp_path / "dense", options)
    write_dataset(tmp_path / "thin", replace(options, scribbles=True))
    dense = digests(tmp_path / "dense")
    thin = digests(tmp_path / "thin")
    assert dense.keys() == thin.keys()
    changed = [name for name in dense if dense[name] != thin[name]]
    assert changed == ["labels/case_000.nii.gz"]


def test_write_dataset_draws_few_correct_scribbles_of_all_classes(tmp_path: Path) -> None:
    options = PhantomOptions(
        cases=3,
        labelled=1,
        test=1,
        size=(32, 28, 24),
        lesions=3,
        seed=1,
    )
    scribbled = replace(options, scribbles=True)
    write_dataset(tmp_path / "dense", options)
    write_dataset(tmp_path / "thin", scribbled)
    write_dataset(tmp_path / "again", scribbled)
    name = "labels/case_000.nii.gz"
    dense = load_voxels(tmp_path / "dense" / name)
    thin = load_voxels(tmp_path / "thin" / name)
    again = load_voxels(tmp_path / "again" / name)
    np.testing.assert_array_equal(thin, again)
    drawn = thin != 255
    assert 0.002 < drawn.mean() < 0.05
    np.testing.assert_array_equal(thin[drawn], dense[drawn])
    values = np.unique(dense)
    np.testing.assert_array_equal(np.unique(thin[drawn]), values)
    for value in values:
        slices = np.flatnonzero((thin == value).any(axis=(0, 1)))
        assert slices.size <= (4 if value else 12)


def test_save_sets_both_transforms_of_the_header(tmp_path: Path) -> None:
    write_dataset(tmp_path, replace(SMALL, cases=3, test=0))
    for path in sorted((tmp_path / "images").iterdir()):
        header = nib.load(path).header
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
        assert (sform_code, qform_code) == (1, 1)
        assert header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(sform, qform, atol=1e-3)


def test_write_dataset_writes_the_same_bytes_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", SMALL)
    write_dataset(tmp_path / "b", SMALL)
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b")
    assert len(first) == 2 * SMALL.cases + 1
    damaged = tmp_path / "a" / "labels" / "case_000.nii.gz"
    damaged.write_bytes(b"damaged")
    write_dataset(tmp_path / "a", SMALL)
    assert first == digests(tmp_path / "a")


def test_write_dataset_with_more_unlabelled_cases_keeps_the_others(tmp_path: Path) -> None:
    write_dataset(tmp_path / "few", SMALL)
    write_dataset(tmp_path / "more", replace(SMALL, cases=7))
    more = digests(tmp_path / "more")
    for name, digest in digests(tmp_path / "few").items():
        if name.endswith(".nii.gz"):
            assert more[name] == digest


def test_phantom_prints_the_configuration(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (
        "--cases 3 --labelled 1 --test 1 --size 12 12 10 --modalities t1 flair"
        " --axis-aligned --seed 4"
    )
    assert main(["phantom", "--output", str(tmp_path), *arguments.split()]) == 0
    output = capsys.readouterr().out
    assert "1 labelled, 1 unlabelled and 1 test" in output
    assert "{background: 0, liver: 1, spleen: 2, kidney: 3, lesion: 4}" in output
    assert "{t1: mr, flair: mr}" in output
    options = PhantomOptions(
        cases=3,
        labelled=1,
        test=1,
        size=(12, 12, 10),
        modalities=("t1", "flair"),
        oblique=False,
    )
    expected = generate_case(case_seed(4, 2), options)
    written = read_image(tmp_path / "images" / "case_002_flair.nii.gz")
    assert np.array_equal(written.data, expected.images[1])


def test_write_dataset_names_single_modality_files_after_the_case(tmp_path: Path) -> None:
    write_dataset(tmp_path, replace(SMALL, cases=3))
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == ["case_000.nii.gz", "case_001.nii.gz", "case_002.nii.gz"]


def test_phantom_reports_all_invalid_options(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = (
        "--cases 3 --labelled 4 --test 1 --size 4 12 10 --spacing 1 nan 1 --modalities label"
    )
    assert main(["phantom", "--output", str(tmp_path), *arguments.split()]) == 1
    message = capsys.readouterr().err
    assert "cases is 3, expected 5" in message
    assert "size is 4, expected 8" in message
    assert "spacing is nan" in message
    assert "modality 'label'" in message
    assert not any(tmp_path.iterdir())


def test_phantom_options_require_different_modalities() -> None:
    with pytest.raises(HstfError, match="different names"):
        PhantomOptions(modalities=("t1", "t1"))


def test_phantom_options_reserve_all_columns_of_the_case_sheet() -> None:
    assert set(SHEET_COLUMNS) == {"case_id", "split", *OPTIONAL_COLUMNS}
