"""The splits of an import: drawn, listed or read from a file."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.import_files import L, T, U, imported, run_import
from support.written_tables import WAYS

from hstf.datasets.importers.split import Stratum, draw, read_names, read_splits
from hstf.experiment.cases import Split, read_cases
from hstf.runtime.files import read_csv

Phantoms = Callable[..., Path]

SITE_OPTIONS = ["--modalities", "mr", "--labels", "organ=1", "--site", "^([a-z]+)_"]


def write_sites() -> None:
    """Write three patients of Rome and four of Oslo. The last patient of each has no label."""
    rng = np.random.default_rng(0)
    shape = (8, 8, 8)
    for name in ("rome_p1", "rome_p2", "rome_p3", "oslo_p4", "oslo_p5", "oslo_p6", "oslo_p7"):
        image = rng.integers(0, 900, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), f"{name}.nii.gz")
        if name not in ("rome_p3", "oslo_p7"):
            label = rng.integers(0, 2, shape).astype(np.int16)
            nib.save(nib.Nifti1Image(label, np.eye(4)), f"{name}_seg.nii.gz")


def patients(options: str, phantoms: Phantoms) -> set[str]:
    """Import ACDC and return the labelled patients."""
    config = imported("acdc", phantoms("acdc"), *options.split(), "--force")
    return {case.group for case in read_cases(config).of(L)}


@given(
    count=st.integers(2, 40),
    seed=st.integers(0, 5),
    strata=st.integers(1, 4),
)
def test_draw_is_spread_over_the_strata(count: int, seed: int, strata: int) -> None:
    def stratum_of(name: str) -> Stratum:
        return str(int(name) % strata), "", 0.0

    names = [f"{number:02d}" for number in range(count)]
    sizes = Counter(int(name) % strata for name in names)
    order = draw(names, stratum_of, [seed])
    assert sorted(order) == names
    assert order == draw(names[::-1], stratum_of, [seed])
    for taken in range(1, count + 1):
        drawn = Counter(int(name) % strata for name in order[:taken])
        for stratum in range(strata):
            expected = taken * sizes[stratum] / count
            assert abs(drawn[stratum] - expected) <= 2.5


def test_import_with_fewer_labelled_patients_draws_a_subset(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    two = patients("--labelled 2 --seed 3", phantoms)
    three = patients("--labelled 3 --seed 3", phantoms)
    four = patients("--labelled 4 --seed 3", phantoms)
    assert two < three < four


def test_import_with_another_seed_draws_other_patients(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    drawn = set()
    for seed in range(6):
        names = patients(f"--labelled 2 --seed {seed}", phantoms)
        drawn.add(frozenset(names))
    assert len(drawn) > 2


def test_import_keeps_the_cases_of_a_patient_together(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    config = imported("acdc", phantoms("acdc"), "--labelled", "2")
    by_patient: dict[str, set[Split]] = {}
    for case in read_cases(config).cases:
        by_patient.setdefault(case.group, set()).add(case.split)
    for splits in by_patient.values():
        assert len(splits) == 1


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way not in ("separator named", "upper case")]
)
def test_read_names_reads_each_form_alike(tmp_path: Path, way: str) -> None:
    path = tmp_path / "order.txt"
    path.write_bytes(WAYS[way]("p3,x\np1,y\n"))
    assert read_names(path) == ["p3", "p1"]


@pytest.mark.parametrize("way", WAYS)
def test_read_splits_reads_each_form_alike(tmp_path: Path, way: str) -> None:
    path = tmp_path / "split.csv"
    path.write_bytes(WAYS[way]("case_id,split\np1,Test\np2,labelled\n"))
    assert read_splits(path) == {"p1": Split.TEST, "p2": Split.LABELLED}


def test_import_with_order_uses_the_first_and_last_patients(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    names = [f"BraTS20_Training_00{number}" for number in (3, 1, 4, 2)]
    Path("order.txt").write_text("\n".join(names))
    config = imported(
        "brats",
        phantoms("brats"),
        "--order",
        "order.txt",
        "--labelled",
        "2",
        "--test",
        "1",
    )
    sheet = read_cases(config)
    labelled = {case.case_id for case in sheet.of(L)}
    assert labelled == {names[0], names[1]}
    test = [case.case_id for case in sheet.of(T)]
    assert test == [names[3]]
    withheld = {case.case_id[-1]: case.reference is not None for case in sheet.of(U)}
    assert withheld == {"4": True, "5": False, "6": False}


def test_import_with_validation_keeps_patients_together_and_does_not_change_the_test_set(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    folder = phantoms("brats")
    options = ["--labelled", "2", "--test", "1", "--force"]
    before = read_cases(imported("brats", folder, *options))
    sheet = read_cases(imported("brats", folder, *options, "--validation", "1"))
    chosen = sheet.of(Split.VALIDATION)
    assert len({case.group or case.case_id for case in chosen}) == 1
    assert all(case.reference for case in chosen)
    assert {case.case_id for case in sheet.of(T)} == {case.case_id for case in before.of(T)}
    name = chosen[0].case_id
    assert name not in {case.case_id for case in [*sheet.of(L), *sheet.of(U), *sheet.of(T)]}
    Path("validation.txt").write_text(name)
    named = read_cases(imported("brats", folder, *options, "--validation", "validation.txt"))
    assert [case.case_id for case in named.of(Split.VALIDATION)] == [name]


def test_import_with_validation_refuses_too_many_patients(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_import("brats", phantoms("brats"), "--validation", "90")
    assert code == 1
    assert "--validation 90 requests more patients than have labels" in capsys.readouterr().err


def test_import_with_split_keeps_validation_cases(phantoms: Phantoms, workplace: Path) -> None:
    Path("split.csv").write_text(
        "case_id,split\nBraTS20_Training_001,validation\n"
        "BraTS20_Training_002,labelled\nBraTS20_Training_003,labelled\n"
    )
    sheet = read_cases(imported("brats", phantoms("brats"), "--split", "split.csv"))
    names = [case.case_id for case in sheet.of(Split.VALIDATION)]
    assert names == ["BraTS20_Training_001"]


def test_import_with_split_keeps_the_splits_of_a_sheet(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    options = ["--labelled", "2", "--test", "1", "--seed", "5"]
    first = imported("lits", phantoms("lits"), *options)
    rows = read_csv(Path("config/x/cases.csv"))
    # Files that a user may have edited are not replaced.
    assert run_import("lits", phantoms("lits")) == 1
    shutil.copy("config/x/cases.csv", "split.csv")
    again = imported("lits", phantoms("lits"), "--split", "split.csv", "--force")
    assert read_csv(Path("config/x/cases.csv")) == rows
    assert first == again


def test_import_divides_the_scans_of_a_single_labelled_patient(
    phantoms: Phantoms, workplace: Path
) -> None:
    config = imported("acdc", phantoms("acdc"), "--labelled", "1")
    assert config.warmup.folds == 2
    assert "of the 2 scans of the only labelled patient" in Path("config/x.yaml").read_text()


def test_import_refuses_a_single_labelled_scan(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import("brats", phantoms("brats"), "--labelled", "1") == 1
    assert "1 labelled patients, expected at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--labelled 9", "--labelled 9 requests more patients than have labels: 5"),
        ("--test 1", "the data set has an official test set of 1 patients"),
        ("--labelled names", "nobody"),
        ("--order names --labelled 2", "nobody"),
        ("--split names", "expected case_id (or group) and split"),
        ("--split mixed.csv", "patient001 is labelled and test"),
        ("--split odd.csv", "line 2: split 'train'"),
        ("--labelled absent.txt", "absent.txt: cannot be read"),
    ],
)
def test_import_refuses_invalid_splits(
    options: str,
    expected: str,
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("names").write_text("patient001\nnobody\n")
    Path("mixed.csv").write_text(
        "case_id,split\npatient001_frame01,labelled\npatient001_frame09,test\n"
    )
    Path("odd.csv").write_text("group,split\npatient001,train\n")
    assert run_import("acdc", phantoms("acdc"), *options.split()) == 1
    assert expected in capsys.readouterr().err
    assert not Path("config").exists()


def test_import_with_test_site_tests_on_this_site_only(workplace: Path) -> None:
    write_sites()
    options = [*SITE_OPTIONS, "--labelled", "2", "--test-site", "rome"]
    config = imported("folder", workplace, *options)
    cases = read_cases(config).cases
    test = {case.case_id for case in cases if case.split is T}
    assert test == {"rome_p1", "rome_p2"}
    other_sites = {case.site for case in cases if case.split is not T}
    assert other_sites == {"oslo"}
    # The third case of Rome has no label and is left out.
    assert len(cases) == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("bergen", "no case is of this site. Sites are oslo, rome"),
        ("rome --test 1", "remove --test and --split"),
    ],
)
def test_import_refuses_an_invalid_test_site(
    workplace: Path,
    options: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sites()
    command = [*SITE_OPTIONS, "--test-site", *options.split()]
    assert run_import("folder", workplace, *command) == 1
    assert expected in capsys.readouterr().err
