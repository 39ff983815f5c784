"""Write ``docs/get-started/first-hour.md``: the first hour with a folder of scans, as it was.

``python docs/first_hour.py`` makes a folder of synthetic scans, runs each command of the page in
it, and writes commands and outputs into the page and pictures of the screen into ``docs/images``.
``tests/docs/test_first_hour.py`` runs the same commands and compares.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "get-started" / "first-hour.md"
IMAGES = ROOT / "docs" / "images"
WIDTH = 118
SCANS = ["phantom", "--output", "data", "--cases", "14", "--labelled", "4", "--test", "3"]
SCANS += ["--size", "32", "32", "32", "--no-oblique"]


@dataclass(frozen=True)
class Step:
    """A command of the page."""

    name: str
    text: str
    """What the page says before it."""
    command: str
    picture: str = ""
    """Caption of the picture of the screen; none without it."""
    lines: int = 36
    """Lines of the output that the page shows; more are left out in the middle."""


@dataclass(frozen=True)
class Shown:
    """A step and what it printed."""

    step: Step
    output: str


BEFORE_THE_RUN = (
    Step(
        "pairs",
        "The scans are in a folder, a few of them with a label of the same name in another folder."
        " Look first at what an import would make of them. Nothing is written:",
        "hstf import folder scans --dry-run",
    ),
    Step(
        "import",
        "The pairs are right. Import them: name the classes, and keep three patients for the test,"
        " whose labels no training will see.",
        "hstf import folder scans --output config/mine.yaml"
        " --classes liver=1 spleen=2 kidney=3 lesion=4 --test 3",
    ),
    Step(
        "check",
        "Check all scans and labels before any time is spent:",
        "hstf check --config config/mine.yaml",
        "End of hstf check: counts, warnings and the path of the table",
    ),
    Step(
        "estimate",
        "Ask how long it will take here. This machine has no GPU, so use the preset for machines"
        " without one:",
        "hstf estimate --config config/mine.yaml config/presets/cpu.yaml",
    ),
    Step(
        "dry_run",
        "Look at the jobs. Nothing runs yet:",
        "snakemake -n --quiet rules --cores 2"
        " --configfile config/mine.yaml config/presets/cpu.yaml",
    ),
)
RUN = Step(
    "run",
    "Start the run. The screen names each job that starts and is done, warnings, and at the end the"
    " result. For this page the trainings were short (`--config …`), so the scores are low:",
    "snakemake --cores 2 --configfile config/mine.yaml config/presets/cpu.yaml"
    " --config 'warmup={steps: 100}' 'student={steps: 60}'",
    "Screen of a run: jobs, progress of the trainings, warnings, and the table of rounds",
    lines=76,
)
AFTER_THE_RUN = (
    Step(
        "status",
        "In a second terminal you can look at any time at what is done, running and left. After the"
        " end:",
        "hstf status results/EXPERIMENT",
        "hstf status: stages with jobs done, running and left",
    ),
    Step(
        "show",
        "Show the result again. The report itself is the HTML page that is named in the last"
        " lines:",
        "hstf report --config results/EXPERIMENT/config.yaml --show",
        "End of a run: table of rounds, what was exported and why, path of the report",
    ),
    Step(
        "predict",
        "Segment new scans with the exported model:",
        "hstf predict --model results/EXPERIMENT/export --input new --output segmentations",
    ),
)
INTRODUCTION = """\
# The first hour

This page shows a first hour with a folder of scans: every command, and what it printed. It was
written by a script that ran the commands on 14 small synthetic scans and two CPU cores without a
GPU (`python docs/first_hour.py`), and a test compares it with the program. With your own scans,
replace `scans` and the names of the classes. [Own data](../how-to/own-data.md) has the details, and
[Import](../how-to/import.md) the folders that are recognised.

"""
END = """\
## And then

