"""``hstf predict``: names, geometry, label values, faults; and the same answer as the evaluation's predictor."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import tiny_experiment, write_scan

from hstf.cli import main
from hstf.commands.predict import find_scans, predict
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.imaging.components import connected_components
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import read_image
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError
from hstf.stages.evaluate.cases import load_predictor
from hstf.stages.export import export


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return tiny_experiment(tmp_path)


@pytest.fixture
def model(config: Config) -> Path:
    return export(config)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_prediction_is_what_the_evaluation_scores(
    config: Config, model: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    (written,) = predict(model, scan, tmp_path / "out", "cpu")
    evaluated = load_predictor(StageContext.of(config, "evaluate", 1)).predict([read_image(scan)])
    got = nib.load(written)
    np.testing.assert_array_equal(np.asarray(got.dataobj), np.array([0, 6, 200])[evaluated.label])
    assert got.get_data_dtype() == np.uint8
    np.testing.assert_allclose(got.affine, nib.load(scan).affine, atol=1e-5)
    assert len(np.unique(evaluated.label)) > 1
    assert list(evaluated.members) == ["seed_0", "seed_1"]
    assert (evaluated.members["seed_0"] != evaluated.members["seed_1"]).any()


def test_segmentations_have_the_structure_of_the_labelled_cases(
    config: Config, tmp_path: Path
) -> None:
    volumes = [read_image(write_scan(tmp_path / "scan.nii.gz"))]
    cleaned, plain = (
        load_predictor(
            StageContext.of(config.model_copy(update={"predict": settings}), "evaluate", 1)
        ).predict(volumes)
        for settings in (config.predict, config.predict.model_copy(update={"clean": False}))
    )
    assert components(cleaned.label) < components(plain.label)
    assert components(cleaned.members["seed_1"]) < components(plain.members["seed_1"])


def test_without_resampling_nothing_is_left_that_labelled_cases_lack(config: Config) -> None:
    grid = Geometry.of((8, 8, 8), np.eye(4), (1.0, 1.0, 1.0))
    probabilities = torch.tensor([0.1, 0.5, 0.4]).reshape(3, 1, 1, 1).repeat(1, 8, 8, 8)
    for place in ((slice(1, 4),) * 3, (slice(6, 8),) * 3):
        probabilities[(slice(None), *place)] = torch.tensor([0.1, 0.2, 0.7]).reshape(3, 1, 1, 1)
    label = load_predictor(StageContext.of(config, "evaluate", 1)).label(probabilities, grid)
    expected = np.ones((8, 8, 8), np.uint8)
    expected[1:4, 1:4, 1:4] = 2
    np.testing.assert_array_equal(label, expected)


def components(label: np.ndarray) -> int:
    """Of the tumour."""
    return int(connected_components(label == 2, 26).max())


def test_one_member_is_its_own_team(tmp_path: Path) -> None:
    config = tiny_experiment(tmp_path, students=1)
    result = load_predictor(StageContext.of(config, "evaluate", 1)).predict(
        [read_image(write_scan(tmp_path / "scan.nii"))]
    )
    np.testing.assert_array_equal(result.members["seed_0"], result.label)


def test_segmentations_have_the_names_of_the_scans(model: Path, tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "c.v2.nii.gz", ".hidden.nii.gz"):
        write_scan(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    write_scan(tmp_path / "in" / "sub" / "deeper.nii.gz")
    written = predict(model, tmp_path / "in", tmp_path / "out", "cpu")
    assert (
        [path.name for path in written]
        == names(tmp_path / "out")
        == ["a.nii.gz", "b.nii", "c.v2.nii.gz"]
    )


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_formats_are_segmented_as_nifti(model: Path, tmp_path: Path, suffix: str) -> None:
    voxels = np.asarray(nib.load(write_scan(tmp_path / "voxels.nii.gz")).dataobj)
    scan = sitk.GetImageFromArray(voxels.T)
    scan.SetSpacing((1.2, 1.3, 2.0))
    scan.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    for name in ("nifti/scan.nii.gz", f"itk/scan.v2{suffix}"):
        (tmp_path / name).parent.mkdir()
        sitk.WriteImage(scan, tmp_path / name)
    (expected,) = predict(model, tmp_path / "nifti", tmp_path / "expected", "cpu")
    (written,) = predict(model, tmp_path / "itk", tmp_path / "out", "cpu")
    assert written.name == "scan.v2.nii.gz"
    np.testing.assert_allclose(nib.load(written).affine, nib.load(expected).affine, atol=1e-5)
    same = np.asarray(nib.load(written).dataobj) == np.asarray(nib.load(expected).dataobj)
    assert same.mean() > 0.999, "the header's rounding moves a voxel of the boundary at most"


def test_scans_that_would_share_a_segmentation_are_refused(tmp_path: Path) -> None:
    for name in ("a.mha", "a.nii.gz", "b_t1.nii", "b_t1.nrrd", "c.nii"):
        (tmp_path / name).touch()
    for modalities in (["image"], ["t1", "t2"]):
        with pytest.raises(
            HstfError, match=r"(?s)share a name.*a.mha and a.nii.gz.*b_t1.nii and b_t1.nrrd"
        ):
            find_scans(tmp_path, modalities)


def test_several_modalities_are_grouped_by_case(tmp_path: Path) -> None:
    model = export(tiny_experiment(tmp_path, ("t1", "t1_ce")))
    folder = tmp_path / "in"
    for seed, name in enumerate(
        ("p_1_t1.nii.gz", "p_1_t1_ce.nii.gz", "q_t1.nii", "q_t1_ce.nii.gz")
    ):
        write_scan(folder / name, seed)
    assert [scan.images for scan in find_scans(folder, ["t1", "t1_ce"])] == [
        (folder / "p_1_t1.nii.gz", folder / "p_1_t1_ce.nii.gz"), (folder / "q_t1.nii", folder / "q_t1_ce.nii.gz"),
    ]  # fmt: skip
    predict(model, folder, tmp_path / "out", "cpu")
    assert names(tmp_path / "out") == ["p_1.nii.gz", "q.nii.gz"]
    assert [scan.name for scan in find_scans(folder / "q_t1.nii", ["t1", "t1_ce"])] == ["q.nii.gz"]


def test_all_missing_modalities_and_odd_names_are_told_at_once(tmp_path: Path) -> None:
    for name in ("p_t1.nii.gz", "q_t2.nii.gz", "stray.nii.gz"):
        write_scan(tmp_path / name)
    with pytest.raises(HstfError) as caught:
        find_scans(tmp_path, ["t1", "t2"])
    for words in (
        "p_t2.nii.gz is missing",
        "q_t1.nii.gz is missing",
        "stray: expected <case>_<modality>",
    ):
        assert words in str(caught.value)


def test_a_broken_scan_is_named_and_the_others_are_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.nii.gz", "b.nii.gz", "d.nii.gz"):
        write_scan(tmp_path / "in" / name)
    whole = (tmp_path / "in" / "b.nii.gz").read_bytes()
    (tmp_path / "in" / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "c.nii.gz").write_bytes(b"no image")
    constant = nib.Nifti1Image(np.zeros((6, 6, 6), np.float32), np.eye(4))
    nib.save(constant, tmp_path / "in" / "empty.nii.gz")
    code = command(model, tmp_path / "in", tmp_path / "out")
    told = capsys.readouterr().err
    assert code == 1
    assert (
        {"a.nii.gz", "d.nii.gz"}
        <= set(names(tmp_path / "out"))
        <= {"a.nii.gz", "d.nii.gz", "empty.nii.gz"}
    )
    assert "b.nii.gz" in told and "c.nii.gz" in told and "were not segmented" in told


def test_a_scan_too_large_for_the_memory_is_named_and_the_others_are_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's allocator says so by a plain RuntimeError; any other is a bug, which keeps its traceback."""
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name)
    predict, failure = (
        Predictor.predict,
        ["DefaultCPUAllocator: can't allocate memory: you tried ..."],
    )

    def scarce(self: Predictor, *arguments: object, **keys: object) -> object:
        if failure:
            raise RuntimeError(failure.pop())
        return predict(self, *arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict", scarce)
    assert command(model, tmp_path / "in", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["b.nii.gz"]
    assert "a.nii.gz: not enough memory" in capsys.readouterr().err
    failure.append("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        command(model, tmp_path / "in", tmp_path / "again")


def command(model: Path, source: Path, output: Path, *more: str) -> int:
    arguments: Sequence[str] = (
        "--model",
        str(model),
        "--input",
        str(source),
        "--output",
        str(output),
    )
    return main(["predict", *arguments, "--device", "cpu", *more])


def test_existing_segmentations_are_refused_skipped_or_replaced(
    model: Path, tmp_path: Path
) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_text("by hand")
    assert command(model, tmp_path / "in", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["a.nii.gz"]
    assert command(model, tmp_path / "in", tmp_path / "out", "--existing", "skip") == 0
    assert names(tmp_path / "out") == ["a.nii.gz", "b.nii.gz"]
    assert (tmp_path / "out" / "a.nii.gz").read_text() == "by hand"
    assert command(model, tmp_path / "in", tmp_path / "out", "--existing", "overwrite") == 0
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == (21, 19, 13)


def test_scans_are_never_overwritten(model: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    before = scan.read_bytes()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.nii.gz").symlink_to(scan)
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    for source, output in (("in", "in"), ("in/a.nii.gz", "in"), ("in", "alias"), ("linked", "in")):
        with pytest.raises(HstfError, match="holds the scans"):
            predict(model, tmp_path / source, tmp_path / output, "cpu", "overwrite")
    assert scan.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "words"), [("nowhere", "does not exist"), ("empty", "no volume")]
)
def test_nothing_to_segment_is_a_sentence(
    model: Path, tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HstfError, match=words):
        predict(model, tmp_path / source, tmp_path / "out", "cpu")


def test_an_output_that_is_a_file_is_a_sentence(model: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").write_text("")
    with pytest.raises(HstfError, match="is a file"):
        predict(model, scan, tmp_path / "out", "cpu")
