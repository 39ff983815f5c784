"""Base class of networks from MONAI, for comparison with the networks of the field.

These networks halve all axes alike, whatever the strides of the plan are. The plan sets voxel size,
patch size and channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hstf.imaging.spacing import Triple
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom
from hstf.models.field_of_view import crop_features


class PaddedNetwork(SegmentationNetwork):
    """A network of MONAI that accepts any size.

    The image is padded with zeros to multiples of the total stride, and the result is cropped.

    Args:
        spec: the specification.
        network: the network of MONAI.
        stride: its total stride.
        features: name of the submodule whose output is used as deep features. It has the stride 8,
            as the features of the hybrid network.
    """

    network: Any  # MONAI has no types

    def __init__(
        self,
        spec: NetworkSpec,
        network: nn.Module,
        stride: int,
        features: str,
    ) -> None:
        super().__init__(spec)
        self.network = network
        self.stride = stride
        self.features = features

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`.

        ``zoom`` has no effect: positions, if the network has any, are relative to the field of
        view.
        """
        size = x.shape[2:]
        padded = padded_size(size, self.stride)
        padding = _padding_at_end(size, padded)
        cropping = [-n for n in padding]
        with output_of(self.network.get_submodule(self.features)) as outputs:
            levels = self.levels(F.pad(x, padding))
        logits = [F.pad(level, cropping) for level in levels]
        fractions = [n / p for n, p in zip(size, padded, strict=True)]
        return Pyramid(logits, crop_features(outputs[0], (0, 0, 0), fractions))

    def levels(self, x: Tensor) -> list[Tensor]:
        """Compute logits ``(B, K, D, H, W)`` of the padded image ``x``, the best level first."""
        result = self.network(x)
        return result[::-1] if isinstance(result, list) else [result]


def padded_size(
    size: Sequence[int],
    stride: int,
) -> Triple:
    """Round ``size`` up to multiples of ``stride``.

    At least one axis gets two multiples, because instance norm needs more than one voxel.
    """
    cells = [ceil(n / stride) for n in size]
    if max(cells) == 1:
        cells[0] = 2
    return (stride * cells[0], stride * cells[1], stride * cells[2])


def _padding_at_end(
    size: Sequence[int],
    padded: Sequence[int],
) -> list[int]:
    """Return the padding for :func:`torch.nn.functional.pad`, which counts axes from the last."""
    padding = []
    for before, after in zip(size[::-1], padded[::-1], strict=True):
        padding += [0, after - before]
    return padding


@contextmanager
def output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of ``module`` while the block runs."""
    outputs: list[Tensor] = []

    def collect(
        _module: nn.Module,
        _inputs: Any,
        output: Tensor,
    ) -> None:
        outputs.append(output)

    handle = module.register_forward_hook(collect)
    try:
        yield outputs
    finally:
        handle.remove()
