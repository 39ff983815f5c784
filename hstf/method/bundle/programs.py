"""Networks as programs that run without hstf: TorchScript and ``torch.export``.

Both programs contain the weights of the whole ensemble. They map windows ``(B, C, X, Y, Z)`` of the
planned patch size to logits ``(B, K, X, Y, Z)``, for any number of windows. The members of an
ensemble are also submodules of the TorchScript program, ``program.members``.

A network is exported first, and TorchScript is traced from the result: networks that compute with
the sizes of their input in Python can be exported, but not traced. What does not depend on the
input, such as the positions of the transformer, is computed once and stored. Otherwise the program
would compute it on the device on which it was exported.
"""

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from hstf.config.export import Program
from hstf.models.base import SegmentationNetwork
from hstf.runtime.files import atomic_path
from hstf.runtime.torch_files import write_torch

PROGRAM_FILES: dict[Program, str] = {
    "torchscript": "model.ts",
    "checkpoint": "model.pt",
    "torch_export": "model.pt2",
}
"""Name of the file of each program."""
DEBUG_ENDING = ".debug_pkl"
"""Ending of the records of TorchScript that name source files of this machine."""
EXAMPLES = 2
"""Number of windows with which a network is exported. One would fix the number to one."""


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged.

    Example:
        >>> members = [nn.Conv3d(1, 3, kernel_size=1) for _ in range(2)]
        >>> Ensemble(members)(torch.zeros(2, 1, 4, 4, 4)).shape
        torch.Size([2, 3, 4, 4, 4])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logarithm of the mean probabilities, of which a softmax is the mean."""
        logs = []
        for member in self.members:
            logs.append(member(x).float().log_softmax(1))
        return torch.stack(logs).logsumexp(0) - math.log(len(logs))


class Windows(nn.Module):
    """Apply a traced program, which is fixed to one window, to any number of windows."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of each window."""
        logits = []
        for window in x.split(1):
            logits.append(self.network(window))
        return torch.cat(logits)


def write_programs(
    folder: Path,
    networks: Sequence[SegmentationNetwork],
    patch_size: Sequence[int],
    programs: Sequence[Program],
) -> None:
    """Write an ensemble as programs into ``folder``.

    Args:
        folder: folder of the files.
        networks: network of each ensemble member, on the CPU, in evaluation mode.
        patch_size: size of the windows (voxels).
        programs: the programs to write; none: nothing is computed.
    """
    if not programs:
        return
    if "torchscript" in programs:
        content = torchscript(networks, patch_size)
        with atomic_path(folder / PROGRAM_FILES["torchscript"]) as path:
            path.write_bytes(content)
        if "checkpoint" in programs:
            weights = torch.jit.load(io.BytesIO(content)).state_dict()
            write_torch(folder / PROGRAM_FILES["checkpoint"], dict(weights))
    if "torch_export" in programs:
        exported = export_program(_in_one(networks), networks[0].spec.inputs, patch_size)
        # As large as the windows, and needed by nobody.
        exported.example_inputs = None
        with atomic_path(folder / PROGRAM_FILES["torch_export"]) as path, path.open("wb") as stream:
            torch.export.save(exported, stream)


def _in_one(networks: Sequence[nn.Module]) -> nn.Module:
    return networks[0] if len(networks) == 1 else Ensemble(networks)


def export_program(
    network: nn.Module, channels: int, patch_size: Sequence[int]
) -> torch.export.ExportedProgram:
    """Export a network for any number of windows.

    Args:
        network: in evaluation mode, on the CPU.
        channels: number of its input channels.
        patch_size: size of the windows (voxels).
    """
    windows = torch.zeros(EXAMPLES, channels, *patch_size)
    with torch.no_grad():
        program = torch.export.export(
            network.eval(),
            (windows,),
            dynamic_shapes=({0: torch.export.Dim("windows")},),
        )
    for node in program.graph.nodes:
        # It names source files of this machine.
        node.meta.pop("stack_trace", None)
    return program


def torchscript(networks: Sequence[SegmentationNetwork], patch_size: Sequence[int]) -> bytes:
    """Return the TorchScript file of an ensemble; see :func:`write_programs`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # TorchScript is old, and programs that read it are many. The trace holds for this patch.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = [_traced(network, patch_size) for network in networks]
        torch.jit.save(torch.jit.script(_in_one(traced)), stream)
    return _without_debug_records(stream)


def _traced(network: SegmentationNetwork, patch_size: Sequence[int]) -> nn.Module:
    """Return a network in TorchScript, for any number of windows."""
    channels = network.spec.inputs
    module = export_program(network, channels, patch_size).module()
    assert isinstance(module, fx.GraphModule)
    store_constants(module)
    with torch.no_grad():
        window = torch.zeros(1, channels, *patch_size)
        return Windows(torch.jit.trace(module, window, check_trace=False))


def store_constants(module: fx.GraphModule) -> None:
    """Replace, in place, what does not depend on the input of ``module`` by buffers.

    Example:
        >>> class Shift(nn.Module):
        ...     def forward(self, x):
        ...         return x + torch.arange(3)
        >>> module = torch.export.export(Shift(), (torch.zeros(3),)).module()
        >>> store_constants(module)
        >>> module(torch.zeros(3)), list(module.state_dict())
        (tensor([0., 1., 2.]), ['constant_0'])
    """
    known = _constants(module.graph)
    for node, value in known.items():
        if not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        name = f"constant_{len(list(module.buffers()))}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(name)
        node.replace_all_uses_with(stored, delete_user_cb=lambda user: user not in known)
    module.graph.eliminate_dead_code()
    module.recompile()


def _constants(graph: fx.Graph) -> dict[fx.Node, Any]:
    """Compute the nodes that do not depend on an input or on weights."""
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        is_function = node.op == "call_function" and not node.is_impure()
        if not is_function or any(before not in known for before in node.all_input_nodes):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        known[node] = node.target(*args, **kwargs)
    return known


def _without_debug_records(stream: io.BytesIO) -> bytes:
    """Copy a TorchScript file without the records that name source files of this machine."""
    result = io.BytesIO()
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(result, "w") as target:
        for record in source.infolist():
            if not record.filename.endswith(DEBUG_ENDING):
                target.writestr(record, source.read(record))
    return result.getvalue()
