"""Segment one scan with the same network by three sliding windows: ours, nnU-Net's and MONAI's.

``python -m against.windows REPEATS FILE`` writes the costs to a JSON file. All windows overlap by
half, have Gaussian weights and one window in a batch, and are followed by a softmax, in float32.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from training_speed import make_plan

from against.processes import Cost, in_turn, timed
from against.written import write_costs
from hstf.config.load import load_config
from hstf.method.sliding_window import sliding_probabilities
from hstf.training.initial_weights import initial_network

SCANS = {
    "hippocampus": ("config/hippocampus.yaml", (40, 56, 40), (72, 100, 72)),
    "acdc": ("config/acdc.yaml", (112, 112, 10), (162, 192, 12)),
}
"""Configuration, patch and size of a scan."""
OVERLAP = 0.5
CPU = torch.device("cpu")


class Counted(nn.Module):
    """A network that counts the windows that it sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.windows = 0

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits of windows."""
        self.windows += len(windows)
        return self.network(windows)


def ours(network: nn.Module, image: Tensor, patch: tuple[int, ...], _: int) -> Tensor:
    """Predict with our sliding window."""
    return sliding_probabilities(network, image, patch, OVERLAP, 1, "off", CPU)


def monai(network: nn.Module, image: Tensor, patch: tuple[int, ...], _: int) -> Tensor:
    """Predict with the sliding window of MONAI."""
    from monai.inferers.utils import sliding_window_inference

    with torch.no_grad():
        logits = sliding_window_inference(
            image[None], patch, 1, network, overlap=OVERLAP, mode="gaussian"
        )
    return logits[0].softmax(0)


def nnunet(network: nn.Module, image: Tensor, patch: tuple[int, ...], classes: int) -> Tensor:
    """Predict with the predictor of nnU-Net."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=CPU,
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=classes)
    return predictor.predict_sliding_window_return_logits(image).float().softmax(0)


WINDOWS = {"hstf": (ours, "hstf"), "nnU-Net": (nnunet, "nnunetv2"), "MONAI": (monai, "monai")}
"""Function and package of each sliding window."""


def measured(name: str, repeats: int) -> tuple[str, dict[str, Cost]]:
    """Return the cost of a scan by each sliding window that is installed."""
    path, patch, size = SCANS[name]
    config = load_config(Path(path))
    config = config.model_copy(
        update={"plan": config.plan.model_copy(update={"patch_size": patch})}
    )
    network = Counted(initial_network(config, make_plan(config), 0, None).eval())
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    classes = len(config.class_names)
    works: dict[str, Callable[[], Cost]] = {}
    results = {}
    windows = []
    for by, (predict, package) in WINDOWS.items():
        if not importlib.util.find_spec(package):
            continue
        call = partial(predict, network, image, patch, classes)
        network.windows = 0
        results[by] = call()
        windows.append(str(network.windows))
        works[by] = partial(timed, call)
    for by, result in results.items():
        difference = float((result - results["hstf"]).abs().max())
        print(f"{name}, {by}: maximum difference of a probability {difference:.1g}")
    shape = "x".join(map(str, size))
    work = f"{name}, {shape} = {prod(size)} voxels, windows: {', '.join(windows)}"
    return work, in_turn(works, repeats)


if __name__ == "__main__":
    write_costs(measured, SCANS)
