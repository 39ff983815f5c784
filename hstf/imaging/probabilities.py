"""Maps of class probabilities, worked on slab by slab: a slab is a range of the first spatial axis, so that a large scan
needs no second map."""

from collections.abc import Iterator, Sequence

import numpy as np

SLAB_VOXELS = 1 << 22
LEVELS = np.arange(256, dtype=np.float32) / 255


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of the first axis of ``shape`` that hold about :data:`SLAB_VOXELS` voxels, so that memory stays bounded."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def sharpen(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities raised to the power 1/T and normalised again: temperature scaling without logits.

    Guo et al., On Calibration of Modern Neural Networks, 2017: softmax(z/T) is p^(1/T) over its sum.

    Args:
        probabilities: ``(K, ...)`` uint8, 255 times the mean probability.
        temperature: below 1 sharpens, above 1 flattens.

    Returns:
        ``(K, ...)`` uint8.
    """
    powers = LEVELS ** np.float32(1 / temperature)
    calibrated = np.empty_like(probabilities)
    for slab in slabs(probabilities.shape[1:]):
        raised = powers[probabilities[:, slab]]
        raised *= 255 / np.maximum(raised.sum(axis=0), np.finfo(np.float32).tiny)
        calibrated[:, slab] = np.rint(raised)
    return calibrated


def most_likely(probabilities: np.ndarray) -> np.ndarray:
    """Class index ``(...)`` uint8 of ``probabilities`` ``(K, ...)``."""
    label = np.empty(probabilities.shape[1:], np.uint8)
    for slab in slabs(label.shape):
        label[slab] = probabilities[:, slab].argmax(axis=0)
    return label


def make_certain(
    probabilities: np.ndarray, label: np.ndarray, where: np.ndarray, full: float
) -> None:
    """Give ``full``, all there is, to the class of ``label`` in ``probabilities`` ``(K, ...)``, in place, ``where`` (bool).

    Class by class: an index of the voxels would take more memory than the probabilities of a large scan do.
    """
    for index, of_class in enumerate(probabilities):
        np.copyto(of_class, (label == index) * of_class.dtype.type(full), where=where)
