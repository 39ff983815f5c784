"""What is suggested, with known answers."""

from time import process_time

import numpy as np
import pytest
import torch
from support.teacher_files import PLAN, network_of

from hstf.method.slice_features import slice_features
from hstf.method.suggest import (
    DOUBT,
    RANDOM,
    Candidate,
    Strategy,
    choose,
    distances_to_nearest,
    doubt_by_slice,
)

NO_FEATURES = np.zeros(0)
EXACT = {"time": 3, "random_fraction": 0.0}
"""Nearly without noise, and nothing at random."""


def scan(name: str, liver: float, lesion: float = 0.0, at: tuple[float, ...] = ()) -> Candidate:
    """Return a scan with some doubt about a large liver and a small lesion."""
    volume = {"liver": 1000.0, "lesion": 5.0}
    return Candidate(name, {"liver": liver, "lesion": lesion}, volume, np.array(at))


def names(candidates: list[Candidate], seed: int = 0, **options: object) -> list[str]:
    chosen = choose(candidates, {}, Strategy(**(EXACT | options)), seed)  # type: ignore[arg-type]
    return [choice.candidate.case_id for choice in chosen]


def test_choose_lets_classes_take_turns_the_rarest_first() -> None:
    pool = [scan("a", 90), scan("b", 80), scan("c", 1, 3), scan("d", 2, 2)]
    chosen = choose(pool, {}, Strategy(4, **EXACT), 0)  # type: ignore[arg-type]
    found = [(choice.candidate.case_id, choice.structure, choice.how) for choice in chosen]
    assert found == [
        ("c", "lesion", DOUBT),
        ("a", "liver", DOUBT),
        ("d", "lesion", DOUBT),
        ("b", "liver", DOUBT),
    ]


def test_choose_does_not_ask_two_that_are_alike() -> None:
    pool = [
        scan("a", 100, at=(0.0, 0.0)),
        scan("twin", 99, at=(0.01, 0.0)),
        scan("b", 60, at=(5.0, 1.0)),
        scan("c", 50, at=(1.0, 7.0)),
    ]
    pool = [
        Candidate(c.case_id, {"liver": c.doubt["liver"]}, {"liver": 1}, c.features) for c in pool
    ]
    assert names(pool, count=3)[0] == "a"
    assert set(names(pool, count=3)) == {"a", "b", "c"}
    alike = choose(pool, {}, Strategy(4, **EXACT), 0)[3]  # type: ignore[arg-type]
    assert (alike.candidate.case_id, alike.nearest) == ("twin", "a")
    assert alike.distance is not None and alike.distance < 0.01


def test_choose_does_not_ask_what_is_like_a_labelled_case() -> None:
    pool = [scan("a", 100, at=(0.0, 0.0)), scan("b", 60, at=(5.0, 1.0)), scan("c", 50, at=(1, 7.0))]
    pool = [
        Candidate(c.case_id, {"liver": c.doubt["liver"]}, {"liver": 1}, c.features) for c in pool
    ]
    known = {"labelled": np.array([[0.0, 0.0]])}
    chosen = choose(pool, known, Strategy(3, **EXACT), 0)  # type: ignore[arg-type]
    assert [choice.candidate.case_id for choice in chosen][-1] == "a"
    assert chosen[-1].nearest == "labelled"


def test_choose_draws_a_part_at_random_over_foreground() -> None:
    volumes = {"full": 900.0, "half": 100.0, "none": 0.0}
    pool = [Candidate(n, {"liver": 1.0}, {"liver": v}, NO_FEATURES) for n, v in volumes.items()]
    drawn = []
    for seed in range(400):
        (first,) = choose(pool, {}, Strategy(1, random_fraction=1.0), seed)
        assert first.how == RANDOM
        drawn.append(first.candidate.case_id)
    assert drawn.count("none") == 0
    assert drawn.count("full") / 400 == pytest.approx(0.9, abs=0.05)
    counts = [choice.how for choice in choose(pool, {}, Strategy(3), 0)]
    assert counts == [DOUBT, DOUBT, RANDOM]


def test_choose_compares_scans_by_doubt_relative_to_the_volume() -> None:
    large = Candidate("large", {"liver": 40.0}, {"liver": 400.0}, NO_FEATURES)
    small = Candidate("small", {"liver": 20.0}, {"liver": 100.0}, NO_FEATURES)
    missed = Candidate("missed", {"liver": 2.0}, {"liver": 0.0}, NO_FEATURES)
    assert names([large, small, missed], count=3) == ["missed", "small", "large"]
    slices = [Candidate(c.case_id, c.doubt, c.volume, NO_FEATURES, 5) for c in (large, small)]
    assert names(slices, count=2) == ["large", "small"]


