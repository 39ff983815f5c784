"""The synthetic data sets hold what they promise: other tests and the demo stand on them."""

import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.datasets.phantom import scan
from hstf.datasets.phantom.dataset import case_seed, write_dataset
from hstf.datasets.phantom.layouts import LAYOUTS, write_layout
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case, rician
from hstf.datasets.phantom.shapes import SmoothField, Superellipsoid, coverage
from hstf.experiment.cases import Split, read_cases
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json

SMALL = PhantomOptions(size=(24, 22, 20), cases=5, labelled=2, test=1)
SEEDS = range(25)


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    return [generate_case(seed, PhantomOptions()).label for seed in SEEDS]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_seeds_give_equal_cases_and_others_differ() -> None:
    first, again, other = (generate_case(seed, SMALL) for seed in (7, 7, 8))
    assert first.images.tobytes() == again.images.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    assert np.array_equal(first.affine, again.affine)
    assert not np.array_equal(first.label, other.label)


def test_slabs_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate_case(3, SMALL)
    monkeypatch.setattr(scan, "SLAB_VOXELS", 3 * 24 * 22)
    slabs = generate_case(3, SMALL)
    assert np.array_equal(whole.label, slabs.label)
    np.testing.assert_allclose(whole.images, slabs.images, rtol=1e-4)


def test_memory_is_bounded_by_the_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "SLAB_VOXELS", 4 * 96 * 96)
    options = replace(SMALL, size=(96, 96, 128))
    tracemalloc.start()
    phantom = generate_case(0, options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = phantom.images.nbytes + phantom.label.nbytes
    padded_slab = 6 * 96 * 96 * 4
    assert peak - result < 50 * padded_slab


def test_every_case_has_its_organs(labels: list[np.ndarray]) -> None:
    for label in labels:
        assert all(
            (label == PHANTOM_LABELS[name]).sum() > 50 for name in ("liver", "spleen", "kidney")
        )
        assert 0.5 < (label == 0).mean() < 0.97


def test_liver_and_kidney_touch_in_every_case(labels: list[np.ndarray]) -> None:
    for label in labels:
        rim = ndimage.binary_dilation(label == PHANTOM_LABELS["kidney"])
        assert (rim & (label == PHANTOM_LABELS["liver"])).sum() >= 5


def test_some_cases_have_lesions_and_some_have_none(labels: list[np.ndarray]) -> None:
    lesions = [label == PHANTOM_LABELS["lesion"] for label in labels]
    share = np.mean([lesion.any() for lesion in lesions])
    assert 0.4 < share < 0.9  # 1 - exp(-1.2) = 0.70
    counts = {ndimage.label(lesion)[1] for lesion in lesions}
    assert {0, 1, 2} <= counts


def test_lesions_lie_in_the_liver(labels: list[np.ndarray]) -> None:
    for label in labels:
        lesion = label == PHANTOM_LABELS["lesion"]
        if lesion.any():
            rim = ndimage.binary_dilation(lesion) & ~lesion
            assert (label[rim] == PHANTOM_LABELS["liver"]).mean() > 0.5


def test_without_lesions_there_are_none() -> None:
    none = replace(SMALL, lesions=0.0)
    assert all(
        generate_case(seed, none).label.max() == PHANTOM_LABELS["kidney"] for seed in range(5)
    )


def test_anatomy_varies_as_much_as_asked() -> None:
    def volumes(variation: float) -> np.ndarray:
        options = replace(SMALL, variation=variation, lesions=0.0)
        cases = (generate_case(seed, options).label for seed in range(8))
        return np.array([(label == PHANTOM_LABELS["spleen"]).sum() for label in cases])

    assert volumes(0).std() < volumes(1).std()


def test_coverage_of_a_tilted_plane_is_close_to_exact() -> None:
    normal = np.array([0.8, 0.5, -0.3])
    x, y, z = np.meshgrid(*[np.arange(12.0)] * 3, indexing="ij")
    plane = normal[0] * x + normal[1] * y + normal[2] * z - 4.3
    fine = (np.arange(16) + 0.5) / 16 - 0.5
    dx, dy, dz = np.meshgrid(fine, fine, fine, indexing="ij")
    inside = np.add.outer(plane, (normal[0] * dx + normal[1] * dy + normal[2] * dz).ravel()) < 0
    assert np.abs(coverage(plane) - inside.mean(-1)).max() < 0.06


def test_coverage_of_a_ball_has_its_volume_and_soft_edges() -> None:
    axes = [np.linspace(-1, 1, 41, dtype=np.float32)] * 3
    ball = Superellipsoid(np.array([0.02, -0.01, 0.03]), np.full(3, 0.5), np.eye(3))
    values = ball(np.meshgrid(*axes, indexing="ij"), axes)
    share = coverage(values)
    assert share.sum() * 0.05**3 == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.01)
    assert np.array_equal(share > 0.5, values < 0)
    edge = (share > 0) & (share < 1)
    assert edge.any() and np.unique(share[edge]).size > 20


