"""The stage ``plan``, on fingerprints made by hand and on scans on disk."""

import csv
import json
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import plan
from support.volume_files import lower_bound_of_scans

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation, Plan
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_json
from hstf.stages.plan.decide import SET, Levels, make_plan, training_gb
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary, spread


def fingerprint(
    shapes: list[tuple], spacings: list[tuple], foreground: dict | None = None
) -> Fingerprint:
    scans = [
        ScanSummary(
            case_id=f"case_{i}",
            shape=shape,
            spacing=spacing,
            orientation="RAS",
            cropped_shape=shape,
            intensities=((0, 1, 2, 1, 1),),
        )
        for i, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True))
    ]
    return Fingerprint(scans=tuple(scans), foreground=foreground or {})


def planned(scans: Fingerprint, modality: str = "mr", **section: Any) -> Plan:
    return make_plan(resolve_config({"modalities": {"image": modality}, "plan": section}), scans)


SMALL = fingerprint(
    [(34, 50, 35), (36, 50, 34), (38, 54, 40), (35, 49, 36), (35, 52, 35)], [(1.0, 1.0, 1.0)] * 5
)
CARDIAC = fingerprint([(216, 256, 9), (232, 256, 10), (224, 216, 8)], [(1.5, 1.5, 10.0)] * 3)
BODY = fingerprint(
    [(512, 512, 300), (512, 512, 500), (512, 512, 700)],
    [(0.7, 0.7, 1.5), (0.8, 0.8, 1.0), (0.9, 0.9, 1.0)],
)


def test_make_plan_covers_small_scans() -> None:
    chosen = planned(SMALL)
    assert chosen.spacing == (1, 1, 1)
    assert chosen.patch_size == (40, 56, 40)
    assert chosen.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(chosen.kernels) == {(3, 3, 3)}
    assert chosen.channels == (32, 64, 128, 256)
    assert chosen.median_shape == (35, 50, 35)
    assert chosen.batch_size == 4


def test_make_plan_halves_a_coarse_axis_last() -> None:
    chosen = planned(CARDIAC)
    assert chosen.spacing == (1.5, 1.5, 10)
    assert chosen.patch_size[2] in (9, 10)
    assert chosen.strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert chosen.kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert "Axis 2 is coarse" in chosen.reasons["spacing"]


def test_make_plan_uses_the_tenth_percentile_of_a_coarse_axis() -> None:
    thick = [(1.0, 1.0, z) for z in (4.0, 5.0, 6.0, 8.0, 8.0, 8.0, 8.0, 8.0, 9.0, 10.0, 10.0)]
    assert planned(fingerprint([(200, 200, 20)] * 11, thick)).spacing == (1, 1, 5)
    never_finer = [(1.0, 1.0, z) for z in (0.3, 0.3, 0.3, 8.0, 8.0, 8.0, 8.0)]
    assert planned(fingerprint([(200, 200, 20)] * 7, never_finer)).spacing == (1, 1, 1)
    as_many_slices = fingerprint(
        [(200, 200, 150)] * 11, thick
    )  # coarse, but with as many voxels: the median
    assert planned(as_many_slices).spacing == (1, 1, 8)


def test_make_plan_fills_the_memory_with_large_scans() -> None:
    chosen = planned(BODY)
    less = planned(BODY, memory_gb=4)
    for result, memory in ((chosen, 8), (less, 4)):
        levels = Levels(result.strides, result.kernels)
        used = result.batch_size * training_gb(Config().plan, result.patch_size, levels)
        assert 0.6 * memory < used <= memory
        assert len(result.strides) == 5
        assert max(result.patch_size) <= 2 * min(result.patch_size)
    assert chosen.batch_size == less.batch_size == 2
    assert "does not fit" in chosen.reasons["patch_size"]
    assert prod(planned(BODY, max_patch_voxels=64**3).patch_size) <= 64**3


@given(
    shape=st.tuples(*[st.integers(1, 700)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 12.0)] * 3),
    memory=st.floats(0.5, 40),
    stages=st.none() | st.integers(2, 5),
)
@settings(max_examples=200, deadline=None)
def test_make_plan_always_fits_a_network(
    shape: tuple, spacing: tuple, memory: float, stages: int | None
) -> None:
    scans = fingerprint([shape] * 3, [spacing] * 3)
    try:
        chosen = planned(scans, memory_gb=memory, stages=stages)
    except HstfError as error:
        assert "stages" in str(error) and max(shape) < 32
        return
    total = Levels(chosen.strides, chosen.kernels).total_stride
    assert all(n % step == 0 for n, step in zip(chosen.patch_size, total, strict=True))
    assert (
        len(chosen.strides)
        == len(chosen.kernels)
        == len(chosen.channels)
        == (stages or len(chosen.strides))
    )
    assert chosen.strides[0] == (1, 1, 1)
    assert chosen.batch_size >= 2
    assert prod(chosen.patch_size) <= 128**3 or chosen.patch_size == total
    levels = Levels(chosen.strides, chosen.kernels)
    fits = chosen.batch_size * training_gb(Config().plan, chosen.patch_size, levels) <= memory
    assert fits or all(n <= step for n, step in zip(chosen.patch_size, total, strict=True))
    for axis in range(3):  # a kernel once 3 stays 3
        column = [kernel[axis] for kernel in chosen.kernels]
        assert column == sorted(column)


