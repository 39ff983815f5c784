"""Read what an external teacher has written, and check it against the image of the case."""

import zipfile
from pathlib import Path

import numpy as np

from hstf.experiment.label_maps import Values
from hstf.imaging.geometry import Geometry
from hstf.imaging.stored_voxels import stored_voxels
from hstf.imaging.volume_files import open_any
from hstf.imaging.volumes import Volume, blank_volume, grid_mismatch, read_image
from hstf.runtime.errors import HstfError

NPZ_KEYS = ("probabilities", "softmax")
"""Names of the array in a file of nnU-Net, of this and of earlier versions."""
TOLERANCE = 0.01
"""How far rounding may put a probability out of 0 to 1."""
MAXIMUM_LABEL = 65535


def read_labels(path: Path, image: Path, tolerance_mm: float) -> Volume:
    """Read the label map of an external teacher.

    Args:
        path: what the teacher wrote.
        image: the image of the case.
        tolerance_mm: maximum distance of the corners of both.

    Raises:
        HstfError: if it cannot be read, has another geometry than the image, or no label values.
    """
    volume = read_image(path, is_mask=True)
    _refuse_other_grid(volume, image, tolerance_mm, path)
    rounded = np.rint(volume.data)
    with np.errstate(invalid="ignore"):
        is_label = (np.abs(volume.data - rounded) < 1e-3) & (rounded >= 0)
        is_label &= rounded <= MAXIMUM_LABEL
    if not is_label.all():
        found = float(volume.data[~is_label][0])
        raise HstfError(
            f"{path.name}: has the value {found:g}, expected whole numbers from 0. If these are"
            " probabilities, set probabilities: true"
        )
    dtype = np.uint8 if rounded.max(initial=0) <= 255 else np.float32
    return Volume(rounded.astype(dtype), volume.affine, volume.header)


def read_probabilities(
    path: Path, image: Path, tolerance_mm: float, geometry: Geometry, values: Values
) -> np.ndarray:
    """Read the probabilities of an external teacher, and put those of its groups on the grid.

    Args:
        path: NIfTI file with four axes, or a file ``.npz`` of nnU-Net.
        image: the image of the case.
        tolerance_mm: maximum distance of the corners of both.
        geometry: geometry of the case.
        values: values of each group; they are the numbers of the channels.

    Returns:
        ``(G + 1, X, Y, Z)`` uint8, 255 times the probability of each group, the rest first.

    Raises:
        HstfError: if the file cannot be read, has another geometry, or no probabilities.
    """
    channels = (
        _from_npz(path, image) if path.suffix == ".npz" else _from_nifti(path, image, tolerance_mm)
    )
    highest = max(max(of_group) for of_group in values.values())
    if highest >= len(channels):
        raise HstfError(
            f"{path.name}: has {len(channels)} channels, but 'labels' names the value {highest}"
        )
    lowest, top = float(channels.min()), float(channels.max())
    if not (lowest >= -TOLERANCE and top <= 1 + TOLERANCE):
        raise HstfError(f"{path.name}: has values from {lowest:g} to {top:g}, expected 0 to 1")
    total = np.maximum(channels.sum(axis=0, dtype=np.float32), 1e-6)
    result = np.zeros((len(values) + 1, *geometry.grid_shape), np.float32)
    for number, of_group in enumerate(values.values(), start=1):
        native = channels[list(of_group)].sum(axis=0, dtype=np.float32) / total
        result[number] = geometry.to_grid(native, order=1).clip(0, 1)
    result[0] = (1 - result[1:].sum(axis=0)).clip(0, 1)
    return np.rint(255 * result).astype(np.uint8)


def _from_nifti(path: Path, image: Path, tolerance_mm: float) -> np.ndarray:
    """Return the channels ``(V, X, Y, Z)`` of a NIfTI file with four axes."""
    opened = open_any(path)
    if len(opened.shape) != 4 or opened.shape[3] < 2:
        raise HstfError(
            f"{path.name}: has shape {tuple(opened.shape)}, expected four axes, the last one with"
            " a probability for each value"
        )
    try:
        data = stored_voxels(opened, np.dtype(np.float32))
    except Exception as error:  # damaged bytes cause errors of many kinds
        raise HstfError(f"{path.name}: the voxels cannot be read ({error})") from error
    first = Volume(data[..., 0], np.asarray(opened.affine, dtype=float), opened.header)
    _refuse_other_grid(first, image, tolerance_mm, path)
    return np.moveaxis(data, 3, 0)


def _from_npz(path: Path, image: Path) -> np.ndarray:
    """Return the channels ``(V, X, Y, Z)`` of a file of nnU-Net, which has ``(V, Z, Y, X)``."""
    try:
        with np.load(path, allow_pickle=False) as content:
            keys = [key for key in NPZ_KEYS if key in content]
            if not keys:
                raise HstfError(f"{path.name}: has {', '.join(content)}, expected 'probabilities'")
            array = content[keys[0]]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise HstfError(f"{path.name}: cannot be read ({error})") from error
    shape = tuple(blank_volume(image).data.shape)
    if array.ndim != 4 or tuple(array.shape[:0:-1]) != shape:
        raise HstfError(
            f"{path.name}: has shape {array.shape}, expected a channel for each value and then"
            f" {shape[::-1]}, the axes of the image in reverse order"
        )
    return np.transpose(array, (0, 3, 2, 1))


def _refuse_other_grid(volume: Volume, image: Path, tolerance_mm: float, path: Path) -> None:
    mismatch = grid_mismatch(volume, blank_volume(image), tolerance_mm)
    if mismatch:
        raise HstfError(f"{path.name}: {mismatch}. The output must have the voxels of the image")
