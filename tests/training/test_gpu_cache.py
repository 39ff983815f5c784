"""Cached cases against the same cases on disk."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stages import other_cases
from support.training_files import (
    CLASSES,
    SHAPE,
    region_of,
    scan,
    write_case,
    write_experiment,
    write_labels,
)

from hstf.imaging.arrays import write_array
from hstf.training.gpu_cache import cache_cases, load_on_device
from hstf.training.patches import PatchSource, TrainingCase

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """Return a labelled case, a pseudo-labelled case, and an image without label."""
    folder = tmp_path_factory.mktemp("cache")
    config, _ = write_experiment(folder)
    write_labels(config, 1, ["u_0"], rejected=["u_1", "u_2"])
    write_case(folder / "l", labelled=True)
    label = scan("l")[1]
    label[3:5] = 255
    write_array(folder / "l" / "label.b2nd", label, 8)
    files = [folder / "l" / name for name in ("image.b2nd", "label.b2nd", "locations.npy")]
    unlabelled = TrainingCase("i", files[0], None, None, pseudo=True)
    return [
        TrainingCase("l", *files, pseudo=False),
        *other_cases(config, 1, "seed_0"),
        unlabelled,
    ]


@given(start=st.tuples(*[st.integers(-6, 12)] * 3), which=st.integers(0, 2))
def test_load_on_device_returns_the_regions_of_the_files(
    cases: list[TrainingCase], start: tuple[int, ...], which: int
) -> None:
    corner = np.minimum(start, np.array(SHAPE) - 1)
    expected = cases[which].region(corner, (8, 7, 6), CLASSES).channels()
    found = load_on_device(cases[which], CPU).region(corner, (8, 7, 6), CLASSES).channels()
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


def test_division_of_targets_is_the_same_in_torch_and_numpy() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert torch.equal(
        torch.from_numpy(values) / 255, torch.from_numpy(values.astype(np.float32) / 255)
    )


def test_batch_of_cached_cases_is_that_of_the_files(cases: list[TrainingCase]) -> None:
    def batch(of: list[TrainingCase]) -> torch.Tensor:
        source = PatchSource(of[:1], of[1:], CLASSES, (8, 8, 8), 2, 0.5, 0.5, 7)
        return region_of(source.batch(3))

    assert torch.equal(batch(cases), batch([load_on_device(case, CPU) for case in cases]))


def test_cache_cases_caches_nothing_on_a_cpu(cases: list[TrainingCase]) -> None:
    assert cache_cases(cases, CPU, 8.0) == cases


def test_cache_cases_leaves_on_disk_what_does_not_fit(cases: list[TrainingCase]) -> None:
    meta = torch.device("meta")  # replaces a GPU: accepts tensors but stores no voxels
    image = scan("l")[0]
    enough = (image.nbytes + image[0].size) / 1e9
    kinds = [type(case).__name__ for case in cache_cases(cases, meta, enough)]
    assert kinds == ["CachedCase", "TrainingCase", "TrainingCase"]
    assert cache_cases(cases, meta, 0.0) == cases


def test_load_on_device_keeps_locations_and_paths(cases: list[TrainingCase]) -> None:
    cached = load_on_device(cases[0], CPU)
    assert np.array_equal(cached.locations(), cases[0].locations())
    assert (cached.shape, cached.image_path) == (SHAPE, cases[0].image_path)
