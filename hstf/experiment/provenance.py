"""What made a results folder: data, configuration, code, packages, machines and seed, in ``provenance.json``.

The report stage writes it last. It holds no time, so that the same work on the same machine gives
the same bytes.
"""

import os
import platform
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import hstf
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, sha256_file, sha256_json, write_json

FORMAT = 1
PACKAGES = (
    "torch", "monai", "numpy", "scipy", "nibabel", "blosc2", "connected-components-3d", "pandas", "snakemake",
)  # fmt: skip
MANIFEST = (
    "*.csv", "*.json", "preprocessed/*.csv", "round_*/*.csv", "round_*/*.json", "round_*/*/*.csv",
    "round_*/*/*.json", "round_*/model/*/*",
)  # fmt: skip
"""Files with a hash of their own; those of single cases have theirs in the tables. ``config.yaml``
is written anew at the start of each run, as what is to be done next; what was done stands in the
report and in the records of the stages."""
LATER = {"provenance.json", "track.json", "check_failed.csv"}


def write_provenance(config: Config) -> Path:
    """Write ``provenance.json`` of an experiment, however far it is."""
    target = Layout.of(config).provenance
    write_json(target, provenance(config))
    return target


def provenance(config: Config) -> dict[str, Any]:
    """What made the experiment, and the SHA-256 of its files, relative to its folder."""
    layout = Layout.of(config)
    return {
        "format": FORMAT,
        "experiment": config.experiment,
        "seed": config.seed,
        "hstf": hstf.__version__,
        "commit": commit(),
        "code_sha256": code_sha256(),
        "packages": {"python": platform.python_version(), **packages()},
        "machine": machine(),
        "machines": machines(layout.root),
        "case_sheet": _file(Path(config.cases)),
        "data": _file(layout.check),
        "configuration_sha256": sha256_json(config.model_dump(mode="json")),
        "files": {
            str(path.relative_to(layout.root)): sha256_file(path) for path in manifest(layout.root)
        },
    }


def _file(path: Path) -> dict[str, str | None]:
    return {"file": str(path), "sha256": sha256_file(path) if path.is_file() else None}


def manifest(root: Path) -> list[Path]:
    """The files of an experiment that have a hash of their own, in order."""
    found = {path for pattern in MANIFEST for path in root.glob(pattern) if path.is_file()}
    return sorted(
        path for path in found if path.name not in LATER and not path.name.startswith(".")
    )


def packages() -> dict[str, str | None]:
    """Versions of what the results depend on; None where a package is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def machine() -> dict[str, Any]:
    """This machine: name, system, processor, cores, GPUs."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    """Models of the NVIDIA GPUs, as their driver names them; torch is not needed."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    texts = [path.read_text(errors="replace").partition("Model:")[2] for path in found]
    return [text.partition("\n")[0].strip() for text in texts]


def machines(root: Path) -> dict[str, dict[str, int]]:
    """For each folder of cases and each training, which machines worked on how many cases (a training counts as one)."""
    counts: dict[str, Counter[str]] = {}
    for path in [*root.glob("**/.records/*.json"), *root.glob("round_*/state/*/made_by.json")]:
        name = (
            str(path.parent.parent.relative_to(root))
            if path.parent.name == ".records"
            else str(path.parent.relative_to(root))
        )
        counts.setdefault(name, Counter())[_machine_of(path)] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _machine_of(path: Path) -> str:
    try:
        return str(read_json(path)["machine"])
    except (HstfError, KeyError, TypeError):
        return "unknown"


@cache
def code_sha256() -> str:
    """SHA-256 over the package's source files: two copies with the same one run the same code."""
    folder = Path(hstf.__file__).parent
    return sha256_json(
        {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.py"))}
    )


def commit() -> str | None:
    """The git commit of the source folder that the package runs from; None where it is installed without one."""
    git = Path(hstf.__file__).parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((line[0] for line in packed if line[-1] == name), None)
    except OSError:
        return None
