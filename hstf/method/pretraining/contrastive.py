"""Task ``contrastive``: recognise two crops of the same patient among crops of other patients.

SimCLR (Chen et al., ICML 2020) with multi-instance pairs (MICLe, Azizi et al., ICCV 2021): the two
crops of a pair overlap in one scan, or come from two scans of the same patient at the same relative
position. The loss is NT-Xent. Crops of the same patient are never negatives of each other. Only the
encoder and the transformer are trained, with a projection head that is not stored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.imaging.spacing import Triple
from hstf.method.pretraining.task import LOSS, Example, PretrainingTask, total_voxels
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom
from hstf.models.levels import total_stride
from hstf.models.registry import build
from hstf.runtime.devices import to_device
from hstf.runtime.errors import HstfError
from hstf.training.augmentations.spatial import region_size
from hstf.training.batch import Batch
from hstf.training.patches import PatchSource, RawBatch, TrainingCase
from hstf.training.state import TrainingState

PAIRS = (8, 64)
"""Minimum and maximum number of pairs that is chosen for a batch."""
SHIFT = 0.25
"""Maximum distance of two crops of a scan along each axis, relative to the crop. They have at least
three quarters of each axis in common."""


class Contrastive(PretrainingTask):
    """Recognise two crops of the same patient."""

    @property
    def outputs(self) -> int:
        """The output layers are not used."""
        return 1

    def build(self, spec: NetworkSpec) -> SegmentationNetwork:
        """Build the network with a projection head."""
        return ContrastiveNetwork(build(spec), self.section.contrastive.dimensions)

    def backbone(self, network: SegmentationNetwork) -> SegmentationNetwork:
        """Return the network without the projection head."""
        assert isinstance(network, ContrastiveNetwork)
        return network.network

    def source(self, source: PatchSource) -> PatchSource:
        """Return the source of the pairs.

        Raises:
            HstfError: if there is only one patient, so that there are no negatives.
        """
        patients = Counter(self.settings.patients[case.case_id] for case in source.labelled)
        if len(patients) < 2:
            raise HstfError(
                f"pretrain.task contrastive needs scans of at least 2 patients, found"
                f" {len(patients)}: choose another task."
            )
        section = self.section.contrastive
        stride = total_stride(self.plan.strides)
        crop = section.crop or crop_size(source.patch_size, stride)
        pairs = section.pairs or pair_count(source.patch_size, source.batch_size, crop)
        values = {**vars(source), "patch_size": checked_crop(crop, stride), "batch_size": pairs}
        return PairSource(**values, patients=self.settings.patients, other_scan=section.other_scan)

    def __call__(self, state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        """Compute NT-Xent of the crops, summed over the networks of a pair."""
        names = [self.settings.patients[case_id] for case_id in batch.case_ids]
        network = state.network
        assert isinstance(network, ContrastiveNetwork)
        losses = []
        for projected in network.project(batch.strong()):
            losses.append(nt_xent(projected, names, self.section.contrastive.temperature))
        return {LOSS: torch.stack(losses).sum()}

    def examples(self, network: SegmentationNetwork, batch: Batch) -> Sequence[Example]:
        """Return pictures of the pairs of a batch."""
        images = batch.strong()
        pairs = len(images) // 2
        found = []
        for index in range(pairs):
            panels = {
                "first crop": images[index, 0],
                "second crop": images[index + pairs, 0],
            }
            found.append(Example(panels, batch.case_ids[index]))
        return found


class ContrastiveNetwork(SegmentationNetwork):
    """A network with a projection of its deepest features.

    Args:
        network: a network, or a pair of networks with a projection each.
        dimensions: dimensions of the projection.
    """

    def __init__(self, network: SegmentationNetwork, dimensions: int) -> None:
        super().__init__(network.spec)
        self.network = network
        heads = []
        for part in network.parts:
            width = encoder_width(part)
            heads.append(
                nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, dimensions))
            )
        self.projections = nn.ModuleList(heads)

    @property
    def parts(self) -> tuple[SegmentationNetwork, ...]:
        """The networks without projection."""
        return self.network.parts

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`."""
        return self.network.pyramid(x, zoom)

    def project(self, x: Tensor) -> list[Tensor]:
        """Compute the projection ``(B, dimensions)`` of the image by each part.

        The mean of a feature map is almost the same for all images, because the encoder ends with
        an instance norm. Its maximum is not.
        """
        found = []
        for part, head in zip(self.network.parts, self.projections, strict=True):
            features = part.encode(x)
            pooled = torch.cat([features.mean((2, 3, 4)), features.amax((2, 3, 4))], dim=1)
            found.append(head(pooled))
        return found


def encoder_width(network: SegmentationNetwork) -> int:
    """Return the number of channels of the deepest feature map.

    Example:
        >>> levels = {"strides": ((1, 1, 1), (2, 2, 2)), "kernels": ((3, 3, 3),) * 2}
        >>> encoder_width(build(NetworkSpec("cnn", 1, 1, (4, 8), spacing=(1, 1, 1), **levels)))
        8
    """
    size = [2 * stride for stride in network.divisor]
    network.eval()
    with torch.no_grad():
        features = network.encode(torch.zeros(1, network.spec.inputs, *size))
    network.train()
    return features.shape[1]