def test_edges_mix_both_sides() -> None:
    """Without noise, bias and texture, a voxel on the border of two tissues is no brighter than the brighter of them."""
    plain = replace(SMALL, noise=0.0, bias=0.0, lesions=0.0, size=(40, 40, 32), oblique=False)
    phantom = generate_case(2, plain)
    spleen = phantom.label == PHANTOM_LABELS["spleen"]
    inner, rim = (
        ndimage.binary_erosion(spleen, iterations=3),
        spleen & ~ndimage.binary_erosion(spleen),
    )
    image = phantom.images[0]
    assert image[inner].std() < 0.5 * image[rim].std()


def test_extent_reaches_the_surface() -> None:
    organ = Superellipsoid(
        np.array([0.1, 0.2, -0.1]), np.array([0.3, 0.2, 0.5]), np.eye(3), exponent=3.0
    )
    direction = np.array([0.6, -0.64, 0.48])
    surface = organ.centre + organ.extent(direction) * direction
    points = [np.full((1, 1, 1), value, np.float32) for value in surface]
    assert organ(points, points)[0, 0, 0] == pytest.approx(0, abs=1e-5)


def test_smooth_field_is_the_sum_of_its_waves() -> None:
    field = SmoothField.random(np.random.default_rng(0), 4)
    axes = [np.linspace(-1, 1, n) for n in (5, 6, 7)]
    waves = [np.cos(np.pi / 2 * np.outer(axis + 1, np.arange(4))) for axis in axes]
    expected = np.einsum("abc,xa,yb,zc->xyz", field.coefficients, *waves)
    np.testing.assert_allclose(field(axes), expected, atol=1e-5)


def test_axis_aligned_affine_is_the_spacing() -> None:
    options = replace(SMALL, spacing=(0.7, 1.5, 4.0), oblique=False)
    affine = generate_case(1, options).affine
    np.testing.assert_allclose(affine[:3, :3], np.diag([0.7, 1.5, 4.0]))


def test_oblique_affine_is_orthonormal_tilted_and_of_both_hands() -> None:
    options = replace(SMALL, spacing=(0.7, 1.5, 4.0))
    affines = np.array([generate_case(seed, options).affine for seed in range(10)])
    directions = affines[:, :3, :3] / np.array(options.spacing)
    np.testing.assert_allclose(
        np.swapaxes(directions, 1, 2) @ directions, np.tile(np.eye(3), (10, 1, 1)), atol=1e-12
    )
    assert np.abs(np.abs(directions).max(axis=1)).min() < 0.999
    assert set(np.sign(np.linalg.det(directions))) == {-1.0, 1.0}
    assert len({nib.aff2axcodes(affine) for affine in affines}) > 2


def test_mirrored_axes_show_the_same_patient() -> None:
    """The liver lies on the patient's right however the array runs: reorientation brings back the aligned case."""
    for seed in range(6):
        oblique = generate_case(seed, SMALL)
        aligned = generate_case(seed, replace(SMALL, oblique=False))
        canonical = nib.as_closest_canonical(nib.Nifti1Image(oblique.label, oblique.affine))
        assert np.array_equal(np.asarray(canonical.dataobj), aligned.label)


def test_sizes_vary_when_asked() -> None:
    options = replace(SMALL, size_variation=0.2)
    shapes = {generate_case(seed, options).label.shape for seed in range(6)}
    assert len(shapes) > 3
    assert all(
        0.79 * n <= m <= 1.21 * n
        for shape in shapes
        for n, m in zip(options.size, shape, strict=True)
    )


