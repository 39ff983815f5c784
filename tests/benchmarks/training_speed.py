"""Steps a second of a training and how much of the device they use, on random scans of the size that a plan expects.

``python tests/benchmarks/training_speed.py --config config/la.yaml [--stage student] [--steps 60] [--patch 112 112 80]``

The whole loop is measured: reading, augmentation, forward, backward, EMA. Prints a line for people and one of JSON.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.training import TrainingConfig
from hstf.experiment.plan import Plan
from hstf.imaging.arrays import write_array
from hstf.method.objectives.registry import student_objective
from hstf.method.objectives.supervision import supervised
from hstf.runtime.devices import autocast, choose_device
from hstf.stages.plan.decide import batch_size, network_levels
from hstf.training.gpu_cache import cache_cases
from hstf.training.loop import Objective, train
from hstf.training.member import initial_network
from hstf.training.patches import PatchSource, TrainingCase
from hstf.training.state import TrainingState

MARGIN = 1.4  # edge of a random scan over that of the patch, about as in the left atrium


def make_plan(config: Config) -> Plan:
    """A plan of the configuration alone: its patch must be set, spacing and batch may be."""
    section = config.plan
    if section.patch_size is None:
        sys.exit(
            "the patch must be known: set plan.patch_size in the configuration, or give --patch."
        )
    spacing = section.spacing or (1.0, 1.0, 1.0)
    levels, _ = network_levels(section, section.patch_size, spacing)
    channels = tuple(
        min(section.base_channels * 2**i, section.max_channels) for i in range(len(levels.strides))
    )
    batch, _ = batch_size(section, section.patch_size, levels)
    return Plan(
        spacing, section.patch_size, batch, channels, levels.strides, levels.kernels, (), section.patch_size, {}
    )  # fmt: skip


def random_case(
    folder: Path, name: str, shape: tuple[int, ...], config: Config, pseudo: bool
) -> TrainingCase:
    """A scan of noise with a label, as the preprocess and labels stages store them."""
    rng, here, classes = np.random.default_rng(0), folder / name, len(config.class_names)
    here.mkdir()
    image = rng.normal(size=(len(config.modalities), *shape)).astype(np.float16)
    label = (np.indices(shape).sum(axis=0) // 8 % classes).astype(np.uint8)
    target = np.stack(
        [*(np.uint8(255) * (label == k) for k in range(classes)), np.full(shape, 255, np.uint8)]
    )
    write_array(here / "image.b2nd", image, config.preprocess.chunk)
    write_array(here / "target.b2nd", target if pseudo else label, config.preprocess.chunk)
    position = rng.integers(0, shape, (200, 3))
    np.save(
        here / "locations.npy",
        np.column_stack([label[tuple(position.T)], position])[label[tuple(position.T)] > 0],
    )
    return TrainingCase(
        name, here / "image.b2nd", here / "target.b2nd", here / "locations.npy", pseudo
    )


@dataclass
class Clock:
    """Wraps an objective and notes when steps ``first`` and ``last`` begin, the device being idle then."""

    objective: Objective
    first: int
    last: int
    times: dict[int, float] = field(default_factory=dict)
    process: dict[int, float] = field(default_factory=dict)

    def __call__(self, state: TrainingState, views: object) -> Mapping[str, Tensor]:
        if state.step in (self.first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times[state.step], self.process[state.step] = (
                time.perf_counter(),
                time.process_time(),
            )
        return self.objective(state, views)  # type: ignore[arg-type]

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return (self.times[self.last] - self.times[self.first]) / (self.last - self.first)

    @property
    def cores(self) -> float:
        """CPU cores kept busy."""
        return (self.process[self.last] - self.process[self.first]) / (
            self.times[self.last] - self.times[self.first]
        )


class Utilisation:
    """Samples how busy the GPU is, every fifth of a second; NaN where nothing tells."""

    def __init__(self, device: torch.device) -> None:
        self.samples: list[int] = []
        self.device, self.end = device, threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self.end.wait(0.2):
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
    """Floating-point operations a second of a large matrix product in the precision of the training."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 4)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))

    def multiply(times: int) -> None:
        with autocast(device, config.amp):
            for _ in range(times):
                a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad(), autocast(device, config.amp):
        a = a.to((a[:8, :8] @ b[:8, :8]).dtype)
        b = b.to(a.dtype)
        multiply(3)
        start = time.perf_counter()
        multiply(repeats)
    return 2 * size**3 * repeats / (time.perf_counter() - start)


