"""Where scans are empty, and their common scale."""

import numpy as np
import pytest

from hstf.intensity import empty_value, normalise, sample, scanned
from hstf.plan import Normalisation

ZSCORE = Normalisation("zscore")


def body(background: float, seed: int = 0) -> np.ndarray:
    """Noise of mean 100 in the middle of an empty volume."""
    data = np.full((20, 22, 24), background, np.float32)
    data[4:16, 5:17, 6:18] = np.random.default_rng(seed).normal(100, 10, (12, 12, 12))
    return data


@pytest.mark.parametrize("background", [0, -1024, -3.5])
def test_the_empty_background_is_what_corners_share(background: float) -> None:
    data = body(background)
    assert empty_value(data) == background
    assert scanned(data).sum() == 12**3


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
    assert scanned(saturated).all()


def test_an_empty_scan_is_all_scanned() -> None:
    assert scanned(np.zeros((4, 4, 4), np.float32)).all()


def test_corners_beside_an_ultrasound_fan_do_not_count() -> None:
    x, _, z = np.meshgrid(*[np.linspace(-1, 1, 41)] * 3, indexing="ij")
    fan = np.abs(x) < (z + 1) / 2
    data = np.where(fan, np.random.default_rng(0).normal(80, 8, fan.shape), 0).astype(np.float32)
    mask = scanned(data)
    normalise(data, mask, ZSCORE)
    assert np.array_equal(mask, fan)
    assert abs(data[fan].mean()) < 0.02
    assert abs(data[fan].std() - 1) < 0.02


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_zscore_does_not_depend_on_the_scale_of_the_scan(scale: float, offset: float) -> None:
    reference, scaled = body(0), body(0)
    scaled[scaled != 0] = scaled[scaled != 0] * scale + offset * scale
    for data in (reference, scaled):
        normalise(data, scanned(data), ZSCORE)
    inside = scanned(body(0))
    assert np.allclose(reference[inside], scaled[inside], atol=2e-3)
    assert abs(reference[inside].mean()) < 1e-3
    assert abs(reference[inside].std() - 1) < 1e-3


def test_a_few_extreme_voxels_change_nothing() -> None:
    plain, spiked = body(0), body(0)
    spiked[8, 8, 8:12] = 1e6
    for data in (plain, spiked):
        normalise(data, scanned(data), ZSCORE)
    others = plain < 2  # the brightest are clipped a little later
    others[8, 8, 8:12] = False
    assert np.abs(plain - spiked)[others].max() < 0.05
    assert spiked.max() < 4


def test_ct_keeps_its_absolute_scale() -> None:
    data = np.array([[[-3000.0, -100.0, 50.0, 200.0, 4000.0]]], np.float32)
    normalise(data, np.ones(data.shape, bool), Normalisation("ct", lower=-100, upper=200, mean=50, std=75))
    assert np.allclose(data, [[[-2, -2, 0, 2, 2]]])


def test_pet_keeps_the_order_of_hot_voxels_but_not_their_distance() -> None:
    data = np.random.default_rng(0).gamma(2, 1, (30, 30, 30)).astype(np.float32)
    data[5, 5, 5:8] = [30, 60, 120]
    original = data.copy()
    normalise(data, np.ones(data.shape, bool), Normalisation("arcsinh"))
    assert data[5, 5, 5] < data[5, 5, 6] < data[5, 5, 7] < 10
    assert abs(data.mean()) < 0.01
    assert abs(data.std() - 1) < 0.02
    doubled = 2 * original
    normalise(doubled, np.ones(data.shape, bool), Normalisation("arcsinh"))
    assert np.allclose(doubled, data, atol=1e-3)


@pytest.mark.parametrize("scheme", ["zscore", "arcsinh"])
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_constant_scan_becomes_zero(scheme: str, value: float) -> None:
    data = np.full((4, 4, 4), value, np.float32)
    normalise(data, np.ones(data.shape, bool), Normalisation(scheme))  # type: ignore[arg-type]
    assert np.abs(data).max() < 1e-5


def test_statistics_of_large_scans_come_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.intensity.SAMPLE", 1000)
    data = np.random.default_rng(0).normal(5, 2, (40, 40, 40)).astype(np.float32)
    values = sample(data, np.ones(data.shape, bool))
    assert 500 < values.size <= 1000
    assert abs(values.mean() - 5) < 0.3
    speck = np.zeros(data.shape, bool)
    speck[1, 1, 1] = True  # beside the sub-grid
    assert np.array_equal(sample(data, speck), data[1:2, 1, 1])
