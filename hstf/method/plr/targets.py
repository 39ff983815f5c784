"""Training targets of pseudo-labels: soft where the teacher agrees with the label."""

import numpy as np

from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import most_likely


def training_target(
    label: np.ndarray,
    weight: np.ndarray,
    classes: int,
    probabilities: np.ndarray | None,
) -> np.ndarray:
    """Return target probabilities and voxel weights for the training.

    With ``probabilities``, the target of a voxel is soft. Where the most likely class is not the
    class of the label, the probabilities of the two classes are swapped: either the clean-up
    changed the class, or resampling decided between two classes that are almost equally likely. The
    class of the label is therefore always a most likely class of the target. Ignored voxels have
    weight 0, and all classes are equally likely there.

    Args:
        label: ``(X, Y, Z)`` uint8 class index, 255 for ignored voxels.
        weight: ``(X, Y, Z)`` uint8, 255 times the voxel weight.
        classes: number of classes K, background included.
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the calibrated probabilities; None for a
            one-hot target.

    Returns:
        ``(K + 1, X, Y, Z)`` uint8: 255 times the target probabilities, then 255 times the weight.

    Example:
        >>> label = np.array([[[0, 1]]], np.uint8)
        >>> weight = np.array([[[255, 128]]], np.uint8)
        >>> probabilities = np.array([[[[200, 180]]], [[[55, 75]]]], np.uint8)
        >>> target = training_target(label, weight, 2, probabilities)
        >>> target[1].tolist()  # swapped in the second voxel, whose label is 1
        [[[55, 180]]]
    """
    target = np.empty((classes + 1, *label.shape), np.uint8)
    for index in range(classes):
        target[index] = 255 * (label == index).view(np.uint8)
    target[:classes, label == IGNORED] = round(255 / classes)
    target[classes] = np.where(label == IGNORED, 0, weight)
    if probabilities is None:
        return target
    known = label < classes
    for index in range(classes):
        np.copyto(
            target[index],
            probabilities[index],
            where=known,
        )
    likely = most_likely(probabilities)
    differ = np.nonzero(known & (likely != label))
    of_label = (label[differ], *differ)
    of_likely = (likely[differ], *differ)
    target[of_label], target[of_likely] = target[of_likely], target[of_label]
    return target


def grid_weight(native_weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resample voxel weights, ``(X, Y, Z)`` uint8, to the planned grid."""
    weight = geometry.to_grid(native_weight, order=1)
    return np.rint(weight).clip(0, 255).astype(np.uint8)
