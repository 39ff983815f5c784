"""The resumable state of a training: all that the next step depends on, in one file."""

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hstf.config.training import TrainingConfig
from hstf.models.base import SegmentationNetwork
from hstf.runtime.errors import HstfError
from hstf.runtime.files import remove_leftovers
from hstf.runtime.torch_files import DamagedFile, read_torch, write_torch
from hstf.training.distributed import from_first_rank, is_first_rank
from hstf.training.optimizer import AdamW

FILE = "state.pt"


@dataclass
class Averages:
    """Running means of the loss terms since the last row of the history."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    note: str = field(default="", compare=False)
    """The last mean loss, as text."""

    def add(self, values: Mapping[str, float]) -> None:
        """Add the loss (``loss``) and its terms of a step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def pop(self) -> dict[str, float]:
        """Return the means and start again."""
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums = {}
        self.count = 0
        self.note = f"loss {means['loss']:.3f}"
        return means


@dataclass
class TrainingState:
    """Network, EMA network, optimiser, number of finished steps and history."""

    network: SegmentationNetwork
    ema: SegmentationNetwork
    optimizer: AdamW
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    averages: Averages = field(default_factory=Averages)
    snapshots: list[dict[str, Tensor]] = field(default_factory=list)
    """Weights of the EMA network at earlier steps."""

    @classmethod
    def start(
        cls,
        network: SegmentationNetwork,
        config: TrainingConfig,
        taken: Collection[str] = (),
        rate: float = 1.0,
    ) -> "TrainingState":
        """Return the state before the first step.

        Args:
            network: the network with its first weights.
            config: the training.
            taken: names of weights with another learning rate, which were taken from a file.
            rate: factor on their learning rate.
        """
        ema = copy.deepcopy(network).requires_grad_(False).eval()
        # On a GPU, one kernel updates all weights.
        fused = next(network.parameters()).is_cuda
        groups = parameter_groups(network, config, taken, rate)
        optimizer = AdamW(groups, config.learning_rate, fused)
        return cls(network, ema, optimizer)

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the state atomically; only the first rank writes.

        Args:
            folder: folder of the file.
            fingerprint: hash of the inputs and the configuration of the training.
        """
        if not is_first_rank():
            return
        content = {
            "fingerprint": fingerprint,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": json.dumps(self.history),
            "averages": json.dumps(asdict(self.averages)),
            "snapshots": self.snapshots,
        }
        write_torch(folder / FILE, content)

    def resume(self, folder: Path, fingerprint: str) -> str:
        """Load the state in ``folder`` if it has the same ``fingerprint``.

        The first rank reads the file and sends its content to the others.

        Returns:
            A message about the step at which the training starts.

        Raises:
            HstfError: if the file cannot be read.
        """
        found: tuple[dict[str, Any] | None, str] = (None, "")
        if is_first_rank():
            remove_leftovers(folder / FILE)
            found = _read(folder / FILE, fingerprint)
        content, message = from_first_rank(found)
        if content is not None:
            self._restore(content)
        return message

    def _restore(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.ema.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]
        self.history = json.loads(content["history"])
        self.averages = Averages(**json.loads(content["averages"]))
        self.snapshots = content["snapshots"]

    def keep_snapshot(self) -> None:
        """Keep a copy of the current weights of the EMA network."""
        weights = self.ema.state_dict()
        self.snapshots.append({key: value.detach().cpu().clone() for key, value in weights.items()})


def _read(path: Path, fingerprint: str) -> tuple[dict[str, Any] | None, str]:
    """Read a state file; return its content, if it can be used, and a message.

    Raises:
        HstfError: if the file cannot be read. It may be whole, and a training from step 0 would
            overwrite it.
    """
    if not path.is_file():
        return None, "starts at step 0"
    try:
        content = read_torch(path)
    except DamagedFile as error:
        return None, f"starts at step 0: {path} is damaged ({error})"
    except OSError as error:
        raise HstfError(
            f"{path}: the state of the training cannot be read ({error.strerror or error}). Make it"
            " readable and start again: the training resumes. To train from step 0, delete it."
        ) from error
    if content["fingerprint"] != fingerprint:
        return None, f"starts at step 0: {path} belongs to other inputs or another configuration"
    return content, f"resumes at step {content['step']}"


def parameter_groups(
    network: nn.Module,
    config: TrainingConfig,
    taken: Collection[str] = (),
    rate: float = 1.0,
) -> list[dict[str, Any]]:
    """Group the parameters for AdamW.

    Matrices and kernels decay; biases and the parameters of norms and LayerScale do not. The
    parameters ``taken`` are in groups of their own if ``rate`` is not 1.
    """
    own: list[nn.Parameter] = []
    slower: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_slower = rate != 1 and name in taken
            (slower if is_slower else own).append(parameter)
    groups = _by_decay(own, config)
    if slower:
        groups += [{**group, "rate": rate} for group in _by_decay(slower, config)]
    return groups


def _by_decay(parameters: list[nn.Parameter], config: TrainingConfig) -> list[dict[str, Any]]:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_ema(
    ema: nn.Module,
    network: nn.Module,
    decay: float,
) -> None:
    """Compute ema = decay * ema + (1 - decay) * network, in place."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
