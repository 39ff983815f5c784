"""Synthetic data sets in the layouts of public ones: file names, data types, axes and label values.

``hstf import`` reads all of them. The anatomy is always the same: in the layout of BraTS, for
instance, the liver has the label of the oedema.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hstf.datasets.phantom.dataset import case_seed, site_of, split_of, training_label
from hstf.datasets.phantom.layouts.acdc import ACDC
from hstf.datasets.phantom.layouts.base import Axes, Layout, Scan
from hstf.datasets.phantom.layouts.bids import BIDS
from hstf.datasets.phantom.layouts.brats import BRATS, BRATS_2023
from hstf.datasets.phantom.layouts.folder import FOLDER
from hstf.datasets.phantom.layouts.lits import LITS
from hstf.datasets.phantom.layouts.msd import MSD
from hstf.datasets.phantom.layouts.nnunet import NNUNET
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import Phantom, generate_case
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import track

SECOND_SCAN = 1_000_000
"""Difference between the case numbers of the first and the second scan of a patient."""
LAYOUTS = {
    "acdc": ACDC,
    "brats": BRATS,
    "brats2023": BRATS_2023,
    "lits": LITS,
    "msd": MSD,
    "nnunet": NNUNET,
    "folder": FOLDER,
    "bids": BIDS,
}
"""Layouts by name, in the order of :data:`hstf.datasets.phantom.options.LAYOUT_NAMES`."""


def write_layout(
    folder: Path,
    layout: Layout,
    options: PhantomOptions,
) -> Path:
    """Write the data set to ``folder``.

    Returns:
        The folder.

    Raises:
        HstfError: if a file cannot be written, or if the layout does not support requested
        scribbles.
    """
    if options.scribbles and layout.ignore is None:
        known = [name for name, other in LAYOUTS.items() if other.ignore is not None]
        raise HstfError(
            "--scribbles: this layout has no value for voxels to ignore."
            f" These have: {', '.join(known)}."
        )
    # The layout defines the array axes.
    options = replace(options, oblique=False)
    for number in track(range(options.cases), "phantom"):
        draw = partial(_draw, layout, options, number)
        layout.write(folder, draw, options)
    if layout.finish is not None:
        layout.finish(folder, options, layout.values)
    return folder


def _draw(
    layout: Layout,
    options: PhantomOptions,
    number: int,
    scan: int,
) -> Scan:
    """Compute a scan of case ``number``."""
    seed = case_seed(options.seed, number + scan * SECOND_SCAN)
    phantom = generate_case(seed, options, site_of(options, number))
    values = np.zeros(max(PHANTOM_LABELS.values()) + 1, np.uint8)
    for name, value in layout.values.items():
        values[PHANTOM_LABELS[name]] = value
    images = []
    for image in phantom.images:
        normalised = image / np.percentile(image, 99)
        images.append(_flip(normalised, layout.axes))
    label = _flip(values[phantom.label], layout.axes)
    if layout.ignore is not None:
        label = training_label(label, options, number, layout.ignore)
    return Scan(
        number=number,
        split=split_of(options, number),
        images=images,
        label=label,
        affine=_flipped_affine(phantom, layout.axes),
    )


def _flip(data: np.ndarray, axes: Axes) -> np.ndarray:
    """Flip ``data`` from RAS to ``axes``."""
    flipped = tuple(axis for axis, sign in enumerate(axes) if sign < 0)
    return np.flip(data, flipped)


def _flipped_affine(phantom: Phantom, axes: Axes) -> np.ndarray:
    """Return the affine of arrays that :func:`_flip` has flipped."""
    flip = np.eye(4)
    for axis, sign in enumerate(axes):
        if sign < 0:
            flip[axis, axis] = -1
            flip[axis, 3] = phantom.label.shape[axis] - 1
    return phantom.affine @ flip
