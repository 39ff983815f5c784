"""Initial weights from a file: what is taken, what is adapted, and what is named."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hstf.models.base import NetworkSpec, SegmentationNetwork
from hstf.models.registry import build, save_network
from hstf.models.transfer import UNTRAINED, plain_names, read_weights, transfer
from hstf.runtime.errors import HstfError

SPEC = NetworkSpec(
    "hybrid",
    1,
    3,
    (6, 8),
    ((1, 1, 1), (2, 2, 2)),
    ((3, 3, 3), (3, 3, 3)),
    (1.0, 1.0, 1.0),
    1,
    1,
    patch_size=(8, 8, 8),
)
HEADS = ["heads.0.weight", "heads.0.bias"]


def network(seed: int, **changes: object) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build(replace(SPEC, **changes))  # type: ignore[arg-type]


def stored(path: Path, seed: int = 1, **changes: object) -> SegmentationNetwork:
    """Write a network; return it."""
    source = network(seed, **changes)
    save_network(path, source, {})
    return source


def same(one: SegmentationNetwork, other: SegmentationNetwork) -> set[str]:
    """Return the plain names of equal tensors."""
    first, second = plain_names(one), plain_names(other)
    ours, theirs = one.state_dict(), other.state_dict()
    names = set(first) & set(second)
    return {name for name in names if ours[first[name]].equal(theirs[second[name]])}


@pytest.mark.parametrize("name", ["hybrid", "cnn", "utnet", "pair"])
@pytest.mark.parametrize("classes", [3, 5])
def test_transfer_takes_everything_but_the_output_layers(
    tmp_path: Path, name: str, classes: int
) -> None:
    changes = {"name": name, "pair": ("hybrid", "cnn") if name == "pair" else ()}
    source = stored(tmp_path / "weights.pt", classes=classes, **changes)
    target = network(0, **changes)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    result = transfer(target, tmp_path / "weights.pt")
    heads = [key for key in before if "heads" in key]
    assert result.output_layers == heads
    assert set(result.taken) == set(before) - set(heads)
    assert not result.missing and not result.mismatches and not result.unused
    assert set(result.taken) <= same(target, source)
    assert all(target.state_dict()[key].equal(before[key]) for key in heads)
    text = "\n".join(result.lines(tmp_path / "weights.pt"))
    assert f"start: {len(result.taken)} tensors" in text
    assert f"not taken, output layers ({len(heads)}): {', '.join(heads)}" in text


@pytest.mark.parametrize("name", ["hybrid", "cnn", "utnet", "pair"])
def test_transfer_of_the_encoder_leaves_the_decoder_at_random(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights.pt"
    changes = {"name": name, "pair": ("hybrid", "cnn") if name == "pair" else ()}
    source = stored(path, **changes)
    target = network(2, **changes)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    result = transfer(target, path, part="encoder")
    image = torch.randn(1, 1, 8, 8, 8)
    for part in (source, target):
        part.eval()
    for theirs, ours in zip(source.parts, target.parts, strict=True):
        assert theirs.encode(image).equal(ours.encode(image))
    assert result.decoder
    assert all(target.state_dict()[plain_names(target)[n]].equal(before[n]) for n in result.decoder)
    assert any("not taken, decoder" in line for line in result.lines(path))
    assert not set(result.decoder) & set(result.taken)


def test_transfer_ignores_the_wrapper_for_regions(tmp_path: Path) -> None:
    source = stored(tmp_path / "weights.pt", classes=1)
    target = network(0, regions=((1, 2), (2,)))
    result = transfer(target, tmp_path / "weights.pt")
    assert same(target, source) >= {name.removeprefix("network.") for name in result.taken}
    assert result.output_layers == HEADS
    assert all(name in dict(target.named_parameters()) for name in result.taken)


@pytest.mark.parametrize(("theirs", "ours"), [(1, 4), (4, 1), (4, 2)])
def test_transfer_adapts_the_first_layers_to_the_channels(
    tmp_path: Path, theirs: int, ours: int
) -> None:
    """A scan that is the same in all channels has the same features in both networks."""
    source = stored(tmp_path / "weights.pt", inputs=theirs)
    target = network(0, inputs=ours)
    result = transfer(target, tmp_path / "weights.pt")
    assert result.adapted == ["encoder.0.first.weight", "encoder.0.shortcut.0.weight"]
    assert "adapted to the number of channels (2)" in "\n".join(result.lines(tmp_path))
    image = torch.randn(1, 1, 8, 8, 8)
    if theirs == 4:
        mean = {
            name: w.mean(1, keepdim=True)
            for name, w in source.state_dict().items()
            if name in result.adapted
        }
        for name, weight in mean.items():
            source.state_dict()[name].copy_(weight.expand(-1, 4, -1, -1, -1))
    found = target.eval().encode(image.expand(-1, ours, -1, -1, -1))
    expected = source.eval().encode(image.expand(-1, theirs, -1, -1, -1))
    assert torch.allclose(found, expected, atol=1e-4)


def test_transfer_leaves_out_what_pre_training_did_not_change(tmp_path: Path) -> None:
    source = network(1)
    decoder = [name for name in source.state_dict() if name.startswith("decoder")]
    save_network(tmp_path / "weights.pt", source, {UNTRAINED: decoder})
    result = transfer(network(0), tmp_path / "weights.pt")
    assert result.missing == decoder
    assert f"not taken, not in the file ({len(decoder)}): decoder.0.up.weight" in "\n".join(
        result.lines(tmp_path)
    )


@pytest.mark.parametrize("container", ["network_weights", "state_dict", "model", None])
def test_transfer_takes_the_encoder_of_another_program(
    tmp_path: Path, container: str | None
) -> None:
    source = network(1)
    theirs: dict[str, Tensor] = {}
    for name, tensor in source.state_dict().items():
        if name.startswith("encoder"):
            theirs[name.replace("encoder.", "module.stages.")] = tensor
    theirs["module.stages.1.second.weight"] = torch.zeros(9, 9, 3, 3, 3)
    theirs["classifier.weight"] = torch.zeros(3)
    content = {container: theirs, "epoch": 7} if container else theirs
    torch.save(content, tmp_path / "other.pt")
    target = network(0)
    result = transfer(target, tmp_path / "other.pt", {"module.stages.": "encoder.", "module.": ""})
    assert same(target, source) >= set(result.taken)
    assert result.mismatches == ["encoder.1.second.weight is 9×9×3×3×3 in the file, 8×8×3×3×3 here"]
    assert result.unused == ["classifier.weight"]
    assert all(name.startswith("encoder") for name in result.taken)
    assert any(name.startswith("decoder") for name in result.missing)


def test_transfer_lists_what_differs_if_nothing_fits(tmp_path: Path) -> None:
    content = {"stem.weight": torch.zeros(2), "heads.0.weight": torch.zeros(3, 6, 1, 1, 1)}
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(HstfError) as found:
        transfer(network(0), tmp_path / "other.pt")
    text = str(found.value)
    assert "none of its 2 tensors fits the network" in text
    assert "network.start_keys, {their prefix: our prefix}" in text
    assert "stem.weight is not in the network" in text
    assert "encoder.0.first.weight is not in the file" in text


class Payload:
    """What a file of tensors must not run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code in a file was run",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Payload(), "save nothing but its state_dict"),
        ({"epoch": 3}, "has no tensors"),
        ([torch.zeros(2)], "has list, expected the weights by name"),
    ],
)
def test_read_weights_refuses_other_files(
    tmp_path: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(HstfError, match=message):
        read_weights(tmp_path / "other.pt")
    assert capsys.readouterr().out == ""


def test_read_weights_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match=r"none\.pt: the file of initial weights is missing"):
        read_weights(tmp_path / "none.pt")
