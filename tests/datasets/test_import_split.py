"""Which patients are labelled, unlabelled and tested on: drawn, listed or read from a file."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.import_files import L, T, U, imported

from hstf.cli import main
from hstf.datasets.importers.split import draw
from hstf.experiment.cases import Split, read_cases
from hstf.runtime.files import read_csv


@given(st.integers(2, 40), st.integers(0, 5), st.integers(1, 4))
def test_a_draw_is_spread_over_the_strata(count: int, seed: int, strata: int) -> None:
    names = [f"{number:02d}" for number in range(count)]
    order = draw(names, lambda name: (str(int(name) % strata), "", 0.0), [seed])
    assert sorted(order) == names
    assert order == draw(names[::-1], lambda name: (str(int(name) % strata), "", 0.0), [seed])
    for taken in range(1, count + 1):
        drawn = Counter(int(name) % strata for name in order[:taken])
        for stratum in range(strata):
            share = sum(int(name) % strata == stratum for name in names) / count
            assert abs(drawn[stratum] - taken * share) <= 2.5


def test_a_smaller_draw_is_part_of_a_larger_one(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    drawn = []
    for count in ("2", "3", "4"):
        config = imported("acdc", phantoms("acdc"), "--labelled", count, "--seed", "3", "--force")
        drawn.append({case.group for case in read_cases(config).of(L)})
    assert drawn[0] < drawn[1] < drawn[2]


def test_seeds_draw_different_patients(phantoms: Callable[..., Path], workplace: Path) -> None:
    drawn = set()
    for seed in range(6):
        config = imported(
            "acdc", phantoms("acdc"), "--labelled", "2", "--seed", str(seed), "--force"
        )
        drawn.add(frozenset(case.group for case in read_cases(config).of(L)))
    assert len(drawn) > 2


def test_patients_are_split_as_a_whole(phantoms: Callable[..., Path], workplace: Path) -> None:
    config = imported("acdc", phantoms("acdc"), "--labelled", "2")
    by_patient: dict[str, set[Split]] = {}
    for case in read_cases(config).cases:
        by_patient.setdefault(case.group, set()).add(case.split)
    assert all(len(found) == 1 for found in by_patient.values())


def test_the_order_of_a_list_is_honoured(phantoms: Callable[..., Path], workplace: Path) -> None:
    Path("order.txt").write_text("\n".join(f"BraTS20_Training_00{k}" for k in (3, 1, 4, 2)))
    config = imported(
        "brats", phantoms("brats"), "--order", "order.txt", "--labelled", "2", "--test", "1"
    )
    sheet = read_cases(config)
    assert {case.case_id[-1] for case in sheet.of(L)} == {"3", "1"}
    assert [case.case_id[-1] for case in sheet.of(T)] == ["2"]
    withheld = {case.case_id[-1]: case.reference is not None for case in sheet.of(U)}
    assert withheld == {"4": True, "5": False, "6": False}


def test_a_sheet_keeps_its_split(phantoms: Callable[..., Path], workplace: Path) -> None:
    first = imported("lits", phantoms("lits"), "--labelled", "2", "--test", "1", "--seed", "5")
    rows = read_csv(Path("config/x/cases.csv"))
    arguments = ["import", "lits", str(phantoms("lits")), "--output", "config/x.yaml"]
    assert main(arguments) == 1  # what a person may have edited is not replaced
    shutil.copy("config/x/cases.csv", "split.csv")
    again = imported("lits", phantoms("lits"), "--split", "split.csv", "--force")
    assert read_csv(Path("config/x/cases.csv")) == rows
    assert first == again


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labelled", "9"], "--labelled 9 asks for more patients than have labels: 5"),
        (["--labelled", "1"], "1 labelled patients, expected at least 2"),
        (["--test", "1"], "the data have a test set of 1 patients"),
        (["--labelled", "names"], "nobody"),
        (["--order", "names", "--labelled", "2"], "nobody"),
        (["--split", "names"], "expected case_id (or group) and split"),
        (["--split", "mixed.csv"], "patient001 is labelled and test"),
        (["--split", "odd.csv"], "line 2: split 'train'"),
        (["--labelled", "absent.txt"], "absent.txt: cannot be read"),
    ],
)
def test_splits_that_cannot_be(
    options: list[str],
    said: str,
    phantoms: Callable[..., Path],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("names").write_text("patient001\nnobody\n")
    Path("mixed.csv").write_text(
        "case_id,split\npatient001_frame01,labelled\npatient001_frame09,test\n"
    )
    Path("odd.csv").write_text("group,split\npatient001,train\n")
    assert (
        main(["import", "acdc", str(phantoms("acdc")), "--output", "config/x.yaml", *options]) == 1
    )
    assert said in capsys.readouterr().err
    assert not Path("config").exists()
