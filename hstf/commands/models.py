"""``hstf models``: print parameters and operations of all networks."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan, Triple
from hstf.models.base import NetworkSpec
from hstf.models.registry import NAMES, build, network_spec
from hstf.stages.plan.decide import level_channels, network_levels

DEFAULT_PATCH = (96, 96, 96)
"""Patch size if neither a plan nor the configuration nor an option defines one."""
DEFAULT_SPACING = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Cost:
    """Parameters and operations of a network."""

    parameters: int
    operations: int
    """Floating-point operations of a forward pass of one patch. A multiply-add counts as two."""


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    config = load_config(*args.config)
    plan = choose_plan(config, args.patch)
    print(table(config, plan))
    return 0


def choose_plan(config: Config, patch: Sequence[int] | None = None) -> Plan:
    """Return the plan of the experiment, or a plan for a patch size.

    The latter is returned if ``patch`` is given or the experiment has no plan yet. Its spacing is
    that of the configuration, or else 1 mm.

    Raises:
        HstfError: if the patch size cannot be halved as often as the network requires.
    """
    path = Layout.of(config).plan
    if patch is None and path.is_file():
        return Plan.load(path)
    size = cast(Triple, tuple(patch or config.plan.patch_size or DEFAULT_PATCH))
    spacing = config.plan.spacing or DEFAULT_SPACING
    levels, _ = network_levels(config.plan, size, spacing)
    return Plan(
        spacing=spacing,
        patch_size=size,
        batch_size=1,
        channels=level_channels(config.plan, levels),
        strides=levels.strides,
        kernels=levels.kernels,
        normalisation=(),
        median_shape=size,
        reasons={},
    )


def table(config: Config, plan: Plan) -> str:
    """Return a Markdown table with a row for each network at the levels of ``plan``."""
    patch = "x".join(str(size) for size in plan.patch_size)
    channels = ", ".join(str(count) for count in plan.channels)
    lines = [
        f"One forward pass of a patch of {patch} voxels;"
        f" channels of the plan's levels: {channels}.",
        "",
        "| network | parameters (million) | operations (GFLOP) |",
        "|---|---:|---:|",
    ]
    for name in NAMES:
        network = config.network.model_copy(update={"name": name})
        spec = network_spec(
            network,
            plan,
            len(config.modalities),
            len(config.class_names),
            config.heads,
        )
        result = cost(spec)
        parameters = f"{result.parameters / 1e6:.2f}"
        operations = f"{result.operations / 1e9:.1f}"
        title = name
        if name == "pair":
            title = f"{name} ({' + '.join(network.pair)})"
        lines.append(f"| {title} | {parameters} | {operations} |")
    return "\n".join(lines)


def cost(spec: NetworkSpec) -> Cost:
    """Count parameters and operations of a network from shapes, without any computation."""
    network = build(spec).eval().to("meta")
    image = torch.empty(1, spec.inputs, *spec.patch_size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops())
