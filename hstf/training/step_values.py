"""The loss of each step, read without waiting for a GPU.

A GPU works through a queue of operations. To read a number at once, the CPU would have to wait
until the queue is empty, and the GPU would then wait for the CPU. Hence the numbers of a step are
copied beside the work of the GPU and read one step later. A CPU has no queue: its numbers are read
at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hstf.config.training import TrainingConfig
from hstf.runtime.errors import HstfError
from hstf.training.state import TrainingState

NORM = "gradient norm"


@dataclass(frozen=True)
class Waiting:
    """A step whose numbers are on their way to the host."""

    step: int
    case_ids: tuple[str, ...]
    rate: float
    names: list[str]
    numbers: Tensor
    """On the host."""
    copied: torch.cuda.Event | None
    """Happens when the numbers have arrived; None if they are there."""


@dataclass
class StepValues:
    """Checks that the losses are finite, and records them in the history of a training."""

    state: TrainingState
    config: TrainingConfig
    waiting: list[Waiting] = field(default_factory=list)

    def add(
        self,
        step: int,
        case_ids: tuple[str, ...],
        rate: float,
        terms: Mapping[str, Tensor],
        norm: Tensor,
    ) -> None:
        """Add a step before its weights are updated, and read the steps that have ended.

        Args:
            step: number of the step, from 0.
            case_ids: cases of the batch.
            rate: learning rate of the step.
            terms: the loss and its terms.
            norm: norm of the gradient.

        Raises:
            HstfError: if a number of this step or, on a GPU, of the step before is not finite.
        """
        values = [value.detach().float() for value in (*terms.values(), norm)]
        numbers = torch.stack(values)
        copied = None
        if numbers.is_cuda:
            numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(
                numbers, non_blocking=True
            )
            copied = torch.cuda.Event()
            copied.record()
        names = [*terms, NORM]
        self.waiting.append(Waiting(step, case_ids, rate, names, numbers, copied))
        self.read(later=0 if copied is None else 1)

    def read(self, later: int = 0) -> None:
        """Read all steps but the last ``later`` ones, and wait for them if necessary.

        Raises:
            HstfError: if a number is not finite.
        """
        while len(self.waiting) > later:
            self._read(self.waiting.pop(0))

    def _read(self, step: Waiting) -> None:
        if step.copied is not None:
            step.copied.synchronize()
        numbers = step.numbers.numpy()
        values = dict(zip(step.names, numbers.tolist(), strict=True))
        if not np.isfinite(numbers).all():
            raise HstfError(_not_finite(step, values))
        del values[NORM]
        self.state.averages.add(values)
        done = step.step + 1
        if done % self.config.history_every == 0 or done == self.config.steps:
            averages = self.state.averages.pop()
            self.state.history.append({"step": done, "learning_rate": step.rate, **averages})


def _not_finite(step: Waiting, values: Mapping[str, float]) -> str:
    found = [f"{name} {value:g}" for name, value in values.items() if name != "loss"]
    return (
        f"the loss or its gradient is not finite at step {step.step} ({', '.join(found)}) with a"
        f" batch of {', '.join(step.case_ids)}. The last good state is kept: inspect these scans,"
        " lower learning_rate or set amp: off, and start again."
    )
