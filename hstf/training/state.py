"""The resumable state of a training: all that the next step depends on, in one file."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hstf.config.training import TrainingConfig
from hstf.models.base import SegmentationNetwork
from hstf.runtime.files import write_torch
from hstf.training.distributed import from_first, leads


@dataclass
class Averages:
    """Running means of the loss terms since the last row of the history.

    The sums stay on the device, in float64: to read one would make the host wait for the step to end.
    """

    sums: dict[str, float | Tensor] = field(default_factory=dict)
    count: int = 0
    note: str = field(default="", compare=False)
    """The last mean loss, as text."""

    def add(self, terms: Mapping[str, Tensor], loss: Tensor) -> None:
        """Add a step."""
        for name, value in {"loss": loss, **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()
        self.count += 1

    def pop(self) -> dict[str, float]:
        """The means, and start again."""
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count, self.note = {}, 0, f"loss {means['loss']:.3f}"
        return means

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which ``Averages(**values)`` goes on."""
        sums = {name: float(value) for name, value in self.sums.items()}
        return {"sums": sums, "count": self.count, "note": self.note}


@dataclass
class TrainingState:
    """Network, EMA network, optimiser, finished steps and history."""

    network: SegmentationNetwork
    ema: SegmentationNetwork
    optimizer: torch.optim.AdamW
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    averages: Averages = field(default_factory=Averages)
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)
    """Weights of the EMA network at earlier steps."""

    @classmethod
    def start(cls, network: SegmentationNetwork, config: TrainingConfig) -> "TrainingState":
        """The state before the first step."""
        ema = copy.deepcopy(network).requires_grad_(False).eval()
        fused = True if next(network.parameters()).is_cuda else None  # one kernel for all weights
        groups = parameter_groups(network, config)
        return cls(network, ema, torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused))

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the state atomically; ``fingerprint`` tells which inputs and configuration it belongs to.

        Of several ranks the first writes.
        """
        if not leads():
            return
        content = {
            "fingerprint": fingerprint,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": json.dumps(self.history),
            "averages": json.dumps(self.averages.to_json()),
            "snapshots": self.snapshots,
        }
        write_torch(folder / "state.pt", content)

    def resume(self, folder: Path, fingerprint: str) -> str:
        """Take over the state in ``folder`` if it belongs to ``fingerprint``; returns a sentence on what was found.

        Of several ranks the first reads, for all.
        """
        content, said = from_first(
            _read(folder / "state.pt", fingerprint) if leads() else (None, "")
        )
        if content is not None:
            self._take(content)
        return said

    def _take(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.ema.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]
        self.history = json.loads(content["history"])
        self.averages = Averages(**json.loads(content["averages"]))
        self.snapshots = content["snapshots"]

    def keep_snapshot(self) -> None:
        """Keep the weights of the EMA network as they are now."""
        self.snapshots.append(
            {k: v.detach().cpu().clone() for k, v in self.ema.state_dict().items()}
        )


def _read(path: Path, fingerprint: str) -> tuple[dict[str, Any] | None, str]:
    if not path.is_file():
        return None, "starts at step 0"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for damaged files
        return None, f"starts at step 0: {path} is damaged ({type(error).__name__})"
    if content["fingerprint"] != fingerprint:
        return None, f"starts at step 0: {path} belongs to other inputs or another configuration"
    return content, f"resumes at step {content['step']}"


def parameter_groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms, biases and LayerScale do not."""
    parameters: Iterable[nn.Parameter] = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network: ema = decay ema + (1 - decay) network."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