def test_modalities_differ_in_contrast_and_share_the_anatomy() -> None:
    options = replace(SMALL, modalities=("t1", "t2"), noise=0.0, bias=0.0)
    phantom = generate_case(0, options)
    assert phantom.images.shape == (2, *SMALL.size)
    assert abs(np.corrcoef(phantom.images.reshape(2, -1))[0, 1]) < 0.98
    single = generate_case(0, replace(options, modalities=("t1",)))
    assert np.array_equal(single.images[0], phantom.images[0])


def test_intensity_scale_spans_orders_of_magnitude() -> None:
    scales = [np.percentile(generate_case(seed, SMALL).images, 95) for seed in range(15)]
    assert max(scales) / min(scales) > 100


def test_rician_noise_has_the_moments_of_its_distribution() -> None:
    rng = np.random.default_rng(0)
    background = rician(np.zeros((64, 64, 64), np.float32), 0.1, rng)
    assert background.min() >= 0
    assert background.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    tissue = rician(np.full((64, 64, 64), 0.8, np.float32), 0.1, rng)
    assert (tissue.astype(float) ** 2).mean() == pytest.approx(0.8**2 + 2 * 0.1**2, rel=0.01)
    assert tissue.std() == pytest.approx(0.1, rel=0.03)


def test_noise_grows_with_the_option() -> None:
    def roughness(noise: float) -> float:
        image = generate_case(0, replace(SMALL, noise=noise)).images[0]
        return float(np.abs(np.diff(image, axis=2)).mean() / image.mean())

    assert roughness(0.0) < roughness(0.05) < roughness(0.2)


def test_only_further_sites_shift() -> None:
    shifted = replace(SMALL, site_shift=1.0)
    assert np.array_equal(generate_case(0, SMALL, 0).images, generate_case(0, shifted, 0).images)
    assert np.array_equal(generate_case(0, SMALL, 0).images, generate_case(0, SMALL, 1).images)
    assert not np.allclose(generate_case(0, shifted, 1).images, generate_case(0, shifted, 0).images)


