"""Boxes of feature maps."""

import torch

from hstf.models.field_of_view import crop_features

WHOLE = (0.0, 0.0, 0.0)


def ramp(cells: int) -> torch.Tensor:
    return torch.arange(float(cells))[None, None, :, None, None].expand(1, 1, cells, 2, 2)


def test_crop_features_covers_the_box_exactly() -> None:
    """28 of 32 voxels are image: 4 cells of 8 voxels become 4 cells of 7 voxels."""
    found = crop_features(ramp(4), WHOLE, (28 / 32, 1.0, 0.5))
    assert found.shape == (1, 1, 4, 2, 1)
    centres = (torch.tensor([3.5, 10.5, 17.5, 24.5]) / 8 - 0.5).clamp_min(0)
    assert torch.allclose(found[0, 0, :, 0, 0], centres, atol=1e-5)


def test_crop_features_begins_inside_the_field_of_view() -> None:
    """The box from 5 to 15 of 20 voxels has 2 cells of 5 voxels, at 7.5 and 12.5."""
    found = crop_features(ramp(5), (5 / 20, 0.0, 0.0), (15 / 20, 1.0, 1.0))
    expected = torch.tensor([6.6667, 10.0, 13.3333]) / 4 - 0.5  # 3 cells, as 2.5 is rounded up
    assert torch.allclose(found[0, 0, :, 0, 0], expected, atol=1e-4)


def test_crop_features_copies_whole_cells() -> None:
    features = ramp(6)
    found = crop_features(features, (2 / 6, 0.0, 0.5), (5 / 6, 1.0, 1.0))
    assert torch.equal(found, features[:, :, 2:5, :, 1:])
    assert torch.equal(crop_features(features, WHOLE, (1.0, 1.0, 1.0)), features)
