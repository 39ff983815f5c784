"""Labels that the EMA network predicts during a training, in place of automatic pseudo-labels.

Example:
    >>> scores = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1, 1)
    >>> one_hot_label(scores).flatten().tolist()
    [0.0, 1.0, 0.0]
"""

import torch
from torch import Tensor

from hstf.training.batch import Batch, patches
from hstf.training.state import TrainingState


@torch.no_grad()
def label_of_ema(state: TrainingState, batch: Batch) -> Tensor:
    """Return the label of the EMA network for the patches whose target may be replaced.

    Returns:
        ``(U, K, D, H, W)``, one-hot, for the patches that are marked in ``batch.renewable``. Of
        several networks, the label with the highest mean probability.
    """
    weak = patches(batch.weak, batch.renewable)
    probabilities = [part(weak).float().softmax(1) for part in state.ema.parts]
    return one_hot_label(torch.stack(probabilities).mean(0))


@torch.no_grad()
def one_hot_label(scores: Tensor) -> Tensor:
    """Return the class with the highest score at each voxel, one-hot.

    Args:
        scores: ``(B, K, D, H, W)``, probabilities or logits.

    Returns:
        ``(B, K, D, H, W)``, zeros and ones of the type of ``scores``.
    """
    return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1)
