"""Batches of training regions.

Each batch is a pure function of the seed and the step. No random state is carried from step to
step, so that a resumed training sees the same batches as an uninterrupted one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hstf.imaging.arrays import StoredArray, open_array
from hstf.imaging.label_values import IGNORED
from hstf.imaging.spacing import Triple
from hstf.runtime.devices import to_device
from hstf.runtime.files import sha256_file
from hstf.runtime.recorded_files import RecordedFile
from hstf.training.augmentations.acquisition import ISOTROPIC_MR, Acquisition
from hstf.training.augmentations.spatial import region_size

T = TypeVar("T")
AHEAD = 2
"""Number of batches that are prepared ahead."""
LABELLED_STREAM = 1
PSEUDO_STREAM = 2
FINE_TUNE_STREAM = 3
"""Random streams that decide the order of the labelled cases, of the other ones, and of the cases
with a manual label in the fine-tuning."""

OUTSIDE = -1
"""Class index of voxels outside the scan."""
FLOAT = torch.float32
Slices = tuple[slice, ...]
WHOLE: Slices = (slice(None),) * 3


def overlap(
    start: np.ndarray,
    size: Sequence[int],
    shape: Sequence[int],
) -> tuple[Slices, Slices]:
    """Compute the part of a box that is inside an array.

    Args:
        start: first voxel of the box; may be negative.
        size: size of the box (voxels).
        shape: shape of the array.

    Returns:
        The position of that part in the array, and its position in the box.
    """
    low = np.maximum(start, 0)
    high = np.minimum(start + size, shape)
    return _slices(low, high), _slices(low - start, high - start)


def _slices(low: np.ndarray, high: np.ndarray) -> Slices:
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


@dataclass(frozen=True)
class Region:
    """A part of a case, larger than a patch. Image and target are 0 outside the scan."""

    image: Tensor
    """``(C, *size)``, as stored."""
    target: Tensor
    """``(*size)`` int16, class indices, :data:`IGNORED` or :data:`OUTSIDE`; or ``(K + 1, *size)``
    uint8, target probabilities and weight times 255."""
    classes: int
    """Number of classes K."""
    ignored: bool
    """Whether voxels of a manual label may be ignored; known on the host."""

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along the three axes."""
        return tuple(self.image.shape[1:])

    def pinned(self) -> "Region":
        """Return the region in pinned memory; regions on a device stay there."""
        if self.image.device.type != "cpu":
            return self
        return replace(self, image=self.image.pin_memory(), target=self.target.pin_memory())

    def to(self, device: torch.device) -> "Region":
        """Return the region on ``device``."""
        image = to_device(self.image, device)
        return replace(self, image=image, target=to_device(self.target, device))

    def channels(self, box: Slices = WHOLE) -> Tensor:
        """Return a part of the region as ``(C + K + 1, ...)`` float32.

        The channels are those of the image, the target probabilities and the weight.
        """
        image = self.image[(slice(None), *box)]
        x, y, z = box
        target = self.target[..., x, y, z]
        count = len(image)
        channels = image.new_empty((count + self.classes + 1, *image.shape[1:]), dtype=FLOAT)
        channels[:count] = image
        if target.ndim == 4:
            torch.div(target, 255, out=channels[count:])
            return channels
        for index in range(self.classes):
            channels[count + index] = target == index
        channels[-1] = target != OUTSIDE
        if self.ignored:
            ignored = target == IGNORED
            channels[count:-1] += ignored / self.classes
            channels[-1].masked_fill_(ignored, 0)
        return channels


def _placed(
    values: Tensor,
    place: Slices,
    size: Sequence[int],
    outside: int,
) -> Tensor:
    """Return ``values`` ``(..., x, y, z)`` at ``place`` in a region filled with ``outside``."""
    if tuple(values.shape[-3:]) == tuple(size):
        return values
    region = values.new_full((*values.shape[:-3], *size), outside)
    x, y, z = place
    region[..., x, y, z] = values
    return region


