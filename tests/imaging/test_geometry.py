"""Native space to the grid and back, over every orientation."""

import itertools
import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass
from scipy.spatial.transform import Rotation

from hstf.imaging.affines import to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.spacing import coarse_axis
from hstf.runtime.errors import HstfError

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SPACINGS = st.tuples(*[st.floats(0.4, 4.0)] * 3)


@st.composite
def affines(
    draw: st.DrawFn, spacing: st.SearchStrategy = SPACINGS, degrees: float = 30.0
) -> np.ndarray:
    """Any of the 48 orientations, tilted by up to ``degrees`` about any axis, anywhere."""
    axes, signs = draw(st.sampled_from(ORIENTATIONS))
    matrix = np.zeros((3, 3))
    matrix[list(axes), range(3)] = signs
    tilt = Rotation.from_rotvec(
        np.deg2rad(draw(st.floats(-degrees, degrees))) * np.eye(3)[draw(st.integers(0, 2))]
    )
    affine = np.eye(4)
    affine[:3, :3] = tilt.as_matrix() @ matrix @ np.diag(draw(spacing))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


SHAPES = st.tuples(*[st.integers(1, 23)] * 3)


def one_hot(label: np.ndarray, classes: int) -> np.ndarray:
    return (label == np.arange(classes)[:, None, None, None]).astype(np.uint8) * 255


