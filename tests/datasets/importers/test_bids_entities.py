"""BIDS: runs, derivatives in several spaces, suffixes of labels, and ``--filter``."""

from pathlib import Path

import pytest
from support.folder_files import Pair, pairs_of, write
from support.import_files import L, U, imported, run_import, splits

from hstf.datasets.importers.bids import find
from hstf.datasets.importers.dataset import DataSet
from hstf.datasets.importers.options import Options
from hstf.experiment.cases import read_cases
from hstf.runtime.errors import HstfError


def found(folder: Path, **filters: str) -> DataSet:
    dataset = find(folder, Options(filters=filters))
    assert dataset.problems == []
    return dataset


def write_runs(folder: Path) -> None:
    for number in (1, 2):
        start = f"sub-{number}"
        write(folder / f"{start}/anat/{start}_run-1_T1w.nii.gz", "image")
        write(folder / f"{start}/anat/{start}_run-2_T1w.nii.gz", "image")
        write(folder / f"derivatives/m/{start}/anat/{start}_run-1_dseg.nii.gz", "label")


def write_derivatives(folder: Path) -> None:
    """Write what fMRIPrep makes from a T1-weighted image."""
    for number in (1, 2):
        start = f"sub-{number}/anat/sub-{number}"
        write(folder / f"{start}_T1w.nii.gz", "image")
        derived = f"derivatives/fmriprep/{start}"
        write(folder / f"{derived}_desc-brain_mask.nii.gz", "1")
        write(folder / f"{derived}_dseg.nii.gz", "label")
        write(folder / f"{derived}_desc-aseg_dseg.nii.gz", "label")
        write(folder / f"{derived}_space-MNI_dseg.nii.gz", "label")
        write(folder / f"{derived}_desc-preproc_T1w.nii.gz", "image")
        write(folder / f"{derived}_space-MNI_desc-preproc_T1w.nii.gz", "image")
        write(folder / f"{derived}_label-GM_probseg.nii.gz", "image")


def test_find_takes_each_run_as_a_case(tmp_path: Path) -> None:
    write_runs(tmp_path)
    pairs = pairs_of(tmp_path, found(tmp_path).cases)
    assert list(pairs) == ["sub-1_run-1", "sub-1_run-2", "sub-2_run-1", "sub-2_run-2"]
    assert pairs["sub-1_run-1"] == Pair(
        "sub-1/anat/sub-1_run-1_T1w.nii.gz",
        "derivatives/m/sub-1/anat/sub-1_run-1_dseg.nii.gz",
    )
    assert pairs["sub-1_run-2"].label == ""


def test_find_with_a_filter_takes_one_run(tmp_path: Path) -> None:
    write_runs(tmp_path)
    write(tmp_path / "sub-3/anat/sub-3_T1w.nii.gz", "image")
    dataset = found(tmp_path, run="1")
    assert [case.case_id for case in dataset.cases] == ["sub-1_run-1", "sub-2_run-1", "sub-3"]
    assert ("2 volumes", "--filter run=1") in dataset.left_out


def test_find_adds_an_image_without_a_run_to_all_runs(tmp_path: Path) -> None:
    write_runs(tmp_path)
    for number in (1, 2):
        write(tmp_path / f"sub-{number}/anat/sub-{number}_FLAIR.nii.gz", "image")
    dataset = found(tmp_path)
    assert len(dataset.cases) == 4
    for case in dataset.cases:
        assert case.images["flair"].path.name.endswith("_FLAIR.nii.gz")


def test_find_takes_the_label_in_the_space_of_the_image(tmp_path: Path) -> None:
    write_derivatives(tmp_path)
    dataset = found(tmp_path)
    pairs = pairs_of(tmp_path, dataset.cases)
    assert pairs["sub-1"] == Pair(
        "sub-1/anat/sub-1_T1w.nii.gz",
        "derivatives/fmriprep/sub-1/anat/sub-1_dseg.nii.gz",
    )
    assert [note.what.split(",")[0] for note in dataset.left_out] == [
        "6 derived images",
        "2 labels in another space",
        "4 labels",
    ]


@pytest.mark.parametrize(
    ("filters", "image", "label"),
    [
        ({"desc": "aseg"}, "sub-1_T1w", "sub-1_desc-aseg_dseg"),
        ({"desc": "brain"}, "sub-1_T1w", "sub-1_desc-brain_mask"),
        ({"desc": "preproc", "space": "none"}, "sub-1_desc-preproc_T1w", "sub-1_dseg"),
        ({"space": "MNI"}, "sub-1_space-MNI_desc-preproc_T1w", "sub-1_space-MNI_dseg"),
    ],
)
def test_find_with_filters_takes_other_derivatives(
    filters: dict[str, str],
    image: str,
    label: str,
    tmp_path: Path,
) -> None:
    write_derivatives(tmp_path)
    pair = pairs_of(tmp_path, found(tmp_path, **filters).cases)["sub-1"]
    assert Path(pair.image).name == f"{image}.nii.gz"
    assert Path(pair.label).name == f"{label}.nii.gz"


def test_find_refuses_a_filter_without_files(tmp_path: Path) -> None:
    write_runs(tmp_path)
    with pytest.raises(HstfError, match=r"--filter run=7: no file has it. Found: run-1, run-2"):
        find(tmp_path, Options(filters={"run": "7"}))