Open the report. Correct or reject pseudo-labels and start the run again: only what depends on them
is computed.
[Correct a label](../how-to/correct-a-label.md) · [Watch a run](../how-to/watch-a-run.md) ·
[Problems](../problems.md) · [Output files](../reference/output-files.md)
"""


# --- the scans
# --------------------------------------------------------------------------


def write_scans(folder: Path, source: Path) -> None:
    """Arrange the synthetic scans in ``source`` as people keep theirs, and two as new ones.

    Four patients have a label, three others a label that only the test will use, seven have none.
    """
    images = folder / "scans" / "images"
    labels = folder / "scans" / "labels"
    for part in (images, labels, folder / "new"):
        part.mkdir(parents=True)
    scans = sorted((source / "images").iterdir())
    for number, scan in enumerate(scans):
        name = f"patient{number + 1:02d}.nii.gz"
        shutil.copy(scan, images / name)
        label = source / "labels" / scan.name
        if number < len(scans) // 2:
            shutil.copy(label, labels / name)
    for scan in scans[-2:]:
        shutil.copy(scan, folder / "new" / f"new_{scan.name}")
    presets = folder / "config" / "presets"
    presets.mkdir(parents=True)
    shutil.copy(ROOT / "config" / "presets" / "cpu.yaml", presets)


# --- the commands
# --------------------------------------------------------------------------


def show(step: Step, folder: Path, experiment: str = "mine") -> Shown:
    """Run a command and return what the screen showed.

    Raises:
        RuntimeError: if the command fails.
    """
    command = step.command.replace("EXPERIMENT", experiment)
    environment = dict(os.environ, COLUMNS=str(WIDTH), NO_COLOR="1", TERM="dumb")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    words = shlex.split(command)
    if words[0] == "snakemake":
        words += ["--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    shown = done.stdout.replace(f"{folder}/", "").replace(f"{ROOT}/", "")
    return Shown(step, shown.replace(f" on {platform.node()}", " on this-machine"))


def plain(text: str) -> list[str]:
    """Return the lines of an output without what differs between machines: numbers and progress."""
    lines = []
    for line in text.splitlines():
        if " left" in line or line.strip().startswith("…"):
            continue
        without_numbers = re.sub(r"[\d.,:]*\d[\d.,:]*", "#", line)
        without_units = re.sub(r"# (s|min|h|days|GB|MB|kB)\b", "#", without_numbers)
        words = re.sub(r"[-─━]{2,}", "-", without_units).split()
        if words:
            lines.append(" ".join(words))
    return lines


# --- the page
# --------------------------------------------------------------------------


def page(outputs: Sequence[Shown]) -> str:
    """Return the text of the page."""
    parts = [INTRODUCTION]
    for number, shown in enumerate(outputs, start=1):
        step = shown.step
        command = step.command.replace("EXPERIMENT", "mine")
        parts.append(f"{number}. {step.text}\n\n")
        block = "\n".join([f"$ {command}", *shortened(shown)])
        parts.append(indented(f"```console\n{block}\n```"))
        if step.picture:
            parts.append(indented(f"![{step.picture}](../images/screen_{step.name}.svg)"))
    return "".join([*parts, END])


def indented(text: str) -> str:
    """Indent a block, so that it belongs to the item of a list."""
    lines = [f"    {line}".rstrip() for line in text.splitlines()]
    return "\n".join(lines) + "\n\n"


def shortened(shown: Shown) -> list[str]:
    """Return the lines of an output; the middle of a long one is left out."""
    lines = shown.output.rstrip().splitlines()
    if len(lines) <= shown.step.lines:
        return lines
    half = shown.step.lines // 2
    left_out = len(lines) - 2 * half
    return [*lines[:half], f"… {left_out} lines …", *lines[-half:]]


def write_picture(shown: Shown) -> None:
    """Write a picture of the screen with the end of an output."""
    console = Console(record=True, width=WIDTH, file=Path(os.devnull).open("w"))  # noqa: SIM115
    command = shown.step.command.replace("EXPERIMENT", "mine")
    console.print(Text(f"$ {command}", style="bold"))
    for line in shortened(shown):
        console.print(Text(line))
    svg = console.export_svg(title=command.split()[0], theme=MONOKAI)
    # A page must not load fonts from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (IMAGES / f"screen_{shown.step.name}.svg").write_text(svg, encoding="utf-8")


def main() -> None:
    """Run all commands and write the page and its pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["hstf", *SCANS], cwd=folder, check=True)
        write_scans(folder, folder / "data")
        outputs = []
        for step in (*BEFORE_THE_RUN, RUN, *AFTER_THE_RUN):
            print(step.command, flush=True)
            outputs.append(show(step, folder))
    PAGE.write_text(page(outputs), encoding="utf-8")
    for shown in outputs:
        if shown.step.picture:
            write_picture(shown)


if __name__ == "__main__":
    main()
