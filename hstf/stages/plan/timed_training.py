"""Time the steps of a training and the windows of a prediction, on random scans.

The whole training loop is timed: reading, augmentation, forward and backward pass, EMA.
:mod:`hstf.stages.plan.measuring` starts this module as a program for each of the jobs that compute
side by side: ``python -m hstf.stages.plan.timed_training --folder FOLDER --stage warmup``.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.training import StudentConfig, TrainingConfig
from hstf.experiment.plan import Plan
from hstf.imaging.arrays import write_array
from hstf.method.objectives.registry import student_objective
from hstf.method.objectives.supervision import supervised
from hstf.method.sliding_window import SlidingWindow
from hstf.models.base import SegmentationNetwork
from hstf.models.layout import in_fast_layout
from hstf.runtime.devices import choose_device
from hstf.runtime.files import write_json
from hstf.stages.plan.costs import windows
from hstf.stages.plan.measuring import CONFIG_FILE, PLAN_FILE
from hstf.training.augmentations.acquisition import ISOTROPIC_MR, Acquisition
from hstf.training.batch import Batch
from hstf.training.gpu_cache import cache_cases
from hstf.training.initial_weights import initial_network
from hstf.training.loop import Objective, train
from hstf.training.patches import PatchSource, TrainingCase
from hstf.training.state import TrainingState

Stage = Literal["warmup", "student"]

MARGIN = 1.4
"""Edge of a random scan divided by that of the patch, about as in the left atrium."""
CASES = 2
"""Number of labelled and of pseudo-labelled cases."""
MINIMUM_STEPS = 2
HALF = 100_000
"""The timed steps are in the middle of a training of twice as many, so that all terms of the loss
are computed."""
GPU_SKIPPED_STEPS = 10
"""First steps of a training on a GPU, in which it chooses algorithms."""


def random_cases(folder: Path, plan: Plan, config: Config, pseudo: bool) -> list[TrainingCase]:
    """Write scans of noise with labels, as the stages ``preprocess`` and ``labels`` store them."""
    name = "pseudo" if pseudo else "labelled"
    shape = tuple(round(MARGIN * size) for size in plan.patch_size)
    return [
        random_case(folder / f"{name}{number}", shape, config, pseudo) for number in range(CASES)
    ]


def random_case(folder: Path, shape: tuple[int, ...], config: Config, pseudo: bool) -> TrainingCase:
    """Write one scan of noise with a label of diagonal stripes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    image = rng.normal(size=(len(config.modalities), *shape)).astype(np.float16)
    classes = len(config.class_names)
    label = (np.indices(shape).sum(axis=0) // 8 % classes).astype(np.uint8)
    target = probabilities(label, classes) if pseudo else label
    case = TrainingCase(
        folder.name,
        folder / "image.b2nd",
        folder / "target.b2nd",
        folder / "locations.npy",
        pseudo,
    )
    write_array(folder / "image.b2nd", image, config.preprocess.chunk)
    write_array(folder / "target.b2nd", target, config.preprocess.chunk)
    position = rng.integers(0, shape, (200, 3))
    found = label[tuple(position.T)]
    np.save(folder / "locations.npy", np.column_stack([found, position])[found > 0])
    return case


def probabilities(label: np.ndarray, classes: int) -> np.ndarray:
    """Return class probabilities and weight, times 255, of a certain pseudo-label."""
    channels = [np.uint8(255) * (label == index) for index in range(classes)]
    return np.stack([*channels, np.full(label.shape, 255, np.uint8)])


class Enough(Exception):
    """A training has done enough steps."""


@dataclass
class Clock:
    """An objective that records when steps begin, and that ends the training.

    The device has finished all earlier work at the first and at the last of these times.
    """

    objective: Objective
    skipped: int
    """First steps that are not timed."""
    steps: int
    """Number of steps after which the training may end; then after each multiple of it."""
    seconds_wanted: float = 0.0
    """The training goes on for so long."""
    count: int = 0
    """Number of steps that have begun."""
    times: list[float] = field(default_factory=list)
    cpu_times: list[float] = field(default_factory=list)

    def __call__(self, state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the loss, or end the training with :class:`Enough`."""
        timed = self.count - self.skipped
        if timed == 0:
            self._read()
        elif timed > 0 and timed % self.steps == 0 and self._has_waited():
            self._read()
            raise Enough
        self.count += 1
        return self.objective(state, batch)

    def _has_waited(self) -> bool:
        return time.perf_counter() - self.times[0] >= self.seconds_wanted

    def _read(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        self.cpu_times.append(time.process_time())

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return (self.times[-1] - self.times[0]) / (self.count - self.skipped)

    @property
    def cores(self) -> float:
        """Mean number of busy CPU cores."""
        busy = self.cpu_times[-1] - self.cpu_times[0]
        return busy / (self.times[-1] - self.times[0])


def objective_of(config: Config, stage: Stage) -> Objective:
    """Return what a stage minimises."""
    return supervised(config) if stage == "warmup" else student_objective(config)


@dataclass(frozen=True)
class Training:
    """A training of a stage on random scans."""

    config: Config
    plan: Plan
    stage: Stage
    device: torch.device
    source: PatchSource
    section: TrainingConfig
    """The configuration of the stage, with the augmentation of the plan."""
    folder: Path

    @classmethod
    def of(cls, config: Config, plan: Plan, stage: Stage, folder: Path) -> "Training":
        """Write the random scans to ``folder``.

        Args:
            config: the experiment, for the student that of its round.
            plan: its plan.
            stage: the training.
            folder: an empty folder.
        """
        device = choose_device(config.device)
        section: TrainingConfig = getattr(config, stage)
        augmentation = section.augmentation.planned(plan.flip_axes, plan.quarter_turns)
        section = section.model_copy(update={"augmentation": augmentation})
        labelled = random_cases(folder, plan, config, pseudo=False)
        pseudo: list[TrainingCase] = []
        if isinstance(section, StudentConfig) and section.learns_from != "labels":
            pseudo = random_cases(folder, plan, config, pseudo=True)
        if isinstance(section, StudentConfig) and section.learns_from == "images":
            pseudo = [replace(case, target_path=None, locations_path=None) for case in pseudo]
        acquisition = ISOTROPIC_MR
        if plan.normalisation:  # a plan before the scans are read has none
            acquisition = Acquisition.of(plan, config.modalities.values())
        source = PatchSource(
            cache_cases(labelled, device, section.gpu_cache_gb),
            cache_cases(pseudo, device, section.gpu_cache_gb),
            len(config.class_names),
            plan.patch_size,
            plan.batch_size,
            labelled_fraction=getattr(section, "labelled_fraction", 1.0),
            foreground_fraction=section.foreground_fraction,
            seed=0,
            acquisition=acquisition,
            quarter_turns=augmentation.quarter_turns or (),
        )
        return cls(config, plan, stage, device, source, section, folder)

    def network(self) -> SegmentationNetwork:
        """Return the network with random weights."""
        network = initial_network(self.config, self.plan, 0, None).to(self.device)
        return in_fast_layout(network, self.device, self.section.amp)

    def run(
        self,
        steps: int,
        objective: Objective,
        change: Callable[[SegmentationNetwork], None] | None = None,
        first: int = 0,
    ) -> TrainingState:
        """Train at most to a step, starting from random weights.

        Args:
            steps: number of steps of the whole training.
            objective: what is minimised; a :class:`Clock` may end the training.
            change: changes the network before the first step.
            first: the first step.
        """
        state = TrainingState.start(self.network(), self.section)
        state.step = first
        if change is not None:
            change(state.network)
        section = self.section.model_copy(update={"steps": steps})
        with suppress(Enough):
            train(state, self.source, objective, section, self.folder / "state", "", "steps")
        return state

    def timed_steps(self, budget: float) -> Clock:
        """Time steps in the middle of the training, at least one cycle of the objective.

        Args:
            budget: the steps take at least so many seconds together.
        """
        every = self.section.csc.every if isinstance(self.section, StudentConfig) else 1
        cycle = max(MINIMUM_STEPS, every)
        skipped = GPU_SKIPPED_STEPS if self.device.type == "cuda" else 1
        clock = Clock(objective_of(self.config, self.stage), skipped, cycle, budget)
        self.run(2 * HALF, clock, first=HALF // every * every)
        return clock

    def seconds_per_window(self) -> float:
        """Time a sliding window over a scan that has at least a window and at most two an axis."""
        section = self.config.predict
        window = SlidingWindow.of(self.plan, section, self.device)
        network = self.network().eval()
        patch = self.plan.patch_size
        sizes = zip(self.plan.median_shape, patch, strict=True)
        shape = tuple(min(max(size, edge), round(MARGIN * edge)) for size, edge in sizes)
        image = torch.randn(len(self.config.modalities), *shape)
        window.probabilities(network, image[:, : patch[0], : patch[1], : patch[2]])
        start = time.perf_counter()
        window.probabilities(network, image)
        return (time.perf_counter() - start) / windows(shape, patch, section.overlap)


def main(arguments: Sequence[str] | None = None) -> None:
    """Time one job; write the seconds of a step and a window, and its busy cores, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stage", choices=["warmup", "student"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args(arguments)
    config = load_config(args.folder / CONFIG_FILE)
    plan = Plan.load(args.folder / PLAN_FILE)
    if args.stage == "student":
        config = config.for_round(1)
    with TemporaryDirectory() as folder:
        training = Training.of(config, plan, args.stage, Path(folder))
        clock = training.timed_steps(args.seconds)
        found = {
            "step": clock.seconds,
            "cores": clock.cores,
            "window": training.seconds_per_window(),
        }
    write_json(args.output, found)


if __name__ == "__main__":
    main()
