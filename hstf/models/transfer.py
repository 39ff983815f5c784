"""Initial weights from pre-training, from another experiment, or from another program.

Tensors are taken where name and shape fit. Names are those of the network without the wrapper for
regions, so that they do not depend on the labels. Output layers are never taken, because their
classes are others. The first layers are adapted to the number of channels: the mean over the
channels of the file is used for each channel, such that the sum over the channels stays the same.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hstf.models.base import NetworkSpec, SegmentationNetwork
from hstf.models.regions import RegionNetwork
from hstf.models.registry import build, spec_of
from hstf.runtime.errors import HstfError, join_problems, shortened
from hstf.runtime.torch_files import DamagedFile, read_torch

CONTAINERS = ("state_dict", "network_weights", "model_state_dict", "model")
"""Keys under which programs store the weights, beside other facts: HSTF and MONAI, nnU-Net, …"""
UNTRAINED = "untrained"
"""Key of ``meta`` with the names of the weights that a pre-training did not change."""
LISTED = 8
"""Number of names that a line of the log has."""


@dataclass(frozen=True)
class Transfer:
    """What a network took from a file."""

    taken: list[str] = field(default_factory=list)
    """Names in the network, with the wrapper for regions."""
    adapted: list[str] = field(default_factory=list)
    """Those of them that were adapted to the number of channels."""
    output_layers: list[str] = field(default_factory=list)
    """Layers that are never taken."""
    decoder: list[str] = field(default_factory=list)
    """Layers that are not part of the encoder, if only the encoder is taken."""
    missing: list[str] = field(default_factory=list)
    """Names that the file does not have."""
    mismatches: list[str] = field(default_factory=list)
    """Names with both shapes, if they do not fit."""
    unused: list[str] = field(default_factory=list)
    """Names in the file that the network does not have."""
    parameters: int = 0
    """Number of weights that were taken."""
    total: int = 0
    """Number of weights of the network."""

    def lines(self, path: Path) -> list[str]:
        """Describe the transfer for the log.

        Args:
            path: the file.
        """
        count = len(self.taken)
        percent = 100 * self.parameters / max(1, self.total)
        texts = [f"start: {count} tensors ({percent:.0f}% of the weights) are taken from {path}"]
        kept = {
            "adapted to the number of channels": self.adapted,
            "not taken, output layers": self.output_layers,
            "not taken, decoder": self.decoder,
            "not taken, not in the file": self.missing,
            "not taken, another shape": self.mismatches,
            "in the file and not used": self.unused,
        }
        for title, names in kept.items():
            if names:
                texts.append(f"start: {title} ({len(names)}): {_listed(names)}")
        return texts


def transfer(
    network: SegmentationNetwork,
    path: Path,
    prefixes: Mapping[str, str] | None = None,
    part: str = "network",
) -> Transfer:
    """Copy the weights of a file to a network where names and shapes fit.

    Args:
        network: changed in place.
        path: a file of weights.
        prefixes: for names in the file, their prefix and ours.
        part: ``network``, or ``encoder`` to leave out the decoder.

    Raises:
        HstfError: if the file cannot be read, or if nothing fits.
    """
    theirs = renamed(read_weights(path), prefixes or {})
    decoder = decoder_names(network.spec) if part == "encoder" else set()
    result = copy_weights(network, theirs, decoder)
    if not result.taken:
        found = [f"{name} is not in the network" for name in result.unused]
        wanted = [f"{name} is not in the file" for name in result.missing]
        raise join_problems(
            f"{path}: none of its {len(theirs)} tensors fits the network. Give the names with"
            " network.start_keys, {their prefix: our prefix}.",
            [*shortened(result.mismatches), *shortened(found), *shortened(wanted)],
        )
    return result


def learned_cases(path: Path) -> list[str]:
    """Return the cases whose labels a file of HSTF was trained on; none for other files.

    Raises:
        HstfError: if the file cannot be read.
    """
    content = _content(path)
    if not isinstance(content, Mapping) or "spec" not in content:
        return []
    found: list[str] = json.loads(content.get("meta", "{}")).get("trained_on", [])
    return found


def copy_weights(
    network: SegmentationNetwork,
    theirs: Mapping[str, Tensor],
    left_out: Collection[str] = (),
) -> Transfer:
    """Copy tensors to a network where names and shapes fit.

    Args:
        network: changed in place.
        theirs: the tensors by their plain names.
        left_out: plain names of the decoder, if only the encoder is taken.

    Example:
        >>> from hstf.models.base import NetworkSpec
        >>> levels = {"strides": ((1, 1, 1), (2, 2, 2)), "kernels": ((3, 3, 3),) * 2}
        >>> spec = NetworkSpec("cnn", 1, 2, (4, 8), spacing=(1, 1, 1), **levels)
        >>> other = build(replace(spec, classes=5))
        >>> copy_weights(build(spec), other.state_dict()).output_layers
        ['heads.0.weight', 'heads.0.bias']
    """
    spec = network.spec
    output_layers = names_that_depend_on(spec, classes=spec.classes + 1)
    # One network needs a number of channels that divides 16.
    first_layers = names_that_depend_on(spec, inputs=2 if spec.inputs == 1 else 1)
    state = network.state_dict()
    result = Transfer(total=sum(tensor.numel() for tensor in state.values()))
    names = plain_names(network)
    parameters = 0
    for plain, full in names.items():
        if plain in output_layers:
            result.output_layers.append(plain)
        elif plain in left_out:
            result.decoder.append(plain)
        elif plain not in theirs:
            result.missing.append(plain)
        else:
            fitting = fitted(theirs[plain], state[full], plain in first_layers)
            if fitting is None:
                shapes = f"{_shape(theirs[plain])} in the file, {_shape(state[full])} here"
                result.mismatches.append(f"{plain} is {shapes}")
                continue
            state[full].copy_(fitting)
            result.taken.append(full)
            parameters += state[full].numel()
            if theirs[plain].shape != state[full].shape:
                result.adapted.append(plain)
    result.unused.extend(name for name in theirs if name not in names)
    return replace(result, parameters=parameters)


def fitted(theirs: Tensor, ours: Tensor, is_first_layer: bool) -> Tensor | None:
    """Return a tensor in the shape of ``ours``; None if it does not fit.

    Args:
        theirs: the tensor of the file.
        ours: the tensor of the network.
        is_first_layer: whether the second axis has the channels of the image.

    Example:
        >>> weight = torch.tensor([[[1.0]], [[3.0]]])
        >>> fitted(weight, torch.zeros(2, 2, 1), is_first_layer=True)[:, :, 0].tolist()
        [[0.5, 0.5], [1.5, 1.5]]
    """
    if theirs.shape == ours.shape:
        return theirs
    if not is_first_layer or theirs.ndim != ours.ndim or ours.ndim < 2:
        return None
    if theirs.shape[0] != ours.shape[0] or theirs.shape[2:] != ours.shape[2:]:
        return None
    mean = theirs.float().mean(1, keepdim=True)
    return mean.expand_as(ours) * (theirs.shape[1] / ours.shape[1])


def plain_names(network: SegmentationNetwork) -> dict[str, str]:
    """Return the name of each tensor without the wrapper for regions, and its full name."""
    wrappers = []
    for name, module in network.named_modules():
        if isinstance(module, RegionNetwork):
            wrappers.append(f"{name}." if name else "")
    names = {}
    for full in network.state_dict():
        plain = full
        for wrapper in wrappers:
            inner = f"{wrapper}network."
            if full.startswith(inner):
                plain = wrapper + full.removeprefix(inner)
        names[plain] = full
    return names


def names_that_depend_on(spec: NetworkSpec, **changes: Any) -> set[str]:
    """Return the plain names of the tensors whose shape changes with a fact of the specification.

    Example:
        >>> levels = {"strides": ((1, 1, 1), (2, 2, 2)), "kernels": ((3, 3, 3),) * 2}
        >>> spec = NetworkSpec("cnn", 1, 2, (4, 8), spacing=(1, 1, 1), **levels)
        >>> sorted(names_that_depend_on(spec, inputs=2))
        ['encoder.0.first.weight', 'encoder.0.shortcut.0.weight']
    """
    plain = replace(spec, regions=())
    shapes = _shapes(plain)
    others = _shapes(replace(plain, **changes))
    return {name for name, shape in shapes.items() if others.get(name) != shape}


def decoder_names(spec: NetworkSpec) -> set[str]:
    """Return the plain names of the weights on which the deepest features do not depend.

    Example:
        >>> levels = {"strides": ((1, 1, 1), (2, 2, 2)), "kernels": ((3, 3, 3),) * 2}
        >>> names = decoder_names(NetworkSpec("cnn", 1, 2, (4, 8), spacing=(1, 1, 1), **levels))
        >>> {name.partition(".")[0] for name in names} >= {"decoder", "heads"}
        True
    """
    network = _built(replace(spec, regions=()))
    size = [2 * stride for stride in network.divisor]
    for part in network.parts:
        part.encode(torch.zeros(1, spec.inputs, *size)).sum().backward()
    return {name for name, weight in network.named_parameters() if weight.grad is None}


def _shapes(spec: NetworkSpec) -> dict[str, torch.Size]:
    network = _built(spec)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _built(spec: NetworkSpec) -> SegmentationNetwork:
    """Build a network without a change of the random numbers that follow."""
    with torch.random.fork_rng(devices=[]):
        return build(spec)


def renamed(weights: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Replace the longest prefix that fits in each name.

    Example:
        >>> list(renamed({"net.a": torch.zeros(1), "b": torch.zeros(1)}, {"net.": "encoder."}))
        ['encoder.a', 'b']
    """
    longest_first = sorted(prefixes, key=len, reverse=True)
    result = {}
    for name, tensor in weights.items():
        found = [prefix for prefix in longest_first if name.startswith(prefix)]
        if found:
            name = prefixes[found[0]] + name.removeprefix(found[0])
        result[name] = tensor
    return result


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of HSTF or of another program, by their plain names.

    No code in the file is run (``weights_only``). Weights that a pre-training did not change are
    left out.

    Raises:
        HstfError: if the file is missing or has no weights.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        raise HstfError(f"{path}: has {type(content).__name__}, expected the weights by name.")
    weights: Mapping[str, Any] = content
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            weights = content[key]
            break
    tensors = {str(n): tensor for n, tensor in weights.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise HstfError(f"{path}: has no tensors, expected the weights of a network by name.")
    if "spec" not in content:
        return tensors
    return _of_hstf(tensors, content)


def _content(path: Path) -> Any:
    try:
        return read_torch(path)
    except FileNotFoundError as error:
        raise HstfError(f"{path}: the file of initial weights is missing.") from error
    except (DamagedFile, OSError) as error:
        raise HstfError(
            f"{path}: cannot be read as weights ({str(error).splitlines()[0]}). Expected a file of"
            " torch.save with tensors only: load it in the program that wrote it, and save"
            " nothing but its state_dict."
        ) from error


def _of_hstf(tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the trained tensors of a file of HSTF by their plain names."""
    names = plain_names(_built(spec_of(content["spec"])))
    untrained: Collection[str] = json.loads(content.get("meta", "{}")).get(UNTRAINED, ())
    return {plain: tensors[full] for plain, full in names.items() if plain not in untrained}


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