@dataclass(frozen=True)
class TrainingCase:
    """A case on the planned grid, which is read region by region.

    No file stays open, because there may be more cases than a process may open files.
    """

    case_id: str
    image_path: Path
    target_path: Path | None
    """Class indices ``(X, Y, Z)`` of a labelled case; or target probabilities and weight
    ``(K + 1, X, Y, Z)`` times 255; or None if there is no label."""
    locations_path: Path | None
    pseudo: bool
    """Whether the case has no manual label."""
    accepted: bool = False
    """Whether a reviewer has accepted the pseudo-label of the case."""
    records: Mapping[Path, RecordedFile] = field(default_factory=dict, repr=False, compare=False)
    """SHA-256 of the files. A file is compared with it when it is first opened; a file without a
    record is not compared."""

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        paths = (self.image_path, self.target_path, self.locations_path)
        return [path for path in paths if path is not None]

    @property
    def image(self) -> StoredArray:
        """The image ``(C, X, Y, Z)`` on disk."""
        return open_array(self.checked(self.image_path))

    def checked(self, path: Path) -> Path:
        """Return the path of a file that has been compared with its SHA-256.

        Raises:
            HstfError: if the file is missing or has changed.
        """
        if path in self.records:
            self.records[path].check()
        return path

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, from its record if there is one."""
        record = self.records.get(path)
        return sha256_file(path) if record is None else record.sha256

    def locations(self) -> np.ndarray:
        """Return class and position ``(M, 4)`` of some voxels of each foreground class.

        Sparse labels also have locations of the background.
        """
        if self.locations_path is None:
            return np.zeros((0, 4), np.int32)
        return np.load(self.checked(self.locations_path), allow_pickle=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the three axes."""
        return self.image.shape[1:]

    def arrays(self) -> tuple[StoredArray | Tensor, StoredArray | Tensor | None]:
        """Return image and target; their parts are read on access."""
        if self.target_path is None:
            return self.image, None
        return self.image, open_array(self.checked(self.target_path))

    def region(
        self,
        start: np.ndarray,
        size: Sequence[int],
        classes: int,
    ) -> Region:
        """Read a region of image, target and weight.

        Args:
            start: first voxel of the region; may be negative.
            size: size of the region (voxels).
            classes: number of classes K.
        """
        image, target = self.arrays()
        inside, place = overlap(start, size, image.shape[1:])
        voxels = _placed(torch.as_tensor(image[(slice(None), *inside)]), place, size, 0)
        if target is None:
            # All classes are equally likely and the weight is 0, as for ignored voxels.
            shape = [side.stop - side.start for side in inside]
            label = torch.full(shape, IGNORED, dtype=torch.int16, device=voxels.device)
        elif len(target.shape) == 4:
            soft = torch.as_tensor(target[(slice(None), *inside)])
            # A corrected label has such a target, too, and a reviewer may ignore parts of it.
            return Region(voxels, _placed(soft, place, size, 0), classes, not self.pseudo)
        else:
            label = torch.as_tensor(target[inside]).to(torch.int16)
        ignored = target is None or self.may_ignore(label)
        return Region(voxels, _placed(label, place, size, OUTSIDE), classes, ignored)

    def may_ignore(self, label: Tensor) -> bool:
        """Return whether a part ``label`` of the label has voxels to ignore."""
        return bool((label == IGNORED).numpy().any())


@dataclass(frozen=True)
class RawBatch:
    """Regions of scans, from which the patches of a batch are cut."""

    regions: tuple[Region, ...]
    pseudo: tuple[bool, ...]
    """Whether each case has no manual label."""
    case_ids: tuple[str, ...]
    """Cases of the patches of all ranks."""
    automatic: tuple[bool, ...] | None = None
    """Whether each case has a pseudo-label that no reviewer has accepted; ``None``: as
    ``pseudo``."""

    def pinned(self) -> "RawBatch":
        """Return the batch in memory that a GPU copies from without waiting."""
        return replace(self, regions=tuple(region.pinned() for region in self.regions))


