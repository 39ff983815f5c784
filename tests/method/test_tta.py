"""Test-time augmentation: means of views, invariances and memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from hstf.config.teacher import TtaConfig
from hstf.experiment.round_tables import TEACHER
from hstf.imaging.probabilities import entropy
from hstf.method import group_means
from hstf.method.sliding_window import SlidingWindow
from hstf.method.tta import (
    _smoothed,
    ensemble_label,
    predict_with_tta,
    zoom_image,
)
from hstf.method.tta_summary import TtaSummary
from hstf.models.base import Pyramid
from hstf.runtime.errors import HstfError

CLASSES = {"organ": (1,)}
WINDOW = SlidingWindow((16, 16, 16), (4, 4, 4), 0.5, 2, amp="off", device=torch.device("cpu"))


class Pointwise(nn.Module):
    """Compute logits ``(-slope x, slope x)``, plus a ramp along the first axis."""

    def __init__(self, slope: float = 3.0, ramp: float = 0.0) -> None:
        super().__init__()
        self.slope, self.ramp = slope, ramp

    def forward(self, x: Tensor) -> Tensor:
        logit = (
            self.slope * x[:, :1]
            + self.ramp * torch.linspace(-1, 1, x.shape[2])[None, None, :, None, None]
        )
        return torch.cat([-logit, logit], dim=1)

    def pyramid(self, x: Tensor, zoom: float = 1.0) -> Pyramid:
        return Pyramid([self(x)], x)


def ball(radius: float = 5.0, size: int = 16, softness: float = 1.0) -> Tensor:
    """Return ``(1, X, Y, Z)``: positive inside a ball, negative outside, smooth."""
    axis = torch.arange(size) - (size - 1) / 2
    distance = (
        axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    ).sqrt()
    return torch.tanh((radius - distance) / softness)[None]


def predicted(
    networks: dict[str, nn.Module],
    scales: tuple[float, ...] = (1.0,),
    flips: tuple[int, ...] = (),
    image: Tensor | None = None,
) -> TtaSummary:
    return predict_with_tta(
        networks, ball() if image is None else image, WINDOW, scales, flips, CLASSES, 0.001
    )


def test_predict_with_tta_of_one_view_is_the_network_itself() -> None:
    got = predicted({"fold_0": Pointwise()})
    probability = torch.sigmoid(6 * ball()[0]).numpy()
    np.testing.assert_array_equal(got.probabilities[1], np.rint(255 * probability).astype(np.uint8))
    assert (got.uncertainty[1:] == 0).all()
    voxels = int((probability > 0.5).sum())
    assert got.agreement.volumes_ml == {"organ": pytest.approx(voxels / 1000)}
    assert got.agreement.scales == {"1.0": {"organ": 1.0}}
    assert got.agreement.members == {"fold_0": {"organ": 1.0}}
    assert got.agreement.flips == {"none": {"organ": 1.0}}


def test_predict_with_tta_averages_members() -> None:
    got = predicted({"a": Pointwise(3), "b": Pointwise(-3)})
    difference = (2 * torch.sigmoid(6 * ball()[0]) - 1).abs().numpy() / 2
    assert (np.abs(got.probabilities.astype(int) - 127.5) <= 0.5).all()
    np.testing.assert_allclose(got.uncertainty[2] / 255, difference, atol=1 / 255)
    assert (got.uncertainty[0] == 255).all()


def test_predict_with_tta_measures_the_disagreement_of_members_not_of_flips() -> None:
    """The flips of both members agree, as the networks are equivariant."""
    networks = {"a": Pointwise(3), "b": Pointwise(-3)}
    got = predicted(networks, flips=(0,))
    np.testing.assert_allclose(
        got.uncertainty[2], predicted(networks).uncertainty[2].astype(int), atol=1
    )
    assert got.uncertainty[2].max() > 50


def test_predict_with_tta_compares_all_pairs_of_members() -> None:
    """One member is opposite to two equal ones, so that one pair of three agrees."""
    got = predicted({"a": Pointwise(-3), "b": Pointwise(3), "c": Pointwise(3)})
    assert got.agreement.pairs is not None
    assert got.agreement.pairs["organ"] == pytest.approx(1 / 3)


def test_predict_with_tta_reports_the_mean_entropy_of_a_structure() -> None:
    got = predicted({"a": Pointwise()})
    p = torch.sigmoid(6 * ball()[0]).numpy()
    expected = entropy(np.stack([1 - p, p]))[got.probabilities.argmax(axis=0) == 1].mean()
    assert 0 < expected < 1
    assert got.agreement.foreground_entropy["organ"] == pytest.approx(expected, rel=1e-4)


def test_ensemble_label_is_that_of_the_mean_of_all_networks() -> None:
    networks = [Pointwise(0.1), Pointwise(0.1), Pointwise(-3)]
    found = ensemble_label(networks, ball(), WINDOW)
    np.testing.assert_array_equal(found, (ball()[0] < 0).numpy())


def test_predict_with_tta_has_no_disagreement_for_an_equivariant_network() -> None:
    got = predicted({"a": Pointwise()}, flips=(0, 1, 2))
    assert (got.uncertainty[2] == 0).all()
    assert list(got.agreement.flips) == ["none", "0", "1", "2"]
    assert all(dice == {"organ": 1.0} for dice in got.agreement.flips.values())
    sensitive = predicted({"a": Pointwise(ramp=2.0)}, flips=(0,))
    assert sensitive.uncertainty[2].max() > 50


def test_predict_with_tta_has_little_scale_variance_for_a_smooth_scan() -> None:
    smooth = predicted({"a": Pointwise(1.0)}, (0.8, 1.0, 1.25), image=ball(softness=4.0))
    assert smooth.uncertainty[1].max() <= 2
    assert min(dice["organ"] for dice in smooth.agreement.scales.values()) > 0.9
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert predicted({"a": Pointwise()}, (0.8, 1.0, 1.25), image=noise).uncertainty[1].mean() > 10


def test_predict_with_tta_of_an_absent_class_has_dice_1_and_entropy_0() -> None:
    got = predicted({"a": Pointwise(), "b": Pointwise(2)}, image=torch.full((1, 8, 8, 8), -1.0))
    assert got.agreement.members == {"a": {"organ": 1.0}, "b": {"organ": 1.0}}
    assert got.agreement.foreground_entropy == {"organ": 0.0}


def test_predict_with_tta_on_disk_equals_that_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {"a": Pointwise(1.0), "b": Pointwise(2.0, ramp=1.0)}, (0.8, 1.0), (0,)
    whole = predicted(*arguments)
    monkeypatch.setattr(group_means, "IN_MEMORY", 100)
    monkeypatch.setattr(group_means, "SLAB_VALUES", 1500)
    on_disk = predicted(*arguments)
    assert np.abs(whole.probabilities.astype(int) - on_disk.probabilities).max() <= 1
    assert np.abs(whole.uncertainty.astype(int) - on_disk.uncertainty).max() <= 1
    for kind in ("scales", "members", "flips"):
        stored = getattr(on_disk.agreement, kind)
        for name, dice in getattr(whole.agreement, kind).items():
            assert stored[name]["organ"] == pytest.approx(dice["organ"], abs=0.01)


def test_predict_with_tta_keeps_group_means_only(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[int, ...]] = []
    zeros = group_means._zeros
    monkeypatch.setattr(group_means, "_zeros", lambda shape: held.append(shape) or zeros(shape))
    predicted({"a": Pointwise(), "b": Pointwise(), "c": Pointwise()}, (0.8, 1.0, 1.25), (0, 1))
    assert held == [(2, 16, 16, 16)] * (3 + 3 + 3)  # not the 27 views


def test_predict_with_tta_names_tmpdir_if_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(group_means, "IN_MEMORY", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(HstfError, match="TMPDIR"):
        predicted({"a": Pointwise()})


def test_predict_with_tta_writes_zeros_where_space_cannot_be_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = predicted({"a": Pointwise()})
    monkeypatch.setattr(group_means, "IN_MEMORY", 0)
    monkeypatch.setattr(group_means, "BLOCK_BYTES", 1000)
    monkeypatch.delattr("os.posix_fallocate")  # macOS has no such function
    found = predicted({"a": Pointwise()})
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2)


def test_zoom_image_keeps_constants_and_removes_aliasing() -> None:
    constant = torch.full((2, 9, 10, 11), 3.0)
    torch.testing.assert_close(zoom_image(constant, 0.8), torch.full((2, 7, 8, 9), 3.0))
    assert zoom_image(constant, 1.25).shape == (2, 11, 12, 14)
    assert zoom_image(constant, 1.0) is constant
    stripes = torch.ones(1, 32, 32, 32)
    stripes[:, ::2] = -1
    assert zoom_image(stripes, 0.4)[:, 3:-3].abs().max() < 0.2
    assert zoom_image(torch.zeros(1, 1, 5, 5), 0.4).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
def test_images_are_smoothed_as_in_monai(axes: tuple[int, ...]) -> None:
    from monai.networks.layers import gaussian_1d, separable_filtering

    torch.manual_seed(0)
    image = torch.randn(1, 2, 9, 12, 7)
    kernel = gaussian_1d(torch.tensor(0.75))
    kernels = [kernel if axis in axes else torch.ones(1) for axis in range(3)]
    expected = separable_filtering(image, kernels, mode="replicate")
    torch.testing.assert_close(_smoothed(image, 0.75, axes), expected, rtol=0, atol=1e-6)


def test_zoom_image_keeps_thick_slices() -> None:
    image = torch.randn(1, 20, 20, 6, generator=torch.Generator().manual_seed(0))
    for scale in (0.8, 1.25):
        zoomed = zoom_image(image, scale, (1.5, 1.5, 10.0))
        assert zoomed.shape == (1, 20 * scale, 20 * scale, 6)
        single = zoom_image(image[..., 2:3], scale, (1.5, 1.5, 10.0))
        torch.testing.assert_close(
            zoomed[..., 2:3], single, msg="a slice does not depend on its neighbours"
        )


def test_predict_with_tta_passes_the_zoom_of_each_axis() -> None:
    calls: list[tuple[object, ...]] = []

    class Recording(Pointwise):
        def pyramid(self, x: Tensor, zoom: object = 1.0) -> Pyramid:
            calls.append((tuple(x.shape[2:]), zoom))
            return super().pyramid(x)

    window = SlidingWindow(
        (16, 16, 6), (4, 4, 1), 0.5, 2, "off", torch.device("cpu"), (1.5, 1.5, 10.0)
    )
    image = torch.randn(1, 20, 20, 6, generator=torch.Generator().manual_seed(0))
    predict_with_tta({"a": Recording()}, image, window, (1.0, 1.25), (), CLASSES, 0.001)
    assert set(calls) >= {((20, 20, 6), (1.25, 1.25, 1.0))}


def test_probabilities_keeps_two_voxels_at_the_deepest_level() -> None:
    sizes: set[tuple[int, ...]] = set()

    class Seen(Pointwise):
        def pyramid(self, x: Tensor, zoom: object = 1.0) -> Pyramid:
            sizes.add(tuple(x.shape[2:]))
            return super().pyramid(x)

    window = SlidingWindow((8, 8, 4), (4, 4, 4), 0.5, 2, "off", torch.device("cpu"))
    window.probabilities(Seen(), torch.zeros(1, 6, 6, 6), 0.4)
    assert sizes == {(8, 8, 4)}


@pytest.mark.parametrize("scale", [0.7, 0.8, 1.25])
def test_zoom_image_and_back_does_not_shift(scale: float) -> None:
    ramp = torch.linspace(-1, 1, 30)[None, :, None, None].expand(1, 30, 9, 9).contiguous()
    back = group_means._resampled(zoom_image(ramp, scale)[0], (30, 9, 9))
    torch.testing.assert_close(back[4:-4], ramp[0, 4:-4], atol=1e-4, rtol=0)


def test_save_writes_what_load_reads(tmp_path: Path) -> None:
    made = predicted({"a": Pointwise(), "b": Pointwise(2.0)}, (0.8, 1.0))
    folder = tmp_path / "case"
    made.save(folder, 8)
    assert sorted(folder.iterdir()) == sorted(TtaSummary.files(folder))
    stored = TtaSummary.load(folder)
    np.testing.assert_array_equal(stored.probabilities, made.probabilities)
    np.testing.assert_array_equal(stored.uncertainty, made.uncertainty)
    assert stored.agreement == made.agreement
    columns = {column.name for column in TEACHER.columns} - {
        "case_id",
        "members",
        "files",
        "sha256",
    }
    assert set(made.row()) == columns
    assert made.row()["volumes_ml"].startswith("organ=")


@pytest.mark.parametrize(
    "section",
    [
        {"scales": [0.8, 1.25]},
        {"scales": [0.0, 1.0]},
        {"scales": [1.0, 1.0]},
        {"flip_axes": [3]},
        {"flip_axes": [0, 0]},
    ],
)
def test_teacher_config_refuses_invalid_values(section: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError):
        TtaConfig.model_validate(section)