def nt_xent(projected: Tensor, patients: Sequence[str], temperature: float) -> Tensor:
    """Compute the normalised temperature-scaled cross-entropy (NT-Xent) of pairs.

    Args:
        projected: ``(2N, dimensions)``; row k and row k + N are a pair.
        patients: the patient of each row. Rows of the same patient are no negatives.
        temperature: divides the cosine similarities.

    Example:
        >>> same = torch.eye(2).repeat(2, 1)  # pairs agree, patients are orthogonal
        >>> loss = nt_xent(same, ["a", "b", "a", "b"], temperature=1.0)
        >>> round(loss.item(), 4)  # -log(e / (e + 1 + 1))
        0.5514
    """
    unit = F.normalize(projected.float(), dim=1)
    similarity = unit @ unit.T / temperature
    partners = positives(len(patients))
    is_left_out = torch.tensor([[a == b for b in patients] for a in patients])
    is_left_out[torch.arange(len(patients)), partners] = False
    similarity = similarity.masked_fill(to_device(is_left_out, similarity.device), -inf)
    return F.cross_entropy(similarity, to_device(partners, similarity.device))


def positives(rows: int) -> Tensor:
    """Return the index of the other crop of each crop.

    Example:
        >>> positives(6).tolist()
        [3, 4, 5, 0, 1, 2]
    """
    return (torch.arange(rows) + rows // 2) % rows


@dataclass(frozen=True)
class PairSource(PatchSource):
    """Draws pairs of crops: first all first crops of a batch, then all second crops."""

    patients: Mapping[str, str] = field(default_factory=dict)
    """The patient of each case."""
    other_scan: float = 0.5
    """Probability of a second crop from another scan of the patient."""

    @cached_property
    def scans(self) -> dict[str, list[TrainingCase]]:
        """The scans of each patient."""
        found: dict[str, list[TrainingCase]] = {}
        for case in self.labelled:
            found.setdefault(self.patients[case.case_id], []).append(case)
        return found

    def batch(self, step: int) -> RawBatch:
        """Read the regions of all crops of a step."""
        rng = np.random.default_rng([self.seed, step])
        size = region_size(self.patch_size, self.quarter_turns, self.acquisition.spacing)
        firsts = []
        seconds = []
        for case in self._cases(step):
            centre = self._centre(case, rng)
            firsts.append((case, centre))
            seconds.append(self._second(case, centre, rng))
        chosen = [*firsts, *seconds]
        regions = [
            case.region(centre - np.array(size) // 2, size, self.classes) for case, centre in chosen
        ]
        return RawBatch(
            tuple(regions),
            tuple(case.pseudo for case, _ in chosen),
            tuple(case.case_id for case, _ in chosen),
        )

    def _second(
        self, case: TrainingCase, centre: np.ndarray, rng: np.random.Generator
    ) -> tuple[TrainingCase, np.ndarray]:
        """Draw the scan and the centre of the second crop."""
        patch = np.array(self.patch_size)
        shift = np.rint(rng.uniform(-SHIFT, SHIFT, 3) * patch).astype(int)
        scans = self.scans[self.patients[case.case_id]]
        others = [scan for scan in scans if scan is not case]
        other = case
        if others and rng.random() < self.other_scan:
            other = others[rng.integers(len(others))]
            centre = (centre * np.array(other.shape) / np.array(case.shape)).astype(int)
        return other, self._inside(other, centre + shift)

    def _inside(self, case: TrainingCase, centre: np.ndarray) -> np.ndarray:
        """Move the centre of a crop such that the crop is inside the scan, if it fits."""
        shape = np.array(case.shape)
        patch = np.array(self.patch_size)
        half = np.minimum(patch, shape) // 2
        return np.clip(centre, half, half + np.maximum(shape - patch, 0))


def crop_size(patch: Sequence[int], stride: Sequence[int]) -> Triple:
    """Return half of a patch as multiples of the total stride.

    At least one axis has two multiples, because instance norm needs more than one voxel.

    Example:
        >>> crop_size((160, 128, 10), (32, 32, 2))
        (96, 64, 6)
    """
    cells = [max(1, ceil(n / 2 / step)) for n, step in zip(patch, stride, strict=True)]
    if max(cells) == 1:
        cells[0] = 2
    return cells[0] * stride[0], cells[1] * stride[1], cells[2] * stride[2]


def checked_crop(crop: Sequence[int], stride: Sequence[int]) -> Triple:
    """Return the size of a crop, if the network can encode it.

    Raises:
        HstfError: if it is not a multiple of the total stride, or a single voxel at the deepest
            level.

    Example:
        >>> checked_crop((8, 8, 4), (4, 4, 4))
        (8, 8, 4)
    """
    is_multiple = all(n > 0 and n % step == 0 for n, step in zip(crop, stride, strict=True))
    if not is_multiple or tuple(crop) == tuple(stride):
        raise HstfError(
            f"pretrain.contrastive.crop is {list(crop)}, expected multiples of the total stride"
            f" {list(stride)}, two or more along an axis."
        )
    return crop[0], crop[1], crop[2]


def pair_count(patch: Sequence[int], batch: int, crop: Sequence[int]) -> int:
    """Return how many pairs have about twice the voxels of a planned batch.

    Example:
        >>> pair_count((64, 64, 64), 2, (32, 32, 32))
        16
    """
    voxels = 2 * batch * total_voxels(patch)
    pairs = voxels // (2 * total_voxels(crop))
    return int(min(max(pairs, PAIRS[0]), PAIRS[1]))
