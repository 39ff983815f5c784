"""Build networks, and store them so that they can be loaded without any other file.

The list of networks is in :mod:`hstf.config.networks`.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstf.config.network import NetworkConfig
from hstf.config.networks import NETWORKS
from hstf.experiment.plan import Plan
from hstf.models.base import NetworkSpec, SegmentationNetwork
from hstf.models.levels import attended_level, total_stride, voxel_at
from hstf.models.pair import Pair
from hstf.models.regions import RegionNetwork
from hstf.runtime.errors import HstfError, is_memory_error
from hstf.runtime.torch_files import read_torch, write_torch

PAIR = "pair"
NAMES = (*NETWORKS, PAIR)
"""All values of ``network.name``."""
HEAD_WIDTH = 32
"""Minimum channels of an attention head of the transformer. Narrower heads need more time and have
too few channels for positions along three axes."""


def build(spec: NetworkSpec) -> SegmentationNetwork:
    """Build a network with random weights, drawn from the global generator of torch.

    Raises:
        HstfError: if the network is unknown, or if it does not support the number of channels.
    """
    if spec.name not in NAMES:
        raise HstfError(f"unknown network {spec.name!r}. Known networks: {', '.join(NAMES)}.")
    # The two networks of a pair have their own heads for regions.
    if spec.regions and not spec.pair:
        return RegionNetwork(spec, build(replace(spec, classes=len(spec.regions), regions=())))
    if spec.name == PAIR:
        first = build(replace(spec, name=spec.pair[0], pair=()))
        second = build(replace(spec, name=spec.pair[1], pair=()))
        return Pair(spec, first, second)
    return _builder(spec.name)(spec)


def _builder(name: str) -> Callable[[NetworkSpec], SegmentationNetwork]:
    """Import the class or function that builds a network."""
    module, _, attribute = NETWORKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def network_spec(
    network: NetworkConfig,
    plan: Plan,
    inputs: int,
    classes: int,
    regions: tuple[tuple[int, ...], ...] = (),
) -> NetworkSpec:
    """Return the specification of the configured network on the levels of a plan.

    The fastest positions of the transformer turn by one radian from a voxel to the next.

    Args:
        network: the section ``network`` of the configuration.
        plan: levels, channels, voxel size and patch size.
        inputs: number of channels of the image.
        classes: number of classes.
        regions: class indices of each region, if there are regions.

    Raises:
        HstfError: if the level with the transformer has an odd number of channels, or if the patch
            is one voxel at the deepest level.
    """
    names = network.pair if network.name == PAIR else (network.name,)
    attended = attended_level(plan.strides, network.transformer_stride)
    width = plan.channels[attended]
    if "hybrid" in names and width % 2:
        raise HstfError(
            f"the level with the transformer has {width} channels, expected an even number:"
            " make plan.base_channels and plan.max_channels even."
        )
    _check_deepest_level(plan)
    in_utnet = "utnet" in names
    widths = plan.channels if in_utnet else (width,)
    head_width = 1 if in_utnet else HEAD_WIDTH
    voxel_mm = voxel_at(attended, plan.strides, plan.spacing)
    return NetworkSpec(
        name=network.name,
        inputs=inputs,
        classes=classes,
        channels=plan.channels,
        strides=plan.strides,
        kernels=plan.kernels,
        spacing=plan.spacing,
        transformer_layers=network.transformer_layers,
        transformer_heads=_fitting_heads(network.transformer_heads, widths, head_width),
        transformer_stride=network.transformer_stride,
        drop_path=network.drop_path,
        dropout=network.dropout,
        patch_size=plan.patch_size,
        pair=names if network.name == PAIR else (),
        regions=regions,
        shortest_mm=(2 * pi * voxel_mm[0], 2 * pi * voxel_mm[1], 2 * pi * voxel_mm[2]),
    )


def _check_deepest_level(plan: Plan) -> None:
    """Check that instance norm has more than one voxel at the deepest level."""
    if tuple(plan.patch_size) == total_stride(plan.strides):
        raise HstfError(
            f"the patch {tuple(plan.patch_size)} is a single voxel at the deepest of"
            f" {len(plan.strides)} levels: lower plan.stages or enlarge plan.patch_size."
        )


def _fitting_heads(
    heads: int,
    widths: Sequence[int],
    head_width: int,
) -> int:
    """Return the maximum possible number of attention heads, at most ``heads``.

    Twice the number divides the channels of every level. A head has at least ``head_width``
    channels, unless a level has fewer.
    """
    heads = min(heads, max(1, min(widths) // head_width))
    while heads > 1 and any(width % (2 * heads) for width in widths):
        heads -= 1
    return heads


def save_network(
    path: Path,
    network: SegmentationNetwork,
    meta: Mapping[str, Any],
    snapshots: Sequence[dict[str, Tensor]] = (),
) -> None:
    """Write a network into one file, atomically.

    Args:
        path: the file.
        network: its weights and specification are written.
        meta: more facts, plain JSON values.
        snapshots: weights at earlier steps of the training.
    """
    content: dict[str, Any] = {
        "state_dict": network.state_dict(),
        "spec": json.dumps(asdict(network.spec)),
        "meta": json.dumps(dict(meta)),
    }
    if snapshots:
        content["snapshots"] = list(snapshots)
    write_torch(path, content)


def load_network(
    path: Path,
    device: torch.device | str = "cpu",
) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Load a network and its ``meta`` from a file of :func:`save_network`.

    Returns:
        The network in evaluation mode, and ``meta``.

    Raises:
        HstfError: if the file is missing, damaged or of another kind.
    """
    with _explained_errors(path):
        content = read_torch(path)
        network = _restore(content["spec"], content["state_dict"])
        meta = json.loads(content["meta"])
    # A GPU that is full is no problem of the file.
    return network.to(device), meta


