"""Random sequences of edits, damage, lost files, clocks and kills: never a stale result.

After each sequence the plain command writes the bytes of a fresh run, after messages or without.
``RANDOM_EDITS=200 pytest tests/workflow/test_random_edits.py`` runs a long series.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.edited_experiment import (
    EditedExperiment,
    set_age,
    write_config,
    write_corrected,
    write_decisions,
    write_scan,
    write_sheet,
)
from support.fast_workflow import FastWorkflow

SEQUENCES = int(os.environ.get("RANDOM_EDITS", "3"))
BATCH = 8
EDITS = 5
"""Maximum number of edits in a sequence."""
DAY = 86400.0
SETTINGS = [
    ("warmup", "steps", 4),
    ("student", "steps", 3),
    ("predict", "overlap", 0.25),
    ("refine", "below_threshold_weight", 0.25),
]
LABELLED = ("case_0", "case_1")
UNLABELLED = ("case_4", "case_5")
ages = st.sampled_from([0.0, DAY])
"""How far a file that a person saves is dated back."""


class Sequence(RuleBasedStateMachine):
    """A user, a disk and a clock that do something to a finished experiment."""

    server: FastWorkflow
    base: Path
    """A finished experiment, and the results of fresh runs."""
    number = 0
    done: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[list[str]] = []

    def __init__(self) -> None:
        """Begin with a copy of the finished experiment."""
        super().__init__()
        Sequence.number += 1
        folder = self.base / f"sequence_{Sequence.number}"
        self.experiment = EditedExperiment(folder, self.server, self.base / "fresh")
        shutil.copytree(self.base / "start", folder, dirs_exist_ok=True)
        self.wanted = self.experiment.wanted
        self.log: list[str] = []

    def note(self, what: str) -> None:
        """Remember what was done."""
        self.log.append(what)
        Sequence.done[what.split()[0]] += 1

    # --- what a user does

    @rule(choice=st.sampled_from(SETTINGS))
    def edits_configuration(self, choice: tuple[str, str, float]) -> None:
        section, key, value = choice
        content = self.wanted.config[section]
        if content.get(key) == value:
            del content[key]
            content.update({k: v for k, v in BASE[section].items() if k == key})
        else:
            content[key] = value
        self.note(f"configuration {section}.{key}: {content.get(key)}")
        write_config(self.experiment.folder, self.wanted)

    @rule(names=st.sampled_from([("liver", "spleen"), ("spleen", "liver"), ("low", "spleen")]))
    def renames_classes(self, names: tuple[str, str]) -> None:
        self.wanted.config["labels"] = {"background": 0, names[0]: 1, names[1]: 2}
        self.note(f"names {self.wanted.config['labels']}")
        write_config(self.experiment.folder, self.wanted)

    @rule(modality=st.sampled_from(["mr", "us"]))
    def edits_modality(self, modality: str) -> None:
        self.wanted.config["modalities"] = {"image": modality}
        self.note(f"modality {modality}")
        write_config(self.experiment.folder, self.wanted)

    @rule(pair=st.sampled_from([(*LABELLED, 0), (*LABELLED, 1), (*UNLABELLED, 0)]), age=ages)
    def swaps_rows(self, pair: tuple[str, str, int], age: float) -> None:
        first, second, column = pair
        rows = self.wanted.rows
        rows[first][column], rows[second][column] = rows[second][column], rows[first][column]
        self.note(f"rows {pair}")
        write_sheet(self.experiment.folder, self.wanted)
        set_age(self.experiment.folder / "cases.csv", age)

    @rule(
        name=st.sampled_from(["case_0.nii", "case_1_label.nii", "case_3_label.nii", "case_4.nii"]),
        age=st.sampled_from([0.0, DAY, None]),
    )
    def replaces_scan(self, name: str, age: float | None) -> None:
        path = self.experiment.folder / name
        before = path.stat()
        self.wanted.scans[name] = 1 - self.wanted.scans[name]
        write_scan(self.experiment.folder, self.wanted, name)
        if age is None:  # same size, same time
            os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
        else:
            set_age(path, age)
        self.note(f"scan {name} {age}")

    @rule(name=st.sampled_from(UNLABELLED), version=st.integers(0, 1), age=ages)
    def corrects(self, name: str, version: int, age: float) -> None:
        self.wanted.corrected[name] = version
        write_corrected(self.experiment.folder, self.wanted, name)
        path = self.experiment.folder / "overrides" / "round_1" / f"{name}.nii.gz"
        set_age(path, age)
        self.note(f"corrected {name} {version} {age}")

    @rule(name=st.sampled_from(UNLABELLED))
    def withdraws(self, name: str) -> None:
        self.wanted.corrected.pop(name, None)
        path = self.experiment.folder / "overrides" / "round_1" / f"{name}.nii.gz"
        path.unlink(missing_ok=True)
        self.note(f"withdrawn {name}")

    @rule(names=st.sampled_from([(), UNLABELLED[:1], UNLABELLED[1:]]), age=ages)
    def rejects(self, names: tuple[str, ...], age: float) -> None:
        self.wanted.rejected = names
        write_decisions(self.experiment.folder, self.wanted)
        if names:
            set_age(self.experiment.folder / "overrides" / "decisions.csv", age)
        self.note(f"rejected {names}")

    # --- what happens to the results

    @rule(seed=st.integers(0, 9999), keep_time=st.booleans())
    def damages(self, seed: int, keep_time: bool) -> None:
        path = self.any_file(seed)
        if path is None or path.stat().st_size == 0:
            return
        status = path.stat()
        content = bytearray(path.read_bytes())
        content[seed % len(content)] ^= 1
        path.write_bytes(content)
        if keep_time:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.note(f"damaged {path.relative_to(self.experiment.folder)}")

    @rule(seed=st.integers(0, 9999))
    def deletes(self, seed: int) -> None:
        path = self.any_file(seed)
        if path is not None:
            path.unlink()
            self.note(f"deleted {path.relative_to(self.experiment.folder)}")

    @rule(name=st.sampled_from([".snakemake", "keys", "records"]))
    def loses(self, name: str) -> None:
        folder = self.experiment.folder if name == ".snakemake" else self.experiment.results
        shutil.rmtree(folder / name, ignore_errors=True)
        self.note(f"lost {name}")

    @precondition(lambda self: "copied" not in self.log)
    @rule()
    def copies(self) -> None:
        """Copy the results as ``cp -r`` does: with new time stamps."""
        results = self.experiment.results
        copy = results.with_name("copy")
        shutil.copytree(results, copy, copy_function=shutil.copyfile)
        shutil.rmtree(results)
        copy.rename(results)
        self.note("copied")

    @rule(seed=st.integers(0, 9999))
    def mixes_clocks(self, seed: int) -> None:
        """Give all results random times of the last two days."""
        draw = random.Random(seed)
        for path in self.experiment.files():
            set_age(path, draw.uniform(0, 2 * DAY))
        self.note("clocks")

    # --- runs

    @rule(seconds=st.floats(0.5, 15))
    def is_killed(self, seconds: float) -> None:
        was_killed = self.experiment.kill(seconds)
        self.note(f"killed after {seconds:.1f} s" if was_killed else "ended")

    def any_file(self, seed: int) -> Path | None:
        """Return one of the results."""
        files = self.experiment.files()
        return files[seed % len(files)] if files else None

    def teardown(self) -> None:
        """Run to the end and compare with a fresh run."""
        Sequence.done["sequences"] += 1
        try:
            self.compare()
        except AssertionError as error:
            # The other sequences go on; the test fails in the end.
            Sequence.failures.append(f"{self.log}: {error}")
            print(f"failure: {error}")
        print(
            f"sequence {Sequence.done['sequences']}, {len(Sequence.failures)} failures: {self.log}"
        )
        shutil.rmtree(self.experiment.folder)

    def compare(self) -> None:
        """Compare what the plain command writes with a fresh run."""
        messages = self.experiment.run()
        differences = self.experiment.differences()
        if differences:
            # Damage in a file that nothing has read: ``hstf verify`` finds it.
            messages += self.experiment.verify()
            self.experiment.run()
            differences = self.experiment.differences()
        Sequence.done["with a message"] += bool(messages)
        assert not differences, f"{differences}\n{messages[-3000:]}"


BASE = EditedExperiment.CONFIG


@pytest.fixture
def start(tmp_path: Path) -> Iterator[None]:
    """Start the server and finish the experiment that the sequences begin with."""
    Sequence.server = FastWorkflow(tmp_path / "server")
    Sequence.base = tmp_path
    (tmp_path / "fresh").mkdir()
    EditedExperiment(tmp_path / "start", Sequence.server, tmp_path / "fresh").run()
    yield
    Sequence.server.stop()


@pytest.mark.workflow
def test_workflow_has_the_results_of_a_fresh_run_after_random_edits(start: None) -> None:
    # Small batches: within one, Hypothesis varies earlier sequences instead of drawing new ones.
    for _ in range(0, SEQUENCES, BATCH):
        run_state_machine_as_test(
            Sequence,
            settings=settings(
                max_examples=min(BATCH, SEQUENCES),
                stateful_step_count=EDITS,
                deadline=None,
                phases=[Phase.generate],
                derandomize=SEQUENCES <= BATCH,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(dict(Sequence.done))
    assert not Sequence.failures, "\n\n".join(Sequence.failures)
