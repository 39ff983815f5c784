"""The empty background of scans, and their normalisation."""

import numpy as np
import pytest

from hstf.experiment.plan import Normalisation
from hstf.imaging.intensity import (
    empty_value,
    few_values,
    field_of_view,
    lacks_hu_offset,
    nonempty_mask,
    normalise,
    sample,
)

ZSCORE = Normalisation(scheme="zscore")
UPTAKE = Normalisation(scheme="uptake")


def body_in(background: float) -> np.ndarray:
    """Return noise with a mean of 100 in the middle of an empty volume."""
    data = np.full((20, 22, 24), background, np.float32)
    noise = np.random.default_rng(0).normal(100, 10, (12, 12, 12))
    data[4:16, 5:17, 6:18] = noise
    return data


@pytest.mark.parametrize("background", [0, -1024, -3.5])
def test_empty_value_is_the_value_of_the_corners(background: float) -> None:
    data = body_in(background)
    assert empty_value(data) == background
    assert nonempty_mask(data).sum() == 12**3


def test_empty_value_may_be_zero_above_the_minimum() -> None:
    data = body_in(0)
    data[8, 8, 8] = -3  # as interpolation leaves it
    assert empty_value(data) == 0


def test_empty_value_is_none_for_scans_that_fill_their_volume() -> None:
    noise = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    saturated = noise.copy()
    # Five corners have the same value, but it is a high one.
    saturated[[0, 0, 0, -1, -1], [0, 0, -1, 0, -1], [0, -1, 0, 0, -1]] = 3.0
    assert empty_value(noise) is None
    assert empty_value(saturated) is None
    assert nonempty_mask(saturated).all()


def test_nonempty_mask_has_all_voxels_of_a_constant_scan() -> None:
    assert nonempty_mask(np.zeros((4, 4, 4), np.float32)).all()


def ultrasound_fan() -> tuple[np.ndarray, np.ndarray]:
    """Return an ultrasound scan with an anechoic cyst, and its field of view."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 41)] * 3, indexing="ij")
    inside = np.abs(x) < (z + 1) / 2
    echo = np.random.default_rng(0).normal(80, 8, inside.shape)
    data = np.where(inside, echo, 0).astype(np.float32)
    cyst = x**2 + y**2 + (z - 0.5) ** 2 < 0.4**2
    data[cyst] = 0
    return data, inside


def test_field_of_view_of_a_fan_has_cysts_and_no_corners() -> None:
    data, inside = ultrasound_fan()
    assert np.array_equal(field_of_view(data, "fan"), inside)
    assert not np.array_equal(field_of_view(data, "zscore"), inside), "in MR, zero is empty"


def test_field_of_view_without_empty_corners_is_the_whole_scan() -> None:
    data = np.random.default_rng(0).normal(80, 8, (9, 9, 9)).astype(np.float32)
    data[4, 4, 4] = data.min() - 1
    assert field_of_view(data, "fan").all()
    assert field_of_view(np.zeros((4, 4, 4), np.float32), "fan").all()


def test_normalise_takes_statistics_of_a_fan_from_its_inside() -> None:
    data, inside = ultrasound_fan()
    normalise(data, inside, Normalisation(scheme="fan"))
    assert abs(data[inside].mean()) < 0.02
    assert abs(data[inside].std() - 1) < 0.02
    minimum = data.min()
    assert (data[~inside] == minimum).all(), "the corners are as dark as the cyst"
    assert data[20, 20, 30] == minimum


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_normalise_by_zscore_removes_scale_and_offset(scale: float, offset: float) -> None:
    reference = body_in(0)
    scaled = body_in(0)
    inside = nonempty_mask(reference)
    scaled[inside] = scaled[inside] * scale + offset * scale
    for data in (reference, scaled):
        normalise(data, nonempty_mask(data), ZSCORE)
    assert np.allclose(reference[inside], scaled[inside], atol=2e-3)
    assert abs(reference[inside].mean()) < 1e-3
    assert abs(reference[inside].std() - 1) < 1e-3


def test_normalise_is_robust_to_a_few_extreme_voxels() -> None:
    plain = body_in(0)
    spiked = body_in(0)
    spiked[8, 8, 8:12] = 1e6
    for data in (plain, spiked):
        normalise(data, nonempty_mask(data), ZSCORE)
    others = plain < 2  # the brightest voxels are clipped at a slightly higher value
    others[8, 8, 8:12] = False
    assert np.abs(plain - spiked)[others].max() < 0.05
    assert spiked.max() < 4


def test_normalise_uses_the_statistics_of_the_plan_for_ct() -> None:
    data = np.array([[[-3000.0, -100.0, 50.0, 200.0, 4000.0]]], np.float32)
    normalisation = Normalisation(scheme="ct", lower=-100, upper=200, mean=50, std=75)
    normalise(data, np.ones(data.shape, bool), normalisation)
    assert np.allclose(data, [[[-2, -2, 0, 2, 2]]])


def pet_scan(air: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a PET scan of a body with three hot lesions, and a mask of all voxels.

    Args:
        air: number of planes of air next to the body, whose mean uptake is 1.
    """
    generator = np.random.default_rng(0)
    body = generator.gamma(8, 1 / 8, (30, 30, 30)).astype(np.float32)
    body[5, 5, 5:8] = [30, 60, 120]
    data = np.abs(generator.normal(0, 0.02, (30 + air, 30, 30))).astype(np.float32)
    data[:30] = body
    return data, np.ones(data.shape, bool)


