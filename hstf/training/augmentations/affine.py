"""Rotation and zoom.

Patients are positioned differently and differ in size. Rotation and zoom act in millimetres, so
that a ball stays a ball on anisotropic voxels. Between thick slices there is nothing to
interpolate: such patches are rotated and zoomed within the slices only (the "dummy 2D" augmentation
of nnU-Net, Isensee et al. 2021).
"""

import math

import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.imaging.spacing import ANISOTROPY, Spacing, relative_spacing
from hstf.training.augmentations.draws import uniform


def random_matrices(
    batch: int,
    config: AugmentationConfig,
    spacing: Spacing,
    generator: torch.Generator,
) -> Tensor:
    """Draw rotations times zooms, ``(B, 3, 3)``, on the host.

    A matrix maps an offset from the centre of the patch (voxels) to an offset from the centre of
    the region that the patch is sampled from (voxels).
    """
    edge = torch.tensor(relative_spacing(spacing))
    rotation = _random_rotations(
        batch,
        config,
        edge,
        generator,
    )
    zoom = _random_zooms(
        batch,
        config,
        edge,
        generator,
    )
    return rotation / zoom[:, None, :] * (edge / edge[:, None])


def _random_rotations(
    batch: int,
    config: AugmentationConfig,
    edge: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw rotation matrices ``(B, 3, 3)`` in millimetres."""
    degrees = torch.tensor(config.rotation_degrees)
    limits = degrees * math.pi / 180 * _may_rotate(edge)
    a, b, c = ((2 * uniform((batch, 3), 0, 1, generator) - 1) * limits).unbind(1)
    zero = torch.zeros_like(a)
    one = torch.ones_like(a)
    about_x = [[one, zero, zero], [zero, a.cos(), -a.sin()], [zero, a.sin(), a.cos()]]
    about_y = [[b.cos(), zero, b.sin()], [zero, one, zero], [-b.sin(), zero, b.cos()]]
    about_z = [[c.cos(), -c.sin(), zero], [c.sin(), c.cos(), zero], [zero, zero, one]]
    return _matrix(about_x) @ _matrix(about_y) @ _matrix(about_z)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    """Stack entries ``(B,)`` to matrices ``(B, 3, 3)``."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _may_rotate(edge: Tensor) -> Tensor:
    """Return ``(3,)`` whether a rotation about each axis mixes axes of similar voxel size only."""
    others = torch.stack([edge[[axis - 2, axis - 1]] for axis in range(3)])
    return others.amax(1) <= ANISOTROPY * others.amin(1)


def _random_zooms(
    batch: int,
    config: AugmentationConfig,
    edge: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw the zoom ``(B, 3)`` of each axis; above 1 the anatomy appears larger."""
    low = math.log(config.scale_range[0])
    high = math.log(config.scale_range[1])
    zoom = uniform((batch, 1), low, high, generator).exp()
    stretch = 2 * uniform((batch, 3), 0, 1, generator) - 1
    zoom = zoom * (1 + config.anisotropy * stretch)
    return torch.where(edge > ANISOTROPY, 1.0, zoom)
