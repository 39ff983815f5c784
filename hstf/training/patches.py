"""Batches of training regions, each a pure function of the seed and the step.

Nothing random is carried from step to step, so a resumed training sees exactly what it would have seen.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hstf.imaging.arrays import StoredArray, open_array
from hstf.imaging.geometry import IGNORED
from hstf.training.augmentation import ISOTROPIC_MR, Acquisition, region_size

AHEAD = 2  # batches that are read while one is learned from


Slices = tuple[slice, ...]


def overlap(start: np.ndarray, size: Sequence[int], shape: Sequence[int]) -> tuple[Slices, Slices]:
    """Where the box of ``size`` from ``start`` on lies in an array of ``shape``, and where that part lies in the box."""
    low, high = np.maximum(start, 0), np.minimum(start + size, shape)
    return (
        tuple(slice(a, b) for a, b in zip(low, high, strict=True)),
        tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True)),
    )


@dataclass(frozen=True)
class TrainingCase:
    """A case on the planned grid, read by region. Nothing stays open: there may be more cases than a process may open."""

    case_id: str
    image_path: Path
    target_path: Path | None
    """Class indices ``(X, Y, Z)`` of a labelled case, or 255 times target and weight ``(K + 1, X, Y, Z)``; none where
    nothing is known."""
    locations_path: Path | None
    pseudo: bool
    """Not labelled by a person."""

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        return [
            path
            for path in (self.image_path, self.target_path, self.locations_path)
            if path is not None
        ]

    @property
    def image(self) -> StoredArray:
        return open_array(self.image_path)

    def locations(self) -> np.ndarray:
        """``(M, 4)``: class and position of some voxels of each foreground class; in sparse labels of the background too."""
        if self.locations_path is None:
            return np.zeros((0, 4), np.int32)
        return np.load(self.locations_path, allow_pickle=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the three axes."""
        return self.image.shape[1:]

    def arrays(self) -> tuple[StoredArray | Tensor, StoredArray | Tensor | None]:
        """Image and target, to take parts of."""
        return self.image, None if self.target_path is None else open_array(self.target_path)

    def region(self, start: np.ndarray, size: Sequence[int], classes: int) -> Tensor:
        """Image, target and weight channels ``(C + K + 1, *size)`` float32 from ``start`` on, 0 outside the scan."""
        image, target = self.arrays()
        inside, place = overlap(start, size, image.shape[1:])
        voxels = torch.as_tensor(image[(slice(None), *inside)])
        channels = len(voxels)
        out = torch.zeros((channels + classes + 1, *size), device=voxels.device)
        view = out[(slice(None), *place)]
        view[:channels] = voxels
        if target is None:  # any class, equally likely, and of no weight, as ignored voxels are
            view[channels:-1] = 1 / classes
        elif len(target.shape) == 4:
            view[channels:] = torch.as_tensor(target[(slice(None), *inside)]) / 255
        else:
            label = torch.as_tensor(target[inside])
            view[channels:-1] = label == torch.arange(classes, device=label.device).reshape(
                -1, 1, 1, 1
            )
            view[channels:-1, label == IGNORED] = 1 / classes
            view[-1] = label != IGNORED
        return out


@dataclass(frozen=True)
class Batch:
    """Regions to cut the patches from."""

    region: Tensor
    """``(B, C + K + 1, *region_size)``: image, target probabilities, voxel weight."""
    pseudo: Tensor
    """``(B,)`` bool: cases without a person's label."""
    case_ids: tuple[str, ...]
    """Of the patches of all ranks."""


@dataclass(frozen=True)
class PatchSource:
    """Draws the batches of a training."""

    labelled: Sequence[TrainingCase]
    pseudo: Sequence[TrainingCase]
    classes: int
    patch_size: tuple[int, int, int]
    batch_size: int
    labelled_fraction: float
    foreground_fraction: float
    seed: int
    rank: int = 0
    """Which of the ``ranks`` processes of a training this is; of a batch it reads patches ``rank``, ``rank + ranks`` ..."""
    ranks: int = 1
    acquisition: Acquisition = ISOTROPIC_MR

    def batch(self, step: int) -> Batch:
        """The part of this rank in the batch of ``step``."""
        rng = np.random.default_rng([self.seed, step])
        cases, size = self._cases(step), region_size(self.patch_size)
        places = [(case, self._centre(case, rng) - np.array(size) // 2) for case in cases]
        own = places[self.rank :: self.ranks]
        regions = [case.region(start, size, self.classes) for case, start in own]
        if any(
            region.is_cuda for region in regions
        ):  # some are held on the GPU, others may not fit there
            regions = [region.cuda() for region in regions]
        return Batch(
            torch.stack(regions),
            torch.tensor([case.pseudo for case, _ in own]),
            tuple(case.case_id for case in cases),
        )

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps ``first`` to ``last`` - 1, read ahead in a thread while the network learns."""
        with ThreadPoolExecutor(1) as reader:
            waiting: list[Future[Batch]] = []
            for step in range(first, last + AHEAD):
                if step < last:
                    waiting.append(reader.submit(self.batch, step))
                if step >= first + AHEAD:
                    yield waiting.pop(0).result()

    def _cases(self, step: int) -> list[TrainingCase]:
        first, last = self._labelled_before(step), self._labelled_before(step + 1)
        pseudo = range(step * self.batch_size - first, (step + 1) * self.batch_size - last)
        return self._turn(self.labelled, range(first, last), 1) + self._turn(self.pseudo, pseudo, 2)

    def _labelled_before(self, step: int) -> int:
        """Patches of labelled cases before ``step``: their share holds over the steps whatever the batch size.

        A batch of two or more holds both kinds.
        """
        share = self.batch_size * self.labelled_fraction
        if self.batch_size > 1:
            share = min(max(share, 1), self.batch_size - 1)
        return int(step * share + 0.5) if self.pseudo else step * self.batch_size

    def _turn(
        self, cases: Sequence[TrainingCase], positions: range, stream: int
    ) -> list[TrainingCase]:
        """The cases at ``positions`` of passes through all ``cases``, each in a random order of its own."""
        chosen = []
        for position in positions:
            turn, index = divmod(position, len(cases))
            order = np.random.default_rng([self.seed, stream, turn]).permutation(len(cases))
            chosen.append(cases[order[index]])
        return chosen

    def _centre(self, case: TrainingCase, rng: np.random.Generator) -> np.ndarray:
        shape, patch = np.array(case.shape), np.array(self.patch_size)
        free = np.maximum(shape - patch, 0)
        centre = rng.integers(0, free + 1) + np.minimum(patch, shape) // 2
        locations = case.locations()
        if rng.random() < self.foreground_fraction and len(locations):
            centre = _labelled_voxel(locations, rng)
            half = np.minimum(patch, shape) // 2
            centre = np.clip(centre, half, half + free)
        return centre


def _labelled_voxel(locations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A voxel of a class drawn from those that the locations have, each equally often however small it is."""
    wanted = rng.choice(np.unique(locations[:, 0]))
    candidates = locations[locations[:, 0] == wanted, 1:]
    return candidates[rng.integers(len(candidates))]
