"""Operations on maps of class probabilities.

They work in slabs, so that a large scan needs no second map of its size.
"""

import numpy as np

from hstf.imaging.slabs import slabs

LEVELS = np.arange(256, dtype=np.float32) / 255
"""Probability that each value of a uint8 map stands for."""


MINIMUM_POSITIVE = np.finfo(np.float32).tiny
MINIMUM_PROBABILITY = 1e-6
"""Lower bound of probabilities in a logarithm."""


def apply_temperature(
    probabilities: np.ndarray,
    temperature: float,
) -> np.ndarray:
    """Scale probabilities by a temperature.

    Softmax of the logits divided by T is the same as probabilities to the power of 1/T, normalised
    (Guo et al., On Calibration of Modern Neural Networks, 2017). Hence no logits are needed.

    Args:
        probabilities: ``(K, ...)`` uint8, 255 times the probability.
        temperature: T. Below 1 it sharpens the probabilities, above 1 it flattens them.

    Returns:
        ``(K, ...)`` uint8.
    """
    powers = LEVELS ** np.float32(1 / temperature)
    scaled = np.empty_like(probabilities)
    for slab in slabs(probabilities.shape[1:]):
        raised = powers[probabilities[:, slab]]
        total = np.maximum(raised.sum(axis=0), MINIMUM_POSITIVE)
        raised *= 255 / total
        scaled[:, slab] = np.rint(raised)
    return scaled


def most_likely(probabilities: np.ndarray) -> np.ndarray:
    """Return the most likely class ``(...)`` uint8 of ``probabilities`` ``(K, ...)``."""
    label = np.empty(probabilities.shape[1:], np.uint8)
    for slab in slabs(label.shape):
        planes = probabilities[:, slab]
        label[slab] = planes.argmax(axis=0)
    return label


def entropy(mean: np.ndarray) -> np.ndarray:
    """Return the entropy ``(...)`` of ``mean`` ``(K, ...)``, divided by its maximum ``log K``."""
    terms = mean * np.log(mean.clip(MINIMUM_PROBABILITY))
    return -terms.sum(axis=0) / np.log(len(mean))


def make_certain(
    probabilities: np.ndarray,
    label: np.ndarray,
    where: np.ndarray,
    full: float,
) -> None:
    """Assign the full probability to one class, in place.

    Args:
        probabilities: ``(K, ...)``.
        label: ``(...)`` class index.
        where: ``(...)`` bool, the voxels to change.
        full: value of probability 1, such as 255.
    """
    # One class at a time: indices of the voxels would need more memory than the probabilities.
    for index, of_class in enumerate(probabilities):
        value = of_class.dtype.type(full)
        certain = (label == index) * value
        np.copyto(of_class, certain, where=where)