def test_make_plan_keeps_values_of_the_configuration() -> None:
    section = {
        "spacing": (2, 2, 2),
        "patch_size": (48, 32, 16),
        "batch_size": 7,
        "stages": 3,
        "base_channels": 8,
        "max_channels": 20,
    }
    chosen = planned(BODY, **section)
    assert (chosen.spacing, chosen.patch_size, chosen.batch_size) == ((2, 2, 2), (48, 32, 16), 7)
    assert chosen.channels == (8, 16, 20)
    assert [chosen.reasons[name] for name in ("spacing", "patch_size", "batch_size")] == [SET] * 3
    assert SET in chosen.reasons["strides"]


def test_make_plan_halves_only_even_edges_of_a_given_patch() -> None:
    assert planned(SMALL, patch_size=(40, 36, 33)).strides == (
        (1, 1, 1),
        (2, 2, 1),
        (2, 2, 1),
        (2, 1, 1),
    )
    with pytest.raises(
        HstfError, match=r"\(40, 36, 33\) can be halved 3 times, but 5 stages need 4"
    ):
        planned(SMALL, patch_size=(40, 36, 33), stages=5)
    with pytest.raises(HstfError, match=r"can be halved 0 times"):
        planned(SMALL, patch_size=(33, 33, 33))


def test_make_plan_normalises_by_modality() -> None:
    config = resolve_config(
        {"modalities": {"a": "mr", "b": "ct", "c": "pet", "d": "us", "e": "other"}}
    )
    chosen = make_plan(
        config, fingerprint([(64, 64, 64)], [(1.0,) * 3], {"b": (-80.0, 60.0, 210.0, 65.0, 40.0)})
    )
    assert [n.scheme for n in chosen.normalisation] == ["zscore", "ct", "uptake", "fan", "zscore"]
    ct = chosen.normalisation[1]
    assert (ct.lower, ct.upper, ct.mean, ct.std) == (-80, 210, 65, 40)
    assert {f"normalisation {name}" for name in "abcde"} <= chosen.reasons.keys()


def test_plan_survives_a_round_trip(tmp_path: Path) -> None:
    chosen = planned(CARDIAC)
    write_json(tmp_path / "plan.json", chosen.to_json())
    assert Plan.load(tmp_path / "plan.json") == chosen
    content = chosen.to_json()
    del content["strides"]
    write_json(tmp_path / "plan.json", content)
    with pytest.raises(
        HstfError, match=r"run the stage 'plan' again\.\n  - strides: Field required"
    ):
        Plan.load(tmp_path / "plan.json")


def test_grid_sha256_depends_only_on_spacing_and_normalisation() -> None:
    chosen = planned(SMALL)
    assert planned(SMALL, patch_size=(32, 32, 32)).grid_sha256 == chosen.grid_sha256
    assert planned(SMALL, spacing=(1, 1, 2)).grid_sha256 != chosen.grid_sha256
    assert planned(SMALL, "pet").grid_sha256 != chosen.grid_sha256


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


def experiment(folder: Path, modality: str, label: bool) -> Config:
    """Write three labelled and two unlabelled scans.

    Test images and withheld labels are files that cannot be read.
    """
    generator = np.random.default_rng(0)
    (folder / "broken.nii.gz").write_bytes(b"not to be read")
    rows = []
    for number in range(6):
        split = (["labelled"] * 3 + ["unlabelled"] * 2 + ["test"])[number]
        data = np.full((24, 20, 10), -1000, np.float32)
        data[2:22, 4:16, :] = generator.normal(-100, 20, (20, 12, 10))
        mask = np.zeros(data.shape, np.uint8)
        mask[8:14, 8:12, 2:8] = 1
        data[mask == 1] = generator.normal(50, 5, int(mask.sum()))
        affine = np.diag([-0.75, -0.75, 2.0, 1.0])
        image = write_nifti(folder / f"image_{number}.nii.gz", data, affine)
        truth = (
            write_nifti(folder / f"label_{number}.nii.gz", mask, affine)
            if label
            else "broken.nii.gz"
        )
        rows.append(
            {
                "case_id": f"case_{number}",
                "split": split,
                "image": "broken.nii.gz" if split == "test" else image,
                "label": truth if split == "labelled" else "broken.nii.gz",
            }
        )
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return resolve_config(
        {
            "experiment": "e",
            "output": str(folder / "results"),
            "cases": str(folder / "cases.csv"),
            "modalities": {"image": modality},
            "preprocess": {"workers": 1},
        }
    )