def test_find_questions_two_acquisitions(tmp_path: Path) -> None:
    for number in (1, 2):
        for acquisition in ("fast", "slow"):
            name = f"sub-{number}_acq-{acquisition}_T1w.nii.gz"
            write(tmp_path / f"sub-{number}/anat/{name}", "image")
    dataset = find(tmp_path, Options())
    assert "choose one with --filter acq=fast" in dataset.problems[0].why
    chosen = found(tmp_path, acq="slow")
    assert chosen.cases[0].first_path.name == "sub-1_acq-slow_T1w.nii.gz"


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("rawdata/sub-{0}/sub-{0}_ct", "derivatives/sub-{0}/sub-{0}_seg-vert_msk"),
        (
            "derivatives/A/sub-{0}/ses-1/anat/sub-{0}_ses-1_space-MNI_T1w",
            "derivatives/A/sub-{0}/ses-1/anat/sub-{0}_ses-1_space-MNI_label-L_desc-T1lesion_mask",
        ),
        ("sub-{0}/anat/sub-{0}_T2w", "sub-{0}/seg/sub-{0}_dseg"),
        ("sub-{0}/anat/sub-{0}_T2w", "derivatives/x/sub-{0}/sub-{0}_space-orig_dseg"),
    ],
)
def test_find_reads_the_names_of_public_data_sets(image: str, label: str, tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"{image.format(number)}.nii.gz", "image")
        write(tmp_path / f"{label.format(number)}.nii.gz", "label")
    cases = found(tmp_path).cases
    assert len(cases) == 2
    for number, case in enumerate(cases, start=1):
        assert case.label == tmp_path / f"{label.format(number)}.nii.gz"
        assert case.group == f"sub-{number}"


def test_import_combines_masks_of_structures(workplace: Path) -> None:
    for number in (1, 2):
        start = f"sub-{number}/anat/sub-{number}"
        write(Path(f"d/{start}_T1w.nii.gz"), "image")
        for value, structure in enumerate(("left", "right"), start=1):
            path = f"d/derivatives/x/{start}_label-{structure}_mask.nii.gz"
            write(Path(path), str(value))
    config = imported("bids", Path("d"))
    assert config.labels == {"background": 0, "left": 1, "right": 2}
    assert all(case.reference for case in read_cases(config).cases)


def test_import_takes_filters(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(Path("d"))
    assert splits(imported("bids", Path("d"))) == {L: 2, U: 2}
    assert splits(imported("bids", Path("d"), "--filter", "run=1", "--force")) == {L: 2}
    assert run_import("bids", Path("d"), "--filter", "desc=x", "--force") == 1
    assert "--filter desc=x: no file has it. Found: desc-none" in capsys.readouterr().err


def write_masks_of_structures(folder: Path, *structures: str) -> None:
    for number in (1, 2):
        write(folder / f"sub-{number}/anat/sub-{number}_CT.nii.gz", "image")
        for structure in structures:
            start = f"derivatives/m/sub-{number}/anat/sub-{number}_label"
            write(folder / f"{start}-{structure}_mask.nii.gz", "1")


def test_masks_with_further_entities_are_structures(tmp_path: Path) -> None:
    write_masks_of_structures(tmp_path, "liver", "spleen", "tumour_desc-manual", "liver_desc-old")
    dataset = found(tmp_path)
    for case in dataset.cases:
        assert sorted(case.masks) == ["liver", "spleen", "tumour"]
        assert "old" not in case.masks["liver"].name
    assert [note.what for note in dataset.left_out] == [
        f"sub-{number}_label-liver_desc-old_mask.nii.gz" for number in (1, 2)
    ]


def test_masks_of_one_structure_with_equal_names_are_a_problem(tmp_path: Path) -> None:
    write_masks_of_structures(tmp_path, "liver", "spleen", "cyst_desc-a", "cyst_desc-b")
    problems = find(tmp_path, Options()).problems
    assert "its mask of cyst exists twice" in problems[0].why


def test_find_refuses_a_label_map_beside_masks(tmp_path: Path) -> None:
    write_masks_of_structures(tmp_path, "liver", "spleen")
    write(tmp_path / "sub-3/anat/sub-3_CT.nii.gz", "image")
    write(tmp_path / "derivatives/m/sub-3/anat/sub-3_dseg.nii.gz", "label")
    problems = find(tmp_path, Options()).problems
    assert [note.what for note in problems] == ["sub-3"]
    assert "other cases have a mask for each structure" in problems[0].why
    assert find(tmp_path, Options(labels={"liver": 1, "spleen": 2})).problems == []


def test_classes_are_those_of_the_table_of_the_labels(tmp_path: Path) -> None:
    write_derivatives(tmp_path)
    folder = tmp_path / "derivatives/fmriprep"
    (folder / "desc-aseg_dseg.tsv").write_text("index\tname\n1\tLeft-X\n1002\tctx\n")
    (folder / "desc-other_dseg.tsv").write_text("index\tlabel\n1\tLeft-X\n")
    (folder / "dseg.tsv").write_text("index\tname\n1\tGM\n2\tWM\n")
    labels = found(tmp_path).labels
    assert labels.values == {"background": 0, "GM": 1, "WM": 2}  # type: ignore[union-attr]


def test_classes_that_differ_between_tables_are_refused(tmp_path: Path) -> None:
    write_runs(tmp_path)
    for number, (first, second) in enumerate([("liver", "spleen"), ("spleen", "liver")], start=1):
        table = tmp_path / f"derivatives/m/sub-{number}/anat/sub-{number}_run-1_dseg.tsv"
        table.write_text(f"index\tname\n1\t{first}\n2\t{second}\n")
    with pytest.raises(HstfError, match="spleen is 1, but another table"):
        find(tmp_path, Options())
