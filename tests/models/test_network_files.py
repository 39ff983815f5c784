"""Networks are saved and loaded; damaged files are refused."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import SPECS, THREE, an_input, build

from hstf.models.base import NetworkSpec
from hstf.models.registry import (
    NAMES,
    load_network,
    load_snapshots,
    save_network,
)
from hstf.models.registry import build as build_network
from hstf.runtime.errors import HstfError


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_load_network_returns_the_saved_network(spec: NetworkSpec, tmp_path: Path) -> None:
    network, x = build(spec).eval(), an_input(spec)
    meta = {"round": 1, "member": "seed_0", "trained_on": ["a", "b"]}
    for name in ("first/weights.pt", "second.pt"):
        save_network(tmp_path / name, network, meta)
    loaded, found = load_network(tmp_path / "first/weights.pt")
    assert (found, loaded.spec, loaded.training) == (meta, spec, False)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    save_network(tmp_path / "again.pt", loaded, found)
    assert len({sha256(tmp_path / n) for n in ("first/weights.pt", "second.pt", "again.pt")}) == 1


class Payload:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_load_network_refuses_damaged_files_and_executes_nothing(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    save_network(good, build(SPECS["two stages"]), {})
    content, trap = good.read_bytes(), tmp_path / "trap"
    torch.save({"state_dict": Payload(trap), "spec": "{}"}, tmp_path / "trojan.pt")
    other = torch.load(good, weights_only=True)
    other["state_dict"].popitem()
    torch.save(other, tmp_path / "incomplete.pt")
    for name, data in {
        "empty.pt": b"",
        "half.pt": content[: len(content) // 2],
        "text.pt": b"no weights",
        "pickle.pt": pickle.dumps({"state_dict": {}}),
    }.items():
        (tmp_path / name).write_bytes(data)
    torch.save([1, 2], tmp_path / "list.pt")
    for path in sorted(set(tmp_path.glob("*.pt")) - {good}):
        with pytest.raises(HstfError, match=rf"{path.name}.*cannot be read as weights"):
            load_network(path)
    assert not trap.exists()
    with pytest.raises(HstfError, match=r"absent\.pt: the weights are missing. Run"):
        load_network(tmp_path / "absent.pt")


def full_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")


def no_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("load", [load_network, load_snapshots])
def test_load_network_without_memory_does_not_blame_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]
) -> None:
    path = tmp_path / "weights.pt"
    network = build(SPECS["two stages"])
    save_network(path, network, {}, [network.state_dict()])
    for owner, method, broken, error in (
        (torch.nn.Module, "to", full_gpu, torch.OutOfMemoryError),
        (Path, "read_bytes", no_memory, MemoryError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, broken)
            with pytest.raises(error):
                load(path, "cpu")


def test_load_network_does_not_advise_to_delete_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    save_network(path, build(SPECS["two stages"]), {})

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(HstfError, match=r"weights\.pt: .*Permission denied\)\. Make .* readable"):
        load_network(path)


@pytest.mark.parametrize("name", NAMES)
def test_load_network_returns_every_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = build_network(replace(THREE, name=name)).eval(), torch.randn(1, 1, 8, 8, 4)
    save_network(tmp_path / "weights.pt", network, {})
    loaded, _ = load_network(tmp_path / "weights.pt")
    assert (type(loaded), loaded.spec) == (type(network), network.spec)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_load_network_reads_files_without_wavelengths(tmp_path: Path) -> None:
    network = build(SPECS["two stages"])
    save_network(tmp_path / "weights.pt", network, {})
    content = torch.load(tmp_path / "weights.pt", weights_only=True)
    spec = json.loads(content["spec"])
    assert spec.pop("shortest_mm") == [4.0, 4.0, 4.0]
    torch.save(content | {"spec": json.dumps(spec)}, tmp_path / "old.pt")
    assert load_network(tmp_path / "old.pt")[0].spec == network.spec