def test_plan_reads_no_test_case_and_no_withheld_label(tmp_path: Path) -> None:
    config = experiment(tmp_path, "mr", label=False)
    chosen = plan(config)
    layout = Layout.of(config)
    assert Plan.load(layout.plan) == chosen
    scans = read_json(layout.fingerprint)["scans"]
    assert [scan["case_id"] for scan in scans] == [f"case_{i}" for i in range(5)]
    low, high = scans[0].pop("ranges")[0]
    assert low == -1000 < -50 < high
    assert scans[0] | {"intensities": None} == {
        "case_id": "case_0",
        "shape": [24, 20, 10],
        "spacing": [0.75, 0.75, 2.0],
        "orientation": "LPS",
        "tilt_degrees": 0.0,
        "is_placed": False,
        "cropped_shape": [20, 12, 10],
        "intensities": None,
        "few_values": [False],
    }
    assert chosen.spacing == (0.75, 0.75, 2.0)
    assert chosen.median_shape == (20, 12, 10)


def test_plan_scales_ct_by_the_labelled_foreground(tmp_path: Path) -> None:
    ct = plan(experiment(tmp_path, "ct", label=True)).normalisation[0]
    assert ct.mean == pytest.approx(50, abs=1)
    assert ct.std == pytest.approx(5, abs=0.5)
    assert 35 < ct.lower < 40 < 60 < ct.upper < 65


