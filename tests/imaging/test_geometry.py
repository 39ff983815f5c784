"""From native space to the grid and back, in every orientation."""

import itertools
import json
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation

from hstf.imaging.affines import to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.label_values import IGNORED
from hstf.imaging.spacing import MAXIMUM_DRIFT
from hstf.runtime.errors import HstfError

DIRECTIONS = list(itertools.product((1, -1), repeat=3))
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), DIRECTIONS))
"""The axis and the direction of each array axis."""
SHAPES = st.tuples(*[st.integers(1, 23)] * 3)
SPACINGS = st.tuples(*[st.floats(0.4, 4.0)] * 3)


@st.composite
def affines(
    draw: st.DrawFn,
    spacing: st.SearchStrategy = SPACINGS,
    degrees: float = 30.0,
) -> np.ndarray:
    """Draw an affine: one of 48 orientations, rotated by up to ``degrees`` about an axis."""
    axes, directions = draw(st.sampled_from(ORIENTATIONS))
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = directions
    angle = np.deg2rad(draw(st.floats(-degrees, degrees)))
    rotation_axis = np.eye(3)[draw(st.integers(0, 2))]
    rotation = Rotation.from_rotvec(angle * rotation_axis).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ matrix @ np.diag(draw(spacing))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def random_crop(data: st.DataObject, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Draw a box of at least one voxel."""
    crop = []
    for size in shape:
        start = data.draw(st.integers(0, size - 1))
        stop = data.draw(st.integers(start + 1, size))
        crop.append((start, stop))
    return tuple(crop)


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities ``(K, X, Y, Z)`` of 0 or 255."""
    indices = np.arange(classes)[:, None, None, None]
    return (label == indices).astype(np.uint8) * 255


def voxel_indices(shape: tuple[int, ...]) -> np.ndarray:
    """Return the index of each voxel, ``(X, Y, Z, 3)``."""
    axes = [np.arange(size) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of two masks."""
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@given(affine=affines(), shape=SHAPES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_geometry_of_equal_spacing_changes_no_voxel(
    affine: np.ndarray,
    shape: tuple,
    data: st.DataObject,
) -> None:
    whole = Geometry.of(shape, affine, (1, 1, 1))
    crop = random_crop(data, whole.crop_shape)
    geometry = Geometry.of(shape, affine, whole.source_spacing, crop)
    label = np.random.default_rng(0).integers(0, 4, shape, dtype=np.uint8)
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    inside = np.zeros(shape, bool)
    box = tuple(slice(*extent) for extent in crop)
    to_ras(inside, affine)[box] = True
    label_on_grid = geometry.label_to_grid(label, 4)
    image_on_grid = geometry.to_grid(image)
    assert label_on_grid.shape == geometry.grid_shape == image_on_grid.shape
    native = geometry.probabilities_to_native(one_hot(label_on_grid, 4))
    assert np.array_equal(native, np.where(inside, label, 0))
    native = geometry.scalar_to_native(image_on_grid, fill=-7)
    assert np.array_equal(native, np.where(inside, image, np.float32(-7)))


@pytest.mark.parametrize(("axes", "directions"), ORIENTATIONS)
def test_to_grid_has_axes_to_right_anterior_and_superior(axes: tuple, directions: tuple) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[list(axes), range(3)] = np.array(directions) * (1.0, 2.0, 3.0)
    shape = (4, 5, 6)
    positions = voxel_indices(shape) @ affine[:3, :3].T
    geometry = Geometry.of(shape, affine, (1.0, 1.0, 1.0))
    for axis in range(3):
        grid = geometry.to_grid(positions[..., axis], order=1)
        steps = np.diff(grid, axis=axis)
        across = np.diff(grid, axis=(axis + 1) % 3)
        assert (steps > -1e-5).all()
        assert np.isclose(np.median(steps), 1.0)  # 1 mm for each voxel
        assert np.allclose(across, 0, atol=1e-5)


@given(
    affine=affines(st.tuples(*[st.floats(0.8, 1.6)] * 3)),
    target=st.tuples(*[st.floats(0.8, 1.6)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_to_grid_does_not_shift_positions(affine: np.ndarray, target: tuple) -> None:
    """A linear function of the position in mm has an exact value at every grid voxel."""
    shape = (17, 12, 15)
    slope = np.array([0.3, -1.0, 0.7])
    positions = voxel_indices(shape) @ affine[:3, :3].T + affine[:3, 3]
    geometry = Geometry.of(shape, affine, target)
    grid = geometry.to_grid(positions @ slope, order=1).astype(float)
    native = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    ras = nib.as_closest_canonical(native).affine
    directions = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    middle = (np.array(geometry.crop_shape) - 1) / 2
    value_in_middle = slope @ (ras[:3, :3] @ middle + ras[:3, 3])
    grid_middle = (np.array(geometry.grid_shape) - 1) / 2
    offsets_mm = (voxel_indices(geometry.grid_shape) - grid_middle) * target
    expected = value_in_middle + offsets_mm @ (directions.T @ slope)
    # An axis that is not interpolated may drift by half of this towards each of its ends.
    drift_mm = MAXIMUM_DRIFT / 2 * np.array(target)
    tolerance = np.abs(directions.T @ slope) @ drift_mm + 5e-4
    inner = (slice(2, -2),) * 3  # outside of the outermost voxel centres the value is constant
    assert np.allclose(grid[inner], expected[inner], rtol=0, atol=tolerance)


@pytest.mark.parametrize("voxels", [17, 512])
@pytest.mark.parametrize("spacings", [(1.53125, 1.531), (1.531, 1.53125), (0.7, 0.7 + 1e-7)])
def test_grid_does_not_drift_if_spacings_differ_by_rounding(
    voxels: int,
    spacings: tuple[float, float],
) -> None:
    """A difference of 0.00025 mm is 0.128 mm over 512 voxels."""
    source_mm, target_mm = spacings
    affine = np.diag([source_mm, source_mm, source_mm, 1])
    positions = np.arange(voxels) * source_mm
    image = np.broadcast_to(positions[:, None, None], (voxels, 3, 3))
    geometry = Geometry.of(image.shape, affine, (target_mm,) * 3)
    grid = geometry.to_grid(image, order=1)[:, 1, 1]
    last = geometry.grid_shape[0] - 1
    expected = np.array([geometry.grid_to_mm((x, 1, 1))[0] for x in range(last + 1)])
    # Outside of the outermost voxel centres the value is constant.
    np.testing.assert_allclose(grid[1:-1], expected[1:-1], rtol=0, atol=0.01 * source_mm)


def test_grid_of_equal_spacing_up_to_float32_is_not_interpolated() -> None:
    """Headers store spacings as float32. The planned spacing is a median of them."""
    spacing = float(np.float32(0.7))
    image = np.random.default_rng(0).normal(size=(1024, 3, 3)).astype(np.float32)
    geometry = Geometry.of(image.shape, np.diag([spacing] * 3 + [1]), (0.7, 0.7, 0.7))
    assert np.array_equal(geometry.to_grid(image), image)


@given(
    affine=affines(st.tuples(*[st.floats(0.7, 1.5)] * 3)),
    target=st.tuples(*[st.floats(0.6, 1.6)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_probabilities_to_native_restores_a_ball(
    affine: np.ndarray,
    target: tuple,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    radius_mm = 10 * max(*spacing, *target)  # both grids resolve it
    margin = generator.integers(4, 8, 3)
    shape = tuple(int(size) for size in np.ceil(2 * radius_mm / spacing) + margin)
    centre = (np.array(shape) - 1) / 2 + generator.uniform(-1, 1, 3)
    distance = np.linalg.norm((voxel_indices(shape) - centre) * spacing, axis=-1)
    label = (distance < radius_mm).astype(np.uint8)
    geometry = Geometry.of(shape, affine, target)
    native = geometry.probabilities_to_native(one_hot(geometry.label_to_grid(label, 2), 2))
    assert native.shape == shape
    assert dice(native, label) > 0.95
    shift = np.subtract(center_of_mass(native), center_of_mass(label))
    assert np.abs(shift).max() < 0.25


def test_to_grid_takes_the_nearest_of_thick_slices() -> None:
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    image = np.random.default_rng(0).normal(size=(41, 39, 9)).astype(np.float32)
    geometry = Geometry.of(image.shape, affine, (1.25, 1.25, 8.0))
    assert geometry.grid_shape == (49, 47, 11)
    grid = geometry.to_grid(image)
    in_plane = Geometry.of(image.shape, affine, (1.25, 1.25, 10.0)).to_grid(image)
    slices = {in_plane[..., z].tobytes() for z in range(9)}
    for z in range(11):
        assert grid[..., z].tobytes() in slices


def test_probabilities_to_native_restores_a_label_of_thick_slices() -> None:
    label = np.zeros((41, 39, 9), np.uint8)
    label[10:30, 12:28, 2:7] = 1
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    geometry = Geometry.of(label.shape, affine, (1.25, 1.25, 8.0))
    native = geometry.probabilities_to_native(one_hot(geometry.label_to_grid(label, 2), 2))
    assert dice(native, label) > 0.95


def test_label_to_grid_keeps_ignored_voxels() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:10] = 1
    label[10:15] = IGNORED
    grid = Geometry.of(label.shape, np.eye(4), (0.5, 0.5, 0.5)).label_to_grid(label, 2)
    assert grid.shape == (40, 40, 40)
    assert np.array_equal(np.unique(grid[:, 3, 3]), [0, 1, IGNORED])
    assert (grid[20:30] == IGNORED).all()
    assert (grid[10:20] == 1).all()
    same = Geometry.of(label.shape, np.eye(4), (1, 1, 1)).label_to_grid(label, 2)
    assert (same == label).all()


def nearest_grid_voxels(geometry: Geometry, voxels: np.ndarray) -> np.ndarray:
    """Return the nearest grid voxel of each of the crop's ``voxels`` ``(N, 3)``."""
    crop_middle = (np.array(geometry.crop_shape) - 1) / 2
    last = np.array(geometry.grid_shape) - 1
    ratio = np.array(geometry.source_spacing) / geometry.spacing
    nearest = np.floor((voxels - crop_middle) * ratio + last / 2 + 0.5)
    return np.clip(nearest, 0, last).astype(int)


@given(affines(), SPACINGS, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_label_to_grid_neither_loses_nor_invents_scribbles(
    affine: np.ndarray,
    spacing: tuple,
    seed: int,
) -> None:
    """A few labelled voxels among ignored ones, on grids finer and coarser than the scan."""
    generator = np.random.default_rng(seed)
    label = np.full((17, 12, 14), IGNORED, np.uint8)
    chosen = generator.choice(label.size, 12, replace=False)
    label.flat[chosen] = generator.integers(0, 4, 12)
    geometry = Geometry.of(label.shape, affine, spacing)
    grid = geometry.label_to_grid(label, 4)
    cropped = geometry.cropped(label)
    labelled = np.argwhere(cropped != IGNORED)
    classes: dict[tuple, set] = {}
    for voxel, nearest in zip(labelled, nearest_grid_voxels(geometry, labelled), strict=True):
        classes.setdefault(tuple(nearest), set()).add(cropped[tuple(voxel)])
    for voxel, values in classes.items():
        if grid[voxel] == IGNORED:
            assert len(values) > 1
        else:
            assert grid[voxel] in values
    voxels_per_scribble = np.ceil(np.array(geometry.source_spacing) / geometry.spacing) + 1
    maximum = 12 * max(1, int(np.prod(voxels_per_scribble)))
    assert np.count_nonzero(grid != IGNORED) <= maximum


def test_scalar_to_native_rounds_integers() -> None:
    weight = np.random.default_rng(0).choice([0, 200], (30, 30, 30)).astype(np.uint8)
    geometry = Geometry.of((20, 20, 20), np.eye(4), (2 / 3,) * 3)
    assert geometry.grid_shape == (30, 30, 30)
    assert geometry.scalar_to_native(weight).dtype == np.uint8
    constant = np.full((30, 30, 30), 77, np.uint8)
    assert geometry.scalar_to_native(constant).min() == 77


def test_scalar_to_native_of_order_0_keeps_values() -> None:
    weight = np.random.default_rng(0).choice([0, 200], (30, 30, 30)).astype(np.uint8)
    geometry = Geometry.of((20, 20, 20), np.eye(4), (2 / 3,) * 3)
    native = geometry.scalar_to_native(weight, order=0)
    assert set(np.unique(native)) == {0, 200}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.7, 1.3)])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_probabilities_to_native_accepts_any_type(spacing: tuple, kind: type) -> None:
    geometry = Geometry.of((30, 31, 32), np.diag([-1.0, 1, 1, 1]), spacing)
    shape = (3, *geometry.grid_shape)
    probabilities = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = geometry.probabilities_to_native(probabilities)
    assert set(np.unique(expected)) == {0, 1, 2}
    found = geometry.probabilities_to_native(probabilities.astype(kind))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 1.0), (0.7, 1.1, 1.0), (1.0, 0.5, 2.0)])