def load_facts(path: Path) -> dict[str, Any]:
    """Load the ``meta`` of a file of :func:`save_network` without its network.

    Raises:
        HstfError: if the file is missing, damaged or of another kind.
    """
    with _explained_errors(path):
        return json.loads(read_torch(path)["meta"])


def load_snapshots(
    path: Path,
    device: torch.device | str = "cpu",
) -> list[SegmentationNetwork]:
    """Load the network of a file of :func:`save_network` as it was at earlier steps, in order.

    Raises:
        HstfError: if the file is missing, damaged or of another kind.
    """
    with _explained_errors(path):
        content = read_torch(path)
        snapshots = content.get("snapshots", [])
        networks = [_restore(content["spec"], weights) for weights in snapshots]
    return [network.to(device) for network in networks]


@contextmanager
def _explained_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise HstfError(
            f"{path}: the weights are missing. Run the stage warmup or student first."
        ) from error
    except OSError as error:
        raise HstfError(
            f"{path}: the weights cannot be read ({error.strerror or error}). Make the file"
            " readable and start again."
        ) from error
    except Exception as error:  # torch raises many types of errors for damaged files
        if isinstance(error, MemoryError | RuntimeError) and is_memory_error(error):
            raise
        raise HstfError(
            f"{path}: cannot be read as weights ({error}). Delete the file and run its stage again."
        ) from error


def _restore(
    spec: str,
    weights: Mapping[str, Tensor],
) -> SegmentationNetwork:
    network = build(spec_of(spec))
    network.load_state_dict(weights)
    return network.eval()


def spec_of(text: str) -> NetworkSpec:
    """Return the specification that :func:`save_network` wrote as ``text``."""
    values = {key: _as_tuples(value) for key, value in json.loads(text).items()}
    return NetworkSpec(**values)


def _as_tuples(value: Any) -> Any:
    """Convert the lists of JSON to tuples."""
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return value