def test_plan_scales_ct_by_scribbles(tmp_path: Path) -> None:
    config = experiment(tmp_path, "ct", label=True)
    for number in range(3):
        scribbles = np.full((24, 20, 10), 9, np.uint8)
        scribbles[9, 9, 3:7] = 1
        scribbles[3, 5:15, 4] = 0
        write_nifti(tmp_path / f"label_{number}.nii.gz", scribbles, np.diag([-0.75, -0.75, 2.0, 1]))
    sparse = config.model_copy(update={"labels": {"background": 0, "foreground": 1, "ignore": 9}})
    ct = plan(sparse).normalisation[0]
    assert ct.mean == pytest.approx(50, abs=5) and ct.std < 10


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read scans in this process, which saves the start of another one."""

    def run_here(function: Any, items: Any, workers: int) -> Any:
        return ((item, function(item)) for item in items)

    monkeypatch.setattr("hstf.stages.plan.fingerprint.map_processes", run_here)


def with_channel(config: Config, kind: str, files: list[np.ndarray]) -> Config:
    """Add a second channel to the labelled and unlabelled cases of :func:`experiment`."""
    sheet = Path(config.cases)
    rows = list(csv.DictReader(sheet.open()))
    for row, data in zip(rows, files, strict=False):
        path = sheet.parent / f"second_{row['case_id']}.nii.gz"
        write_nifti(path, data.astype(np.float32), np.diag([-0.75, -0.75, 2.0, 1]))
        row["second"] = str(path)
    rows[-1]["second"] = "broken.nii.gz"
    with sheet.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    modalities = {**config.modalities, "second": kind}
    return config.model_copy(update={"modalities": modalities})


def priors(value: float = 1, edge: float | None = None) -> list[np.ndarray]:
    """Return five masks; the last one is empty."""
    masks = []
    for number in range(5):
        mask = np.zeros((24, 20, 10))
        mask[4 : 10 + number, 6:12, 3:7] = value
        if edge is not None:
            mask[4, 6, 3:7] = edge
        masks.append(mask)
    masks[-1][:] = 0
    return masks


@pytest.mark.parametrize("kind", ["other", "mr", "ct", "pet", "us"])
@pytest.mark.parametrize(("value", "edge"), [(1, None), (255, None), (3, 2), (1, 0.3)])
@pytest.mark.usefixtures("in_process")
def test_plan_finds_masks_among_the_channels(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    value: float,
    edge: float | None,
) -> None:
    config = with_channel(experiment(tmp_path, "mr", label=True), kind, priors(value, edge))
    chosen = plan(config)
    mask = chosen.normalisation[1]
    assert (mask.scheme, mask.mean, mask.std) == ("mask", 0, value)
    assert f"0 to {value:g} are mapped to 0 to 1" in chosen.reasons["normalisation second"]
    assert chosen.normalisation[0].scheme == "zscore"
    assert chosen.median_shape == (20, 12, 10), "the mask does not decide the crop"
    warnings = capsys.readouterr().out
    assert "plan: warning: second: one value in all voxels in 1 of 5 scans (case_4)" in warnings
    assert (f"is a mask, not {kind}" in warnings) == (kind != "other")


@pytest.mark.usefixtures("in_process")
def test_plan_finds_masks_with_soft_edges(tmp_path: Path) -> None:
    masks = priors()
    for mask in masks[:-1]:
        mask[4, 6, 3:7] = np.random.default_rng(0).random(4)
        mask[6:8, :, :] = 1
    mask = plan(with_channel(experiment(tmp_path, "mr", label=True), "other", masks))
    assert mask.normalisation[1].scheme == "mask"


@pytest.mark.parametrize(("value", "warned"), [(1, False), (255, True)])
@pytest.mark.usefixtures("in_process")
def test_plan_leaves_declared_masks_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, warned: bool
) -> None:
    config = with_channel(experiment(tmp_path, "mr", label=True), "mask", priors(value))
    assert plan(config).normalisation[1] == Normalisation(scheme="mask")
    assert ("the mask has values up to 255" in capsys.readouterr().out) == warned


@pytest.mark.usefixtures("in_process")
def test_plan_reads_masks_that_compress_better_than_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bound_of_scans(monkeypatch)
    config = with_channel(experiment(tmp_path, "mr", label=True), "mask", priors())
    assert plan(config).normalisation[1].scheme == "mask"


@pytest.mark.usefixtures("in_process")
def test_plan_warns_of_a_constant_channel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_channel(
        experiment(tmp_path, "mr", label=True), "other", [np.ones((24, 20, 10))] * 5
    )
    assert plan(config).normalisation[1].scheme == "zscore"
    assert "second: one value in all voxels in 5 of 5 scans" in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_plan_of_ordinary_scans_has_no_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(experiment(tmp_path, "ct", label=True)).normalisation[0].scheme == "ct"
    assert "warning" not in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_plan_keeps_ct_whose_foreground_has_one_value(tmp_path: Path) -> None:
    """The labelled bone is as bright as the file can store."""
    config = experiment(tmp_path, "ct", label=True)
    for number in range(3):
        path = tmp_path / f"image_{number}.nii.gz"
        image = nib.load(path)
        data = np.asarray(image.dataobj).copy()
        data[np.asarray(nib.load(tmp_path / f"label_{number}.nii.gz").dataobj) == 1] = 255
        write_nifti(path, data, image.affine)
    ct = plan(config).normalisation[0]
    assert ct.scheme == "ct" and ct.lower < -100 and ct.upper == 255 and ct.std > 10


@pytest.mark.usefixtures("in_process")
def test_plan_names_ct_without_the_offset_of_hounsfield_units(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = experiment(tmp_path, "ct", label=True)
    path = tmp_path / "image_3.nii.gz"
    image = nib.load(path)
    write_nifti(path, np.asarray(image.dataobj) + 1024, image.affine)
    plan(config)
    assert "image: the intensities of case_3 are about 1024 above" in capsys.readouterr().out


def test_plan_has_the_whole_scans_without_the_crop(tmp_path: Path) -> None:
    config = experiment(tmp_path, "mr", label=False)
    preprocess = config.preprocess.model_copy(update={"crop": False})
    chosen = plan(config.model_copy(update={"preprocess": preprocess}))
    assert chosen.median_shape == (24, 20, 10)
    scans = read_json(Layout.of(config).fingerprint)["scans"]
    assert scans[0]["cropped_shape"] == [24, 20, 10]


def test_plan_refuses_ct_without_labelled_foreground(tmp_path: Path) -> None:
    config = experiment(tmp_path, "ct", label=True)
    for number in range(3):
        write_nifti(
            tmp_path / f"label_{number}.nii.gz",
            np.zeros((24, 20, 10), np.uint8),
            np.diag([-0.75, -0.75, 2.0, 1]),
        )
    with pytest.raises(HstfError, match="no labelled case has any"):
        plan(config)


def test_plan_reads_all_headers_and_some_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(tmp_path, "mr", label=False)
    monkeypatch.setattr("hstf.stages.plan.fingerprint.READ", 2)
    plan(config)
    scans = read_json(Layout.of(config).fingerprint)["scans"]
    assert [scan["cropped_shape"] is not None for scan in scans] == [True, False, True, True, True]
    assert len({json.dumps(scan["spacing"]) for scan in scans}) == 1


def test_spread_chooses_cases_over_the_whole_sheet(tmp_path: Path) -> None:
    cases = read_cases(experiment(tmp_path, "mr", label=False)).of(Split.LABELLED)
    assert [case.case_id for case in spread(cases * 10, 4)] == [
        (cases * 10)[i].case_id for i in (0, 10, 19, 29)
    ]
    assert spread(cases, 100) == cases
