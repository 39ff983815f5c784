"""Fourier domain adaptation: low-frequency amplitudes of another hospital."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig, MixingConfig
from hstf.experiment.plan import Normalisation
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.batch import Batch
from hstf.training.fourier import BAND, mix_amplitudes, with_amplitudes_of
from hstf.training.mixing import mix

ISOTROPIC = (1.0, 1.0, 1.0)
SHAPE = (24, 20, 15)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int = 1, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, *SHAPE, generator=generator(seed))


def test_with_amplitudes_of_agrees_with_numpy() -> None:
    """FDA as in the paper: shift the spectrum, swap a box about its centre, keep the phase.

    The mean is that of the donor with its sign.
    """
    image, donor = noise(seed=1), noise(seed=2)
    found = with_amplitudes_of(image, donor, ISOTROPIC)
    for channel in range(2):
        own, other = (np.fft.fftshift(np.fft.fftn(x[0, channel].numpy())) for x in (image, donor))
        box = tuple(slice(n // 2 - int(BAND * n), n // 2 + int(BAND * n) + 1) for n in SHAPE)
        amplitude = np.abs(own)
        amplitude[box] = np.abs(other)[box]
        spectrum = amplitude * np.exp(1j * np.angle(own))
        centre = tuple(n // 2 for n in SHAPE)
        spectrum[centre] = other[centre]
        expected = np.fft.ifftn(np.fft.ifftshift(spectrum))
        assert np.abs(expected.imag).max() < 1e-5
        assert np.allclose(found[0, channel].numpy(), expected.real, atol=1e-4)


def test_with_amplitudes_of_itself_changes_nothing() -> None:
    image = noise()
    assert torch.allclose(with_amplitudes_of(image, image, ISOTROPIC), image, atol=1e-5)
    brighter = with_amplitudes_of(image + 5, image + 8, ISOTROPIC)
    assert torch.allclose(brighter, image + 8, atol=1e-4), "the mean is the lowest frequency"


def test_with_amplitudes_of_takes_the_sign_of_the_mean() -> None:
    """Normalised patches have means above and below 0."""
    image = noise()
    image -= image.mean((2, 3, 4), keepdim=True)
    found = with_amplitudes_of(image + 0.1, image - 1.0, ISOTROPIC)
    assert torch.allclose(found, image - 1.0, atol=1e-4)


def test_with_amplitudes_of_uses_frequencies_of_the_anatomy() -> None:
    """A wave of 40 finest voxels across thick slices is low, one of 10 voxels is not."""
    z = torch.arange(20) * 4.0
    wave = torch.cos(2 * math.pi * z / 40).expand(1, 1, 24, 24, 20)
    flat = torch.zeros(1, 1, 24, 24, 20)
    assert with_amplitudes_of(wave, flat, (1.0, 1.0, 4.0)).abs().max() < 1e-4
    assert torch.allclose(with_amplitudes_of(wave, flat, ISOTROPIC), wave, atol=1e-4)


def test_mix_amplitudes_changes_labelled_patches_only() -> None:
    image, unlabelled = noise(4), torch.tensor([False, True, False, True])
    found = mix_amplitudes(image, unlabelled, 1.0, ISOTROPIC, generator())
    assert torch.equal(found[unlabelled], image[unlabelled])
    for index in (0, 2):
        candidates = [
            with_amplitudes_of(image[[index]], image[[donor]], ISOTROPIC)[0] for donor in (1, 3)
        ]
        assert sum(torch.allclose(found[index], other, atol=1e-5) for other in candidates) == 1


@pytest.mark.parametrize("unlabelled", [[False, False], [True, True]])
def test_mix_amplitudes_keeps_a_batch_of_one_kind(unlabelled: list[bool]) -> None:
    image = noise(2)
    assert mix_amplitudes(image, torch.tensor(unlabelled), 1.0, ISOTROPIC, generator()) is image


def test_mix_amplitudes_keeps_a_batch_in_which_no_patch_is_chosen() -> None:
    image = noise(2)
    assert mix_amplitudes(image, torch.tensor([False, True]), 1e-9, ISOTROPIC, generator()) is image


def test_mix_amplitudes_draws_nothing_if_it_is_off() -> None:
    g, image = generator(), noise(2)
    assert mix_amplitudes(image, torch.tensor([False, True]), 0.0, ISOTROPIC, g) is image
    assert torch.equal(g.get_state(), generator().get_state())


def test_mix_amplitudes_changes_patches_with_its_probability() -> None:
    image = torch.randn(80, 1, 6, 6, 6, generator=generator())
    unlabelled = torch.arange(80) % 2 == 0
    found = mix_amplitudes(image, unlabelled, 0.3, ISOTROPIC, generator(1))
    changed = (found != image).flatten(1).any(1)[~unlabelled].float().mean()
    assert 0.1 < changed < 0.5


def test_batch_strong_mixes_amplitudes() -> None:
    weak = noise(2)
    ones = torch.ones(2, 1, *SHAPE)
    pseudo = torch.tensor([False, True])[:, None, None, None, None].expand_as(ones)
    config = AugmentationConfig(intensity_probability=0, fourier_probability=1)
    strong = Batch(weak, ones, ones, pseudo, (False, True), config, generator()).strong()
    assert torch.allclose(
        strong[0], with_amplitudes_of(weak[:1], weak[1:], ISOTROPIC)[0], atol=1e-5
    )
    assert torch.equal(strong[1], weak[1])


def test_batch_strong_mixes_amplitudes_after_an_exchange_of_boxes() -> None:
    weak = noise(2)
    ones = torch.ones(2, 1, *SHAPE)
    pseudo = torch.tensor([False, True])[:, None, None, None, None].expand_as(ones)
    config = AugmentationConfig(intensity_probability=0, fourier_probability=1)
    batch = Batch(weak, ones, ones, pseudo, (False, True), config, generator())
    mixed = mix(batch, MixingConfig(probability=1.0))
    strong = mixed.strong()
    expected = with_amplitudes_of(mixed.weak[:1], mixed.weak[1:], ISOTROPIC)[0]
    assert torch.allclose(strong[0], expected, atol=1e-5)
    assert torch.equal(strong[1], mixed.weak[1])


def test_batch_strong_takes_a_box_of_the_whole_patch_for_the_patch() -> None:
    weak = noise(2)
    ones = torch.ones(2, 1, *SHAPE)
    pseudo = torch.tensor([False, True])[:, None, None, None, None].expand_as(ones)
    config = AugmentationConfig(intensity_probability=0, fourier_probability=1)
    batch = Batch(weak, ones, ones, pseudo, (False, True), config, generator())
    mixed = mix(batch, MixingConfig(probability=1.0, fraction=0.99))
    strong = mixed.strong()
    assert torch.equal(strong[0], mixed.weak[0]), "it is an unlabelled patch now"
    assert not torch.equal(strong[1], mixed.weak[1])


def test_batch_strong_does_not_mix_masks() -> None:
    weak = torch.cat([noise(2, 1), (noise(2, 1) > 0).float()], dim=1)
    ones = torch.ones(2, 1, *SHAPE)
    pseudo = torch.tensor([False, True])[:, None, None, None, None].expand_as(ones)
    config = AugmentationConfig(intensity_probability=0, fourier_probability=1)
    kinds = (("mr", Normalisation(scheme="zscore")), ("mask", Normalisation(scheme="mask")))
    acquisition = Acquisition(ISOTROPIC, kinds)
    strong = Batch(
        weak, ones, ones, pseudo, (False, True), config, generator(), acquisition
    ).strong()
    assert not torch.equal(strong[0, 0], weak[0, 0])
    assert torch.equal(strong[:, 1], weak[:, 1])
