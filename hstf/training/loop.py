"""The training loop of warm-up and student. The schedule is fixed; the EMA weights of the last step are the result."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig, TrainingConfig
from hstf.runtime.devices import autocast
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import Progress
from hstf.training.augmentation import ISOTROPIC_MR, Acquisition, intensity, spatial
from hstf.training.distributed import in_step, leads
from hstf.training.fourier import mix_amplitudes
from hstf.training.patches import Batch, PatchSource
from hstf.training.state import TrainingState, update_ema

IGNORED_SHARE = 1e-3
"""What interpolation mixes in below this share is rounding."""


@dataclass(frozen=True)
class Views:
    """The patches of a batch: where they lie is drawn once, how they look may be drawn again."""

    weak: Tensor
    """``(B, C, D, H, W)``: the patches as they are but for their place."""
    target: Tensor
    """``(B, K, D, H, W)``: class probabilities; they sum to 0 outside the scan. Where the label is to be ignored, all are
    alike."""
    weight: Tensor
    """``(B, 1, D, H, W)``, in 0..1; 0 where the label is to be ignored."""
    pseudo: Tensor
    """``(B, 1, D, H, W)`` bool: voxels of cases without a person's label."""
    augmentation: AugmentationConfig
    generator: torch.Generator
    acquisition: Acquisition = ISOTROPIC_MR

    @classmethod
    def draw(
        cls,
        batch: Batch,
        source: PatchSource,
        config: AugmentationConfig,
        generator: torch.Generator,
    ) -> "Views":
        """Cut the patches out of the regions of ``batch``, on the device of ``generator``."""
        region = batch.region.to(generator.device, non_blocking=True)
        patch = spatial(region, source.patch_size, config, generator, source.acquisition.spacing)
        channels = region.shape[1] - source.classes - 1
        weak, target, weight = patch.split([channels, source.classes, 1], dim=1)
        pseudo = batch.pseudo.to(generator.device)[:, None, None, None, None].expand_as(weight)
        return cls(
            weak,
            of_labelled(target, weight, pseudo),
            weight,
            pseudo,
            config,
            generator,
            source.acquisition,
        )

    def strong(self) -> Tensor:
        """The patches ``(B, C, D, H, W)`` with new random contrast, blur, noise and the like."""
        looks, spacing = self.augmentation.fourier_probability, self.acquisition.spacing
        image = mix_amplitudes(self.weak, self.unlabelled, looks, spacing, self.generator)
        return intensity(image, self.augmentation, self.generator, self.acquisition)

    @property
    def inside(self) -> Tensor:
        """``(B, 1, D, H, W)``, in 0..1: where the patch lies inside the scan."""
        return self.target.sum(1, keepdim=True).clamp(0, 1)

    @property
    def unlabelled(self) -> Tensor:
        """``(B,)`` bool: patches with such voxels."""
        return self.pseudo.flatten(1).any(1)


def of_labelled(target: Tensor, weight: Tensor, pseudo: Tensor) -> Tensor:
    """``target`` ``(B, K, D, H, W)`` where interpolation mixed ignored voxels into it: the mean of the labelled ones alone.

    Scribbles are so thin that a turned patch has hardly a voxel of them that is not mixed. Targets of unlabelled cases,
    whose ``weight`` tells more than what is ignored, stay as they are, and so do those of dense labels, bit for bit.
    """
    inside = target.sum(1, keepdim=True)
    ignored = inside - weight
    mixed = ~pseudo & (ignored > IGNORED_SHARE) & (weight > IGNORED_SHARE)
    labelled = (
        (target - ignored / target.shape[1]).clamp_min(0) * inside / weight.clamp_min(IGNORED_SHARE)
    )
    return torch.where(mixed, labelled, target)


Objective = Callable[[TrainingState, Views], Mapping[str, Tensor]]
"""Named terms of the loss of a step; their sum is minimised."""

RANK_STREAM = 500_000_003
"""From one rank's seed of a step to the next's: as far apart as no two steps of a training are."""


def train(
    state: TrainingState, source: PatchSource, objective: Objective, config: TrainingConfig,
    folder: Path, fingerprint: str, title: str,
) -> None:  # fmt: skip
    """Train from ``state`` to the last step, saving the resumable state in ``folder`` now and then.

    Of several ranks each takes the same steps.

    Raises:
        HstfError: the loss or its gradient is not finite; the last good state stays in ``folder``.
    """
    device = next(state.network.parameters()).device
    saved = time.monotonic()
    state.network.train()
    compute = in_step(state.network, objective)
    with Progress(title, config.steps, state.step) if leads() else nullcontext() as progress:
        for batch in source.batches(state.step, config.steps):
            seed = source.seed * 1_000_003 + state.step + source.rank * RANK_STREAM
            torch.manual_seed(seed)  # DropPath and dropout
            views = Views.draw(
                batch, source, config.augmentation, torch.Generator(device).manual_seed(seed)
            )
            rate = learning_rate(state.step, config)
            with autocast(device, config.amp):
                terms = compute(state, views)
            loss = torch.stack(list(terms.values())).sum()
            norm = gradients(state, loss, config)
            if not torch.isfinite(loss + norm):
                raise HstfError(_not_finite(state.step, batch, terms, norm))
            take_step(state, rate, config)
            state.averages.add(terms, loss)
            if state.step % config.history_every == 0 or state.step == config.steps:
                state.history.append(
                    {"step": state.step, "learning_rate": rate, **state.averages.pop()}
                )
            if time.monotonic() - saved >= config.checkpoint_seconds:
                state.save(folder, fingerprint)
                saved = time.monotonic()
            if progress is not None:
                progress.advance(state.averages.note)
    state.save(folder, fingerprint)


def gradients(state: TrainingState, loss: Tensor, config: TrainingConfig) -> Tensor:
    """Compute and clip the gradients; returns their norm before."""
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)


def take_step(state: TrainingState, rate: float, config: TrainingConfig) -> None:
    """One optimiser step, one of the EMA, and a snapshot where one is due."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    update_ema(
        state.ema, state.network, min(config.ema_decay, (state.step + 1) / (state.step + 10))
    )
    state.step += 1
    if state.step in snapshot_steps(config):
        state.keep_snapshot()


def snapshot_steps(config: TrainingConfig) -> list[int]:
    """The steps after which the EMA network is kept: they part the training evenly."""
    return [config.steps * k // (config.snapshots + 1) for k in range(1, config.snapshots + 1)]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear growth over ``warmup_steps``, then polynomial decay (power 0.9) to zero at the last step."""
    growth = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * growth * (1 - step / config.steps) ** 0.9


def _not_finite(step: int, batch: Batch, terms: Mapping[str, Tensor], norm: Tensor) -> str:
    values = ", ".join(
        f"{name} {float(value.detach()):g}"
        for name, value in {**terms, "gradient norm": norm}.items()
    )
    return (
        f"the loss or its gradient is not finite at step {step} ({values}) with a batch of {', '.join(batch.case_ids)}."
        " The last good state is kept: look at these scans, lower learning_rate or set amp: off, and start again."
    )