def test_normalise_of_pet_compresses_hot_voxels_in_their_order() -> None:
    data, mask = pet_scan(air=0)
    normalise(data, mask, UPTAKE)
    assert data[5, 5, 5] < data[5, 5, 6] < data[5, 5, 7] < 20
    assert abs(data.mean()) < 0.05
    assert abs(data.std() - 1) < 0.05


@pytest.mark.parametrize("dose", [0.01, 5000.0])
def test_normalise_of_pet_removes_the_dose(dose: float) -> None:
    reference, mask = pet_scan(air=10)
    scaled = reference * np.float32(dose)
    for scan in (reference, scaled):
        normalise(scan, mask, UPTAKE)
    assert np.allclose(reference, scaled, atol=1e-3)


def test_normalise_of_pet_hardly_depends_on_the_air_around_the_body() -> None:
    narrow, narrow_mask = pet_scan(air=10)
    wide, wide_mask = pet_scan(air=90)
    normalise(narrow, narrow_mask, UPTAKE)
    normalise(wide, wide_mask, UPTAKE)
    assert np.abs(narrow[:30] - wide[:30]).max() < 0.2
    assert abs(wide[:30].mean()) < 0.1, "statistics are those of the body"


def masks() -> dict[str, np.ndarray]:
    """Return channels that have one value wherever they are not empty, or almost everywhere."""
    ball = np.zeros((20, 22, 24), np.float32)
    ball[6:12, 7:13, 8:14] = 1
    clicks = np.zeros((20, 22, 24), np.float32)
    clicks[[4, 9], [5, 11], [6, 12]] = 1
    soft = 255 * ball
    soft[6, 7, 8] = 100
    return {
        "organ": ball,
        "8 bit": 255 * ball,
        "clicks": clicks,
        "outside of an organ": 1 - ball,
        "without clicks": 1 - clicks,
        "soft edge": soft,
        "large values": 1000 + ball,
    }


@pytest.mark.parametrize("scheme", ["zscore", "fan", "uptake"])
@pytest.mark.parametrize("name", masks())
def test_normalise_never_erases_a_channel(name: str, scheme: str) -> None:
    channel = masks()[name]
    data = channel.copy()
    normalise(data, field_of_view(data, scheme), Normalisation(scheme=scheme))
    assert len(np.unique(data)) == len(np.unique(channel))
    assert np.array_equal(np.argsort(np.unique(data)), np.argsort(np.unique(channel)))
    assert data.astype(np.float16).std() > 0 and np.abs(data).max() < 100


@pytest.mark.parametrize("scheme", ["zscore", "fan", "uptake"])
@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-6, 1e9])
def test_normalise_does_not_depend_on_the_unit(unit: float, scheme: str) -> None:
    """Diffusivities are 1e-9 m2/s."""
    expected = body_in(0)
    data = expected * np.float32(unit)
    for scan in (expected, data):
        normalise(scan, nonempty_mask(scan), Normalisation(scheme=scheme))
    assert np.allclose(data, expected, atol=1e-3)


def test_normalise_of_ct_does_not_depend_on_the_unit() -> None:
    data = np.array([[[-1e-9, 1e-9, 3e-9]]], np.float32)
    attenuation = Normalisation(scheme="ct", lower=-1e-9, upper=3e-9, mean=1e-9, std=1e-9)
    normalise(data, np.ones(data.shape, bool), attenuation)
    assert np.allclose(data, [[[-2, 0, 2]]])


def test_normalise_leaves_a_mask_as_it_is() -> None:
    data = np.array([[[0, 1, 7, -2, 0.25, 255]]], np.float32)
    before = data.copy()
    normalise(data, data != 0, Normalisation(scheme="mask"))
    assert np.array_equal(data, before)


