"""Batches of training regions.

Each batch is a pure function of the seed and the step. No random state is carried from step to
step, so that a resumed training sees the same batches as an uninterrupted one.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hstf.imaging.arrays import StoredArray, open_array
from hstf.imaging.label_values import IGNORED
from hstf.imaging.spacing import Triple
from hstf.runtime.files import sha256_file
from hstf.runtime.recorded_files import RecordedFile
from hstf.training.augmentations.acquisition import ISOTROPIC_MR, Acquisition
from hstf.training.augmentations.spatial import region_size

AHEAD = 2
"""Number of batches that are read ahead."""
LABELLED_STREAM = 1
PSEUDO_STREAM = 2
"""Random streams that decide the order of the labelled and of the other cases."""

Slices = tuple[slice, ...]


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
    ) -> Tensor:
        """Read a region of image, target and weight.

        Args:
            start: first voxel of the region; may be negative.
            size: size of the region (voxels).
            classes: number of classes K.

        Returns:
            ``(C + K + 1, *size)`` float32: channels of the image, target probabilities and weight;
            all are 0 outside the scan.
        """
        image, target = self.arrays()
        inside, place = overlap(start, size, image.shape[1:])
        voxels = torch.as_tensor(image[(slice(None), *inside)])
        channels = len(voxels)
        region = torch.zeros((channels + classes + 1, *size), device=voxels.device)
        part = region[(slice(None), *place)]
        part[:channels] = voxels
        if target is None:
            # All classes are equally likely and the weight is 0, as for ignored voxels.
            part[channels:-1] = 1 / classes
        elif len(target.shape) == 4:
            part[channels:] = torch.as_tensor(target[(slice(None), *inside)]) / 255
        else:
            label = torch.as_tensor(target[inside])
            indices = torch.arange(classes, device=label.device).reshape(-1, 1, 1, 1)
            part[channels:-1] = label == indices
            part[channels:-1, label == IGNORED] = 1 / classes
            part[-1] = label != IGNORED
        return region


@dataclass(frozen=True)
class RawBatch:
    """Regions of scans, from which the patches of a batch are cut."""

    region: Tensor
    """``(B, C + K + 1, *region_size)``: image, target probabilities, voxel weight."""
    pseudo: Tensor
    """``(B,)`` bool: cases without a manual label."""
    case_ids: tuple[str, ...]
    """Cases of the patches of all ranks."""


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

    def batch(self, step: int) -> RawBatch:
        """Read the regions of this rank for a step."""
        rng = np.random.default_rng([self.seed, step])
        cases = self._cases(step)
        size = region_size(self.patch_size)
        # Every rank draws the positions of the whole batch, so that they do not depend on ranks.
        starts = [self._centre(case, rng) - np.array(size) // 2 for case in cases]
        own = slice(self.rank, None, self.ranks)
        own_cases = cases[own]
        regions = [
            case.region(start, size, self.classes)
            for case, start in zip(own_cases, starts[own], strict=True)
        ]
        if any(region.is_cuda for region in regions):
            # Some cases are in the GPU cache, others may not fit into it.
            regions = [region.cuda() for region in regions]
        return RawBatch(
            torch.stack(regions),
            torch.tensor([case.pseudo for case in own_cases]),
            tuple(case.case_id for case in cases),
        )

    def batches(self, first: int, last: int) -> Iterator[RawBatch]:
        """Yield the batches of the steps from ``first`` to ``last - 1``.

        A thread reads the next batches while the network trains.
        """
        with ThreadPoolExecutor(1) as reader:
            waiting: list[Future[RawBatch]] = []
            for step in range(first, last + AHEAD):
                if step < last:
                    waiting.append(reader.submit(self.batch, step))
                if step >= first + AHEAD:
                    yield waiting.pop(0).result()

    def _cases(self, step: int) -> list[TrainingCase]:
        first = self._labelled_before(step)
        last = self._labelled_before(step + 1)
        others = range(step * self.batch_size - first, (step + 1) * self.batch_size - last)
        labelled = self._in_turn(self.labelled, range(first, last), LABELLED_STREAM)
        return labelled + self._in_turn(self.pseudo, others, PSEUDO_STREAM)

    def _labelled_before(self, step: int) -> int:
        """Return the number of labelled patches before ``step``.

        Their fraction is kept over the steps for every batch size. A batch of two or more patches
        has patches of both kinds.
        """
        if not self.pseudo:
            return step * self.batch_size
        per_batch = self.batch_size * self.labelled_fraction
        if self.batch_size > 1:
            per_batch = min(max(per_batch, 1), self.batch_size - 1)
        return int(step * per_batch + 0.5)

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


def _foreground_voxel(locations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a class, each with equal probability, and a voxel of it."""
    wanted = rng.choice(np.unique(locations[:, 0]))
    candidates = locations[locations[:, 0] == wanted, 1:]
    return candidates[rng.integers(len(candidates))]
