"""Open FreeSurfer volumes (.mgz, .mgh) and NIfTI or Analyze pairs (.hdr and .img) as NIfTI."""

from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from hstf.runtime.voxel_files import voxel_file

FREESURFER = (".mgz", ".mgh")
PAIR = ".hdr"
FORMATS = (*FREESURFER, PAIR)
SINGLE_FILE_MAGIC = b"n+1"


def open_other(path: Path) -> nib.Nifti1Image:
    """Read the header of a volume as that of a NIfTI image. The voxels are not read.

    Raises:
        Exception: of many kinds, if the file is damaged.
    """
    voxels = voxel_file(path)
    if voxels is not None and voxels.parent != path.parent:
        path = path.resolve()  # a link: nibabel looks for the voxels beside it
    image = cast(SpatialImage, nib.load(path, mmap=False))
    if isinstance(image, nib.Nifti1Pair):
        return _nifti_of_pair(image)
    converted = nib.Nifti1Image(image.dataobj, image.affine, dtype=image.get_data_dtype())
    has_orientation = isinstance(image, nib.MGHImage) and bool(image.header["goodRASFlag"])
    if isinstance(image, nib.MGHImage):
        converted.header.set_xyzt_units("mm")
    # update_affine=False: the header has single precision, the affine must keep double precision.
    code = 1 if has_orientation else 0
    converted.set_qform(image.affine, code=code, update_affine=False)
    converted.set_sform(image.affine, code=code, update_affine=False)
    return converted


def has_nifti_header(path: Path) -> bool:
    """Return whether a header starts as that of NIfTI-1 or Analyze, with ``pixdim``."""
    return path.suffix.lower() == PAIR


def _nifti_of_pair(pair: nib.Nifti1Pair) -> nib.Nifti1Image:
    """Return a pair as an image in one file, with the same header."""
    header = nib.Nifti1Header(pair.header.binaryblock, pair.header.endianness, check=False)
    header["magic"] = SINGLE_FILE_MAGIC
    header["vox_offset"] = 0
    affine = np.asarray(pair.affine)
    return nib.Nifti1Image(pair.dataobj, affine, header)