def objective_of(config: Config, stage: str) -> Objective:
    """What ``stage`` minimises."""
    return supervised(config) if stage == "warmup" else student_objective(config)


def vary(network: torch.nn.Module, variants: Sequence[str]) -> None:
    """Switch on what may make a network faster on a GPU and is not the default."""
    torch.backends.cudnn.benchmark = "benchmark" in variants
    if "channels_last" in variants:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if "compile" in variants:
        network.pyramid = torch.compile(network.pyramid, dynamic=False)  # type: ignore[method-assign, operator]


def measure(
    config: Config, stage: str, steps: int, variants: Sequence[str], folder: Path
) -> dict[str, float | str | int]:
    """Train ``steps`` steps of ``stage`` after a quarter as many to warm up; returns what was measured."""
    plan, device = make_plan(config), choose_device(config.device)
    shape = tuple(round(MARGIN * n) for n in plan.patch_size)
    labelled, pseudo = ([random_case(folder, f"{kind}{k}", shape, config, kind == "pseudo") for k in range(2)]
                        for kind in ("labelled", "pseudo"))  # fmt: skip
    schedule: TrainingConfig = getattr(config, stage)
    labelled, pseudo = (cache_cases(cases, device, schedule.gpu_cache_gb) for cases in (labelled, pseudo))
    source = PatchSource(
        labelled, pseudo if stage == "student" else [], len(config.class_names), plan.patch_size, plan.batch_size,
        0.5 if stage == "student" else 1.0, 0.5, 0,
    )  # fmt: skip
    warm = max(2, steps // 4)

    def run(count: int, objective: Objective, variants: Sequence[str] = ()) -> TrainingState:
        network = initial_network(config, plan, 0, None).to(device)
        state = TrainingState.start(network, schedule)
        vary(state.network, variants)
        train(
            state,
            source,
            objective,
            schedule.model_copy(update={"steps": count}),
            folder / "state",
            "",
            "steps",
        )
        return state

    counted = 6  # steps: every second or third has cross-scale consistency
    with FlopCounterMode(display=False) as counter:
        state = run(counted, objective_of(config, stage))
    flops = counter.get_total_flops() / counted
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(objective_of(config, stage), warm, warm + steps)
    with Utilisation(device) as utilisation:
        run(warm + steps + 1, clock, variants)
    peak = peak_flops(device, schedule)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "stage": stage, "variants": "+".join(variants), "patch": "x".join(map(str, plan.patch_size)),
        "batch": plan.batch_size,
        "parameters": sum(p.numel() for p in state.network.parameters()),
        "seconds_per_step": clock.seconds, "steps_per_second": 1 / clock.seconds, "tflop_per_step": flops / 1e12,
        "tflop_per_second": flops / clock.seconds / 1e12, "peak_tflop_per_second": peak / 1e12,
        "share_of_peak": flops / clock.seconds / peak, "gpu_percent": utilisation.mean, "busy_cores": clock.cores,
        "memory_gb": _memory_gb(device),
    }  # fmt: skip


def _memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--stage", choices=["warmup", "student"], nargs="+", default=["warmup", "student"]
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--patch", type=int, nargs=3, help="instead of plan.patch_size")
    parser.add_argument("--batch", type=int, help="instead of plan.batch_size")
    parser.add_argument(
        "--variant", nargs="+", default=[], choices=["channels_last", "compile", "benchmark"]
    )
    args = parser.parse_args()
    config = load_config(*args.config)
    changes = {"patch_size": args.patch and tuple(args.patch), "batch_size": args.batch}
    plan = config.plan.model_copy(update={key: value for key, value in changes.items() if value})
    config = config.model_copy(update={"plan": plan})
    for stage in args.stage:
        with tempfile.TemporaryDirectory() as name:
            result = measure(config, stage, args.steps, args.variant, Path(name))
        print(f"{stage}: {result['steps_per_second']:.3g} steps/s, {result['share_of_peak']:.1%} of the peak,"
              f" GPU busy {result['gpu_percent']:.0f}%, {result['busy_cores']:.1f} cores,"
              f" {result['memory_gb']:.2f} GB")  # fmt: skip
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
