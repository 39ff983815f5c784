"""Where scans are empty, and their common scale."""

import numpy as np
import pytest

from hstf.experiment.plan import Normalisation
from hstf.imaging.intensity import empty_value, field_of_view, nonempty_mask, normalise, sample

ZSCORE, UPTAKE = Normalisation(scheme="zscore"), Normalisation(scheme="uptake")


def body(background: float, seed: int = 0) -> np.ndarray:
    """Noise of mean 100 in the middle of an empty volume."""
    data = np.full((20, 22, 24), background, np.float32)
    data[4:16, 5:17, 6:18] = np.random.default_rng(seed).normal(100, 10, (12, 12, 12))
    return data


@pytest.mark.parametrize("background", [0, -1024, -3.5])
def test_the_empty_background_is_what_corners_share(background: float) -> None:
    data = body(background)
    assert empty_value(data) == background
    assert nonempty_mask(data).sum() == 12**3


def test_zero_is_empty_even_when_interpolation_left_values_below_it() -> None:
    data = body(0)
    data[8, 8, 8] = -3
    assert empty_value(data) == 0


def test_scans_that_fill_their_volume_have_no_empty_background() -> None:
    noise = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    saturated = noise.copy()
    saturated[[0, 0, 0, -1, -1], [0, 0, -1, 0, -1], [0, -1, 0, 0, -1]] = (
        3.0  # corners agree, at a bright value
    )
    assert empty_value(noise) is None
    assert empty_value(saturated) is None
    assert nonempty_mask(saturated).all()


def test_an_empty_scan_is_all_scanned() -> None:
    assert nonempty_mask(np.zeros((4, 4, 4), np.float32)).all()


def fan() -> tuple[np.ndarray, np.ndarray]:
    """An ultrasound scan with an anechoic cyst, and its field of view."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 41)] * 3, indexing="ij")
    inside = np.abs(x) < (z + 1) / 2
    data = np.where(inside, np.random.default_rng(0).normal(80, 8, inside.shape), 0).astype(
        np.float32
    )
    data[x**2 + y**2 + (z - 0.5) ** 2 < 0.4**2] = 0
    return data, inside


def test_corners_beside_an_ultrasound_fan_do_not_count_and_a_black_cyst_does() -> None:
    data, inside = fan()
    mask = field_of_view(data, "fan")
    assert np.array_equal(mask, inside)
    assert not np.array_equal(field_of_view(data, "zscore"), inside), (
        "in MR, what is empty is empty"
    )
    normalise(data, mask, Normalisation(scheme="fan"))
    assert abs(data[inside].mean()) < 0.02
    assert abs(data[inside].std() - 1) < 0.02
    assert (data[~inside] == data.min()).all(), "the corners are as black as the cyst"
    assert data[20, 20, 30] == data.min()


def test_a_scan_without_corners_is_all_field_of_view() -> None:
    data = np.random.default_rng(0).normal(80, 8, (9, 9, 9)).astype(np.float32)
    data[4, 4, 4] = data.min() - 1
    assert field_of_view(data, "fan").all()
    assert field_of_view(np.zeros((4, 4, 4), np.float32), "fan").all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_zscore_does_not_depend_on_the_scale_of_the_scan(scale: float, offset: float) -> None:
    reference, scaled = body(0), body(0)
    scaled[scaled != 0] = scaled[scaled != 0] * scale + offset * scale
    for data in (reference, scaled):
        normalise(data, nonempty_mask(data), ZSCORE)
    inside = nonempty_mask(body(0))
    assert np.allclose(reference[inside], scaled[inside], atol=2e-3)
    assert abs(reference[inside].mean()) < 1e-3
    assert abs(reference[inside].std() - 1) < 1e-3


def test_a_few_extreme_voxels_change_nothing() -> None:
    plain, spiked = body(0), body(0)
    spiked[8, 8, 8:12] = 1e6
    for data in (plain, spiked):
        normalise(data, nonempty_mask(data), ZSCORE)
    others = plain < 2  # the brightest are clipped a little later
    others[8, 8, 8:12] = False
    assert np.abs(plain - spiked)[others].max() < 0.05
    assert spiked.max() < 4


def test_ct_keeps_its_absolute_scale() -> None:
    data = np.array([[[-3000.0, -100.0, 50.0, 200.0, 4000.0]]], np.float32)
    normalise(
        data,
        np.ones(data.shape, bool),
        Normalisation(scheme="ct", lower=-100, upper=200, mean=50, std=75),
    )
    assert np.allclose(data, [[[-2, -2, 0, 2, 2]]])


def uptake(air: int) -> tuple[np.ndarray, np.ndarray]:
    """A PET scan of a body of uptake about 1 with three hot lesions, in a field with ``air`` voxels beside it."""
    rng = np.random.default_rng(0)
    body = rng.gamma(8, 1 / 8, (30, 30, 30)).astype(np.float32)
    body[5, 5, 5:8] = [30, 60, 120]
    data = np.abs(rng.normal(0, 0.02, (30 + air, 30, 30))).astype(np.float32)
    data[:30] = body
    return data, np.ones(data.shape, bool)


def test_pet_keeps_the_order_of_hot_voxels_but_not_their_distance() -> None:
    data, mask = uptake(air=0)
    normalise(data, mask, UPTAKE)
    assert data[5, 5, 5] < data[5, 5, 6] < data[5, 5, 7] < 20
    assert abs(data.mean()) < 0.05
    assert abs(data.std() - 1) < 0.05


@pytest.mark.parametrize("dose", [0.01, 5000.0])
def test_pet_does_not_depend_on_the_dose(dose: float) -> None:
    (data, mask), (other, _) = uptake(air=10), uptake(air=10)
    other *= dose
    for scan in (data, other):
        normalise(scan, mask, UPTAKE)
    assert np.allclose(data, other, atol=1e-3)


def test_pet_hardly_depends_on_how_much_air_is_scanned() -> None:
    (narrow, mask), (wide, wide_mask) = uptake(air=10), uptake(air=90)
    normalise(narrow, mask, UPTAKE)
    normalise(wide, wide_mask, UPTAKE)
    assert np.abs(narrow[:30] - wide[:30]).max() < 0.2
    assert abs(wide[:30].mean()) < 0.1, "statistics are those of the body"


@pytest.mark.parametrize("scheme", ["zscore", "fan", "uptake"])
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_constant_scan_becomes_zero(scheme: str, value: float) -> None:
    data = np.full((4, 4, 4), value, np.float32)
    normalise(data, np.ones(data.shape, bool), Normalisation(scheme=scheme))  # type: ignore[arg-type]
    assert np.abs(data).max() < 1e-5


def test_statistics_of_large_scans_come_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.imaging.intensity.MAXIMUM_SAMPLE", 1000)
    data = np.random.default_rng(0).normal(5, 2, (40, 40, 40)).astype(np.float32)
    values = sample(data, np.ones(data.shape, bool))
    assert 500 < values.size <= 1000
    assert abs(values.mean() - 5) < 0.3
    speck = np.zeros(data.shape, bool)
    speck[1, 1, 1] = True  # beside the sub-grid
    assert np.array_equal(sample(data, speck), data[1:2, 1, 1])
