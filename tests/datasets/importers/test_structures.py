"""One mask for each structure: masks are combined to one label, and overlaps are named."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.folder_files import LABEL, SHAPE, found, write, write_values
from support.import_files import imported, problems, run_import

from hstf.datasets.importers.folder import find
from hstf.datasets.importers.options import Options
from hstf.experiment.cases import read_cases
from hstf.runtime.errors import HstfError

PLACES = {
    "folder of the case": ("c{}/ct.nii.gz", "c{}/segmentations/{}.nii.gz"),
    "beside the image": ("c{}/image.nii.gz", "c{}/{}_mask.nii.gz"),
    "without a word": ("c{}/ct.nii.gz", "c{}/{}.nii.gz"),
    "folders of structures": ("images/c{}.nii.gz", "labels/{1}/c{0}.nii.gz"),
    "folders of labels": ("images/c{}.nii.gz", "labels/c{}/{}.nii.gz"),
    "names": ("c{}.nii.gz", "c{}_{}_mask.nii.gz"),
    "names with seg": ("images/c{}.nii.gz", "masks/c{}_seg_{}.nii.gz"),
}


def write_masks(folder: Path, place: str = "folder of the case") -> None:
    image, mask = PLACES[place]
    for number in (1, 2, 3):
        write(folder / image.format(number), "image")
        write(folder / mask.format(number, "kidney_right"), "1")
        write(folder / mask.format(number, "vertebrae_L1"), "2")


@pytest.mark.parametrize("place", PLACES)
def test_find_recognises_masks_of_structures(place: str, tmp_path: Path) -> None:
    write_masks(tmp_path, place)
    dataset = found(tmp_path)
    assert dataset.labels.values == {  # type: ignore[union-attr]
        "background": 0,
        "kidney_right": 1,
        "vertebrae_L1": 2,
    }
    assert [case.case_id for case in dataset.cases] == ["c1", "c2", "c3"]
    for case in dataset.cases:
        assert sorted(case.masks) == ["kidney_right", "vertebrae_L1"]


def test_import_combines_masks_to_one_label(workplace: Path) -> None:
    write_masks(Path("d"))
    config = imported("folder", Path("d"))
    assert config.labels == {"background": 0, "kidney_right": 1, "vertebrae_L1": 2}
    assert [text for text in problems(config) if "the same voxels" not in text] == []
    for case in read_cases(config).cases:
        assert case.reference is not None
        label = nib.load(case.reference)
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), LABEL)
        np.testing.assert_allclose(label.affine, nib.load(case.images[0]).affine)


def test_import_takes_the_chosen_structures(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_masks(Path("d"))
    config = imported("folder", Path("d"), "--labels", "vertebrae_L1=1")
    assert config.labels == {"background": 0, "vertebrae_L1": 1}
    label = nib.load(Path("config/x/combined_labels/c1.nii.gz"))
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), LABEL == 2)
    assert "masks of 1 structures: kidney_right" in " ".join(capsys.readouterr().out.split())
    assert run_import("folder", Path("d"), "--force", "--labels", "liver=1") == 1
    message = capsys.readouterr().err
    assert "--labels liver: no mask has this name. Masks are kidney_right, vertebrae_L1" in message


def test_import_keeps_the_smaller_structure_where_masks_overlap(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in (1, 2, 3):
        write(Path(f"d/c{number}/ct.nii.gz"), "image")
        write_values(Path(f"d/c{number}/masks/liver.nii.gz"), (LABEL > 0).astype(np.uint8))
        write_values(Path(f"d/c{number}/masks/liver_tumour.nii.gz"), (LABEL == 2).astype(np.uint8))
    config = imported("folder", Path("d"))
    assert config.labels == {"background": 0, "liver": 1, "liver_tumour": 2}
    label = nib.load(Path("config/x/combined_labels/c1.nii.gz"))
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), LABEL)
    expected = f"liver_tumour on liver ({3 * np.count_nonzero(LABEL == 2)} voxels in 3 cases)"
    assert expected in " ".join(capsys.readouterr().out.split())
    assert expected in Path("config/x.yaml").read_text().replace("\n# ", " ")


def test_import_does_not_read_labels_that_it_has_written(workplace: Path) -> None:
    write_masks(Path("data"))
    imported("folder", workplace)
    assert Path("config/x/combined_labels/c1.nii.gz").is_file()
    imported("folder", workplace, "--force")


def test_import_reads_masks_of_labelled_cases_first(workplace: Path) -> None:
    """Withheld masks do not decide which structure is kept."""
    write_masks(Path("d"))
    write_values(Path("d/c3/segmentations/vertebrae_L1.nii.gz"), np.ones(SHAPE, np.uint8))
    Path("labelled").write_text("c1\nc2\n")
    imported("folder", Path("d"), "--labelled", "labelled")
    label = np.asanyarray(nib.load(Path("config/x/combined_labels/c1.nii.gz")).dataobj)
    np.testing.assert_array_equal(label, LABEL)


def test_find_takes_short_names_for_structures(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"images/c{number}.nii.gz", "image")
        write(tmp_path / f"masks/c{number}_LV.nii.gz", "1")
        write(tmp_path / f"masks/c{number}_RV.nii.gz", "2")
    assert sorted(found(tmp_path).cases[0].masks) == ["LV", "RV"]


@pytest.mark.parametrize(
    "names",
    [("rater1", "rater2"), ("rater_1", "rater_2"), ("old", "new"), ("v1", "v2"), ("1", "2")],
)
def test_find_refuses_labels_of_several_people(names: tuple[str, str], tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"images/c{number}.nii.gz", "image")
        for name in names:
            write(tmp_path / f"labels/c{number}_seg_{name}.nii.gz", "label")
    dataset = find(tmp_path, Options())
    assert "c1: has two labels" in f"{dataset.problems[0].what}: {dataset.problems[0].why}"
    assert "choose with --labels GLOB" in dataset.problems[0].why


def test_import_refuses_masks_that_are_alike(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in (1, 2):
        write(Path(f"d/images/c{number}.nii.gz"), "image")
        write_values(Path(f"d/labels/c{number}_AB.nii.gz"), (LABEL == 1).astype(np.uint8))
        other = np.roll(LABEL == 1, 1, axis=2).astype(np.uint8)
        write_values(Path(f"d/labels/c{number}_CD.nii.gz"), other)
    assert run_import("folder", Path("d")) == 1
    assert "annotations of one structure by several people" in capsys.readouterr().err
    assert not Path("config").exists()


def test_import_refuses_a_mask_with_several_values(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_masks(Path("d"))
    write(Path("d/c1/segmentations/vertebrae_L1.nii.gz"), "label")
    assert run_import("folder", Path("d")) == 1
    assert "has the values 0, 1, 2, expected 0 and one other value" in capsys.readouterr().err


def test_import_questions_structures_without_a_mask(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_masks(Path("d"))
    Path("d/c2/segmentations/vertebrae_L1.nii.gz").unlink()
    imported("folder", Path("d"))
    output = " ".join(capsys.readouterr().out.split())
    assert "Question: Some cases have no mask of vertebrae_L1 (1 cases)" in output


def test_find_questions_single_labels_of_different_structures(tmp_path: Path) -> None:
    for number, name in enumerate(["liver", "liver", "spleen", "spleen"]):
        write(tmp_path / f"images/c{number}.nii.gz", "image")
        write(tmp_path / f"labels/c{number}_{name}.nii.gz", "1")
    dataset = found(tmp_path)
    assert "liver (2), spleen (2)" in dataset.questions[0]


def test_find_refuses_too_many_structures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hstf.datasets.importers.structures.MAXIMUM_STRUCTURES", 1)
    write_masks(tmp_path)
    with pytest.raises(HstfError, match="2 structures, at most 1 are possible"):
        find(tmp_path, Options())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("liver", "1", {"background": 0, "liver": 1}),
        ("liver", "2", {"background": 0, "liver": 1}),
        ("organs", "label", {"background": 0, "class_1": 1, "class_2": 2}),
        ("final", "1", {"background": 0, "class_1": 1}),
    ],
)
def test_import_names_a_single_class_after_its_file(
    name: str,
    content: str,
    expected: dict[str, int],
    workplace: Path,
) -> None:
    for number in (1, 2, 3):
        write(Path(f"d/c{number}/ct.nii.gz"), "image")
        write(Path(f"d/c{number}/{name}_mask.nii.gz"), content)
    assert imported("folder", Path("d")).labels == expected
