"""Whether the plan turns patches: known and unknown orientation of thick slices."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.cli import main
from hstf.config.load import resolve_config
from hstf.config.plan import PlanConfig
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.imaging.affines import is_placed, tilt_degrees
from hstf.stages.plan.decide import target_spacing
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary
from hstf.stages.plan.orientation import InPlaneOrientation, in_plane_orientation, mixed_slices

THICK = (1.5, 1.5, 10.0)
ISOTROPIC = (1.0, 1.0, 1.0)
SHAPE = (216, 256, 9)


def scan(name: str, **keys: object) -> ScanSummary:
    values = {"shape": SHAPE, "spacing": THICK, "orientation": "LPS", **keys}
    return ScanSummary.model_validate({"case_id": name, **values})


def planned(scans: list[ScanSummary], spacing: tuple = THICK) -> InPlaneOrientation:
    return in_plane_orientation(Fingerprint(scans=tuple(scans), foreground={}), spacing)


def test_known_orientation_is_kept() -> None:
    found = planned([scan(f"case_{k}") for k in range(5)])
    assert (found.flip_axes, found.quarter_turns) == ((0,), ())
    assert "the headers state the orientation" in found.reason


def test_scans_without_a_place_are_turned_and_mirrored_within_the_slices() -> None:
    found = planned([scan("a"), scan("b", is_placed=False), scan("c")])
    assert (found.flip_axes, found.quarter_turns) == ((0, 1), (2,))
    assert "the header of 1 of 3 scans (b) has the origin" in found.reason
    assert "'augmentation.quarter_turns'" in found.reason


def test_tilted_scans_are_turned() -> None:
    tilted = [scan(f"case_{k}", tilt_degrees=41.0 + k) for k in range(3)]
    found = planned([*tilted, scan("straight", tilt_degrees=12.0)])
    assert found.quarter_turns == (2,)
    assert "3 of 4 scans (case_0, case_1, case_2) are tilted by more than 30" in found.reason


def test_shapes_that_are_turned_by_90_degrees_are_evidence() -> None:
    turned = [scan("turned", shape=(256, 216, 10))]
    found = planned([scan(f"case_{k}") for k in range(4)] + turned)
    assert found.quarter_turns == (2,)
    assert "1 of 5 scans (turned) have the shape of others turned by 90 degrees" in found.reason
    assert "(256x216 instead of 216x256)" in found.reason


@pytest.mark.parametrize("other", [(230, 216, 9), (256, 256, 9), (216, 256, 12)])
def test_other_shapes_are_no_evidence(other: tuple[int, int, int]) -> None:
    assert not planned([scan("a"), scan("b"), scan("c", shape=other)]).is_unknown


def test_one_scan_of_many_is_no_evidence() -> None:
    scans = [scan(f"case_{k}") for k in range(19)]
    assert not planned([*scans, scan("odd", is_placed=False)]).is_unknown


def test_scans_without_thick_slices_are_not_turned() -> None:
    """Cubes of crops have any shape, and their headers often lack a position."""
    first = scan("a", spacing=ISOTROPIC, is_placed=False, shape=(35, 50, 38))
    second = scan("b", spacing=ISOTROPIC, shape=(38, 50, 35))
    found = planned([first, second], ISOTROPIC)
    assert (found.flip_axes, found.quarter_turns) == ((0,), ())
    assert "no thick slices" in found.reason


def test_thick_slices_of_scans_count_if_planned_voxels_are_large() -> None:
    scans = [scan("a"), scan("b", is_placed=False), scan("c")]
    found = planned(scans, (4.0, 4.0, 10.0))
    assert (found.flip_axes, found.quarter_turns) == ((0, 1), (2,))


def test_tilted_slices_across_different_axes_are_named_with_the_remedy() -> None:
    """The closest axis of the body is a matter of chance for slices of a short-axis heart."""
    spacings = [(10.0, 1.5, 1.5), (1.5, 10.0, 1.5), (1.5, 1.5, 10.0)]
    scans = [scan(f"case_{k}", spacing=spacings[k % 3], tilt_degrees=41.0) for k in range(9)]
    found = planned(scans, (1.5, 1.5, 1.5))
    assert found.quarter_turns == ()
    assert "3 scans (case_0, case_3, case_6) axis 0" in found.reason
    assert "axes: slices" in mixed_slices(scans)


def test_mixed_slices_needs_a_tenth_of_the_scans() -> None:
    scans = [scan(f"case_{k}") for k in range(19)]
    odd = scan("odd", spacing=(10.0, 1.5, 1.5))
    assert mixed_slices([*scans, odd]) == ""
    assert "1 scans (odd) axis 0" in mixed_slices([*scans[:9], odd])


def test_target_spacing_leaves_out_scans_that_are_thick_along_another_axis() -> None:
    thick = [scan(f"case_{k}") for k in range(8)]
    odd = [scan(f"odd_{k}", spacing=(10.0, 1.5, 1.5)) for k in range(3)]
    spacing, _ = target_spacing(PlanConfig(), Fingerprint(scans=(*thick, *odd), foreground={}))
    assert spacing == THICK


def test_target_spacing_keeps_thin_slices_thin() -> None:
    thick = [scan(f"case_{k}") for k in range(8)]
    thin = [scan(f"thin_{k}", spacing=(1.5, 1.5, 2.0)) for k in range(3)]
    spacing, _ = target_spacing(PlanConfig(), Fingerprint(scans=(*thick, *thin), foreground={}))
    assert spacing == (1.5, 1.5, 2.0)


def test_tilt_is_the_angle_to_the_closest_axis() -> None:
    angle = np.radians(25)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= [1.5, 1.5, 10]
    assert tilt_degrees(affine) == pytest.approx(25)
    assert tilt_degrees(np.diag([-1.5, -1.5, 10.0, 1])) == 0


@pytest.mark.parametrize(
    ("origin", "expected"),
    [((0, 0, 0), False), ((-3.0, -4.0, -5.0), False), ((12.0, -80.0, 41.0), True)],
)
def test_is_placed_needs_an_origin(origin: tuple[float, ...], expected: bool) -> None:
    """The origin is 0, or the middle of the scan, if nobody knows where it was."""
    affine = np.eye(4)
    affine[:3, 3] = origin
    assert is_placed(affine, (7, 9, 11)) is expected


def test_is_placed_trusts_a_tilted_scan() -> None:
    affine = np.eye(4)
    affine[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert is_placed(affine, (7, 9, 11))


def test_plan_warns_of_an_unknown_orientation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        voxels = random.integers(0, 900, size=(20, 24, 5)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 10, 1])), f"{name}.nii.gz")
    rows = ["case_id,image,label,split", "a,a.nii.gz,a.nii.gz,labelled", "b,b.nii.gz,,unlabelled"]
    Path("cases.csv").write_text("\n".join(rows))
    Path("c.yaml").write_text("experiment: x\ncases: cases.csv\npreprocess: {workers: 1}\n")
    assert main(["plan", "--config", "c.yaml"]) == 0
    assert "plan: warning: The slices along axis 2 are thick" in capsys.readouterr().out
    layout = Layout.of(resolve_config({"experiment": "x", "cases": "cases.csv"}))
    plan = Plan.load(layout.plan)
    assert (plan.flip_axes, plan.quarter_turns) == ((0, 1), (2,))
    assert "2 of 2 scans (a, b)" in plan.reasons["quarter_turns"]
