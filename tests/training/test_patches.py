"""Training regions and the batches that are drawn from them."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_files import CLASSES, PATCH, SHAPE, cases_in, region_of, scan, source_of

from hstf.imaging.arrays import write_array
from hstf.runtime.errors import HstfError
from hstf.training.augmentations.spatial import region_size
from hstf.training.patches import TrainingCase


@pytest.mark.parametrize("start", [(0, 0, 0), (-3, 5, 2), (6, -1, -2)])
def test_region_is_the_scan_and_has_no_weight_outside(
    tmp_path: Path, start: tuple[int, int, int]
) -> None:
    (case,), (image, label) = cases_in(tmp_path, 1), scan("l_0")
    label[4, 5, 4] = 255
    write_array(case.target_path, label, 8)
    found = case.region(np.array(start), (10, 10, 10), CLASSES).channels().numpy()
    pads = [(0, 0), *[(12, 12)] * 3]
    window = (slice(None), *(slice(s + 12, s + 22) for s in start))
    one_hot = (label == np.arange(CLASSES).reshape(-1, 1, 1, 1)).astype(np.float32)
    one_hot[:, 4, 5, 4] = 1 / CLASSES  # inside the scan, ignored
    weight = (label != 255)[None].astype(np.float32)
    expected = np.concatenate(
        [np.pad(a.astype(np.float32), pads)[window] for a in (image, one_hot, weight)]
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert (found[-1] == 0).any()
    np.testing.assert_allclose(found[1:-1].sum(0)[found[-1] > 0], 1)


def test_region_of_pseudo_labels_has_their_probabilities_and_weights(tmp_path: Path) -> None:
    (case,) = cases_in(tmp_path, 1, "u")
    found = case.region(np.array((0, 0, 0)), SHAPE, CLASSES).channels().numpy()
    np.testing.assert_allclose(found[-1], 0.2)
    np.testing.assert_array_equal(found[1:-1].argmax(0), scan("u_0")[1])
    np.testing.assert_array_equal(found[1:-1].sum(0), 1)


def test_region_without_label_has_equal_probabilities_and_no_weight(tmp_path: Path) -> None:
    (case,) = cases_in(tmp_path, 1)
    unlabelled = TrainingCase("x", case.image_path, None, None, pseudo=True)
    corner = np.array((-3, 5, 2))
    found, known = (c.region(corner, (10, 10, 10), CLASSES).channels() for c in (unlabelled, case))
    np.testing.assert_array_equal(found[0], known[0])
    np.testing.assert_allclose(
        found[1:-1].sum(0), known[1:-1].sum(0), atol=1e-6
    )  # 1 inside the scan, 0 outside
    assert (found[1:-1] == found[1]).all()
    assert not found[-1].any()
    assert unlabelled.files == [case.image_path]
    batch = source_of([case], [unlabelled], foreground_fraction=1.0).batch(0)
    assert batch.pseudo == (False, True)


def test_batch_names_automatic_pseudo_labels(tmp_path: Path) -> None:
    (labelled,) = cases_in(tmp_path, 1)
    (pseudo,) = cases_in(tmp_path, 1, "u")
    accepted = replace(pseudo, accepted=True)
    assert source_of([labelled], [pseudo]).batch(0).automatic == (False, True)
    raw = source_of([labelled], [accepted]).batch(0)
    assert (raw.pseudo, raw.automatic) == ((False, True), (False, False))


def test_batch_depends_on_seed_and_step_only(tmp_path: Path) -> None:
    labelled, pseudo = cases_in(tmp_path, 3), cases_in(tmp_path, 2, "u")
    source, again = source_of(labelled, pseudo), source_of(labelled, pseudo)
    later = source.batch(11)
    first = again.batch(11)
    assert torch.equal(region_of(first), region_of(later))
    assert first.case_ids == later.case_ids
    assert region_of(first).shape == (2, 1 + CLASSES + 1, *region_size(PATCH))
    assert not torch.equal(region_of(source.batch(12)), region_of(later))
    assert not torch.equal(
        region_of(source_of(labelled, pseudo, seed=8).batch(11)), region_of(later)
    )


def test_batches_come_in_order(tmp_path: Path) -> None:
    source = source_of(cases_in(tmp_path, 3), [])
    for first, last in [(0, 5), (3, 4), (4, 6), (6, 6)]:
        found = list(source.batches(first, last, source.batch))
        assert [b.case_ids for b in found] == [
            source.batch(step).case_ids for step in range(first, last)
        ]
        assert all(
            torch.equal(region_of(b), region_of(source.batch(first + i)))
            for i, b in enumerate(found)
        )


def test_batches_raise_for_a_missing_file(tmp_path: Path) -> None:
    cases = cases_in(tmp_path, 2)
    cases[1].image_path.unlink()
    with pytest.raises(HstfError, match=r"l_1/image\.b2nd: missing"):
        source = source_of(cases, [])
        list(source.batches(0, 4, source.batch))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_cases_are_all_used_before_any_is_used_again(tmp_path: Path, batch_size: int) -> None:
    cases = cases_in(tmp_path, 6)
    source = source_of(cases, [], batch_size=batch_size)
    seen = [case.case_id for step in range(36 // batch_size) for case in source._cases(step)]
    turns = [tuple(seen[i : i + 6]) for i in range(0, 36, 6)]
    assert all(sorted(turn) == sorted(case.case_id for case in cases) for turn in turns)
    assert len(set(turns)) > 1, "each turn has its own order"


@pytest.mark.parametrize(
    ("batch_size", "fraction", "per_batch"),
    [
        (2, 0.5, 1),
        (4, 0.5, 2),
        (3, 0.5, 1.5),
        (2, 0.1, 1),
        (4, 0.7, 2.8),
        (2, 1.0, 1),
        (1, 0.5, 0.5),
        (1, 0.25, 0.25),
    ],
)
def test_cases_keep_the_labelled_fraction(
    tmp_path: Path, batch_size: int, fraction: float, per_batch: float
) -> None:
    labelled, pseudo = cases_in(tmp_path, 2), cases_in(tmp_path, 3, "u")
    source = source_of(labelled, pseudo, batch_size=batch_size, labelled_fraction=fraction)
    counts = [Counter(case.pseudo for case in source._cases(step)) for step in range(40)]
    assert all(c.total() == batch_size for c in counts)
    assert sum(c[False] for c in counts) == pytest.approx(40 * per_batch, abs=1)
    if batch_size > 1:
        assert all(c[False] and c[True] for c in counts)
    seen = Counter(
        case.case_id for step in range(40) for case in source._cases(step) if case.pseudo
    )
    assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize(("batch_size", "fraction"), [(2, 0.5), (4, 0.7), (3, 0.5), (1, 0.5)])
def test_cases_of_the_fine_tuning_have_manual_labels(
    tmp_path: Path, batch_size: int, fraction: float
) -> None:
    labelled, others = cases_in(tmp_path, 2), cases_in(tmp_path, 3, "u")
    others[1] = replace(others[1], pseudo=False)  # its pseudo-label was corrected
    keys = {"batch_size": batch_size, "labelled_fraction": fraction}
    source = source_of(labelled, others, fine_tune_from=12, **keys)
    without = source_of(labelled, others, **keys)
    for step in range(12):
        assert source._cases(step) == without._cases(step), "no step before it changes"
    seen = Counter(case.case_id for step in range(12, 24) for case in source._cases(step))
    assert set(seen) == {labelled[0].case_id, labelled[1].case_id, others[1].case_id}
    assert seen.total() == 12 * batch_size
    assert max(seen.values()) - min(seen.values()) <= 1


def test_cases_are_not_always_the_same_pairs(tmp_path: Path) -> None:
    source = source_of(cases_in(tmp_path, 4), cases_in(tmp_path, 4, "u"))
    pairs = {tuple(case.case_id for case in source._cases(step)) for step in range(32)}
    assert len(pairs) > 8


def test_centre_draws_each_class_with_equal_probability(tmp_path: Path) -> None:
    """Lesion voxels are rarer than liver voxels; a patch is centred on the voxel that was drawn."""
    (case,) = cases_in(tmp_path, 1)
    label = np.zeros((40, 8, 8), np.uint8)
    label[4:20], label[33:35, 3:5, 3:5] = 1, 2
    write_array(case.image_path, np.zeros((1, *label.shape), np.float16), 8)
    write_array(case.target_path, label, 8)
    voxels = [np.argwhere(label == k) for k in (1, 2)]
    np.save(
        case.locations_path,
        np.concatenate([np.insert(v, 0, k, axis=1) for k, v in enumerate(voxels, 1)]),
    )
    source = source_of([case], [], batch_size=1, foreground_fraction=1.0)
    middle = region_size(PATCH)[0] // 2
    centres = [
        region_of(source.batch(step))[0, 1:4, middle, 5, 5].argmax().item() for step in range(120)
    ]
    lesions = sum(not 0 <= c < 2 for c in centres) / 120
    assert 0.3 < lesions < 0.7
    anywhere = source_of([case], [], batch_size=1, foreground_fraction=0.0)
    shown = [bool(region_of(anywhere.batch(step))[0, 3].any()) for step in range(60)]
    assert 0 < sum(shown) < 60


def test_batch_reads_cases_without_foreground_and_smaller_than_a_patch(tmp_path: Path) -> None:
    (case,) = cases_in(tmp_path, 1)
    write_array(case.image_path, np.ones((1, 5, 20, 3), np.float16), 8)
    write_array(case.target_path, np.zeros((5, 20, 3), np.uint8), 8)
    np.save(case.locations_path, np.zeros((0, 4), np.int32))
    for step in range(8):
        region = region_of(source_of([case], [], foreground_fraction=1.0).batch(step))
        assert region[:, -1].sum((1, 2, 3)).tolist() == [
            5 * n * 3 for n in region[:, -1].amax((1, 3)).sum(1)
        ]
        assert torch.equal(region[:, 0], region[:, -1])


def test_region_leaves_no_file_open(tmp_path: Path) -> None:
    cases = cases_in(tmp_path, 1) * 60
    before = len(list(Path("/proc/self/fd").iterdir()))
    for case in [TrainingCase(**vars(case)) for case in cases]:
        case.region(np.array((0, 0, 0)), PATCH, CLASSES).channels()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


@pytest.mark.parametrize("prefix", ["l", "u"])
def test_channels_of_a_part_are_a_part_of_the_channels(tmp_path: Path, prefix: str) -> None:
    (case,) = cases_in(tmp_path, 1, prefix)
    region = case.region(np.array((-2, 1, 3)), (9, 10, 8), CLASSES)
    assert region.image.dtype == torch.float16
    assert region.target.dtype == (torch.int16 if prefix == "l" else torch.uint8)
    box = (slice(1, 6), slice(0, 9), slice(2, 4))
    assert torch.equal(region.channels(box), region.channels()[:, *box])


def test_batches_are_prepared_in_one_other_thread(tmp_path: Path) -> None:
    """The thread starts no others; the number of threads of the training stays."""
    threads = torch.get_num_threads()
    names: set[tuple[str, int]] = set()

    def prepare(step: int) -> int:
        names.add((threading.current_thread().name, torch.get_num_threads()))
        return step

    source = source_of(cases_in(tmp_path, 1), [])
    assert list(source.batches(2, 7, prepare)) == [2, 3, 4, 5, 6]
    ((name, own_threads),) = names
    assert (name != threading.main_thread().name, own_threads) == (True, 1)
    assert torch.get_num_threads() == threads
