"""The stage ``preprocess``, on scans on disk."""

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from support.stages import preprocess
from support.volume_files import lower_bound_of_scans

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation, Plan
from hstf.experiment.scan_tables import CHECK
from hstf.imaging.arrays import read_array
from hstf.imaging.class_locations import class_locations
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import class_indices
from hstf.imaging.preparation import constant_channels, prepare_image
from hstf.imaging.volumes import Volume, read_image
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, sha256_file

AFFINE = np.array(
    [[0, -1.0, 0, 5], [1.0, 0, 0, 7], [0, 0, 2.0, -3], [0, 0, 0, 1]]
)  # array axes: A, L, S
SHAPE = (26, 22, 12)


def a_plan(spacing: tuple[float, float, float] = (1, 1, 2), channels: int = 1) -> Plan:
    return Plan(
        spacing=spacing,
        patch_size=(16, 16, 8),
        batch_size=2,
        channels=(8, 16),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3),) * 2,
        normalisation=(Normalisation(scheme="zscore"),) * channels,
        median_shape=(20, 20, 10),
        reasons={},
    )


def write_nifti(path: Path, data: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Write two labelled and one unlabelled case.

    The withheld label and the files of the test case cannot be read.
    """
    (tmp_path / "broken.nii.gz").write_bytes(b"not to be read")
    rows = []
    for number, split in enumerate(["labelled", "labelled", "unlabelled", "test"]):
        generator = np.random.default_rng(number)
        image = np.zeros(SHAPE, np.float32)
        image[3:24, 2:20] = generator.normal(500, 50, (21, 18, 12))
        label = np.zeros(SHAPE, np.uint8)
        label[8:15, 6:14, 3:9] = 4
        label[15:18, 6:14, 3:9] = 2
        label[20:22] = 9
        names = [f"{number}.nii.gz", f"label_{number}.nii.gz"]
        write_nifti(tmp_path / names[0], image)
        write_nifti(tmp_path / names[1], label)
        hidden = "broken.nii.gz"
        rows.append(
            {
                "case_id": f"case_{number}",
                "image": hidden if split == "test" else names[0],
                "label": names[1] if split == "labelled" else hidden,
                "split": split,
            }
        )
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    content = resolve_config(
        {
            "experiment": "e",
            "output": str(tmp_path / "results"),
            "cases": str(tmp_path / "cases.csv"),
            "labels": {"background": 0, "wall": 4, "lumen": 2, "ignore": 9},
            "preprocess": {"workers": 1, "chunk": 8},
        }
    )
    a_plan().save(Layout.of(content).plan)
    return content


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files except locks, which store a process and a time."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_preprocess_names_files_that_changed_after_the_check(
    config: Config, tmp_path: Path
) -> None:
    """A copied file with an old time stamp does not rerun the check."""
    rows = [
        {"file": str(path), "sha256": sha256_file(path)}
        for path in (tmp_path / "0.nii.gz", tmp_path / "1.nii.gz", tmp_path / "label_0.nii.gz")
    ]
    CHECK.write(Layout.of(config).check, rows)
    write_nifti(tmp_path / "0.nii.gz", np.ones(SHAPE, np.float32))
    with pytest.raises(HstfError) as error:
        preprocess(config, "labelled_0")
    message = str(error.value)
    assert "0.nii.gz: was changed after it was checked" in message
    assert "label_1.nii.gz: was not there when scans were checked" in message
    assert message.count("\n") == 2 and "--forcerun check" in message


def test_preprocess_writes_all_files_of_labelled_cases(config: Config, tmp_path: Path) -> None:
    assert preprocess(config, "labelled_0") == 2
    folder = Layout.of(config).preprocessed / "case_0"
    assert {p.name for p in folder.iterdir()} == {
        "image.b2nd",
        "label.b2nd",
        "locations.npy",
        "geometry.json",
    }
    image = read_array(folder / "image.b2nd")
    label = read_array(folder / "label.b2nd")
    assert (image.dtype, image.shape) == (np.float16, (1, 18, 21, 12))
    assert (label.dtype, label.shape) == (np.uint8, (18, 21, 12))
    geometry = Geometry.load(folder / "geometry.json")
    native = np.asarray(nib.load(tmp_path / "label_0.nii.gz").dataobj)
    expected = np.where(native == 4, 1, np.where(native == 2, 2, np.where(native == 9, 255, 0)))
    expected[:, :2] = expected[:, 20:] = expected[:3] = expected[24:] = 0  # outside the crop
    assert np.array_equal(geometry.scalar_to_native(label, order=0), expected)
    assert abs(image.astype(float).mean()) < 0.01
    assert abs(image.astype(float).std() - 1) < 0.01
    locations = np.load(folder / "locations.npy")
    assert set(locations[:, 0]) == {1, 2}
    assert (label[tuple(locations[:, 1:].T)] == locations[:, 0]).all()
    row = read_csv(Layout.of(config).preprocessed_table("labelled_0"))[0]
    assert row["shape_native"], row["shape_grid"] == ("26x22x12", "18x21x12")
    assert (row["spacing"], row["orientation"]) == ("1x1x2", "ALS")


def test_preprocess_reads_only_the_image_of_unlabelled_cases(config: Config) -> None:
    assert preprocess(config, "unlabelled_0") == 1
    folder = Layout.of(config).preprocessed / "case_2"
    assert {p.name for p in folder.iterdir()} == {"image.b2nd", "geometry.json"}


def test_preprocess_refuses_test_cases(config: Config) -> None:
    with pytest.raises(HstfError, match="only by the evaluate stage"):
        preprocess(config, "test_0")


def test_preprocess_in_two_processes_writes_the_same_files(config: Config) -> None:
    preprocess(config, "labelled_0")
    before = contents(Layout.of(config).preprocessed)
    for path in Layout.of(config).preprocessed.rglob("*.b2nd"):
        path.unlink()
    parallel = config.model_copy(update={"preprocess": PreprocessConfig(workers=2, chunk=8)})
    assert preprocess(parallel, "labelled_0") == 2
    assert contents(Layout.of(config).preprocessed) == before


def test_preprocess_computes_only_what_changed(config: Config, tmp_path: Path) -> None:
    assert preprocess(config, "labelled_0") == 2
    assert preprocess(config, "labelled_0") == 0
    plan_path = Layout.of(config).plan
    a_plan().model_copy(update={"patch_size": (8, 8, 8)}).save(plan_path)
    assert preprocess(config, "labelled_0") == 0
    image = np.asarray(nib.load(tmp_path / "1.nii.gz").dataobj)
    write_nifti(tmp_path / "1.nii.gz", image + np.float32(1))
    assert preprocess(config, "labelled_0") == 1
    a_plan(spacing=(1.5, 1.5, 2)).save(plan_path)
    assert preprocess(config, "labelled_0") == 2
    assert read_array(Layout.of(config).preprocessed / "case_0" / "image.b2nd").shape == (
        1,
        12,
        14,
        12,
    )


def test_preprocess_names_label_values_without_a_class(config: Config, tmp_path: Path) -> None:
    write_nifti(tmp_path / "label_1.nii.gz", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(
        HstfError, match=r"case_1: .*label_1\.nii\.gz: has the values \[7\].*wall 4"
    ):
        preprocess(config, "labelled_0")


def test_preprocess_refuses_a_label_of_another_shape(config: Config, tmp_path: Path) -> None:
    write_nifti(tmp_path / "label_0.nii.gz", np.zeros((26, 22, 11), np.uint8))
    with pytest.raises(
        HstfError, match=r"case_0: .*has shape \(26, 22, 11\), the image \(26, 22, 12\)"
    ):
        preprocess(config, "labelled_0")


def test_preprocess_reads_masks_that_compress_better_than_scans(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:15, 6:14, 3:9] = 1
    write_nifti(tmp_path / "2.nii.gz", mask)
    lower_bound_of_scans(monkeypatch)
    config = config.model_copy(update={"modalities": {"image": "mask"}})
    assert preprocess(config, "unlabelled_0") == 1


def volume(data: Any, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(np.asarray(data, np.float32), affine, nib.Nifti1Header())


def test_prepare_image_equals_the_preprocessed_array(config: Config, tmp_path: Path) -> None:
    preprocess(config, "unlabelled_0")
    image, geometry = prepare_image(
        [read_image(tmp_path / "2.nii.gz")], a_plan(), config.preprocess, ["image"]
    )
    folder = Layout.of(config).preprocessed / "case_2"
    assert np.array_equal(image.astype(np.float16), read_array(folder / "image.b2nd"))
    assert geometry == Geometry.load(folder / "geometry.json")


def test_prepare_image_crops_all_channels_together() -> None:
    first, second = np.zeros((2, *SHAPE), np.float32)
    first[4:9, 5:9, 2:6] = 50 + np.arange(80).reshape(5, 4, 4)
    second[8:15, 7:12, 4:9] = 70 - np.arange(175).reshape(7, 5, 5)
    volumes = [volume(first), volume(second)]
    before = [v.data.copy() for v in volumes]
    image, geometry = prepare_image(volumes, a_plan(channels=2), PreprocessConfig(), ["t1", "t2"])
    assert geometry.crop == (
        (10, 17),
        (4, 15),
        (2, 9),
    )  # right: array axis 1 mirrored; anterior: array axis 0
    assert image.shape == (2, 7, 11, 7)
    assert all(np.array_equal(v.data, old) for v, old in zip(volumes, before, strict=True))
    whole, _ = prepare_image(
        volumes, a_plan(channels=2), PreprocessConfig(crop=False), ["t1", "t2"]
    )
    assert whole.shape == (2, 22, 26, 12)
    assert np.array_equal(whole[:, 10:17, 4:15, 2:9], image)


def with_mask(normalisation: Normalisation, **changes: Any) -> Plan:
    """Return a plan of a scan and a mask."""
    channels = (Normalisation(scheme="zscore"), normalisation)
    return a_plan(channels=2).model_copy(update={"normalisation": channels, **changes})


MASK = Normalisation(scheme="mask")


def prepared(plan: Plan, mask: np.ndarray) -> np.ndarray:
    """Prepare a scan with an empty margin and a mask, and return the mask."""
    scan = np.zeros(SHAPE, np.float32)
    scan[3:24, 2:20] = np.random.default_rng(0).normal(500, 50, (21, 18, 12))
    volumes = [volume(scan), volume(mask)]
    image, _ = prepare_image(volumes, plan, PreprocessConfig(), ["image", "mask"])
    assert (
        image.shape[1:]
        == prepare_image(volumes[:1], a_plan(plan.spacing), PreprocessConfig(), ["image"])[0].shape[
            1:
        ]
    ), "the mask does not decide the crop"
    return image[1]


@pytest.mark.parametrize("spacing", [(1, 1, 2), (0.7, 1.6, 1.3), (3, 3, 3)])
def test_prepare_image_leaves_a_mask_as_it_is(spacing: tuple[float, float, float]) -> None:
    mask = np.zeros(SHAPE, np.float32)
    mask[8:15, 6:14, 3:9] = 2
    mask[15:18, 6:14, 3:9] = 5
    result = prepared(with_mask(MASK, spacing=spacing), mask)
    assert set(np.unique(result)) == {0, 2, 5}
    fraction = np.count_nonzero(mask) / (21 * 18 * 12)
    assert np.count_nonzero(result) / result.size == pytest.approx(fraction, rel=0.3)


def test_prepare_image_keeps_clicks_on_a_coarse_grid() -> None:
    clicks = np.zeros(SHAPE, np.float32)
    clicks[[5, 9, 14, 20], [4, 8, 11, 17], [1, 4, 8, 10]] = 1
    result = prepared(with_mask(MASK, spacing=(4, 4, 7)), clicks)
    assert np.count_nonzero(result) == 4 and result.max() == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_prepare_image_accepts_an_empty_or_full_mask(value: float) -> None:
    result = prepared(with_mask(MASK), np.full(SHAPE, value, np.float32))
    assert np.unique(result) == [value]


def test_prepare_image_maps_a_detected_mask_to_0_to_1_in_all_scans() -> None:
    detected = Normalisation(scheme="mask", mean=0, std=255)
    mask = np.zeros(SHAPE, np.float32)
    mask[8:15, 6:14, 3:9] = 255
    assert set(np.unique(prepared(with_mask(detected), mask))) == {0, 1}
    assert set(np.unique(prepared(with_mask(detected), 0 * mask))) == {0}


def test_prepare_image_refuses_masks_with_large_values() -> None:
    mask = np.zeros(SHAPE, np.float32)
    mask[8:15] = 70_000
    with pytest.raises(
        HstfError, match="mask: a mask is left as it is, but it has values up to 70000"
    ):
        prepared(with_mask(MASK), mask)


@pytest.mark.parametrize("scheme", ["zscore", "ct", "fan", "uptake", "mask"])
def test_prepare_image_with_a_stored_plan_is_the_same(tmp_path: Path, scheme: str) -> None:
    """An exported model has the plan as JSON."""
    normalisation = Normalisation(scheme=scheme, lower=-1 / 3, upper=2 / 3, mean=1e-9, std=1 / 7)
    plan = with_mask(normalisation, spacing=(1.1, 1.1, 2.3))
    plan.save(tmp_path / "plan.json")
    mask = np.zeros(SHAPE, np.float32)
    mask[8:15, 6:14, 3:9] = 1
    result = prepared(plan, mask)
    assert np.array_equal(result, prepared(Plan.load(tmp_path / "plan.json"), mask))
    assert len(np.unique(result)) > 1


def test_constant_channels_names_what_no_network_learns_from() -> None:
    image = np.zeros((3, 4, 4, 4), np.float16)
    image[1, 2] = 1
    image[2] = 0.5
    assert constant_channels(image, ["a", "b", "c"]) == [
        "a: every voxel is 0 after normalisation",
        "c: every voxel is 0.5 after normalisation",
    ]


def test_preprocess_warns_of_a_constant_channel(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table and the log have the warning, also if the case is up to date."""
    write_nifti(tmp_path / "1.nii.gz", np.full(SHAPE, 3, np.float32))
    for _ in range(2):
        preprocess(config, "labelled_0")
        warning = "image: every voxel is 0 after normalisation"
        assert f"preprocess: warning: case_1: {warning}\n" in capsys.readouterr().out
    rows = read_csv(Layout.of(config).preprocessed_table("labelled_0"))
    assert [row["warnings"] for row in rows] == ["", warning]
    preprocess(config, "unlabelled_0")
    assert "warnings" not in read_csv(Layout.of(config).preprocessed_table("unlabelled_0"))[0]


def test_prepare_image_names_all_channels_that_do_not_fit() -> None:
    good = np.random.default_rng(0).normal(size=SHAPE)
    broken = good.copy()
    broken[0, 0, 0] = np.nan
    shifted = AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3)
    volumes = [volume(good), volume(broken), volume(good, shifted), volume(good[1:])]
    with pytest.raises(HstfError) as raised:
        prepare_image(volumes, a_plan(channels=4), PreprocessConfig(), ["a", "b", "c", "d"])
    lines = str(raised.value).splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["b:", "c:", "d:"]
    with pytest.raises(HstfError, match="1 images and 2 modalities"):
        prepare_image(volumes[:1], a_plan(channels=2), PreprocessConfig(), ["a", "b"])


