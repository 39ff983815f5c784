"""Networks: built from a specification, saved with it, loaded without any other file."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import pi, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstf.config.network import NetworkConfig
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork
from hstf.models.baselines import Vit, swin, unetpp, vnet
from hstf.models.hybrid import HybridNet, attended_level, voxel_at
from hstf.models.pair import Pair
from hstf.models.regions import RegionNetwork
from hstf.models.utnet import UTNet
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_torch

__all__ = [
    "NETWORKS", "HybridNet", "NetworkSpec", "Pyramid", "SegmentationNetwork", "build", "load_network", "load_snapshots",
    "network_spec", "save_network",
]  # fmt: skip


def _pair(spec: NetworkSpec) -> Pair:
    first, second = (build(replace(spec, name=name, pair=())) for name in spec.pair)
    return Pair(spec, first, second)


NETWORKS: dict[str, Callable[[NetworkSpec], SegmentationNetwork]] = {
    "hybrid": HybridNet,
    "hybrid_identity": HybridNet,
    "cnn": HybridNet,
    "vit": Vit,
    "swin": swin,
    "unetpp": unetpp,
    "utnet": UTNet,
    "vnet": vnet,
    "pair": _pair,
}


def build(spec: NetworkSpec) -> SegmentationNetwork:
    """The network of ``spec`` with random weights, drawn from torch's global generator.

    Raises:
        HstfError: there is no such network, or it does not take such images.
    """
    if spec.name not in NETWORKS:
        raise HstfError(f"there is no network {spec.name!r}; there are {', '.join(NETWORKS)}.")
    if spec.regions and not spec.pair:  # the two of a pair have their heads each
        return RegionNetwork(spec, build(replace(spec, classes=len(spec.regions), regions=())))
    return NETWORKS[spec.name](spec)


def network_spec(
    network: NetworkConfig,
    plan: Any,
    inputs: int,
    classes: int,
    regions: tuple[tuple[int, ...], ...] = (),
) -> NetworkSpec:
    """The network of a configuration on the levels of a plan, with a head for each of ``regions``, if there are any.

    The width at the transformer's level must be a multiple of twice the heads, that of every level in ``utnet``: the heads
    are halved until it is. The transformer's positions turn by one radian from a voxel to the next at their fastest.

    Raises:
        HstfError: the transformer's width is odd, or the patch shrinks to one voxel.
    """
    attended = attended_level(plan.strides, network.transformer_stride)
    heads, width = network.transformer_heads, plan.channels[attended]
    names = network.pair if network.name == "pair" else (network.name,)
    if "hybrid" in names and width % 2:
        raise HstfError(
            f"the transformer's level has {width} channels: make plan.base_channels and max_channels even."
        )
    if all(
        n == prod(strides)
        for n, strides in zip(plan.patch_size, zip(*plan.strides, strict=True), strict=True)
    ):
        raise HstfError(
            f"the patch {tuple(plan.patch_size)} is a single voxel at the deepest of {len(plan.strides)} levels:"
            " lower plan.stages or enlarge plan.patch_size."
        )
    while heads > 1 and any(
        c % (2 * heads) for c in (plan.channels if "utnet" in names else [width])
    ):
        heads //= 2
    x, y, z = voxel_at(attended, plan.strides, plan.spacing)
    return NetworkSpec(
        name=network.name, inputs=inputs, classes=classes, channels=tuple(plan.channels), strides=tuple(plan.strides),
        kernels=tuple(plan.kernels), spacing=tuple(plan.spacing), transformer_layers=network.transformer_layers,
        transformer_heads=heads, transformer_stride=network.transformer_stride, drop_path=network.drop_path,
        dropout=network.dropout, patch_size=tuple(plan.patch_size), pair=names if network.name == "pair" else (),
        regions=regions, shortest_mm=(2 * pi * x, 2 * pi * y, 2 * pi * z),
    )  # fmt: skip


def save_network(
    path: Path, network: SegmentationNetwork, meta: Mapping[str, Any], snapshots: Sequence[dict[str, Tensor]] = ()
) -> None:  # fmt: skip
    """Write weights, specification, ``meta`` (plain JSON values) and earlier weights into one file, atomically."""
    content: dict[str, Any] = {
        "state_dict": network.state_dict(),
        "spec": json.dumps(asdict(network.spec)),
        "meta": json.dumps(dict(meta)),
    }
    if snapshots:
        content["snapshots"] = list(snapshots)
    write_torch(path, content)


def load_network(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """The network of a file of :func:`save_network`, in evaluation mode, and its ``meta``.

    Raises:
        HstfError: the file is missing, damaged, or no such file.
    """
    with _reading(path):
        content = torch.load(path, map_location=device, weights_only=True)
        return _network(content["spec"], content["state_dict"], device), json.loads(content["meta"])


def load_snapshots(path: Path, device: torch.device | str = "cpu") -> list[SegmentationNetwork]:
    """The network of a file of :func:`save_network` as it was at earlier steps, the first first.

    Raises:
        HstfError: the file is missing, damaged, or no such file.
    """
    with _reading(path):
        content = torch.load(path, map_location=device, weights_only=True)
        return [
            _network(content["spec"], weights, device) for weights in content.get("snapshots", [])
        ]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise HstfError(
            f"{path}: the weights are missing. Run the warmup or student stage first."
        ) from error
    except Exception as error:  # torch raises a dozen types for damaged files
        raise HstfError(
            f"{path}: not readable as weights ({error}). Delete the file and rerun its stage."
        ) from error


def _network(
    spec: str, weights: Mapping[str, Tensor], device: torch.device | str
) -> SegmentationNetwork:
    network = build(_spec(json.loads(spec)))
    network.load_state_dict(weights)
    return network.to(device).eval()


def _spec(values: dict[str, Any]) -> NetworkSpec:
    return NetworkSpec(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
