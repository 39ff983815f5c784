"""Compute the scores of one case with our metrics and with those of others.

``python -m against.scores REPEATS FILE`` writes the costs to a JSON file. Everybody computes Dice,
the 95th percentile of the surface distances and their mean; ours also computes all other columns of
``cases.csv``.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter

from against.processes import Cost, in_turn, timed
from against.written import write_costs
from hstf.scoring.metrics import score

SHAPE = (192, 142, 88)
SPACING = (0.625, 0.625, 0.625)
RADII = (45.0, 32.0, 24.0)
ROUGHNESS = 6.0
Maps = tuple[np.ndarray, np.ndarray]
"""A segmentation and its reference."""


def case() -> Maps:
    """Return a bumpy ellipsoid as large as a left atrium, and another one beside it."""
    rng = np.random.default_rng(0)
    maps = []
    for shift in (0.0, 2.0):
        axes = np.indices(SHAPE, dtype=np.float32)
        radius = np.zeros(SHAPE, np.float32)
        for axis, size, edge in zip(axes, SHAPE, RADII, strict=True):
            radius += ((axis - size / 2 - shift) / edge) ** 2
        bumps = gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), ROUGHNESS)
        maps.append((np.sqrt(radius) + bumps / bumps.std() * 0.05 < 1).astype(np.uint8))
    return maps[0], maps[1]


def ours(maps: Maps) -> tuple[float, float, float]:
    """Score with hstf."""
    found = score(*maps, SPACING, {"atrium": (1,)})["atrium"]
    return float(found["dice"]), float(found["hd95_mm"]), float(found["asd_mm"])


def monai(maps: Maps) -> tuple[float, float, float]:
    """Score with MONAI."""
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.surface_distance import compute_average_surface_distance

    a, b = (torch.from_numpy(np.stack([label == 0, label == 1]))[None] for label in maps)
    dice = compute_dice(a, b, include_background=False)
    hd95 = compute_hausdorff_distance(a, b, percentile=95, spacing=SPACING)
    asd = compute_average_surface_distance(a, b, symmetric=True, spacing=SPACING)
    return float(dice), float(hd95), float(asd)


def google(maps: Maps) -> tuple[float, float, float]:
    """Score with surface-distance of Google DeepMind."""
    import surface_distance

    a, b = (label > 0 for label in maps)
    distances = surface_distance.compute_surface_distances(a, b, SPACING)
    dice = surface_distance.compute_dice_coefficient(a, b)
    hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
    both = surface_distance.compute_average_surface_distance(distances)
    return float(dice), float(hd95), float(np.mean(both))


def medpy(maps: Maps) -> tuple[float, float, float]:
    """Score with medpy."""
    from medpy.metric import binary

    a, b = maps
    hd95 = binary.hd95(a, b, SPACING)
    return float(binary.dc(a, b)), float(hd95), float(binary.assd(a, b, SPACING))


SCORES = {
    "hstf": (ours, "hstf"),
    "MONAI": (monai, "monai"),
    "surface-distance": (google, "surface_distance"),
    "medpy": (medpy, "medpy"),
}
"""Function and package of each implementation."""


def measured(name: str, repeats: int) -> tuple[str, dict[str, Cost]]:
    """Return the cost of the case by each implementation that is installed."""
    maps = case()
    works: dict[str, Callable[[], Cost]] = {}
    for by, (function, package) in SCORES.items():
        if not importlib.util.find_spec(package):
            print(f"scores: {package} is not installed, its row is left out")
            continue
        dice, hd95, asd = function(maps)
        print(f"{by}: Dice {dice:.4f}, HD95 {hd95:.2f} mm, ASD {asd:.2f} mm")
        works[by] = partial(timed, partial(function, maps))
    return name, in_turn(works, repeats)


if __name__ == "__main__":
    write_costs(measured, ["x".join(map(str, SHAPE))])