@settings(deadline=None, max_examples=20)
@given(
    size=st.tuples(*[st.integers(8, 30)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    channels=st.integers(1, 5),
    oblique=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_geometry_gives_a_sound_case(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    channels: int,
    oblique: bool,
    seed: int,
) -> None:
    names = tuple(f"m{k}" for k in range(channels))
    phantom = generate_case(
        seed, PhantomOptions(size=size, spacing=spacing, modalities=names, oblique=oblique)
    )
    assert phantom.images.shape == (channels, *size) and phantom.images.dtype == np.float32
    assert phantom.label.shape == size and phantom.label.dtype == np.uint8
    assert (
        np.isfinite(phantom.images).all() and phantom.images.min() >= 0 and phantom.images.std() > 0
    )
    assert set(np.unique(phantom.label)) <= set(PHANTOM_LABELS.values())
    assert (phantom.label == 0).any() and np.isin(
        phantom.label, (1, 4)
    ).any()  # lesions may fill a liver of few voxels
    np.testing.assert_allclose(np.linalg.norm(phantom.affine[:3, :3], axis=0), spacing, rtol=1e-6)


def test_dataset_is_a_readable_case_sheet(tmp_path: Path) -> None:
    options = replace(SMALL, modalities=("t1", "t2"), spacing=(1.0, 1.2, 3.0))
    sheet = write_dataset(tmp_path, options)
    config = Config(cases=str(sheet), labels=PHANTOM_LABELS, modalities={"t1": "mr", "t2": "mr"})
    cases = read_cases(config)
    assert [len(cases.of(split)) for split in Split] == [2, 2, 1]
    assert {case.site for case in cases.of(Split.LABELLED)} == {"site_0"}
    assert len({case.group for case in cases.cases}) == 5
    last = cases.cases[4]
    expected = generate_case(case_seed(0, 4), options)
    assert last.reference is not None
    assert np.array_equal(read_label(last.reference).data, expected.label)
    for path, image in zip(last.images, expected.images, strict=True):
        volume = read_image(path)
        assert np.array_equal(volume.data, image)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
        np.testing.assert_allclose(volume.spacing, options.spacing, rtol=1e-5)


def test_scribbles_are_few_right_and_of_every_class(tmp_path: Path) -> None:
    options = PhantomOptions(cases=3, labelled=1, test=1, size=(32, 28, 24), lesions=3, seed=1)
    for name, scribbles in (("dense", False), ("thin", True), ("again", True)):
        write_dataset(tmp_path / name, replace(options, scribbles=scribbles))
    files = sorted(
        path.relative_to(tmp_path / "dense") for path in (tmp_path / "dense").rglob("*.nii.gz")
    )
    differ = [
        f
        for f in files
        if (tmp_path / "dense" / f).read_bytes() != (tmp_path / "thin" / f).read_bytes()
    ]
    assert differ == [Path("labels/case_000.nii.gz")], (
        "images, other labels and their draws stay as they are"
    )
    dense, thin, again = (
        np.asarray(nib.load(tmp_path / name / differ[0]).dataobj)
        for name in ("dense", "thin", "again")
    )
    np.testing.assert_array_equal(thin, again)
    drawn = thin != 255
    np.testing.assert_array_equal(thin[drawn], dense[drawn])
    np.testing.assert_array_equal(np.unique(thin[drawn]), np.unique(dense))
    assert 0.002 < drawn.mean() < 0.05
    drawn_slices = [
        np.flatnonzero((thin == value).any(axis=(0, 1))).size for value in np.unique(dense)
    ]
    assert drawn_slices[0] <= 12 and max(drawn_slices[1:]) <= 4


def test_scribbles_need_a_layout_that_knows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--cases",
        "2",
        "--labelled",
        "1",
        "--test",
        "0",
        "--size",
        "12",
        "12",
        "12",
        "--scribbles",
    ]
    assert main(["phantom", "--layout", "lits", "--output", str(tmp_path / "lits"), *options]) == 1
    assert "no value for voxels to ignore. These have: nnunet" in capsys.readouterr().err
    assert not (tmp_path / "lits").exists()
    assert main(["phantom", "--layout", "nnunet", "--output", str(tmp_path), *options]) == 0
    assert read_json(tmp_path / "dataset.json")["labels"]["ignore"] == 5
    label = np.asarray(nib.load(tmp_path / "labelsTr" / "phantom_000.nii.gz").dataobj)
    assert (label == 5).mean() > 0.5


def test_header_transforms_agree(tmp_path: Path) -> None:
    write_dataset(tmp_path, replace(SMALL, cases=3, test=0))
    for path in sorted((tmp_path / "images").iterdir()):
        header = nib.load(path).header
        (sform, scode), (qform, qcode) = header.get_sform(coded=True), header.get_qform(coded=True)
        assert (scode, qcode) == (1, 1) and header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(sform, qform, atol=1e-3)


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", SMALL)
    write_dataset(tmp_path / "b", SMALL)
    once = digests(tmp_path / "a")
    assert once == digests(tmp_path / "b")
    assert len(once) == 2 * SMALL.cases + 1
    (tmp_path / "a" / "labels" / "case_000.nii.gz").write_bytes(b"damaged")
    write_dataset(tmp_path / "a", SMALL)
    assert once == digests(tmp_path / "a")


def test_more_unlabelled_cases_leave_the_others_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path / "few", SMALL)
    write_dataset(tmp_path / "more", replace(SMALL, cases=7))
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    assert all(more[name] == digest for name, digest in few.items() if name.endswith(".nii.gz"))


def test_command_writes_and_tells_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--cases 3 --labelled 1 --test 1 --size 12 12 10 --modalities t1 flair --axis-aligned --seed 4"
    assert main(["phantom", "--output", str(tmp_path), *arguments.split()]) == 0
    told = capsys.readouterr().out
    assert "1 labelled, 1 unlabelled and 1 test" in told
    assert "{background: 0, liver: 1, spleen: 2, kidney: 3, lesion: 4}" in told
    assert "{t1: mr, flair: mr}" in told
    options = PhantomOptions(
        cases=3, labelled=1, test=1, size=(12, 12, 10), modalities=("t1", "flair"), oblique=False
    )
    expected = generate_case(case_seed(4, 2), options)
    assert np.array_equal(
        read_image(tmp_path / "images" / "case_002_flair.nii.gz").data, expected.images[1]
    )


def test_single_modality_files_carry_the_case_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path, replace(SMALL, cases=3))
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [
        f"case_00{k}.nii.gz" for k in range(3)
    ]


