"""The optimiser AdamW.

``torch.optim.AdamW`` imports the compiler of PyTorch when it is created, which takes as long as the
import of PyTorch itself. This class computes the same steps with the same functions, and its state
has the same form.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8
STEP = "step"
MEAN = "exp_avg"
SQUARE = "exp_avg_sq"


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Args:
        groups: parameters (``params``) and weight decay (``weight_decay``) of each group, and a
            factor on its learning rate (``rate``), if it is not 1.
        rate: the learning rate; it can be changed before each step.
        fused: whether one kernel updates all weights.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rate: float,
        fused: bool = False,
    ) -> None:
        self.groups = groups
        self.rate = rate
        self.fused = fused
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups; their order is that of the saved state."""
        return [parameter for group in self.groups for parameter in group["params"]]

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for group in self.groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self._state(parameter) for parameter in parameters]
            adamw(
                parameters,
                [parameter.grad for parameter in parameters],
                [state[MEAN] for state in states],
                [state[SQUARE] for state in states],
                [],
                [state[STEP] for state in states],
                fused=self.fused,
                foreach=False,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=self.rate * group.get("rate", 1.0),
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                maximize=False,
            )

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the number of steps and the running means of a parameter; zeros at first."""
        if parameter not in self.state:
            # Only the fused kernel reads the number of steps on the device.
            device = parameter.device if self.fused else "cpu"
            self.state[parameter] = {
                STEP: torch.zeros((), device=device),
                MEAN: torch.zeros_like(parameter),
                SQUARE: torch.zeros_like(parameter),
            }
        return self.state[parameter]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each parameter by its index."""
        state = {}
        for index, parameter in enumerate(self.parameters):
            if parameter in self.state:
                state[index] = self.state[parameter]
        return {"state": state}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Load a state of :meth:`state_dict` or of ``torch.optim.AdamW``."""
        parameters = self.parameters
        for index, saved in content["state"].items():
            state = self._state(parameters[index])
            for name, value in state.items():
                value.copy_(saved[name])
