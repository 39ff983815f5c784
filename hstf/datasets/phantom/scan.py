"""The image of a case: contrast, texture, bias field, noise, intensity scale and geometry."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hstf.datasets.phantom.anatomy import Anatomy, Rendering, draw_anatomy, render
from hstf.datasets.phantom.options import MINIMUM_SIZE, PhantomOptions
from hstf.datasets.phantom.shapes import Points, SmoothField, small_rotation
from hstf.imaging.slabs import slabs

SLAB_VOXELS = 2_000_000
"""Voxels that are computed at once: about 30 float32 arrays of this size, 250 MB."""

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
"""Brightness of the tissues in each of the four contrasts, 0 to 1."""
CONTRASTS = 4

# Numbers of the random streams of a case.
ANATOMY = 0
GEOMETRY = 1
NOISE = 2
CONTRAST = 3


@dataclass(frozen=True)
class Phantom:
    """A synthetic case."""

    images: np.ndarray
    """``(C, X, Y, Z)`` float32, at least 0, with a channel for each modality."""
    label: np.ndarray
    """``(X, Y, Z)`` uint8, values of :data:`hstf.datasets.phantom.options.PHANTOM_LABELS`."""
    affine: np.ndarray
    """``(4, 4)``, voxel index to mm (RAS+)."""


@dataclass(frozen=True)
class Contrast:
    """The appearance of the tissues in a modality of a case."""

    levels: dict[str, float]
    """Brightness of each tissue, about 0 to 1."""
    texture: SmoothField
    texture_height: float
    bias: SmoothField
    bias_height: float
    gamma: float
    noise: float
    gain: float
    """Factor of all values. It varies by orders of magnitude between cases."""


@dataclass(frozen=True)
class Slab:
    """The slices ``first`` to ``last`` (excluded) of a case."""

    first: int
    last: int
    axes: Points
    """Scene coordinates of the slab."""
    rendering: Rendering


def generate_case(
    seed: int,
    options: PhantomOptions,
    site: int = 0,
) -> Phantom:
    """Compute a case. The same arguments produce the same bytes.

    The case is computed in slabs, so that memory is limited to the result and a few hundred MB.

    Args:
        seed: seed of the case.
        options: options of the data set.
        site: number of the hospital, which changes the contrast if ``options.site_shift`` is not 0.
    """
    anatomy = draw_anatomy(np.random.default_rng([seed, ANATOMY]), options)
    channels = len(options.modalities)
    contrasts = [draw_contrast(seed, options, channel, site) for channel in range(channels)]
    rng = np.random.default_rng([seed, GEOMETRY])
    size, affine, axes = _draw_geometry(rng, options)
    images = np.empty((channels, *size), np.float32)
    label = np.empty(size, np.uint8)
    for slab in _slabs(anatomy, axes):
        label[..., slab.first : slab.last] = slab.rendering.label
        for channel, contrast in enumerate(contrasts):
            signal = measure(slab.rendering, contrast, slab.axes)
            for z in range(slab.first, slab.last):
                # Each slice has its own random stream, so that slabs may have any thickness.
                rng = np.random.default_rng([seed, NOISE, channel, z])
                noisy = rician(signal[..., z - slab.first], contrast.noise, rng)
                images[channel, ..., z] = contrast.gain * noisy
    return Phantom(images, label, affine)


def _draw_geometry(
    rng: np.random.Generator,
    options: PhantomOptions,
) -> tuple[tuple[int, ...], np.ndarray, list[np.ndarray]]:
    """Draw the geometry of a case.

    Returns:
        Size in voxels, affine, and scene coordinates of the voxels along each array axis.
    """
    low = 1 - options.size_variation
    high = 1 + options.size_variation
    size = []
    for voxels, factor in zip(options.size, rng.uniform(low, high, 3), strict=True):
        size.append(max(MINIMUM_SIZE, round(voxels * factor)))
    spacing = np.array(options.spacing) * rng.uniform(low, high, 3)
    flips = np.ones(3)
    rotation = np.eye(3)
    if options.oblique:
        flips = rng.choice([-1.0, 1.0], 3)
        rotation = small_rotation(rng, 15)
    affine = np.eye(4)
    affine[:3, :3] = rotation * flips * spacing
    # The centre of the volume has a random position in the scanner.
    centre = rng.normal(0, 50, 3)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    axes = []
    for voxels, flip in zip(size, flips, strict=True):
        coordinates = (2 * np.arange(voxels) + 1) / voxels - 1
        axes.append((flip * coordinates).astype(np.float32))
    return tuple(size), affine, axes


def _slabs(anatomy: Anatomy, axes: list[np.ndarray]) -> Iterator[Slab]:
    """Yield the slabs of a case.

    Each slab is computed with an additional slice on both sides, which gradients need.
    """
    x, y, z = axes
    step = z[1] - z[0]
    padded = np.concatenate([[z[0] - step], z, [z[-1] + step]]).astype(np.float32)
    for slices in slabs((len(z), len(x), len(y)), SLAB_VOXELS):
        first = slices.start
        last = slices.stop
        whole = render(anatomy, (x, y, padded[first : last + 2]))
        inner = Rendering(
            whole.label[..., 1:-1],
            [_crop(layer) for layer in whole.layers],
        )
        yield Slab(first, last, (x, y, z[first:last]), inner)


def _crop(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove the first and the last slice of all tissues."""
    return {name: values[..., 1:-1] for name, values in layer.items()}