def random_crop(draw: st.DataObject, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    starts = [draw.draw(st.integers(0, n - 1)) for n in shape]
    return tuple((a, draw.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))


@given(affine=affines(), shape=SHAPES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_at_equal_spacing_everything_comes_back_as_it_was(
    affine: np.ndarray, shape: tuple, data: st.DataObject
) -> None:
    whole = Geometry.of(shape, affine, (1, 1, 1))
    crop = random_crop(data, whole.crop_shape)
    geometry = Geometry.of(shape, affine, whole.source_spacing, crop)
    label = np.random.default_rng(0).integers(0, 4, shape, dtype=np.uint8)
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    inside = np.zeros(shape, bool)
    to_ras(inside, affine)[tuple(slice(*edge) for edge in crop)] = True
    on_grid = geometry.label_to_grid(label, 4)
    assert on_grid.shape == geometry.grid_shape == geometry.to_grid(image).shape
    assert np.array_equal(
        geometry.probabilities_to_native(one_hot(on_grid, 4)), np.where(inside, label, 0)
    )
    back = geometry.scalar_to_native(geometry.to_grid(image), fill=-7)
    assert np.array_equal(back, np.where(inside, image, np.float32(-7)))


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_the_grid_runs_to_the_right_anterior_and_superior(axes: tuple, signs: tuple) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[list(axes), range(3)] = np.array(signs) * (1.0, 2.0, 3.0)
    shape = (4, 5, 6)
    places = (
        np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
    )
    for axis in range(3):
        grid = Geometry.of(shape, affine, (1.0, 1.0, 1.0)).to_grid(places[..., axis], order=1)
        steps = np.diff(grid, axis=axis)
        assert (steps > -1e-5).all()
        assert np.isclose(np.median(steps), 1.0)  # 1 mm a voxel
        assert np.allclose(np.diff(grid, axis=(axis + 1) % 3), 0, atol=1e-5)


@given(
    affine=affines(st.tuples(*[st.floats(0.8, 1.6)] * 3)),
    target=st.tuples(*[st.floats(0.8, 1.6)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_places_do_not_drift(affine: np.ndarray, target: tuple) -> None:
    """A linear function of the place in mm is known exactly at every grid voxel: centres are shared, steps are exact."""
    shape, direction = (17, 12, 15), np.array([0.3, -1.0, 0.7])
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = voxels @ affine[:3, :3].T + affine[:3, 3]
    geometry = Geometry.of(shape, affine, target)
    grid = geometry.to_grid(places @ direction, order=1).astype(float)
    ras = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(shape, np.uint8), affine)).affine
    units = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    middle = direction @ (ras[:3, :3] @ ((np.array(geometry.crop_shape) - 1) / 2) + ras[:3, 3])
    offsets = [
        (np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(geometry.grid_shape, target, strict=True)
    ]
    expected = middle + np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1) @ (
        units.T @ direction
    )
    core = (slice(2, -2),) * 3  # beyond the outermost centres the value stays
    assert np.allclose(grid[core], expected[core], atol=5e-4)


@given(
    affine=affines(st.tuples(*[st.floats(0.7, 1.5)] * 3)),
    target=st.tuples(*[st.floats(0.6, 1.6)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_a_smooth_shape_survives_the_way_there_and_back(
    affine: np.ndarray, target: tuple, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    radius = 10 * max(*spacing, *target)  # mm: both grids resolve it
    shape = tuple(int(n) for n in np.ceil(2 * radius / spacing) + generator.integers(4, 8, 3))
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    centre = (np.array(shape) - 1) / 2 + generator.uniform(-1, 1, 3)
    label = (np.linalg.norm((voxels - centre) * spacing, axis=-1) < radius).astype(np.uint8)
    geometry = Geometry.of(shape, affine, target)
    back = geometry.probabilities_to_native(one_hot(geometry.label_to_grid(label, 2), 2))
    assert back.shape == shape
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) > 0.95
    assert np.abs(np.subtract(center_of_mass(back), center_of_mass(label))).max() < 0.25


def test_shapes_and_slices_of_anisotropic_scans() -> None:
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    image = np.random.default_rng(0).normal(size=(41, 39, 9)).astype(np.float32)
    geometry = Geometry.of(image.shape, affine, (1.25, 1.25, 8.0))
    assert geometry.grid_shape == (49, 47, 11)
    grid = geometry.to_grid(image)
    in_plane = Geometry.of(image.shape, affine, (1.25, 1.25, 10.0)).to_grid(image)
    assert all(
        any(np.array_equal(grid[..., z], in_plane[..., k]) for k in range(9)) for z in range(11)
    )
    label = np.zeros(image.shape, np.uint8)
    label[10:30, 12:28, 2:7] = 1
    back = geometry.probabilities_to_native(one_hot(geometry.label_to_grid(label, 2), 2))
    assert 2 * (back & label).sum() / (back.sum() + label.sum()) > 0.95


def test_a_coarse_axis_is_one_over_three_times_the_shortest_edge() -> None:
    assert coarse_axis((1.0, 1.0, 3.0)) is None
    assert coarse_axis((1.0, 4.0, 1.0)) == 1


def test_ignored_voxels_stay_ignored_and_win_no_class() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:10], label[10:15] = 1, 255
    grid = Geometry.of(label.shape, np.eye(4), (0.5, 0.5, 0.5)).label_to_grid(label, 2)
    assert grid.shape == (40, 40, 40)
    assert np.array_equal(np.unique(grid[:, 3, 3]), [0, 1, 255])
    assert (grid[20:30] == 255).all()
    assert (grid[10:20] == 1).all()
    assert (Geometry.of(label.shape, np.eye(4), (1, 1, 1)).label_to_grid(label, 2) == label).all()


@given(affines(), SPACINGS, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_no_scribble_is_lost_and_none_is_made_up(
    affine: np.ndarray, spacing: tuple, seed: int
) -> None:
    """A few labelled voxels, alone among ignored ones, on grids finer and coarser than the scan."""
    rng = np.random.default_rng(seed)
    label = np.full((17, 12, 14), 255, np.uint8)
    voxels = rng.choice(label.size, 12, replace=False)
    label.flat[voxels] = rng.integers(0, 4, 12)
    geometry = Geometry.of(label.shape, affine, spacing)
    grid = geometry.label_to_grid(label, 4)
    cropped, (x, y, z) = geometry.cropped(label), np.nonzero(geometry.cropped(label) != 255)
    nearest = [
        np.clip(np.floor((index - (n - 1) / 2) * s / t + (m - 1) / 2 + 0.5), 0, m - 1).astype(int)
        for index, n, s, t, m in zip(
            (x, y, z),
            cropped.shape,
            geometry.source_spacing,
            geometry.spacing,
            grid.shape,
            strict=True,
        )
    ]
    shared: dict[tuple, set] = {}
    for place, value in zip(zip(*nearest, strict=True), cropped[x, y, z].tolist(), strict=True):
        shared.setdefault(place, set()).add(value)
    for place, values in shared.items():
        assert grid[place] in values or (grid[place] == 255 and len(values) > 1)
    ratio = np.ceil(np.array(geometry.source_spacing) / geometry.spacing) + 1
    assert np.count_nonzero(grid != 255) <= 12 * max(1, int(np.prod(ratio)))


def test_integers_are_rounded_and_nearest_values_kept() -> None:
    weight = np.random.default_rng(0).choice([0, 200], (30, 30, 30)).astype(np.uint8)
    geometry = Geometry.of((20, 20, 20), np.eye(4), (2 / 3,) * 3)
    assert geometry.grid_shape == (30, 30, 30)
    assert geometry.scalar_to_native(weight).dtype == np.uint8
    assert set(np.unique(geometry.scalar_to_native(weight, order=0))) == {0, 200}
    assert geometry.scalar_to_native(np.full((30,) * 3, 77, np.uint8)).min() == 77


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.7, 1.3)])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_probabilities_of_any_type_give_the_same_classes(spacing: tuple, kind: type) -> None:
    geometry = Geometry.of((30, 31, 32), np.diag([-1.0, 1, 1, 1]), spacing)
    scores = np.random.default_rng(0).integers(0, 256, (3, *geometry.grid_shape), dtype=np.uint8)
    expected = geometry.probabilities_to_native(scores)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert np.array_equal(geometry.probabilities_to_native(scores.astype(kind)), expected)


def test_slabs_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole classes against slabs of 16 planes, with ignored voxels and coordinates half-way between voxels."""
    label = np.random.default_rng(0).choice([0, 1, 2, 255], (66, 21, 20)).astype(np.uint8)
    for spacing in ((2.0, 2.0, 1.0), (0.7, 1.1, 1.0), (1.0, 0.5, 2.0)):
        geometry = Geometry.of(label.shape, np.diag([1.0, -1, 1, 1]), spacing)
        grid = geometry.label_to_grid(label, 3)
        native = geometry.scalar_to_native(grid, order=0)
        with monkeypatch.context() as patched:
            patched.setattr("hstf.imaging.slabs.SLAB_PLANES", 1000)
            assert np.array_equal(geometry.label_to_grid(label, 3), grid)
            assert np.array_equal(geometry.scalar_to_native(grid, order=0), native)


def test_the_way_back_needs_little_memory() -> None:
    geometry = Geometry.of((400, 128, 128), np.eye(4), (2.0, 2.0, 2.0))
    probabilities = np.full((4, *geometry.grid_shape), 60, np.uint8)
    tracemalloc.start()
    geometry.probabilities_to_native(probabilities)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < 2 * 400 * 128 * 128
    )  # bytes; the result alone is half of it, one float32 copy were twice


@given(affine=affines(), shape=SHAPES, target=SPACINGS)
@settings(max_examples=30, deadline=None)
def test_json_holds_all_of_it(affine: np.ndarray, shape: tuple, target: tuple) -> None:
    geometry = Geometry.of(shape, affine, target)
    assert Geometry.model_validate(json.loads(json.dumps(geometry.to_json()))) == geometry
    assert all(n >= 1 for n in geometry.grid_shape)


def test_wrong_shapes_and_degenerate_affines_are_refused() -> None:
    geometry = Geometry.of((4, 5, 6), np.eye(4), (1, 1, 1))
    with pytest.raises(
        HstfError, match=r"\(6, 5, 4\), but the native shape of its case is \(4, 5, 6\)"
    ):
        geometry.to_grid(np.zeros((6, 5, 4)))
    with pytest.raises(HstfError, match="grid shape"):
        geometry.probabilities_to_native(np.zeros((2, 6, 5, 4)))
    with pytest.raises(HstfError, match="no direction"):
        Geometry.of((4, 5, 6), np.diag([1.0, 0, 1, 1]), (1, 1, 1))


def test_the_bounding_box_is_tight() -> None:
    mask = np.zeros((9, 8, 7), bool)
    mask[2, 3:6, 4], mask[7, 1, 6] = True, True
    assert bounding_box(mask) == ((2, 8), (1, 6), (4, 7))
