"""Expressions of a MONAI bundle for the channels of an image: background, normalisation, masks.

They compute what :mod:`hstf.imaging.intensity` and
:meth:`hstf.imaging.geometry.Geometry.mask_to_grid` compute.

Example:
    >>> sorted(image_expressions())[:3]
    ['corners', 'empty', 'is_outside']
"""

from collections.abc import Sequence

from hstf.experiment.plan import Normalisation
from hstf.imaging.intensity import (
    BODY_THRESHOLD,
    FEW_VALUES,
    LOWER_PERCENTILE,
    MAXIMUM_SAMPLE,
    MINIMUM_EMPTY_CORNERS,
    MINIMUM_STD,
    UPPER_PERCENTILE,
    has_spread,
)
from hstf.method.bundle.expressions import PARTS, Json

MASK = "mask"
"""The normalisation of channels that are not interpolated."""


def image_expressions() -> Json:
    """Return the expressions that find the empty background of a channel ``(X, Y, Z)``."""
    return {
        "corners": "$lambda x: x[[0, -1]][:, [0, -1]][:, :, [0, -1]].flatten()",
        "empty": "$lambda x: @corners(x).mode().values.item()",
        "is_padded": (
            f"$lambda x: (@corners(x) == @empty(x)).sum() >= {MINIMUM_EMPTY_CORNERS}"
            " and @empty(x) in (0, x.min().item()) and bool((x != @empty(x)).any())"
        ),
        "nonempty": "$lambda x: x != @empty(x) if @is_padded(x) else torch.ones_like(x) > 0",
        "regions": "$lambda empty: torch.as_tensor(ndimage.label(empty.numpy())[0])",
        "is_outside": "$lambda r: torch.isin(r, (lambda c: c[c > 0])(@corners(r).unique()))",
        "nonempty_fan": "$lambda x: ~@is_outside(@regions(~@nonempty(x)))",
        "sampled": (
            "$lambda x, inside: (lambda k: x[::k, ::k, ::k][inside[::k, ::k, ::k]].numpy())"
            f"(int(numpy.ceil((x.numel() / {MAXIMUM_SAMPLE}) ** (1 / 3))))"
        ),
    }


def normalisation_expressions(channels: Sequence[Normalisation]) -> Json:
    """Return the expressions that normalise an image ``(C, X, Y, Z)``."""
    low, high = LOWER_PERCENTILE, UPPER_PERCENTILE
    every = range(len(channels))
    measured = [index for index in every if channels[index].scheme != MASK]
    masks = [f"@{_mask_of(channels[index])}(x[{index}])" for index in measured or every]
    # A mask is normalised on the grid: 0 must still mean that there is nothing.
    values = [f"@normalise_{i}(x[{i}])" if i in measured else f"x[{i}]" for i in every]
    expressions = {
        # Without spread, the values before they were clipped are mapped to 0 to 1.
        "standardised": (
            "$lambda x, clipped, values:"
            " (clipped - values.mean(dtype=float)) / values.std(dtype=float)"
            f" if values.std(dtype=float) > {MINIMUM_STD} * abs(values.mean(dtype=float))"
            " else (x - x.min()) / max(x.max() - x.min(), 1e-30)"
        ),
        "clipped": (
            "$lambda x, v, low, high: @standardised(x, x.clip(low, high), v.clip(low, high))"
        ),
        "zscore": f"$lambda x, v: @clipped(x, v, *numpy.percentile(v, ({low}, {high})).tolist())",
        "body": f"$lambda v: v[v > {BODY_THRESHOLD} * (v[v > 0].mean() if (v > 0).any() else 0)]",
        "uptake_scale": (
            "$lambda v: (lambda b: float(numpy.median(b)) if b.size else 1.0)(@body(v))"
        ),
        "uptake_values": (
            "$lambda v: (lambda b: numpy.arcsinh((b if b.size else v) / @uptake_scale(v)))"
            "(@body(v))"
        ),
        "uptake": (
            "$lambda x, v: (lambda u: @clipped((x / @uptake_scale(v)).arcsinh(), u,"
            f" float(numpy.percentile(u, {low})), None))(@uptake_values(v))"
        ),
        "inside": f"$lambda x: torch.stack([{', '.join(masks)}]).any(0, True)",
        "normalised": f"$lambda x: torch.stack([{', '.join(values)}])",
        "like": (
            "$lambda values, x, dtype: monai.utils.convert_to_dst_type(values, x, dtype=dtype)[0]"
        ),
        "scanned": "$lambda x: @like(@inside(x.as_tensor()), x, torch.uint8)",
        "normalise": "$lambda x: @like(@normalised(x.as_tensor()), x, torch.float32)",
    }
    for index, channel in enumerate(channels):
        expressions[f"normalise_{index}"] = _channel(channel)
    return expressions


def _mask_of(channel: Normalisation) -> str:
    return "nonempty_fan" if channel.scheme == "fan" else "nonempty"


def _channel(channel: Normalisation) -> str:
    """Return the expression that normalises a channel ``(X, Y, Z)``."""
    if channel.scheme not in ("ct", MASK):
        name = "uptake" if channel.scheme == "uptake" else "zscore"
        return f"$lambda x: @{name}(x, @sampled(x, @{_mask_of(channel)}(x)))"
    value = "x" if channel.scheme == MASK else f"x.clip({channel.lower}, {channel.upper})"
    divisor = f" / {channel.std}" if has_spread(channel.mean, channel.std) else ""
    return f"$lambda x: ({value} - {channel.mean}){divisor}"


def mask_expressions(masks: Sequence[int]) -> Json:
    """Return the expressions that bring the channels ``masks`` to the planned grid.

    The nearest voxel is taken. A structure that would disappear gets the grid voxels nearest to it.
    """
    channels = [
        f"@normalise_{i}(@mask_on_grid(x[{i}].numpy(), @size(x, @targets(x)),"
        " @steps(x, @targets(x))))"
        for i in masks
    ]
    return {
        "parts": PARTS,
        "nearest": (
            "$lambda n, m, step: numpy.floor((numpy.arange(m) - (m - 1) / 2) * step + (n - 1) / 2"
            " + 0.5).clip(0, n - 1).astype(int)"
        ),
        "nearest_voxels": (
            "$lambda shape, size, steps: numpy.ix_(*map(@nearest, shape, size, steps))"
        ),
        "structures": (
            "$lambda x: (lambda values: (x == value for value in values if value != 0)"
            f" if len(values) <= {FEW_VALUES} else [x != 0])(numpy.unique(x))"
        ),
        "lost_parts": "$lambda parts, here: (parts > 0) & ~numpy.isin(parts, parts[here])",
        "lost": (
            "$lambda x, here: sum((@lost_parts(@parts(each), here) for each in @structures(x)),"
            " numpy.zeros(x.shape, bool))"
        ),
        "with_lost": (
            "$lambda x, grid, lost, there: (grid.__setitem__(tuple(axis.ravel()[index]"
            " for axis, index in zip(there, lost.nonzero())), x[lost]), grid)[1]"
        ),
        "mask_on_grid": (
            "$lambda x, size, steps: (lambda here, there: @with_lost(x, x[here], @lost(x, here),"
            " there) if any(m < n for n, m in zip(x.shape, size)) else x[here])"
            "(@nearest_voxels(x.shape, size, steps), @nearest_voxels(size, x.shape, 1 / steps))"
        ),
        "masks_on_grid": f"$lambda x: torch.as_tensor(numpy.stack([{', '.join(channels)}]))",
    }
