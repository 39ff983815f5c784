"""Provenance: the data, configuration, code, packages, machines and seed behind the results.

The report stage writes ``provenance.json`` as its last file. It contains no time, so that the same
work on the same machine produces the same bytes.
"""

import os
import platform
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

import hstf
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import find_files, read_json, sha256_file, sha256_json

FORMAT = 1
"""Version of the format of ``provenance.json``."""
PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "nibabel",
    "blosc2",
    "connected-components-3d",
    "pandas",
    "snakemake",
)
"""Packages on which the results depend."""
HASHED_FILES = (
    "*.csv",
    "*.json",
    "preprocessed/*.csv",
    "pretrain/*",
    "round_*/*.csv",
    "round_*/*.json",
    "external/*.json",
    "external/*/*.csv",
    "round_*/external/*/*.csv",
    "round_*/*/*.csv",
    "round_*/*/*.json",
    "round_*/model/*/*",
)
"""Files that have a SHA-256 in ``provenance.json``.

Files of single cases have their SHA-256 in the tables.
``config.yaml`` is not among them, because each run writes it again before it does its work."""
LATER_FILES = {"provenance.json", "track.json", "check_failed.csv"}
"""Files that may be written after ``provenance.json``."""


CASE_RECORDS = ".records"
"""Folder beside the files of cases with a record of each case."""
MACHINE_FILES = (
    f"preprocessed/{CASE_RECORDS}/*.json",
    f"external/*/{CASE_RECORDS}/*.json",
    f"round_*/external/*/{CASE_RECORDS}/*.json",
    f"round_*/*/{CASE_RECORDS}/*.json",
    "round_*/state/*/made_by.json",
    "pretrain/state/*.json",
)
"""Files that name the machine on which a case or a training was computed."""


LATER_JOBS = {"report", "export", "track_round", "compare"}
"""Jobs that may run after ``provenance.json`` is written, or while it is."""


class OtherFile(Part):
    """A file outside of the results."""

    file: str
    sha256: str | None
    """None if the file does not exist."""


class Machine(Part):
    """A computer."""

    name: str
    system: str
    processor: str
    cores: int | None
    gpus: list[str]
    """Models of the NVIDIA GPUs."""


class MadeBy(Part):
    """What made the results of a job, from its record."""

    key: str
    """SHA-256 of everything that the job depends on."""
    hstf: str
    commit: str | None
    code_sha256: str
    packages: dict[str, str | None]
    machine: str


class Provenance(Document):
    """``provenance.json``.

    Version, code, packages and machine at the top are those of the report. Other results may have
    been made by other versions: see ``jobs``.
    """

    stage: ClassVar[str] = "report"

    format: int
    experiment: str
    seed: int
    hstf: str
    """Version of HSTF."""
    commit: str | None
    """Git commit of the source code; None without a repository."""
    code_sha256: str
    """SHA-256 of the source code."""
    packages: dict[str, str | None]
    """Versions of Python and of the main packages."""
    machine: Machine
    """The machine that wrote the report."""
    machines: dict[str, dict[str, int]]
    """For each folder, how many cases (or trainings) each machine computed."""
    jobs: dict[str, MadeBy]
    """For each job, what made its results."""
    case_sheet: OtherFile
    initial_weights: OtherFile | None = None
    """The file ``network.start``, if there is one."""
    data: OtherFile
    """The table ``check.csv``, which has the SHA-256 of all scans."""
    configuration_sha256: str
    files: dict[str, str]
    """SHA-256 of the files of the results, relative to their folder."""


def write_provenance(config: Config) -> Path:
    """Write ``provenance.json`` of an experiment, whether it is finished or not.

    Returns:
        The file.
    """
    target = Layout.of(config).provenance
    provenance(config).save(target)
    return target


