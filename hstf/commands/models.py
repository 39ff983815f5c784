"""``hstf models``: parameters and operations of every network, for the patch of an experiment."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.models.base import NetworkSpec
from hstf.models.registry import NETWORKS, build, network_spec
from hstf.stages.plan.decide import level_channels, network_levels

PATCH = (96, 96, 96)
"""What networks are shown for where no plan and nobody says."""


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    parameters: int
    operations: int
    """Floating-point operations of one forward pass of one patch; a multiplication with its addition counts two."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``hstf models``."""
    parser.add_argument(
        "--config", type=Path, nargs="+", default=[], metavar="FILE",
        help="configuration file; of several, later ones win; none: the defaults",
    )  # fmt: skip
    parser.add_argument(
        "--patch",
        type=int,
        nargs=3,
        metavar="N",
        help="plan the networks for this patch (voxels) instead",
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    config = load_config(*args.config)
    print(table(config, planned(config, args.patch)))
    return 0


def planned(config: Config, patch: Iterable[int] | None = None) -> Plan:
    """The plan of the experiment or, where there is none yet or a ``patch`` is given, what its network would be for a patch,
    on 1 mm voxels unless the configuration says other.

    Raises:
        HstfError: the patch cannot be halved as often as it has to be.
    """
    made = Layout.of(config).plan
    if patch is None and made.is_file():
        return Plan.load(made)
    size, spacing = (
        tuple(patch or config.plan.patch_size or PATCH),
        config.plan.spacing or (1.0, 1.0, 1.0),
    )
    levels, _ = network_levels(config.plan, size, spacing)  # type: ignore[arg-type]
    channels = level_channels(config.plan, levels)
    return Plan(spacing, size, 1, channels, levels.strides, levels.kernels, (), size, {})  # type: ignore[arg-type]


def table(config: Config, plan: Plan) -> str:
    """Markdown: a row for each network at the levels of ``plan``."""
    lines = [
        f"One forward pass of a patch of {'x'.join(map(str, plan.patch_size))} voxels;"
        f" channels of the plan's levels: {', '.join(map(str, plan.channels))}.",
        "",
        "| network | parameters (million) | operations (GFLOP) |",
        "|---|---:|---:|",
    ]
    for name in NETWORKS:
        network = config.network.model_copy(update={"name": name})
        classes = len(config.class_names)
        one = cost(network_spec(network, plan, len(config.modalities), classes, config.heads))
        title = f"{name} ({' + '.join(network.pair)})" if name == "pair" else name
        lines.append(f"| {title} | {one.parameters / 1e6:.2f} | {one.operations / 1e9:.1f} |")
    return "\n".join(lines)


def cost(spec: NetworkSpec) -> Cost:
    """Counted on shapes alone: no operation is carried out."""
    network = build(spec).eval().to("meta")
    image = torch.empty(1, spec.inputs, *spec.patch_size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops())
