"""The tasks of pre-training: what is hidden, what counts, and what belongs together."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.pretraining_files import (
    ISOTROPIC,
    NETWORK,
    THICK,
    batch_of,
    new_state,
    plan,
    take,
    task_of,
)
from support.training_files import CLASSES, cases_in
from torch import Tensor

from hstf.config.pretrain import PretrainConfig
from hstf.datasets.phantom.options import PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.experiment.plan import Normalisation
from hstf.method.pretraining.contrastive import (
    ContrastiveNetwork,
    PairSource,
    checked_crop,
    nt_xent,
)
from hstf.method.pretraining.corruption import (
    intensity_curve,
    painting_masks,
    random_controls,
    shuffled_blocks,
)
from hstf.method.pretraining.fusion import Fusion, blended, random_levels
from hstf.method.pretraining.masked import random_mask
from hstf.method.pretraining.registry import build_task
from hstf.method.pretraining.task import TaskSettings, image_weight, restoration_loss
from hstf.models.padded import output_of
from hstf.models.registry import network_spec
from hstf.runtime.errors import HstfError
from hstf.training.loop import compute_gradients
from hstf.training.patches import TrainingCase
from hstf.training.state import TrainingState

TASKS = ("masked", "denoise", "contrastive", "fusion")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patches(count: int = 2, channels: int = 1, depth: int = 8) -> Tensor:
    return torch.randn(count, channels, 8, 8, depth, generator=generator())


# ---- masked


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.6, 0.99])
def test_random_mask_hides_whole_cubes_at_the_ratio(ratio: float) -> None:
    mask = random_mask(3, (8, 8, 8), (2, 2, 4), ratio, generator())
    cells = mask.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 4, 4).flatten(5).float().mean(-1)
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    expected = min(max(round(ratio * 32), 1), 31)
    assert cells.flatten(1).sum(1).tolist() == [expected] * 3
    assert not mask[0].equal(mask[1])


def test_random_mask_covers_patches_that_are_no_multiple_of_the_cube() -> None:
    assert random_mask(1, (7, 5, 3), (4, 4, 2), 0.6, generator()).shape == (1, 1, 7, 5, 3)


def test_masked_hides_squares_of_single_slices_if_slices_are_thick() -> None:
    task = task_of("masked", plan(THICK))
    image, _ = task.corrupt(batch_of(patches(depth=4), plan(THICK)))
    hidden = image[0, 0] == 0
    assert len({tuple(hidden[:, :, k].flatten().tolist()) for k in range(4)}) > 1
    cells = hidden.unfold(0, 2, 2).unfold(1, 2, 2).float().mean((-1, -2))
    assert set(cells.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("channels", [1, 4])
def test_masked_voxels_never_reach_the_network(channels: int) -> None:
    task = task_of("masked", plan(channels=channels))
    image = patches(channels=channels)
    corrupted, weight = task.corrupt(batch_of(image, plan(channels=channels)))
    assert 0.55 < weight.mean() < 0.65
    other = torch.where(weight > 0, torch.randn_like(image), image)
    again, _ = task.corrupt(batch_of(other, plan(channels=channels)))
    assert again.equal(corrupted)
    assert corrupted.equal(image * (weight == 0))


def test_masked_loss_depends_on_masked_voxels_only() -> None:
    task = task_of("masked", plan())
    image = patches()
    _, weight = task.corrupt(batch_of(image, plan()))
    target = image.clone().requires_grad_()
    restoration_loss(torch.zeros_like(image), target, weight).backward()
    assert target.grad is not None
    assert (target.grad[weight == 0] == 0).all()
    assert (target.grad[weight > 0] != 0).all()
    loss = restoration_loss(torch.zeros_like(image), image, weight)
    assert loss.item() == pytest.approx((image[weight > 0] ** 2).mean().item(), rel=1e-5)


def test_image_weight_leaves_out_masks_and_voxels_outside_the_scan() -> None:
    shape = plan(channels=2).model_copy(
        update={"normalisation": (Normalisation(scheme="zscore"), Normalisation(scheme="mask"))}
    )
    batch = batch_of(patches(channels=2), shape)
    target = batch.target.clone()
    target[:, :, 0] = 0
    weight = image_weight(replace(batch, target=target))
    assert (weight[:, 0, 0] == 0).all()
    assert (weight[:, 0, 1:] == 1).all()
    assert (weight[:, 1] == 0).all()


# ---- denoise


def test_intensity_curve_is_monotone_and_keeps_minimum_and_maximum() -> None:
    image = torch.linspace(-2, 5, 512).reshape(1, 1, 8, 8, 8).repeat(20, 1, 1, 1, 1)
    mapped = intensity_curve(image, random_controls(20, generator()))
    curves = mapped.flatten(1)
    assert (curves.diff(dim=1) >= -1e-5).all()
    assert curves[:, 0].sub(-2).abs().max() < 1e-4
    assert curves[:, -1].sub(5).abs().max() < 1e-4
    assert (curves - image.flatten(1)).abs().amax(1).min() > 0.1


def test_intensity_curve_has_the_height_of_its_control_points() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 3, 1, 1)
    # x(t) = t for these abscissae, and y(1/2) = (3 * 0.2 + 3 * 0.4 + 1) / 8.
    controls = torch.tensor([[[1 / 3, 0.2], [2 / 3, 0.4]]])
    assert intensity_curve(image, controls).flatten()[1].item() == pytest.approx(0.35, abs=1e-3)


@pytest.mark.parametrize("spacing", [ISOTROPIC, THICK])
def test_shuffled_blocks_move_voxels_within_blocks_and_slices(
    spacing: tuple[float, float, float],
) -> None:
    image = torch.arange(2.0 * 12 * 12 * 12).reshape(1, 2, 12, 12, 12)
    found = shuffled_blocks(image, spacing, generator(4))
    assert not found.equal(image)
    assert found.flatten().sort().values.equal(image.flatten())
    place = found[0, 0].long()
    x = torch.arange(12)[:, None, None]
    z = torch.arange(12)[None, None]
    assert (place // 144 - x).abs().max() < 6
    if spacing == THICK:
        assert (place % 12 == z).all()
    assert (found[0, 1] - found[0, 0] == 12**3).all(), "channels move together"


def test_painting_masks_replace_boxes_or_everything_else() -> None:
    masks = painting_masks((16, 16, 16), [False, True] * 10, generator())
    inner = masks[::2].flatten(1).float().mean(1)
    outer = masks[1::2].flatten(1).float().mean(1)
    assert inner.min() > 0 and inner.max() < 0.2
    assert outer.min() > 0.3 and outer.max() < 0.95


@pytest.mark.parametrize("spacing", [ISOTROPIC, THICK])
def test_denoise_restores_the_clean_patch(spacing: tuple[float, float, float]) -> None:
    image = patches(depth=4)
    off = dict.fromkeys(("intensity", "noise", "low_resolution", "shuffling", "painting"), 0.0)
    unchanged, weight = task_of("denoise", plan(spacing), denoise=off).corrupt(
        batch_of(image, plan(spacing))
    )
    assert unchanged.equal(image)
    assert (weight == 1).all()
    on = dict.fromkeys(off, 1.0)
    task = task_of("denoise", plan(spacing), denoise=on)
    first, _ = task.corrupt(batch_of(image, plan(spacing)))
    again, _ = task.corrupt(batch_of(image, plan(spacing)))
    assert first.equal(again)
    assert not first.equal(image)
    assert image.equal(patches(depth=4)), "the clean patch is the target"


@pytest.mark.parametrize("name", ["intensity", "noise", "low_resolution", "shuffling", "painting"])
def test_denoise_leaves_masks_as_they_are(name: str) -> None:
    of_two = plan(channels=2).model_copy(
        update={"normalisation": (Normalisation(scheme="zscore"), Normalisation(scheme="mask"))}
    )
    image = patches(channels=2)
    off = dict.fromkeys(("intensity", "noise", "low_resolution", "shuffling", "painting"), 0.0)
    task = task_of("denoise", of_two, denoise={**off, name: 1.0})
    found, _ = task.corrupt(batch_of(image, of_two))
    assert found[:, 1].equal(image[:, 1])
    assert not found[:, 0].equal(image[:, 0])


# ---- contrastive


def test_nt_xent_has_the_value_computed_by_hand() -> None:
    angles = torch.tensor([0.0, 90.0, 180.0, 30.0, 90.0, 270.0]) * math.pi / 180
    rows = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor(
        [[1.0], [3], [1], [2], [1], [1]]
    )
    losses = []
    for k in range(6):
        similarity = [math.exp(math.cos(float(angles[k] - a)) / 0.5) for a in angles]
        del similarity[k]
        partner = (k + 3) % 6
        positive = math.exp(math.cos(float(angles[k] - angles[partner])) / 0.5)
        losses.append(-math.log(positive / sum(similarity)))
    found = nt_xent(rows, ["a", "b", "c"] * 2, temperature=0.5)
    assert found.item() == pytest.approx(sum(losses) / 6, rel=1e-5)


def test_nt_xent_never_takes_the_same_patient_as_a_negative() -> None:
    rows = torch.randn(6, 4, generator=generator()).requires_grad_()
    patients = ["a", "a", "b"] * 2
    loss = nt_xent(rows, patients, temperature=0.1)
    # The rows of patient a without its second pair, and of b: negatives are of the other patient.
    unit = F.normalize(rows.detach(), dim=1)
    similarity = (unit @ unit.T / 0.1).exp()
    expected = []
    for k, partner in enumerate([3, 4, 5, 0, 1, 2]):
        negatives = [m for m in range(6) if patients[m] != patients[k]]
        total = similarity[k, partner] + similarity[k, negatives].sum()
        expected.append(-(similarity[k, partner] / total).log())
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert nt_xent(rows, ["a"] * 6, temperature=0.1).item() == 0


def pair_source(folder: Path, other_scan: float, patients: str) -> PairSource:
    """Return a source of pairs whose scans show the position of each voxel."""
    cases = cases_in(folder, len(patients))
    names = {case.case_id: patient for case, patient in zip(cases, patients, strict=True)}
    return PairSource(
        cases, [], CLASSES, (4, 4, 4), 3, 1.0, 0.0, 7, patients=names, other_scan=other_scan
    )


def test_pair_source_draws_overlapping_crops_of_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    region = TrainingCase.region

    def watched(case: TrainingCase, start: Tensor, *arguments):  # type: ignore[no-untyped-def]
        starts.append(start)
        return region(case, start, *arguments)

    monkeypatch.setattr(TrainingCase, "region", watched)
    source = pair_source(tmp_path, 0.0, "aab")
    for step in range(10):
        raw = source.batch(step)
        assert raw.case_ids[:3] == raw.case_ids[3:]
        assert len(raw.regions) == 6
    distances = [
        abs(a - b).max()
        for k in range(10)
        for a, b in zip(starts[6 * k : 6 * k + 3], starts[6 * k + 3 : 6 * k + 6], strict=True)
    ]
    assert 0 < max(distances) <= 1, "a quarter of the crop"


def test_pair_source_draws_two_scans_of_a_patient(tmp_path: Path) -> None:
    source = pair_source(tmp_path, 1.0, "aab")
    for step in range(4):
        raw = source.batch(step)
        for first, second in zip(raw.case_ids[:3], raw.case_ids[3:], strict=True):
            assert source.patients[first] == source.patients[second]
            assert (first == second) == (source.patients[first] == "b")
    assert source.batch(2).case_ids == source.batch(2).case_ids


def test_contrastive_refuses_one_patient_and_crops_that_do_not_fit(tmp_path: Path) -> None:
    source = pair_source(tmp_path, 0.5, "aa")
    task = task_of("contrastive", plan(), {"l_0": "a", "l_1": "a"})
    with pytest.raises(HstfError, match="at least 2 patients, found 1"):
        task.source(source)
    with pytest.raises(HstfError, match=r"expected multiples of the total stride \[4, 4, 2\]"):
        checked_crop((8, 6, 4), (4, 4, 2))


def test_contrastive_trains_the_encoder_only() -> None:
    names = ("a", "b", "a", "b")
    task = task_of("contrastive", plan(), {"a": "a", "b": "b"})
    state = new_state(task)
    loss = sum(task(state, batch_of(patches(4), plan(), case_ids=names)).values())
    compute_gradients(state, loss, task.section.training)
    network = task.backbone(state.network)
    trained = {
        name.partition(".")[0] for name, p in network.named_parameters() if p.grad is not None
    }
    assert trained == {"encoder", "transformer"}


def test_contrastive_compares_more_than_the_mean_of_a_normalised_map() -> None:
    """The encoder ends with an instance norm: channels have the same mean in all images."""
    task = task_of("contrastive", plan(), {"a": "a", "b": "b"})
    network = new_state(task).network
    assert isinstance(network, ContrastiveNetwork)
    pooled: list[Tensor] = []
    (head,) = network.projections
    head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].detach()))
    network.project(patches(4))
    means, maxima = pooled[0].chunk(2, dim=1)
    assert maxima.std(0).mean() > 2 * means.std(0).mean()


# ---- fusion


def test_blended_mixes_two_scans_by_the_level() -> None:
    levels = torch.arange(5).reshape(1, 1, 1, 5)
    image, partner = torch.full((1, 2, 1, 1, 5), 8.0), torch.zeros(1, 2, 1, 1, 5)
    assert blended(image, partner, levels, 4)[0, 1].flatten().tolist() == [8, 6, 4, 2, 0]


def test_random_levels_have_all_levels() -> None:
    levels = random_levels(20, (12, 12, 12), 4, 10, generator())
    assert set(levels.unique().tolist()) == {0, 1, 2, 3, 4}
    assert 0.2 < (levels == 0).float().mean() < 0.95


def test_fusion_blends_other_patches_of_the_batch() -> None:
    task = task_of("fusion", plan())
    assert isinstance(task, Fusion)
    image = torch.stack([torch.full((1, 8, 8, 8), value) for value in (0.0, 4.0)])
    fused, levels, weight = task.fuse(batch_of(image, plan()))
    assert fused[0, 0].equal(levels[0].float())
    assert fused[1, 0].equal(4 - levels[1].float())
    assert (weight == 1).all()


# ---- all tasks


@pytest.mark.parametrize("spacing", [ISOTROPIC, THICK])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", TASKS)
def test_tasks_train_with_any_channels_and_spacing(
    name: str, channels: int, spacing: tuple[float, float, float]
) -> None:
    names = ("a", "b", "a", "b")
    shape = plan(spacing, channels)
    task = task_of(name, shape, {"a": "a", "b": "b"})
    state = new_state(task)
    before = state.network.parts[0].encoder[0].first.weight.detach().clone()
    image = patches(4, channels, shape.patch_size[2])
    loss = take(task, state, batch_of(image, shape, case_ids=names))
    assert math.isfinite(loss)
    assert not before.equal(state.network.parts[0].encoder[0].first.weight)
    examples = task.examples(state.ema, batch_of(image, shape, case_ids=names))
    assert len(examples) == (2 if name == "contrastive" else 4)
    for picture in examples[0].panels.values():
        assert picture.shape == shape.patch_size


@pytest.mark.parametrize("name", TASKS)
def test_tasks_train_both_networks_of_a_pair(name: str) -> None:
    network = NETWORK.model_copy(update={"name": "pair"})
    section = PretrainConfig(task=name)
    task = build_task(TaskSettings(section, network, plan(), 1, {"a": "a", "b": "b"}))
    state = new_state(task)
    batch = batch_of(patches(4), plan(), case_ids=("a", "b", "a", "b"))
    take(task, state, batch)
    for part in state.network.parts:
        assert part.encoder[0].first.weight in state.optimizer.state


# ---- what the features are worth


def phantoms(count: int) -> tuple[Tensor, Tensor]:
    """Return normalised scans ``(N, 1, X, Y, Z)`` and where their liver is."""
    options = PhantomOptions(size=(16, 16, 16), size_variation=0.0)
    images, livers = [], []
    for seed in range(100, 100 + count):
        phantom = generate_case(seed, options)
        image = torch.from_numpy(phantom.images).log1p()
        images.append((image - image.mean()) / image.std())
        livers.append(torch.from_numpy(phantom.label == 1))
    return torch.stack(images), torch.stack(livers).float()


def explained_by_features(state: TrainingState, image: Tensor, liver: Tensor) -> float:
    """Return how much of the variance of the liver a linear probe of the last features explains.

    The probe is fitted on the first half of the scans and scored on the others.
    """
    network = state.network.eval()
    with torch.no_grad(), output_of(network.decoder[-1]) as outputs:
        network(image)
    state.network.train()
    features = outputs[0].movedim(1, -1)
    features = torch.cat([features, torch.ones_like(features[..., :1])], -1)
    half = len(image) // 2
    known, other = features[:half].flatten(0, 3), features[half:].flatten(0, 3)
    ridge = 1e-2 * torch.eye(known.shape[1])
    weights = torch.linalg.solve(known.T @ known + ridge, known.T @ liver[:half].flatten())
    error = (other @ weights - liver[half:].flatten()).square().mean()
    return float(1 - error / liver[half:].var())


@pytest.mark.parametrize("name", ["masked", "denoise"])
def test_linear_probe_rises_with_pre_training(name: str) -> None:
    image, liver = phantoms(8)
    shape = plan().model_copy(
        update={
            "patch_size": (16, 16, 16),
            "channels": (8, 16),
        }
    )
    task = task_of(name, shape, learning_rate=5e-3)
    task.section = task.section.model_copy(update={"steps": 15})
    state = new_state(task)
    before = explained_by_features(state, image, liver)
    for step in range(15):
        chosen = torch.randperm(8, generator=generator(step))[:4]
        take(task, state, batch_of(image[chosen], shape, seed=step))
    after = explained_by_features(state, image, liver)
    assert after > 1.5 * before > 0


def test_pretraining_network_has_no_classes() -> None:
    """Labels are no part of what a task is built from."""
    task = task_of("masked", plan(channels=4))
    spec = network_spec(NETWORK, plan(channels=4), 4, task.outputs)
    assert spec.classes == 4
    assert spec.regions == ()