def test_impossible_options_are_all_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--cases 3 --labelled 4 --test 1 --size 4 12 10 --spacing 1 nan 1 --modalities label"
    )
    assert main(["phantom", "--output", str(tmp_path), *arguments.split()]) == 1
    told = capsys.readouterr().err
    for part in (
        "cases is 3, expected 5",
        "size is 4, expected 8",
        "spacing is nan",
        "modality 'label'",
    ):
        assert part in told
    assert not any(tmp_path.iterdir())


def test_modalities_need_different_names() -> None:
    with pytest.raises(HstfError, match="different names"):
        PhantomOptions(modalities=("t1", "t1"))


LAYOUT_FACTS = {
    # layout: (an image, a label, axes, image type, values a label may have)
    "acdc": ("training/patient001/patient001_frame01.nii.gz", "training/patient001/patient001_frame01_gt.nii.gz",
             "LPS", np.int16, {0, 1, 2, 3}),
    "brats": ("MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz",
              "MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_seg.nii.gz",
              "LPS", np.int16, {0, 1, 2, 4}),
    "brats2023": ("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
                  "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz",
                  "LPS", np.int16, {0, 1, 2, 3}),
    "lits": ("Training_Batch1/volume-0.nii", "Training_Batch1/segmentation-0.nii", "LPS", np.int16, {0, 1, 2}),
    "msd": ("imagesTr/phantom_000.nii.gz", "labelsTr/phantom_000.nii.gz", "RAS", np.float32, {0, 1, 2, 3, 4}),
    "nnunet": ("imagesTr/phantom_000_0000.nii.gz", "labelsTr/phantom_000.nii.gz", "RAS", np.float32, {0, 1, 2, 3, 4}),
    "folder": ("images/case_000.nii.gz", "labels/case_000.nii.gz", "RAS", np.int16, {0, 1, 2, 3, 4}),
    "bids": ("sub-001/anat/sub-001_T1w.nii.gz", "derivatives/manual/sub-001/anat/sub-001_desc-manual_dseg.nii.gz",
             "RAS", np.int16, {0, 1, 2, 3, 4}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_have_their_owners_names_types_axes_and_values(layout: str, tmp_path: Path) -> None:
    options = [
        "--cases",
        "3",
        "--labelled",
        "2",
        "--test",
        "0",
        "--size",
        "24",
        "24",
        "16",
        "--lesions",
        "3",
    ]
    assert main(["phantom", "--layout", layout, "--output", str(tmp_path), *options]) == 0
    image_name, label_name, axes, dtype, values = LAYOUT_FACTS[layout]
    image, label = nib.load(tmp_path / image_name), nib.load(tmp_path / label_name)
    assert "".join(nib.aff2axcodes(image.affine)) == axes
    np.testing.assert_array_equal(image.affine, label.affine)
    assert (image.get_data_dtype(), label.get_data_dtype()) == (dtype, np.uint8)
    found = set(np.unique(label.dataobj))
    assert found <= values and len(found) >= 3


def test_axes_of_a_layout_mirror_the_array_and_not_the_anatomy(tmp_path: Path) -> None:
    options = PhantomOptions(cases=1, labelled=1, test=0, size=(24, 20, 16), noise=0.0)
    for name, axes in (("ras", (1.0, 1.0, 1.0)), ("lps", (-1.0, -1.0, 1.0))):
        write_layout(tmp_path / name, replace(LAYOUTS["folder"], axes=axes), options)
    ras, lps = (nib.load(tmp_path / name / "labels" / "case_000.nii.gz") for name in ("ras", "lps"))
    back = nib.as_closest_canonical(lps)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(ras.dataobj))
    np.testing.assert_allclose(back.affine, ras.affine, atol=1e-4)


def test_ct_of_a_layout_is_in_hounsfield_units(tmp_path: Path) -> None:
    assert main(["phantom", "--layout", "lits", "--output", str(tmp_path), "--cases", "2", "--labelled", "2",
                 "--test", "0", "--size", "32", "32", "24"]) == 0  # fmt: skip
    for number in range(2):
        volume, label = (
            np.asarray(nib.load(next(tmp_path.rglob(f"{kind}-{number}.nii"))).dataobj)
            for kind in ("volume", "segmentation")
        )
        assert volume.min() == -1000
        assert 0 < np.median(volume[label == 1]) < 250
