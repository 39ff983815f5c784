"""Views of a scan: known answers of the uncertainties, invariances, and how much is held at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from hstf.config.teacher import TeacherConfig
from hstf.imaging.arrays import read_array
from hstf.method import tta as views
from hstf.method.inference import SlidingWindow
from hstf.method.tta import Views, disagreement, entropy, predict_views, scale_variance, zoom_image
from hstf.models.base import Pyramid
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json

CLASSES = {"organ": (1,)}
WINDOW = SlidingWindow((16, 16, 16), (4, 4, 4), 0.5, 2, amp="off", device=torch.device("cpu"))


class Pointwise(nn.Module):
    """Logits ``(-slope x, slope x)``, plus a ramp along the first axis that no mirrored view shares."""

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
    """``(1, X, Y, Z)``: positive inside a ball, changing sign smoothly."""
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
) -> Views:
    return predict_views(
        networks, ball() if image is None else image, WINDOW, scales, flips, CLASSES, 0.001
    )


def test_known_answers_of_the_uncertainties() -> None:
    even, sure = np.full((4, 1), 0.25), np.array([[1.0], [0], [0], [0]])
    assert entropy(even) == pytest.approx(1)
    assert entropy(sure) == pytest.approx(0, abs=1e-6)
    mean, scale = np.array([[0.5], [0.5]]), np.array([[0.25], [0.75]])
    hand = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert scale_variance(mean, [scale, mean]) == pytest.approx(hand / 2)
    assert scale_variance(mean, [np.array([[1.0], [0.0]])]) == 1  # infinite KL is capped
    members = [np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])]
    assert disagreement(mean, members) == pytest.approx(0.5)
    assert disagreement(mean, []) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**16))
def test_uncertainties_lie_between_0_and_1_and_vanish_for_equal_views(
    count: int, groups: int, seed: int
) -> None:
    random = (
        np.random.default_rng(seed)
        .dirichlet(np.full(count, 0.3), size=(groups, 7))
        .transpose(0, 2, 1)
    )
    mean = random.mean(axis=0)
    for values in (entropy(mean), scale_variance(mean, random), disagreement(mean, list(random))):
        assert values.shape == (7,)
        assert (values >= -1e-9).all() and (values <= 1 + 1e-9).all()
    assert scale_variance(mean, [mean] * groups) == pytest.approx(0)
    assert disagreement(mean, [mean] * groups) == pytest.approx(0)


def test_one_plain_view_is_the_network_itself() -> None:
    got = predicted({"fold_0": Pointwise()})
    probability = torch.sigmoid(6 * ball()[0]).numpy()
    np.testing.assert_array_equal(got.probabilities[1], np.rint(255 * probability).astype(np.uint8))
    assert (got.uncertainty[1:] == 0).all()
    voxels = int((probability > 0.5).sum())
    assert got.agreement["volumes_ml"] == {"organ": pytest.approx(voxels / 1000)}
    assert got.agreement["scales"] == {"1.0": {"organ": 1.0}}
    assert got.agreement["members"] == {"fold_0": {"organ": 1.0}}
    assert got.agreement["flips"] == {"none": {"organ": 1.0}}


def test_members_are_averaged_and_their_disagreement_is_the_mass_that_differs() -> None:
    got = predicted({"a": Pointwise(3), "b": Pointwise(-3)})
    difference = (2 * torch.sigmoid(6 * ball()[0]) - 1).abs().numpy() / 2
    assert (np.abs(got.probabilities.astype(int) - 127.5) <= 0.5).all()
    np.testing.assert_allclose(got.uncertainty[2] / 255, difference, atol=1 / 255)
    assert (got.uncertainty[0] == 255).all()


def test_a_network_that_does_not_mind_mirrors_disagrees_nowhere() -> None:
    got = predicted({"a": Pointwise()}, flips=(0, 1, 2))
    assert (got.uncertainty[2] == 0).all()
    assert list(got.agreement["flips"]) == ["none", "0", "1", "2"]
    assert all(dice == {"organ": 1.0} for dice in got.agreement["flips"].values())
    minding = predicted({"a": Pointwise(ramp=2.0)}, flips=(0,))
    assert minding.uncertainty[2].max() > 50


def test_a_smooth_scan_looks_the_same_at_all_scales() -> None:
    smooth = predicted({"a": Pointwise(1.0)}, (0.8, 1.0, 1.25), image=ball(softness=4.0))
    assert smooth.uncertainty[1].max() <= 2
    assert min(dice["organ"] for dice in smooth.agreement["scales"].values()) > 0.9
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert predicted({"a": Pointwise()}, (0.8, 1.0, 1.25), image=noise).uncertainty[1].mean() > 10


def test_a_class_that_is_nowhere_has_dice_1_and_entropy_0() -> None:
    got = predicted({"a": Pointwise(), "b": Pointwise(2)}, image=torch.full((1, 8, 8, 8), -1.0))
    assert got.agreement["members"] == {"a": {"organ": 1.0}, "b": {"organ": 1.0}}
    assert got.agreement["foreground_entropy"] == {"organ": 0.0}


def test_large_volumes_go_through_disk_and_slabs_to_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = {"a": Pointwise(1.0), "b": Pointwise(2.0, ramp=1.0)}, (0.8, 1.0), (0,)
    whole = predicted(*arguments)
    monkeypatch.setattr(views, "IN_MEMORY", 100)
    monkeypatch.setattr(views, "SLAB_VALUES", 1500)
    on_disk = predicted(*arguments)
    assert np.abs(whole.probabilities.astype(int) - on_disk.probabilities).max() <= 1
    assert np.abs(whole.uncertainty.astype(int) - on_disk.uncertainty).max() <= 1
    for kind in ("scales", "members", "flips"):
        for name, dice in whole.agreement[kind].items():
            assert on_disk.agreement[kind][name]["organ"] == pytest.approx(dice["organ"], abs=0.01)


def test_only_the_groups_are_held_never_all_views(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[int, ...]] = []
    zeros = views._zeros
    monkeypatch.setattr(views, "_zeros", lambda shape: held.append(shape) or zeros(shape))
    predicted({"a": Pointwise(), "b": Pointwise(), "c": Pointwise()}, (0.8, 1.0, 1.25), (0, 1))
    assert held == [(2, 16, 16, 16)] * (3 + 3 + 3)  # not the 27 views


def test_a_full_temporary_disk_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(views, "IN_MEMORY", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(HstfError, match="TMPDIR"):
        predicted({"a": Pointwise()})


def test_zooming_keeps_constants_and_takes_out_what_would_alias() -> None:
    constant = torch.full((2, 9, 10, 11), 3.0)
    torch.testing.assert_close(zoom_image(constant, 0.8), torch.full((2, 7, 8, 9), 3.0))
    assert zoom_image(constant, 1.25).shape == (2, 11, 12, 14)
    assert zoom_image(constant, 1.0) is constant
    stripes = torch.ones(1, 32, 32, 32)
    stripes[:, ::2] = -1
    assert zoom_image(stripes, 0.4)[:, 3:-3].abs().max() < 0.2
    assert zoom_image(torch.zeros(1, 1, 5, 5), 0.4).shape == (1, 1, 2, 2)


def test_thick_slices_are_not_zoomed() -> None:
    image = torch.randn(1, 20, 20, 6, generator=torch.Generator().manual_seed(0))
    for scale in (0.8, 1.25):
        zoomed = zoom_image(image, scale, (1.5, 1.5, 10.0))
        assert zoomed.shape == (1, 20 * scale, 20 * scale, 6)
        alone = zoom_image(image[..., 2:3], scale, (1.5, 1.5, 10.0))
        torch.testing.assert_close(
            zoomed[..., 2:3], alone, msg="a slice has nothing of its neighbours"
        )


def test_windows_over_thick_slices_grow_in_the_plane_and_the_network_is_told() -> None:
    told: list[tuple[object, ...]] = []

    class Told(Pointwise):
        def pyramid(self, x: Tensor, zoom: object = 1.0) -> Pyramid:
            told.append((tuple(x.shape[2:]), zoom))
            return super().pyramid(x)

    window = SlidingWindow(
        (16, 16, 6), (4, 4, 1), 0.5, 2, False, torch.device("cpu"), (1.5, 1.5, 10.0)
    )
    image = torch.randn(1, 20, 20, 6, generator=torch.Generator().manual_seed(0))
    predict_views({"a": Told()}, image, window, (1.0, 1.25), (), CLASSES, 0.001)
    assert set(told) >= {((20, 20, 6), (1.25, 1.25, 1.0))}


def test_windows_of_small_patches_keep_two_voxels_at_the_deepest_level() -> None:
    """As the views that are trained: instance norm cannot norm one."""
    sizes: set[tuple[int, ...]] = set()

    class Seen(Pointwise):
        def pyramid(self, x: Tensor, zoom: object = 1.0) -> Pyramid:
            sizes.add(tuple(x.shape[2:]))
            return super().pyramid(x)

    window = SlidingWindow((8, 8, 4), (4, 4, 4), 0.5, 2, False, torch.device("cpu"))
    window.probabilities(Seen(), torch.zeros(1, 6, 6, 6), 0.4)
    assert sizes == {(8, 8, 4)}


@pytest.mark.parametrize("scale", [0.7, 0.8, 1.25])
def test_zooming_there_and_back_shifts_nothing(scale: float) -> None:
    ramp = torch.linspace(-1, 1, 30)[None, :, None, None].expand(1, 30, 9, 9).contiguous()
    back = views._resampled(zoom_image(ramp, scale)[0], (30, 9, 9))
    torch.testing.assert_close(back[4:-4], ramp[0, 4:-4], atol=1e-4, rtol=0)


def test_views_are_written_as_the_next_stage_reads_them(tmp_path: Path) -> None:
    made = predicted({"a": Pointwise(), "b": Pointwise(2.0)}, (0.8, 1.0))
    views.write_views(tmp_path / "case", made, 8)
    files = views.view_files(tmp_path / "case")
    np.testing.assert_array_equal(read_array(files[0]), made.probabilities)
    np.testing.assert_array_equal(read_array(files[1]), made.uncertainty)
    assert read_json(files[2]) == made.agreement
    assert set(made.row()) == set(views.COLUMNS)
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
def test_settings_that_make_no_sense_are_refused(section: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError):
        TeacherConfig.model_validate(section)
