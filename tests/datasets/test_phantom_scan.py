"""Synthetic cases: anatomy, contrast, noise and geometry."""

import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hstf.datasets.phantom import scan
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case, rician
from hstf.datasets.phantom.shapes import SmoothField, Superellipsoid, coverage

SMALL = PhantomOptions(
    size=(24, 22, 20),
    cases=5,
    labelled=2,
    test=1,
)
SEEDS = range(25)


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    """Labels of many cases."""
    options = PhantomOptions()
    return [generate_case(seed, options).label for seed in SEEDS]


def test_generate_case_depends_only_on_the_seed() -> None:
    first = generate_case(7, SMALL)
    again = generate_case(7, SMALL)
    other = generate_case(8, SMALL)
    assert first.images.tobytes() == again.images.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    assert np.array_equal(first.affine, again.affine)
    assert not np.array_equal(first.label, other.label)


def test_generate_case_has_no_seams_between_slabs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = generate_case(3, SMALL)
    monkeypatch.setattr(scan, "SLAB_VOXELS", 3 * 24 * 22)
    slabs = generate_case(3, SMALL)
    assert np.array_equal(whole.label, slabs.label)
    np.testing.assert_allclose(whole.images, slabs.images, rtol=1e-4)


def test_generate_case_limits_memory_to_a_slab(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "SLAB_VOXELS", 4 * 96 * 96)
    options = replace(SMALL, size=(96, 96, 128))
    tracemalloc.start()
    phantom = generate_case(0, options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = phantom.images.nbytes + phantom.label.nbytes
    padded_slab = 6 * 96 * 96 * 4
    assert peak - result < 50 * padded_slab


def test_generate_case_has_all_organs(labels: list[np.ndarray]) -> None:
    for label in labels:
        for name in ("liver", "spleen", "kidney"):
            organ = label == PHANTOM_LABELS[name]
            assert organ.sum() > 50
        background = label == 0
        assert 0.5 < background.mean() < 0.97


def test_generate_case_makes_liver_and_kidney_touch(labels: list[np.ndarray]) -> None:
    for label in labels:
        liver = label == PHANTOM_LABELS["liver"]
        kidney = label == PHANTOM_LABELS["kidney"]
        rim = ndimage.binary_dilation(kidney)
        assert (rim & liver).sum() >= 5


def test_generate_case_draws_lesions_in_some_cases(labels: list[np.ndarray]) -> None:
    counts = []
    for label in labels:
        lesions = label == PHANTOM_LABELS["lesion"]
        _, count = ndimage.label(lesions)
        counts.append(count)
    fraction = np.mean([count > 0 for count in counts])
    # Expected from the Poisson distribution: 1 - exp(-1.2) = 0.70.
    assert 0.4 < fraction < 0.9
    assert {0, 1, 2} <= set(counts)


def test_generate_case_draws_lesions_inside_the_liver(labels: list[np.ndarray]) -> None:
    for label in labels:
        lesion = label == PHANTOM_LABELS["lesion"]
        if lesion.any():
            rim = ndimage.binary_dilation(lesion) & ~lesion
            in_liver = label[rim] == PHANTOM_LABELS["liver"]
            assert in_liver.mean() > 0.5


def test_generate_case_without_lesions_has_none() -> None:
    options = replace(SMALL, lesions=0.0)
    for seed in range(5):
        label = generate_case(seed, options).label
        assert label.max() == PHANTOM_LABELS["kidney"]


def test_generate_case_varies_the_anatomy_as_requested() -> None:
    def volumes(variation: float) -> np.ndarray:
        options = replace(SMALL, variation=variation, lesions=0.0)
        found = []
        for seed in range(8):
            label = generate_case(seed, options).label
            spleen = label == PHANTOM_LABELS["spleen"]
            found.append(spleen.sum())
        return np.array(found)

    assert volumes(0).std() < volumes(1).std()


def test_coverage_of_a_tilted_plane_is_almost_exact() -> None:
    normal = np.array([0.8, 0.5, -0.3])
    coarse = np.arange(12.0)
    x, y, z = np.meshgrid(coarse, coarse, coarse, indexing="ij")
    plane = normal[0] * x + normal[1] * y + normal[2] * z - 4.3
    fine = (np.arange(16) + 0.5) / 16 - 0.5
    dx, dy, dz = np.meshgrid(fine, fine, fine, indexing="ij")
    offsets = normal[0] * dx + normal[1] * dy + normal[2] * dz
    inside = np.add.outer(plane, offsets.ravel()) < 0
    error = np.abs(coverage(plane) - inside.mean(-1))
    assert error.max() < 0.06


def test_coverage_of_a_ball_has_its_volume_and_soft_edges() -> None:
    axis = np.linspace(-1, 1, 41, dtype=np.float32)
    axes = [axis, axis, axis]
    ball = Superellipsoid(
        np.array([0.02, -0.01, 0.03]),
        np.full(3, 0.5),
        np.eye(3),
    )
    values = ball(np.meshgrid(*axes, indexing="ij"), axes)
    fraction = coverage(values)
    volume = 4 / 3 * np.pi * 0.5**3
    assert fraction.sum() * 0.05**3 == pytest.approx(volume, rel=0.01)
    assert np.array_equal(fraction > 0.5, values < 0)
    edge = (fraction > 0) & (fraction < 1)
    assert edge.any()
    assert np.unique(fraction[edge]).size > 20


def test_generate_case_mixes_tissues_at_edges() -> None:
    options = replace(
        SMALL,
        noise=0.0,
        bias=0.0,
        lesions=0.0,
        size=(40, 40, 32),
        oblique=False,
    )
    phantom = generate_case(2, options)
    image = phantom.images[0]
    spleen = phantom.label == PHANTOM_LABELS["spleen"]
    inner = ndimage.binary_erosion(spleen, iterations=3)
    rim = spleen & ~ndimage.binary_erosion(spleen)
    assert image[inner].std() < 0.5 * image[rim].std()


def test_extent_reaches_the_surface() -> None:
    organ = Superellipsoid(
        np.array([0.1, 0.2, -0.1]),
        np.array([0.3, 0.2, 0.5]),
        np.eye(3),
        exponent=3.0,
    )
    direction = np.array([0.6, -0.64, 0.48])
    surface = organ.centre + organ.extent(direction) * direction
    points = [np.full((1, 1, 1), value, np.float32) for value in surface]
    value = organ(points, points)[0, 0, 0]
    assert value == pytest.approx(0, abs=1e-5)


def test_smooth_field_is_the_sum_of_its_waves() -> None:
    field = SmoothField.random(np.random.default_rng(0), 4)
    axes = []
    waves = []
    for voxels in (5, 6, 7):
        axis = np.linspace(-1, 1, voxels)
        axes.append(axis)
        waves.append(np.cos(np.pi / 2 * np.outer(axis + 1, np.arange(4))))
    expected = np.einsum("abc,xa,yb,zc->xyz", field.coefficients, *waves)
    np.testing.assert_allclose(field(axes), expected, atol=1e-5)


def test_generate_case_without_oblique_has_the_spacing_as_affine() -> None:
    spacing = (0.7, 1.5, 4.0)
    options = replace(SMALL, spacing=spacing, oblique=False)
    affine = generate_case(1, options).affine
    np.testing.assert_allclose(affine[:3, :3], np.diag(spacing))


def test_generate_case_with_oblique_has_orthonormal_tilted_axes() -> None:
    options = replace(SMALL, spacing=(0.7, 1.5, 4.0))
    affines = np.array([generate_case(seed, options).affine for seed in range(10)])
    directions = affines[:, :3, :3] / np.array(options.spacing)
    products = np.swapaxes(directions, 1, 2) @ directions
    identities = np.tile(np.eye(3), (10, 1, 1))
    np.testing.assert_allclose(products, identities, atol=1e-12)
    alignment = np.abs(directions).max(axis=1)
    assert np.abs(alignment).min() < 0.999
    handedness = np.sign(np.linalg.det(directions))
    assert set(handedness) == {-1.0, 1.0}
    orientations = {nib.aff2axcodes(affine) for affine in affines}
    assert len(orientations) > 2


def test_generate_case_with_flipped_axes_shows_the_same_patient() -> None:
    """The liver is on the right of the patient in all orientations of the array."""
    for seed in range(6):
        oblique = generate_case(seed, SMALL)
        aligned = generate_case(seed, replace(SMALL, oblique=False))
        image = nib.Nifti1Image(oblique.label, oblique.affine)
        canonical = nib.as_closest_canonical(image)
        assert np.array_equal(np.asarray(canonical.dataobj), aligned.label)


def test_generate_case_varies_the_size_as_requested() -> None:
    options = replace(SMALL, size_variation=0.2)
    shapes = {generate_case(seed, options).label.shape for seed in range(6)}
    assert len(shapes) > 3
    for shape in shapes:
        for requested, found in zip(options.size, shape, strict=True):
            assert 0.79 * requested <= found <= 1.21 * requested


def test_generate_case_has_one_anatomy_with_several_contrasts() -> None:
    options = replace(
        SMALL,
        modalities=("t1", "t2"),
        noise=0.0,
        bias=0.0,
    )
    phantom = generate_case(0, options)
    assert phantom.images.shape == (2, *SMALL.size)
    correlation = np.corrcoef(phantom.images.reshape(2, -1))[0, 1]
    assert abs(correlation) < 0.98
    single = generate_case(0, replace(options, modalities=("t1",)))
    assert np.array_equal(single.images[0], phantom.images[0])


def test_generate_case_varies_the_scale_by_orders_of_magnitude() -> None:
    scales = []
    for seed in range(15):
        images = generate_case(seed, SMALL).images
        scales.append(np.percentile(images, 95))
    assert max(scales) / min(scales) > 100


def test_rician_has_the_moments_of_its_distribution() -> None:
    rng = np.random.default_rng(0)
    shape = (64, 64, 64)
    background = rician(np.zeros(shape, np.float32), 0.1, rng)
    assert background.min() >= 0
    expected = 0.1 * np.sqrt(np.pi / 2)
    assert background.mean() == pytest.approx(expected, rel=0.01)
    tissue = rician(np.full(shape, 0.8, np.float32), 0.1, rng)
    mean_square = (tissue.astype(float) ** 2).mean()
    assert mean_square == pytest.approx(0.8**2 + 2 * 0.1**2, rel=0.01)
    assert tissue.std() == pytest.approx(0.1, rel=0.03)


def test_generate_case_has_the_requested_noise() -> None:
    def roughness(noise: float) -> float:
        image = generate_case(0, replace(SMALL, noise=noise)).images[0]
        differences = np.abs(np.diff(image, axis=2))
        return float(differences.mean() / image.mean())

    assert roughness(0.0) < roughness(0.05) < roughness(0.2)


def test_generate_case_shifts_the_contrast_of_other_sites_only() -> None:
    shifted = replace(SMALL, site_shift=1.0)
    plain = generate_case(0, SMALL, site=0).images
    assert np.array_equal(plain, generate_case(0, shifted, site=0).images)
    assert np.array_equal(plain, generate_case(0, SMALL, site=1).images)
    assert not np.allclose(plain, generate_case(0, shifted, site=1).images)


@settings(deadline=None, max_examples=20)
@given(
    size=st.tuples(*[st.integers(8, 30)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    channels=st.integers(1, 5),
    oblique=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_generate_case_is_valid_for_any_geometry(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    channels: int,
    oblique: bool,
    seed: int,
) -> None:
    options = PhantomOptions(
        size=size,
        spacing=spacing,
        modalities=tuple(f"m{channel}" for channel in range(channels)),
        oblique=oblique,
    )
    phantom = generate_case(seed, options)
    images = phantom.images
    assert images.shape == (channels, *size)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert images.min() >= 0
    assert images.std() > 0
    label = phantom.label
    assert label.shape == size
    assert label.dtype == np.uint8
    assert set(np.unique(label)) <= set(PHANTOM_LABELS.values())
    assert (label == 0).any()
    # Lesions may cover a liver of few voxels.
    assert np.isin(label, (1, 4)).any()
    steps = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps, spacing, rtol=1e-6)