def plain_zscore(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    values = data[mask]
    lower, upper = np.percentile(values, (0.5, 99.5))
    values = np.clip(values, lower, upper)
    mean, std = values.mean(dtype=float), values.std(dtype=float)
    clipped = np.clip(data, lower, upper).astype(np.float32)
    return (clipped - np.float32(mean)) / np.float32(std)


def plain_uptake(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    positive = data[mask & (data > 0)]
    body = positive[positive > 0.25 * positive.mean()]
    scale = float(np.median(body))
    values = np.arcsinh(body / scale)
    lower = np.percentile(values, 0.5)
    values = np.clip(values, lower, np.inf)
    mean, std = values.mean(dtype=float), values.std(dtype=float)
    compressed = np.clip(np.arcsinh(data / scale), lower, np.inf).astype(np.float32)
    return (compressed - np.float32(mean)) / np.float32(std)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 37.0])
def test_normalise_of_ordinary_scans_is_exact(scale: float) -> None:
    """What is special about masks and units does not change a bit of other scans."""
    scans = [body_in(0), body_in(-1024), ultrasound_fan()[0], pet_scan(air=10)[0]]
    for scan in scans:
        scan *= np.float32(scale)
        mask = nonempty_mask(scan)
        normalised = {name: scan.copy() for name in ("zscore", "fan", "uptake")}
        for name, data in normalised.items():
            normalise(data, mask, Normalisation(scheme=name))
        assert np.array_equal(normalised["zscore"], plain_zscore(scan, mask))
        assert np.array_equal(normalised["fan"], plain_zscore(scan, mask))
        assert np.array_equal(normalised["uptake"], plain_uptake(scan, mask))


def test_few_values_are_those_of_a_mask() -> None:
    click = np.zeros((40, 40, 40), np.float32)
    click[3, 5, 7] = 2
    assert few_values(click) == (0, 2), "a single voxel counts"
    assert few_values(np.full((4, 4, 4), 7, np.float32)) == (7,)
    assert few_values(np.arange(16, dtype=np.float32).reshape(4, 4, 1)) == tuple(range(16))
    assert few_values(np.arange(17, dtype=np.float32).reshape(17, 1, 1)) is None
    hidden = np.zeros((50, 50, 50), np.float32)
    hidden[10, 20, :] = np.arange(50)
    assert few_values(hidden) is None
    assert few_values(body_in(0)) is None


def test_lacks_hu_offset_compares_with_the_other_scans() -> None:
    usual = {"a": (-1000, -800, 300), "b": (-1020, -300, 900), "c": (-990, -700, 250)}
    assert lacks_hu_offset(usual) == []
    assert lacks_hu_offset(usual | {"d": (24, 300, 1324)}) == ["d"]
    assert lacks_hu_offset(usual | {"with bone, little air": (10, 1050, 2300)}) != []
    assert lacks_hu_offset(usual | {"crop": (-100, 40, 300)}) == []
    assert lacks_hu_offset(usual | {"metal": (-1000, -800, 3000)}) == []
    assert lacks_hu_offset({"a": (-1024,), "b": (0,)}) == ["b"]
    assert lacks_hu_offset({"a": (0,), "b": (0,)}) == lacks_hu_offset({"a": (0,)}) == []


@pytest.mark.parametrize("scheme", ["zscore", "fan", "uptake"])
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_normalise_makes_a_constant_scan_zero(scheme: str, value: float) -> None:
    data = np.full((4, 4, 4), value, np.float32)
    normalise(data, np.ones(data.shape, bool), Normalisation(scheme=scheme))
    assert np.abs(data).max() < 1e-5


def test_sample_of_a_large_scan_is_a_subgrid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.imaging.intensity.MAXIMUM_SAMPLE", 1000)
    data = np.random.default_rng(0).normal(5, 2, (40, 40, 40)).astype(np.float32)
    values = sample(data, np.ones(data.shape, bool))
    assert 500 < values.size <= 1000
    assert abs(values.mean() - 5) < 0.3


def test_sample_of_a_mask_outside_the_subgrid_has_all_its_voxels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hstf.imaging.intensity.MAXIMUM_SAMPLE", 1000)
    data = np.random.default_rng(0).normal(5, 2, (40, 40, 40)).astype(np.float32)
    mask = np.zeros(data.shape, bool)
    mask[1, 1, 1] = True
    assert np.array_equal(sample(data, mask), [data[1, 1, 1]])