def test_geometry_is_the_same_in_slabs(
    spacing: tuple,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some voxels are ignored, and some coordinates are half-way between voxels."""
    label = np.random.default_rng(0).choice([0, 1, 2, IGNORED], (66, 21, 20)).astype(np.uint8)
    geometry = Geometry.of(label.shape, np.diag([1.0, -1, 1, 1]), spacing)
    grid = geometry.label_to_grid(label, 3)
    native = geometry.scalar_to_native(grid, order=0)
    monkeypatch.setattr("hstf.imaging.slabs.SLAB_PLANES", 1000)
    assert np.array_equal(geometry.label_to_grid(label, 3), grid)
    assert np.array_equal(geometry.scalar_to_native(grid, order=0), native)


def test_probabilities_to_native_needs_little_memory() -> None:
    shape = (400, 128, 128)
    geometry = Geometry.of(shape, np.eye(4), (2.0, 2.0, 2.0))
    probabilities = np.full((4, *geometry.grid_shape), 60, np.uint8)
    tracemalloc.start()
    geometry.probabilities_to_native(probabilities)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The result needs one byte for each voxel; one float32 copy would need four.
    assert peak < 2 * np.prod(shape)


@given(affine=affines(), shape=SHAPES, target=SPACINGS)
@settings(max_examples=30, deadline=None)
def test_geometry_is_the_same_after_json(affine: np.ndarray, shape: tuple, target: tuple) -> None:
    geometry = Geometry.of(shape, affine, target)
    content = json.loads(json.dumps(geometry.to_json()))
    assert Geometry.model_validate(content) == geometry
    assert all(size >= 1 for size in geometry.grid_shape)


def test_geometry_load_returns_what_was_saved(tmp_path: Path) -> None:
    geometry = Geometry.of((4, 5, 6), np.eye(4), (1.0, 1.0, 2.0), ((0, 2), (1, 5), (2, 6)))
    geometry.save(tmp_path / "geometry.json")
    keys = list(json.loads((tmp_path / "geometry.json").read_text()))
    expected = ["native_shape", "affine", "crop", "source_spacing", "spacing", "grid_shape", "axes"]
    assert keys == expected
    assert Geometry.load(tmp_path / "geometry.json") == geometry


def test_geometry_load_names_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "geometry.json").write_text('{"crop": 1}')
    with pytest.raises(HstfError, match=r"geometry\.json: .*run the stage 'preprocess' again"):
        Geometry.load(tmp_path / "geometry.json")


def test_grid_to_mm_inverts_the_affine() -> None:
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    geometry = Geometry.of((5, 6, 7), affine, (2.0, 3.0, 1.0), ((1, 5), (0, 6), (2, 7)))
    # The first array axis is flipped: grid voxel 0 of a crop from 1 is native voxel 3.
    assert geometry.grid_to_mm((0, 1, 2)) == pytest.approx((10 - 2 * 3, 20 + 3 * 1, 30 + 4))


def test_geometry_refuses_other_shapes() -> None:
    geometry = Geometry.of((4, 5, 6), np.eye(4), (1, 1, 1))
    message = r"\(6, 5, 4\), but the native shape of its case is \(4, 5, 6\)"
    with pytest.raises(HstfError, match=message):
        geometry.to_grid(np.zeros((6, 5, 4)))
    with pytest.raises(HstfError, match="grid shape"):
        geometry.probabilities_to_native(np.zeros((2, 6, 5, 4)))


def test_geometry_of_refuses_a_degenerate_affine() -> None:
    with pytest.raises(HstfError, match="no direction"):
        Geometry.of((4, 5, 6), np.diag([1.0, 0, 1, 1]), (1, 1, 1))


def test_bounding_box_is_tight() -> None:
    mask = np.zeros((9, 8, 7), bool)
    mask[2, 3:6, 4] = True
    mask[7, 1, 6] = True
    assert bounding_box(mask) == ((2, 8), (1, 6), (4, 7))


def test_mask_to_grid_keeps_a_small_structure_within_another_one() -> None:
    mask = np.zeros((12, 12, 12), np.float32)
    mask[2:10, 2:10, 2:10] = 1
    mask[5, 5, 5] = 2
    geometry = Geometry.of(mask.shape, np.eye(4), (3.0, 3.0, 3.0))
    grid = geometry.mask_to_grid(geometry.cropped(mask))
    assert grid[1, 1, 1] == 2
    assert np.count_nonzero(grid == 2) == 1
    assert np.count_nonzero(grid == 1) == 7


def test_mask_to_grid_takes_the_nearest_of_many_values() -> None:
    mask = np.arange(1.0, 1729.0, dtype=np.float32).reshape(12, 12, 12)
    geometry = Geometry.of(mask.shape, np.eye(4), (3.0, 3.0, 3.0))
    grid = geometry.mask_to_grid(geometry.cropped(mask))
    np.testing.assert_array_equal(grid, mask[1::3, 1::3, 1::3])