def test_class_indices_follow_the_configuration() -> None:
    config = resolve_config({"labels": {"background": 0, "wall": 4, "lumen": 2, "ignore": 9}})
    values = np.array([0, 2, 4, 9], np.uint8)
    assert class_indices(values, config, Path("x")).tolist() == [0, 2, 1, 255]


def test_class_locations_are_random_and_reproducible() -> None:
    label = np.zeros((30, 30, 30), np.uint8)
    label[:20] = 1
    label[25, 3, 4] = 3
    locations = class_locations(label, 4, "case")
    assert locations.dtype == np.int32
    assert np.bincount(locations[:, 0]).tolist() == [0, 2000, 0, 1]
    assert locations[-1].tolist() == [3, 25, 3, 4]
    assert len(np.unique(locations, axis=0)) == len(locations)
    assert abs(locations[:2000, 1].mean() - 9.5) < 0.5
    assert np.array_equal(locations, class_locations(label, 4, "case"))
    assert not np.array_equal(locations, class_locations(label, 4, "other"))
    assert class_locations(np.zeros((3, 3, 3), np.uint8), 2, "case").shape == (0, 4)


def test_class_locations_include_background_scribbles() -> None:
    dense = np.zeros((20, 20, 20), np.uint8)
    dense[:2] = 255
    dense[5, 5, 2:12] = 1
    sparse = np.where(dense == 0, 255, dense).astype(np.uint8)
    sparse[9, 9, :7] = 0
    of_dense = class_locations(dense, 2, "case")
    of_sparse = class_locations(sparse, 2, "case")
    assert set(of_dense[:, 0]) == {1}, "of a dense label any patch shows some"
    np.testing.assert_array_equal(of_sparse[:10], of_dense)
    np.testing.assert_array_equal(of_sparse[10:], [[0, 9, 9, z] for z in range(7)])