@dataclass(frozen=True)
class PatchSource:
    """Draws the batches of a training."""

    labelled: Sequence[TrainingCase]
    pseudo: Sequence[TrainingCase]
    classes: int
    patch_size: Triple
    batch_size: int
    labelled_fraction: float
    """Fraction of patches from labelled cases, if there are other cases."""
    foreground_fraction: float
    """Fraction of patches that are centred on a foreground voxel."""
    seed: int
    rank: int = 0
    """Rank of this process: it reads the patches ``rank``, ``rank + ranks``, … of each batch."""
    ranks: int = 1
    """Number of processes of the training."""
    acquisition: Acquisition = ISOTROPIC_MR
    quarter_turns: tuple[int, ...] = ()
    """Axes about which patches may be turned by 90 degrees: their regions are larger."""
    fine_tune_from: int | None = None
    """Step from which all patches come from :attr:`manual`; None: there is none."""

    def batch(self, step: int) -> RawBatch:
        """Read the regions of this rank for a step."""
        rng = np.random.default_rng([self.seed, step])
        cases = self._cases(step)
        size = region_size(self.patch_size, self.quarter_turns, self.acquisition.spacing)
        # Every rank draws the positions of the whole batch, so that they do not depend on ranks.
        starts = [self._centre(case, rng) - np.array(size) // 2 for case in cases]
        own = slice(self.rank, None, self.ranks)
        own_cases = cases[own]
        regions = [
            case.region(start, size, self.classes)
            for case, start in zip(own_cases, starts[own], strict=True)
        ]
        return RawBatch(
            tuple(regions),
            tuple(case.pseudo for case in own_cases),
            tuple(case.case_id for case in cases),
            tuple(case.pseudo and not case.accepted for case in own_cases),
        )

    def batches(
        self,
        first: int,
        last: int,
        prepare: Callable[[int], T],
    ) -> Iterator[T]:
        """Yield what ``prepare`` returns for the steps from ``first`` to ``last - 1``.

        A thread prepares the next batches while the network trains.
        """
        with ThreadPoolExecutor(1) as reader:
            _without_more_threads(reader)
            waiting: list[Future[T]] = []
            for step in range(first, last + AHEAD):
                if step < last:
                    waiting.append(reader.submit(prepare, step))
                if step >= first + AHEAD:
                    yield waiting.pop(0).result()

    def _cases(self, step: int) -> list[TrainingCase]:
        if self.fine_tune_from is not None and step >= self.fine_tune_from:
            start = (step - self.fine_tune_from) * self.batch_size
            positions = range(start, start + self.batch_size)
            return self._in_turn(self.manual, positions, FINE_TUNE_STREAM)
        first = self._labelled_before(step)
        last = self._labelled_before(step + 1)
        others = range(step * self.batch_size - first, (step + 1) * self.batch_size - last)
        labelled = self._in_turn(self.labelled, range(first, last), LABELLED_STREAM)
        return labelled + self._in_turn(self.pseudo, others, PSEUDO_STREAM)

    @cached_property
    def manual(self) -> list[TrainingCase]:
        """Cases with a manual label: labelled ones, and pseudo-labels that were corrected."""
        return [case for case in (*self.labelled, *self.pseudo) if not case.pseudo]

    def _labelled_before(self, step: int) -> int:
        """Return the number of labelled patches before ``step``.

        Their fraction is kept over the steps for every batch size.
        """
        return int(step * self.labelled_per_batch + 0.5)

    @property
    def labelled_per_batch(self) -> float:
        """Mean number of labelled patches of a batch.

        A batch of two or more patches has patches of both kinds if there are other cases.
        """
        if not self.pseudo:
            return self.batch_size
        per_batch = self.batch_size * self.labelled_fraction
        if self.batch_size > 1:
            per_batch = min(max(per_batch, 1), self.batch_size - 1)
        return per_batch

    def _in_turn(
        self,
        cases: Sequence[TrainingCase],
        positions: range,
        stream: int,
    ) -> list[TrainingCase]:
        """Return the cases at ``positions`` of passes over ``cases``; each pass has a new order."""
        chosen = []
        for position in positions:
            turn, index = divmod(position, len(cases))
            order = np.random.default_rng([self.seed, stream, turn]).permutation(len(cases))
            chosen.append(cases[order[index]])
        return chosen

    def _centre(self, case: TrainingCase, rng: np.random.Generator) -> np.ndarray:
        """Draw the centre voxel of a patch."""
        shape = np.array(case.shape)
        patch = np.array(self.patch_size)
        free = np.maximum(shape - patch, 0)
        half = np.minimum(patch, shape) // 2
        centre = rng.integers(0, free + 1) + half
        locations = case.locations()
        if rng.random() < self.foreground_fraction and len(locations):
            centre = np.clip(_foreground_voxel(locations, rng), half, half + free)
        return centre


def _without_more_threads(reader: ThreadPoolExecutor) -> None:
    """Let the thread of ``reader`` compute without starting others.

    Otherwise it would start as many as the training has, and both would compete for the cores.
    """
    threads = torch.get_num_threads()
    reader.submit(_use_one_thread).result()
    # The number is stored for each thread, and once more for threads that start later.
    torch.set_num_threads(threads)


def _use_one_thread() -> None:
    """Let the present thread compute without others."""
    # Its first request takes over the number for threads that start later: later, that would undo
    # the next line.
    torch.get_num_threads()
    torch.set_num_threads(1)


def _foreground_voxel(locations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a class, each with equal probability, and a voxel of it."""
    wanted = rng.choice(np.unique(locations[:, 0]))
    candidates = locations[locations[:, 0] == wanted, 1:]
    return candidates[rng.integers(len(candidates))]
