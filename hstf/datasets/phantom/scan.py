"""A case as a scanner would give it: contrast, texture, bias field, noise, scale and geometry."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hstf.datasets.phantom.anatomy import Anatomy, Rendering, draw_anatomy, render
from hstf.datasets.phantom.options import PhantomOptions
from hstf.datasets.phantom.shapes import Points, SmoothField, small_rotation

SLAB_VOXELS = 2_000_000  # some 30 float32 arrays of a slab live at once: 250 MB

# Brightness of the tissues in each of the four contrasts, 0 to 1.
TISSUES = {
    "air": (0.02, 0.02, 0.02, 0.02),
    "body": (0.28, 0.26, 0.34, 0.40),
    "bowel": (0.48, 0.50, 0.58, 0.58),
    "bone": (0.85, 0.12, 0.20, 0.95),
    "liver": (0.60, 0.40, 0.46, 0.66),
    "spleen": (0.52, 0.62, 0.62, 0.58),
    "kidney": (0.44, 0.76, 0.56, 0.76),
    "vessel": (0.76, 0.18, 0.72, 0.84),
    "lesion": (0.36, 0.66, 0.70, 0.48),
}
CONTRASTS = 4


@dataclass(frozen=True)
class Phantom:
    """A synthetic case."""

    images: np.ndarray
    """``(C, X, Y, Z)`` float32, one channel per modality, 0 and up."""
    label: np.ndarray
    """``(X, Y, Z)`` uint8, values of :data:`hstf.commands.phantom.PHANTOM_LABELS`."""
    affine: np.ndarray
    """``(4, 4)``, voxel index to mm (RAS+)."""


@dataclass(frozen=True)
class Contrast:
    """How one modality of one case shows the tissues."""

    levels: dict[str, float]
    """Brightness of each tissue, about 0 to 1."""
    texture: SmoothField
    texture_height: float
    bias: SmoothField
    bias_height: float
    gamma: float
    noise: float
    gain: float
    """Unit of the finished image: spans orders of magnitude between cases."""


def generate_case(seed: int, options: PhantomOptions, site: int = 0) -> Phantom:
    """The case of ``seed``: equal arguments give equal bytes.

    It is computed slab by slab, so that memory stays at the result and a few hundred MB.

    Args:
        site: index of the hospital, which sets the contrast when ``options.site_shift`` is not 0.
    """
    anatomy = draw_anatomy(np.random.default_rng([seed, 0]), options)
    contrasts = [
        draw_contrast(seed, options, channel, site) for channel in range(len(options.modalities))
    ]
    size, affine, axes = _draw_geometry(np.random.default_rng([seed, 1]), options)
    images = np.empty((len(contrasts), *size), np.float32)
    label = np.empty(size, np.uint8)
    for first, last, slab_axes, rendering in _slabs(anatomy, axes):
        label[..., first:last] = rendering.label
        for channel, contrast in enumerate(contrasts):
            signal = measure(rendering, contrast, slab_axes)
            for z in range(first, last):
                rng = np.random.default_rng([seed, 2, channel, z])
                images[channel, ..., z] = contrast.gain * rician(
                    signal[..., z - first], contrast.noise, rng
                )
    return Phantom(images, label, affine)


def _draw_geometry(
    rng: np.random.Generator, options: PhantomOptions
) -> tuple[tuple[int, ...], np.ndarray, list[np.ndarray]]:
    """Size in voxels, affine, and scene coordinates of the voxels along each array axis."""
    spread = options.size_variation
    size = tuple(
        max(8, round(n * f))
        for n, f in zip(options.size, rng.uniform(1 - spread, 1 + spread, 3), strict=True)
    )
    spacing = np.array(options.spacing) * rng.uniform(1 - spread, 1 + spread, 3)
    signs, turn = np.ones(3), np.eye(3)
    if options.oblique:
        signs, turn = rng.choice([-1.0, 1.0], 3), small_rotation(rng, 15)
    affine = np.eye(4)
    affine[:3, :3] = turn * signs * spacing
    centre = rng.normal(0, 50, 3)  # the middle of the volume lies anywhere in the scanner
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    axes = [
        (s * ((2 * np.arange(n) + 1) / n - 1)).astype(np.float32)
        for n, s in zip(size, signs, strict=True)
    ]
    return size, affine, axes


def _slabs(
    anatomy: Anatomy, axes: list[np.ndarray]
) -> Iterator[tuple[int, int, Points, Rendering]]:
    """Slabs of slices ``first`` to ``last``; a slice more on each side gives the slopes their context."""
    x, y, z = axes
    step = z[1] - z[0]
    padded = np.concatenate([[z[0] - step], z, [z[-1] + step]]).astype(np.float32)
    thickness = max(1, SLAB_VOXELS // (len(x) * len(y)))
    for first in range(0, len(z), thickness):
        last = min(first + thickness, len(z))
        whole = render(anatomy, (x, y, padded[first : last + 2]))
        layers = [
            {name: share[..., 1:-1] for name, share in layer.items()} for layer in whole.layers
        ]
        yield first, last, (x, y, z[first:last]), Rendering(whole.label[..., 1:-1], layers)


def draw_contrast(seed: int, options: PhantomOptions, channel: int, site: int) -> Contrast:
    """The contrast of modality number ``channel`` in the case of ``seed``."""
    rng, vary = np.random.default_rng([seed, 3, channel]), options.variation
    away = np.random.default_rng([site, channel])
    shift = options.site_shift * (site > 0)
    levels = {
        name: values[channel % CONTRASTS]
        * float(np.exp(rng.normal(0, 0.06 * vary) + shift * away.normal(0, 0.2)))
        for name, values in TISSUES.items()
    }
    return Contrast(
        levels=levels,
        texture=SmoothField.random(rng, 12),
        texture_height=0.06,
        bias=SmoothField.random(rng, 3),
        bias_height=options.bias,
        gamma=float(np.exp(rng.normal(0, 0.2 * vary) + shift * away.normal(0, 0.4))),
        noise=options.noise * float(np.exp(rng.uniform(-0.5, 0.5) * vary)),
        gain=float(10 ** rng.uniform(-1, 3)),
    )


def measure(rendering: Rendering, contrast: Contrast, axes: Points) -> np.ndarray:
    """The noiseless signal ``(X, Y, Z)`` float32 of a slab, 0 to about 1."""
    texture = 1 + np.float32(contrast.texture_height) * contrast.texture(axes)
    signal = np.full(rendering.label.shape, contrast.levels["air"], np.float32)
    for layer in rendering.layers:
        total = np.minimum(sum(layer.values()), 1)
        over = np.maximum(sum(layer.values()), 1)
        signal *= 1 - total
        for name, share in layer.items():
            signal += share / over * np.float32(contrast.levels[name]) * texture
    bias = np.exp(np.float32(contrast.bias_height) * contrast.bias(axes))
    return np.maximum(signal, 0) ** np.float32(contrast.gamma) * bias


def rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of ``signal`` with Gaussian noise in both its parts (Gudbjartsson and Patz, 1995)."""
    real, imaginary = sigma * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    return np.hypot(signal + real, imaginary)