def test_choose_has_less_noise_if_the_doubt_differs_little() -> None:
    """Gumbel noise of scale s: the chance is in proportion to the doubt to the power of 1 / s."""
    pool = [
        Candidate(n, {"liver": d}, {"liver": 10.0}, NO_FEATURES) for n, d in (("a", 2), ("b", 1))
    ]
    firsts = [names(pool, seed, count=1, time=1)[0] for seed in range(1000)]
    power = 2 / np.log(2)  # the standard deviation of the logarithms is log(2) / 2
    assert firsts.count("a") / 1000 == pytest.approx(2**power / (2**power + 1), abs=0.04)


def test_choose_is_less_random_each_time() -> None:
    doubts = {"a": 10.0, "b": 8.0, "c": 0.2}
    pool = [Candidate(n, {"liver": d}, {"liver": 20}, NO_FEATURES, 0) for n, d in doubts.items()]
    best = []
    for time in (1, 2, 3):
        firsts = [names(pool, seed, count=1, time=time)[0] for seed in range(300)]
        best.append(firsts.count("a") / 300)
    # With Gumbel noise of scale 1 the chance is in proportion to the doubt.
    assert best[0] == pytest.approx(10 / 18.2, abs=0.08)
    assert best[0] < best[1] < best[2] and best[2] == 1.0


def test_choose_is_repeatable() -> None:
    pool = [scan(str(index), index + 1, index % 3) for index in range(20)]
    assert names(pool, 4, count=9, time=1) == names(pool, 4, count=9, time=1)
    assert names(pool, 4, count=9, time=1) != names(pool, 5, count=9, time=1)


def test_choose_takes_few_slices_of_a_scan_and_no_neighbours() -> None:
    slices = []
    for case, doubt in (("a", 1e6), ("b", 1.0)):
        for position in range(10):
            of_slice = {"liver": doubt * 2.0**position}
            slices.append(Candidate(case, of_slice, {"liver": 1.0}, NO_FEATURES, position))
    strategy = Strategy(20, per_case=3, gap=3, **EXACT)  # type: ignore[arg-type]
    chosen = choose(slices, {}, strategy, 0)
    found = [(choice.candidate.case_id, choice.candidate.position) for choice in chosen]
    assert found == [("a", 9), ("a", 6), ("a", 3), ("b", 9), ("b", 6), ("b", 3)]


def test_distances_to_nearest_equal_those_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.method.suggest.BLOCK_ROWS", 7)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(30, 5))
    for count in (1, 2, 12):
        rows = generator.normal(size=(count, 5))
        pairs = np.linalg.norm(features[:, None] - rows[None], axis=2)
        np.testing.assert_allclose(
            distances_to_nearest(features, rows), pairs.min(axis=1), atol=1e-7
        )


def test_choose_compares_many_slices_with_many_labelled_ones_fast() -> None:
    generator = np.random.default_rng(0)
    doubt = {"liver": 1.0}
    features = generator.normal(size=(4000, 320))
    slices = [
        Candidate(f"case_{row // 100}", doubt, doubt, values, row % 100)
        for row, values in enumerate(features)
    ]
    known = {"labelled": generator.normal(size=(1000, 320))}
    start = process_time()
    choose(slices, known, Strategy(count=3), seed=0)
    assert process_time() - start < 4, "one row at a time takes 10 s"


def test_choose_of_nothing_is_nothing() -> None:
    assert choose([], {}, Strategy(3), 0) == []
    empty = Candidate("a", {"liver": 0.0}, {"liver": 0.0}, NO_FEATURES)
    assert choose([empty], {}, Strategy(3), 0) == []
    assert len(choose([scan("a", 1)], {}, Strategy(9), 0)) == 1


def test_doubt_by_slice_weighs_uncertainty_by_probability() -> None:
    probabilities = np.zeros((3, 2, 2, 3), np.uint8)
    probabilities[0] = 255
    probabilities[:, 0, 0, 1] = (51, 204, 0)
    uncertainty = np.full((2, 2, 3), 255, np.uint8)
    structures = {"all": (1, 2), "two": (2,)}
    doubt, volume = doubt_by_slice(probabilities, uncertainty, structures, 2, 0.5)
    np.testing.assert_allclose(doubt["all"], [0, 0.8 * 0.5, 0])
    np.testing.assert_allclose(doubt["two"], 0)
    np.testing.assert_allclose(volume["all"], [0, 0.5, 0])
    by_first_axis, _ = doubt_by_slice(probabilities, uncertainty, structures, 0, 0.5)
    np.testing.assert_allclose(by_first_axis["all"], [0.4, 0])


@pytest.mark.parametrize("axis", [0, 2])
def test_slice_features_has_a_row_for_each_slice(axis: int) -> None:
    network = network_of(0).eval()
    image = torch.randn(1, 9, 8, 10)
    device = torch.device("cpu")
    features = slice_features(network, image, PLAN.patch_size, axis, device)
    assert features.shape[0] == image.shape[axis + 1] and np.isfinite(features).all()
    again = slice_features(network, image, PLAN.patch_size, axis, device)
    np.testing.assert_array_equal(features, again)
    other = slice_features(network, image + 5, PLAN.patch_size, axis, device)
    assert np.abs(other - features).max() > 0