def draw_contrast(
    seed: int,
    options: PhantomOptions,
    channel: int,
    site: int,
) -> Contrast:
    """Draw the contrast of a modality of a case.

    Args:
        seed: seed of the case.
        options: options of the data set.
        channel: number of the modality.
        site: number of the hospital.
    """
    rng = np.random.default_rng([seed, CONTRAST, channel])
    site_rng = np.random.default_rng([site, channel])
    vary = options.variation
    shift = options.site_shift * (site > 0)
    levels = {}
    for name, values in TISSUES.items():
        exponent = rng.normal(0, 0.06 * vary) + shift * site_rng.normal(0, 0.2)
        levels[name] = values[channel % CONTRASTS] * float(np.exp(exponent))
    texture = SmoothField.random(rng, 12)
    bias = SmoothField.random(rng, 3)
    gamma = rng.normal(0, 0.2 * vary) + shift * site_rng.normal(0, 0.4)
    noise = rng.uniform(-0.5, 0.5) * vary
    gain = rng.uniform(-1, 3)
    return Contrast(
        levels=levels,
        texture=texture,
        texture_height=0.06,
        bias=bias,
        bias_height=options.bias,
        gamma=float(np.exp(gamma)),
        noise=options.noise * float(np.exp(noise)),
        gain=float(10**gain),
    )


def measure(
    rendering: Rendering,
    contrast: Contrast,
    axes: Points,
) -> np.ndarray:
    """Return the signal without noise ``(X, Y, Z)`` float32 of a slab, 0 to about 1."""
    texture = 1 + np.float32(contrast.texture_height) * contrast.texture(axes)
    signal = np.full(rendering.label.shape, contrast.levels["air"], np.float32)
    for layer in rendering.layers:
        total = sum(layer.values())
        covered = np.minimum(total, 1)
        divisor = np.maximum(total, 1)
        signal *= 1 - covered
        for name, fraction in layer.items():
            level = np.float32(contrast.levels[name])
            signal += fraction / divisor * level * texture
    bias = np.exp(np.float32(contrast.bias_height) * contrast.bias(axes))
    return np.maximum(signal, 0) ** np.float32(contrast.gamma) * bias


def rician(
    signal: np.ndarray,
    sigma: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the magnitude of ``signal`` with complex Gaussian noise (Gudbjartsson and Patz, 1995).

    Args:
        signal: signal without noise.
        sigma: standard deviation of the noise in the real and in the imaginary part.
        rng: source of random numbers.
    """
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    real, imaginary = sigma * noise
    return np.hypot(signal + real, imaginary)