def provenance(config: Config) -> Provenance:
    """Return the provenance of the files that an experiment has so far."""
    layout = Layout.of(config)
    start = config.network.start
    files = {}
    for path in hashed_files(layout.root):
        files[str(path.relative_to(layout.root))] = sha256_file(path)
    return Provenance(
        format=FORMAT,
        experiment=config.experiment,
        seed=config.seed,
        hstf=hstf.__version__,
        commit=commit(),
        code_sha256=code_sha256(),
        packages={"python": platform.python_version(), **packages()},
        machine=machine(),
        machines=machines(layout.root),
        jobs=made_by(layout.root),
        case_sheet=_hashed(Path(config.cases)),
        initial_weights=_hashed(Path(start)) if start is not None else None,
        data=_hashed(layout.check),
        configuration_sha256=sha256_json(config.model_dump(mode="json")),
        files=files,
    )


def _hashed(path: Path) -> OtherFile:
    return OtherFile(file=str(path), sha256=sha256_file(path) if path.is_file() else None)


def hashed_files(root: Path) -> list[Path]:
    """Return the files of an experiment that have a SHA-256 in its provenance, sorted."""
    found: set[Path] = set()
    for pattern in HASHED_FILES:
        found.update(find_files(root, pattern))
    return [path for path in sorted(found) if path.is_file() and path.name not in LATER_FILES]


def packages() -> dict[str, str | None]:
    """Return the versions of :data:`PACKAGES`; None for a package that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def machine() -> Machine:
    """Return this machine."""
    return Machine(
        name=platform.node(),
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count(),
        gpus=_gpus(),
    )


def _processor() -> str:
    """Return the model of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _gpus() -> list[str]:
    """Return the models of the NVIDIA GPUs from the files of their driver, without torch."""
    models = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        text = path.read_text(errors="replace").partition("Model:")[2]
        models.append(text.partition("\n")[0].strip())
    return models


def made_by(root: Path) -> dict[str, MadeBy]:
    """Return what made the results of each job, but the jobs that read the provenance.

    Args:
        root: results of an experiment.
    """
    jobs = {}
    for path in find_files(root, "records/*.json"):
        name = path.stem
        if name.partition(".")[0] not in LATER_JOBS:
            record = read_json(path)
            jobs[name] = MadeBy(**{key: record[key] for key in MadeBy.model_fields})
    return jobs


def machines(root: Path) -> dict[str, dict[str, int]]:
    """Return how many cases, or trainings, each machine computed.

    Args:
        root: results of an experiment.

    Returns:
        For each folder of cases and each training, the number by machine.
    """
    counts: dict[str, Counter[str]] = {}
    for pattern in MACHINE_FILES:
        for path in find_files(root, pattern):
            folder = path.parent.relative_to(root)
            of_cases = folder.parent if folder.name == CASE_RECORDS else folder
            counts.setdefault(str(of_cases), Counter())[_machine_of(path)] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _machine_of(path: Path) -> str:
    """Return the machine in the record of a case or training."""
    try:
        return str(read_json(path)["machine"])
    except (HstfError, KeyError, TypeError):
        return "unknown"


@cache
def code_sha256() -> str:
    """Return the SHA-256 of the source files of the package."""
    return sha256_of_modules(Path(hstf.__file__).parent)


def sha256_of_modules(folder: Path) -> str:
    """Return the SHA-256 of the Python modules of a package and its subpackages.

    Other folders may contain Python files too, for example the Node.js packages with which the
    audit desk is tested. They are no part of the code.

    Args:
        folder: folder of the package.
    """
    digests = {}
    for path in sorted(folder.rglob("*.py")):
        if (path.parent / "__init__.py").is_file():
            digests[str(path.relative_to(folder))] = sha256_file(path)
    return sha256_json(digests)


def commit() -> str | None:
    """Return the git commit of the source code; None if there is no repository."""
    git = Path(hstf.__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        branch = head.removeprefix("ref: ")
        if branch == head:
            return head
        if (git / branch).is_file():
            return (git / branch).read_text().strip()
        return _packed_commit(git, branch)
    except OSError:
        return None


def _packed_commit(git: Path, branch: str) -> str | None:
    """Return the commit of a branch from the packed references of a repository."""
    for line in (git / "packed-refs").read_text().splitlines():
        digest, _, name = line.partition(" ")
        if name == branch:
            return digest
    return None
