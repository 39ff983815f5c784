"""The sliding window, compared with direct predictions and blending by hand."""

import numpy as np
import pytest
import torch
from support.tiny_model import tiny_plan
from torch import Tensor, nn

from hstf.config.evaluate import PredictConfig
from hstf.config.preprocess import PreprocessConfig
from hstf.imaging.geometry import Geometry
from hstf.method.inference import Predictor
from hstf.method.sliding_window import (
    SlidingWindow,
    _assemble_where_it_fits,
    blended_windows,
    flipped_probabilities,
    sliding_probabilities,
)
from hstf.models.base import Pyramid
from hstf.runtime.errors import HstfError
from hstf.stages.evaluate.scales import predict_at

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Compute logits ``(-slope x, slope x)`` of the first channel, without neighbours."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope, self.calls, self.zooms = slope, [], []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape))
        return torch.cat([-self.slope * x[:, :1], self.slope * x[:, :1]], dim=1)

    def pyramid(self, x: Tensor, zoom: float = 1.0) -> Pyramid:
        self.zooms.append(zoom)
        return Pyramid([self(x)], x)


def expected(image: Tensor, slope: float = 1.0) -> Tensor:
    return torch.stack([-slope * image[0], slope * image[0]]).softmax(dim=0)


def window(patch: tuple[int, int, int], overlap: float = 0.5) -> SlidingWindow:
    return SlidingWindow(patch, (4, 4, 4), overlap, 2, amp="off", device=CPU)


def test_sliding_probabilities_of_one_window_is_one_forward_pass() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)
    ).eval()
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    image = torch.randn(1, 12, 16, 8)
    got = sliding_probabilities(network, image, (12, 16, 8), 0.5, 2, "off", CPU)
    assert len(calls) == 1
    torch.testing.assert_close(got, network(image[None])[0].softmax(dim=0).detach())


@pytest.mark.parametrize("shape", [(20, 24, 16), (21, 13, 30), (5, 40, 7), (1, 1, 1)])
def test_probabilities_are_exact_for_a_pointwise_network(
    shape: tuple[int, int, int],
) -> None:
    image = torch.randn(1, *shape)
    got = window((8, 12, 8)).probabilities(Pointwise(), image)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected(image))


@pytest.mark.parametrize(
    ("shape", "overlap", "batch"),
    [((20, 24, 16), 0.5, 2), ((21, 13, 30), 0.25, 3), ((5, 40, 7), 0.97, 1), ((1, 1, 1), 0.0, 2)],
)
def test_blended_windows_are_those_of_monai(
    shape: tuple[int, int, int], overlap: float, batch: int
) -> None:
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = nn.Conv3d(2, 3, 3, padding=1).requires_grad_(False)
    image = torch.randn(2, *shape)
    window = (8, 12, 7)
    got = blended_windows(network, image, window, overlap, batch, CPU)
    expected = sliding_window_inference(
        image[None], window, batch, network, overlap=overlap, mode="gaussian"
    )
    torch.testing.assert_close(got, expected[0], rtol=0, atol=1e-6)


def test_sliding_probabilities_blends_with_a_gaussian() -> None:
    class Numbered(nn.Module):
        """Predict logits (0, i) everywhere in window i."""

        count = 0

        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            for item in logits:
                item[1] = self.count
                self.count += 1
            return logits

    got = sliding_probabilities(Numbered(), torch.zeros(1, 12, 8, 8), (8, 8, 8), 0.5, 1, "off", CPU)
    axis = np.arange(8) - 3.5
    line = np.exp(-(axis**2) / 2)  # sigma is an eighth of the patch: 1 voxel
    cross = line[4] ** 2  # weight of the voxel nearest the middle along y and z
    weight = np.clip(line * cross, 1e-3, None)
    first, second = np.zeros(12), np.zeros(12)
    first[:8], second[4:] = weight, weight
    logit = second / (first + second)
    np.testing.assert_allclose(got[1, :, 4, 4], 1 / (1 + np.exp(-logit)), atol=1e-5)


def test_probabilities_enlarges_the_window_with_the_zoom() -> None:
    network = Pointwise()
    window((8, 8, 12)).probabilities(network, torch.zeros(1, 10, 10, 15), zoom=1.25)
    assert network.zooms == [(1.25, 1.25, 1.25)]
    assert network.calls == [(1, 1, 12, 12, 16)]  # 10, 10, 15 to the next multiple of 4: one window


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_flipped_probabilities_are_flipped_back(axis: int | None) -> None:
    image = torch.randn(1, 8, 6, 7)
    torch.testing.assert_close(
        flipped_probabilities(window((8, 8, 8)), Pointwise(), image, axis), expected(image)
    )


class Shown(Predictor):
    """Return probabilities instead of the segmentation."""

    def label(self, probabilities: Tensor, geometry: Geometry) -> np.ndarray:
        return probabilities.numpy()


def test_predict_at_averages_members_and_flips_at_the_scale() -> None:
    networks = {"one": Pointwise(), "two": Pointwise(2.0)}
    predictor = Shown(
        networks, tiny_plan(), window((8, 8, 8)), (0, 2), PreprocessConfig(), {"image": "mr"}
    )
    geometry = Geometry.of((8, 8, 8), np.eye(4), (1.0, 1.0, 1.0))
    image = torch.full((1, 8, 8, 8), 0.3)
    found = predict_at(predictor, image.numpy(), geometry, 1.25)
    np.testing.assert_allclose(found, (expected(image) + expected(image, 2.0)) / 2, atol=1e-5)
    for network in networks.values():
        assert network.zooms == [(1.25, 1.25, 1.25)] * 3  # three TTA views of one window
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_assemble_where_it_fits_falls_back_to_the_cpu() -> None:
    def full_gpu(where: torch.device) -> Tensor:
        if where.type == "cuda":
            raise torch.OutOfMemoryError("full")
        return torch.ones(1)

    def hopeless(where: torch.device) -> Tensor:
        raise torch.OutOfMemoryError("full")

    assert _assemble_where_it_fits(full_gpu, torch.device("cuda")) == 1
    with pytest.raises(HstfError, match="window_batch"):
        _assemble_where_it_fits(hopeless, torch.device("cuda"))


def test_probabilities_do_not_depend_on_the_overlap() -> None:
    image = torch.randn(1, 17, 9, 11)
    for overlap in (0.0, 0.25, 0.75):
        torch.testing.assert_close(
            window((8, 8, 8), overlap).probabilities(Pointwise(), image), expected(image)
        )


def test_of_takes_the_settings_of_the_section() -> None:
    plan = type(
        "Plan",
        (),
        {
            "patch_size": (8, 8, 8),
            "strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2)),
            "spacing": (1.0, 1.0, 9.0),
        },
    )()
    built = SlidingWindow.of(plan, PredictConfig(overlap=0.25, window_batch=3), CPU)
    assert (built.divisor, built.overlap, built.batch) == ((4, 4, 2), 0.25, 3)
    assert built.spacing == (1.0, 1.0, 9.0)
