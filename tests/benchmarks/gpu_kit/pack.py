"""Pack the project, its scans and what was reached so far into parts that a GPU machine without a network can take.

``python tests/benchmarks/gpu_kit/pack.py --config config/la.yaml [--set cases=config/la/la_4.csv experiment=la_4]``

Runs here, in the project's folder, where Snakemake and the network are. See README.md beside this.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

# The configuration is to be made by the code that is packed.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from jobs import ROOT, planned_steps
from parcel import MIB, ParcelError, read_json, seal, write_json
from steps import KIT, Records, files_to_send, load_steps, split_steps
from wheels import closure, download, project_requirements

ASSUMED = ["torch", "numpy", "scipy", "pandas", "matplotlib", "pillow"]
CODE = ("hstf", "config", "tests/benchmarks", "pyproject.toml", "LICENSE")
MADE_AGAIN = ["check", "plan", "preprocess_shard"]  # minutes, of scans that are there anyway


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        pack(args)
    except ParcelError as error:
        print(f"pack: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", type=Path, nargs="+", required=True, help="configuration files; later ones win")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys over them, as after snakemake's --config",
    )
    add("--targets", nargs="+", default=[], help="what to make, as for snakemake; default: everything")
    add("--without", nargs="+", default=["track_round"], help="rules to leave out")
    add("--python", default="3.12", help="Python of the GPU machine")
    add("--assumed", nargs="+", default=ASSUMED, help="packages that it has; checked there")
    add("--no-wheels", action="store_true", help="it has all packages")
    add("--part-mib", type=int, default=57, help="largest part: 60 MB")
    add("--folder", type=Path, default=Path(KIT), help="where the kit keeps its files")
    return parser


def pack(args: argparse.Namespace) -> None:
    """Write the parcels ``code``, ``data`` and ``state`` into ``<folder>/out``, and say what is in them."""
    changes = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.set)}
    plan = planned_steps(args.config, changes, args.targets, args.without)
    steps, scans = plan["steps"], plan["sources"]
    _refuse_outside([*scans, *plan["settings"]])
    write_json(Path(KIT) / "steps.json", {
        "results": plan["results"], "settings": plan["settings"], "made_again": MADE_AGAIN,
        "requirements": project_requirements(ROOT / "pyproject.toml"), "steps": [vars(step) for step in steps],
    })  # fmt: skip
    out, part = args.folder / "out", args.part_mib * MIB
    manifests = [
        seal(out, "code", code_files(args), part),
        _keep_or_seal(out, "data", {_collapsed(name): Path(name) for name in scans}, part),
        seal_state(out, part),
    ]
    for manifest in manifests:
        size = sum(p["bytes"] for p in manifest["parts"]) / MIB
        print(
            f"{manifest['name']}: {len(manifest['files'])} files, {len(manifest['parts'])} parts, {size:.1f} MiB"
        )
    for name in ("parcel.py", "steps.py", "run_slice.py"):  # to start with, where nothing is yet
        shutil.copyfile(Path(__file__).with_name(name), out / name)
    left, _ = split_steps(steps, Records(Path.cwd()))
    print(f"{len(left)} of {len(steps)} steps are left" + (f", next: {left[0].command}" if left else ""))


def code_files(args: argparse.Namespace) -> dict[str, Path]:
    """The project as it is on disk, the steps, the settings and the wheels."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *CODE]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    files = {name: ROOT / name for name in listed if name and (ROOT / name).is_file()}
    files |= {_collapsed(name): Path(name) for name in read_json(Path(KIT) / "steps.json")["settings"]}
    files[f"{KIT}/steps.json"] = Path(KIT) / "steps.json"
    if not args.no_wheels:
        pins = closure(project_requirements(ROOT / "pyproject.toml"), args.assumed)
        wheels = download(pins, args.python, args.folder / f"wheels-{args.python}")
        files |= {f"{KIT}/wheels/{wheel.name}": wheel for wheel in wheels}
    return files


def seal_state(out: Path, part_bytes: int) -> dict[str, Any]:
    """What the steps left to do need of what was brought back."""
    root, slices = Path.cwd(), read_json(Path(KIT) / "slices.json", [])
    names, _ = files_to_send(load_steps(root), Records(root), MADE_AGAIN)
    files = {name: root / name for name in names}
    if slices:
        files[f"{KIT}/slices.json"] = root / KIT / "slices.json"
    return seal(out, "state", files, part_bytes, slices=len(slices))


def _keep_or_seal(out: Path, name: str, files: dict[str, Path], part_bytes: int) -> dict[str, Any]:
    """The scans are packed once: their parts stay while neither they nor the size of the parts changes."""
    facts = {inside: [path.stat().st_size, path.stat().st_mtime_ns] for inside, path in files.items()}
    facts["part_bytes"] = [part_bytes]
    old: dict[str, Any] = read_json(out / f"{name}.json", {})
    there = all((out / part["file"]).is_file() for part in old.get("parts", []))
    return old if there and old.get("facts") == facts else seal(out, name, files, part_bytes, facts=facts)


def _collapsed(name: str) -> str:
    """``config/la/../../data/x`` is ``data/x``, links or not."""
    return os.path.normpath(name)


def _refuse_outside(names: Sequence[str]) -> None:
    outside = sorted(name for name in names if Path(name).is_absolute() or _collapsed(name).startswith(".."))
    if outside:
        raise ParcelError(
            f"{len(outside)} files lie outside the project's folder, the first is {outside[0]}: paths must be the same on"
            " both machines. Link the data into data/ and name it relative to the case sheet."
        )


if __name__ == "__main__":
    sys.exit(main())
