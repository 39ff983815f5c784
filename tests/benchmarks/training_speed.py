"""Measure the steps per second of a training and how busy the device is, on random scans.

``python tests/benchmarks/training_speed.py --config config/la.yaml [--stage student]
[--steps 60] [--patch 112 112 80]`` measures the whole training loop: reading, augmentation, forward
and backward pass, EMA. The scans have the size that the plan expects. For each stage the script
prints a line for readers and a line of JSON.
"""

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.training import TrainingConfig
from hstf.experiment.plan import Plan
from hstf.models.base import SegmentationNetwork
from hstf.runtime.devices import autocast
from hstf.stages.plan.decide import batch_size, level_channels, network_levels
from hstf.stages.plan.timed_training import Clock, Stage, Training, objective_of

COUNTED_STEPS = 6
"""Steps whose operations are counted: every second or third one has cross-scale consistency."""
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Speed:
    """What a training did."""

    device: str
    stage: str
    variants: str
    patch: str
    batch: int
    parameters: int
    seconds_per_step: float
    steps_per_second: float
    tflop_per_step: float
    tflop_per_second: float
    peak_tflop_per_second: float
    fraction_of_peak: float
    gpu_percent: float
    busy_cores: float
    memory_gb: float

    def __str__(self) -> str:
        """Return the main numbers as one line."""
        return (
            f"{self.stage}: {self.steps_per_second:.3g} steps/s,"
            f" {self.fraction_of_peak:.1%} of the peak, GPU busy {self.gpu_percent:.0f}%,"
            f" {self.busy_cores:.1f} cores, {self.memory_gb:.2f} GB"
        )


def make_plan(config: Config) -> Plan:
    """Return a plan without scans. The configuration must have a patch size."""
    section = config.plan
    if section.patch_size is None:
        sys.exit("the patch must be known: set plan.patch_size in the configuration or use --patch")
    spacing = section.spacing or (1.0, 1.0, 1.0)
    levels, _ = network_levels(section, section.patch_size, spacing)
    batch, _ = batch_size(section, section.patch_size, levels)
    return Plan(
        spacing=spacing,
        patch_size=section.patch_size,
        batch_size=batch,
        channels=level_channels(section, levels),
        strides=levels.strides,
        kernels=levels.kernels,
        normalisation=(),
        median_shape=section.patch_size,
        reasons={},
    )


class Utilisation:
    """Samples how busy the GPU is; NaN if this cannot be measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.samples: list[int] = []
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self.end.wait(SAMPLE_SECONDS):
            try:
                self.samples.append(torch.cuda.utilization(self.device))
            except (ImportError, RuntimeError):
                return

    def __enter__(self) -> "Utilisation":
        if self.device.type == "cuda":
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()

    @property
    def mean(self) -> float:
        """Percent of the time in which a kernel ran; the start of the training is left out."""
        steady = self.samples[len(self.samples) // 3 :]
        return float(np.mean(steady)) if steady else float("nan")


def peak_flops(device: torch.device, config: TrainingConfig) -> float:
    """Measure the operations per second of a matrix product in the precision of the training."""
    size = 8192 if device.type == "cuda" else 1024
    repeats = 20 if device.type == "cuda" else 4
    a = torch.randn(size, size, device=device)
    b = torch.randn(size, size, device=device)

    def multiply(times: int) -> None:
        with autocast(device, config.amp):
            for _ in range(times):
                a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad(), autocast(device, config.amp):
        precision = (a[:8, :8] @ b[:8, :8]).dtype
        a = a.to(precision)
        b = b.to(precision)
        multiply(3)
        start = time.perf_counter()
        multiply(repeats)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def vary(network: SegmentationNetwork, variants: Sequence[str]) -> None:
    """Switch on variants that may make a network faster on a GPU and are not the default."""
    torch.backends.cudnn.benchmark = "benchmark" in variants
    if "channels_last" in variants:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if "compile" in variants:
        network.pyramid = torch.compile(network.pyramid, dynamic=False)  # type: ignore[method-assign]


def measure(
    config: Config, stage: Stage, steps: int, variants: Sequence[str], folder: Path
) -> Speed:
    """Train ``steps`` steps of a stage, after a quarter as many that are not measured."""
    training = Training.of(config, make_plan(config), stage, folder)
    device = training.device
    with FlopCounterMode(display=False) as counter:
        training.run(COUNTED_STEPS, objective_of(config, stage))
    tflop = counter.get_total_flops() / COUNTED_STEPS / 1e12
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = max(2, steps // 4)
    clock = Clock(objective_of(config, stage), first, steps)
    with Utilisation(device) as utilisation:
        state = training.run(first + steps + 1, clock, partial(vary, variants=variants))
    peak = peak_flops(device, training.section) / 1e12
    return Speed(
        device=device_name(device),
        stage=stage,
        variants="+".join(variants),
        patch="x".join(map(str, training.plan.patch_size)),
        batch=training.plan.batch_size,
        parameters=sum(weights.numel() for weights in state.network.parameters()),
        seconds_per_step=clock.seconds,
        steps_per_second=1 / clock.seconds,
        tflop_per_step=tflop,
        tflop_per_second=tflop / clock.seconds,
        peak_tflop_per_second=peak,
        fraction_of_peak=tflop / clock.seconds / peak,
        gpu_percent=utilisation.mean,
        busy_cores=clock.cores,
        memory_gb=peak_memory_gb(device),
    )


def device_name(device: torch.device) -> str:
    """Return the model of the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory (GB) of the GPU, or of the process without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def read_config(args: argparse.Namespace) -> Config:
    """Return the configuration with the patch and the batch size of the command line."""
    config = load_config(*args.config)
    changes: dict[str, object] = {}
    if args.patch:
        changes["patch_size"] = tuple(args.patch)
    if args.batch:
        changes["batch_size"] = args.batch
    return config.model_copy(update={"plan": config.plan.model_copy(update=changes)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ["warmup", "student"]
    variants = ["channels_last", "compile", "benchmark"]
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--stage", choices=stages, nargs="+", default=stages)
    parser.add_argument("--steps", type=int, default=60, help="number of measured steps")
    parser.add_argument("--patch", type=int, nargs=3, help="replaces plan.patch_size")
    parser.add_argument("--batch", type=int, help="replaces plan.batch_size")
    parser.add_argument("--variant", nargs="+", default=[], choices=variants)
    args = parser.parse_args()
    config = read_config(args)
    for stage in args.stage:
        with tempfile.TemporaryDirectory() as name:
            speed = measure(config, stage, args.steps, args.variant, Path(name))
        print(speed)
        print(json.dumps(asdict(speed)), flush=True)


if __name__ == "__main__":
    main()
