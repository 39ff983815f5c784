"""One mask for each structure: masks are combined to one label, and overlaps are named."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.folder_files import AFFINE, LABEL, SHAPE, found, write, write_values
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


def reorder(path: Path, axes: str) -> None:
    """Store a file with its axes in the order ``axes``, such as RAS. Its place does not change."""
    image = nib.load(path)
    new = nib.orientations.axcodes2ornt(axes)
    transform = nib.orientations.ornt_transform(nib.io_orientation(image.affine), new)
    nib.save(image.as_reoriented(transform), path)


def shift(path: Path) -> None:
    """Move the voxels by 3 mm."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


def crop(path: Path) -> None:
    """Remove a slice."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[:, :, 1:], image.affine), path)


def lose_geometry(path: Path) -> None:
    """Remove sform and qform. Voxel sizes stay."""
    image = nib.load(path)
    nib.save(without_geometry(np.asanyarray(image.dataobj)), path)


def without_geometry(values: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(values, None)
    image.header.set_zooms((1, 1, 2))
    image.header["sform_code"] = 0
    image.header["qform_code"] = 0
    return image


@pytest.mark.parametrize("axes", ["RAS", "LAS", "RPS", "SLA", "IRP"])
@pytest.mark.parametrize("mask", ["kidney_right", "vertebrae_L1", "*"])
def test_import_reorders_the_axes_of_masks(
    axes: str,
    mask: str,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The axes of the images are LPS. A reversed axis has the same length."""
    write_masks(Path("d"))
    paths = list(Path("d/c2/segmentations").glob(f"{mask}.nii.gz"))
    for path in paths:
        reorder(path, axes)
    config = imported("folder", Path("d"))
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"{len(paths)} masks are stored with their axes in another order" in output
    assert f"({axes} instead of LPS)" in output
    assert f"({axes} instead of LPS)" in Path("config/x.yaml").read_text().replace("\n# ", " ")
    assert [text for text in problems(config) if "the same voxels" not in text] == []
    for case in read_cases(config).cases:
        assert case.reference is not None
        label = nib.load(case.reference)
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), LABEL)
        np.testing.assert_array_equal(label.affine, AFFINE)


def test_import_compares_masks_after_their_axes_are_reordered(workplace: Path) -> None:
    """Masks that overlap only as arrays do not overlap."""
    for number in (1, 2, 3):
        left = np.zeros(SHAPE, np.uint8)
        left[:4] = 1
        write(Path(f"d/c{number}/ct.nii.gz"), "image")
        write_values(Path(f"d/c{number}/masks/left.nii.gz"), left)
        write_values(Path(f"d/c{number}/masks/right.nii.gz"), left[::-1])
        reorder(Path(f"d/c{number}/masks/right.nii.gz"), "RPS")
    imported("folder", Path("d"))
    assert "overlap" not in Path("config/x.yaml").read_text()
    label = np.asanyarray(nib.load(Path("config/x/combined_labels/c1.nii.gz")).dataobj)
    np.testing.assert_array_equal(label, left + 2 * left[::-1])


def test_import_refuses_all_masks_with_another_geometry(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damages: dict[str, Callable[[Path], None]] = {"c1": shift, "c2": crop, "c3": lose_geometry}
    write_masks(Path("d"))
    for case, damage in damages.items():
        damage(Path(f"d/{case}/segmentations/kidney_right.nii.gz"))
        shift(Path(f"d/{case}/segmentations/vertebrae_L1.nii.gz"))
    assert run_import("folder", Path("d")) == 1
    message = capsys.readouterr().err
    expected = {
        "c1": "has an affine that puts corner voxels up to 3 mm away from those of the image",
        "c2": "has shape (10, 10, 5), the image (10, 10, 6)",
        "c3": "The header of kidney_right.nii.gz does not place the voxels in space",
    }
    assert "6 problems" in message
    for case, text in expected.items():
        lines = [line for line in message.splitlines() if f"- {case}: d/{case}/" in line]
        assert len(lines) == 2
        assert f"{case}/segmentations/kidney_right.nii.gz: " in lines[0]
        assert text in lines[0]
        assert "expected the grid of the image, within 0.01 mm" in lines[0]
        assert "draw or export the mask again" in lines[0].lower()
    assert not Path("config").exists()


def test_import_leaves_out_cases_with_masks_of_another_geometry(workplace: Path) -> None:
    write_masks(Path("d"))
    shift(Path("d/c2/segmentations/kidney_right.nii.gz"))
    config = imported("folder", Path("d"), "--leave-out-invalid")
    assert [case.case_id for case in read_cases(config).cases] == ["c1", "c3"]


def test_import_does_not_reorder_masks_by_a_geometry_that_a_program_made_up(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without sform and qform, nibabel places the centre of a scan at 0 and mirrors an axis."""
    write_masks(Path("d"))
    for number in (1, 2, 3):
        for path in Path(f"d/c{number}").rglob("*.nii.gz"):
            lose_geometry(path)
    config = imported("folder", Path("d"))
    label = nib.load(read_cases(config).cases[0].reference)
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), LABEL)
    path = Path("d/c1/segmentations/kidney_right.nii.gz")
    mask = nib.load(path)
    mirrored = np.diag([-1, 1, 1, 1]) @ mask.affine
    nib.save(nib.Nifti1Image(np.asanyarray(mask.dataobj), mirrored), path)
    assert run_import("folder", Path("d"), "--force") == 1
    message = capsys.readouterr().err
    assert "The header of ct.nii.gz does not place the voxels in space" in message


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


def test_structures_whose_names_become_equal_are_a_problem(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"c{number}/ct.nii.gz", "image")
        for name in ("左肾", "右肾"):
            write(tmp_path / f"c{number}/segmentations/{name}.nii.gz", "1")
    problems = find(tmp_path, Options()).problems
    assert "two masks whose structure would be called unnamed" in problems[0].why


def test_import_of_a_sheet_refuses_masks_with_other_values(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of masks follow from the names that exist: a folder with fewer has other ones."""
    for folder, names in (("d", ("cyst", "liver", "spleen")), ("e", ("cyst", "spleen"))):
        for number in (1, 2):
            write(Path(f"{folder}/{folder}{number}/ct.nii.gz"), "image")
            for name in names:
                write(Path(f"{folder}/{folder}{number}/segmentations/{name}.nii.gz"), "1")
    config = imported("folder", Path("d"))
    assert config.labels["spleen"] == 3
    assert run_import("folder", Path("e"), "--sheet", "config/x/e.csv") == 1
    assert "spleen has the value 2, but 3 in" in capsys.readouterr().err
    options = ["--sheet", "config/x/e.csv", "--labels", "cyst=1", "spleen=3"]
    assert run_import("folder", Path("e"), *options) == 0
    write(Path("e/e1/segmentations/vein.nii.gz"), "1")
    options = ["--sheet", "config/x/f.csv", "--labels", "cyst=1", "vein=3"]
    assert run_import("folder", Path("e"), *options) == 1
    assert "masks of vein, which is not defined in" in capsys.readouterr().err
