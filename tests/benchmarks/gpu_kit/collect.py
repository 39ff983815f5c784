"""Take in what a slice brought back: ``python tests/benchmarks/gpu_kit/collect.py FOLDER``, in the project's folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from parcel import ParcelError, read_json, unseal
from steps import KIT, Records, load_steps, split_steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files of the GPU machine lie")
    folder = parser.parse_args(arguments).folder
    try:
        collect(folder, Path.cwd())
    except ParcelError as error:
        print(f"collect: {error}", file=sys.stderr)
        return 1
    return 0


def collect(folder: Path, root: Path) -> None:
    """Unpack the parcel ``back`` of ``folder`` into ``root`` and say what is left to do.

    Raises:
        ParcelError: there is no such parcel, it is damaged, or a later one was collected before.
    """
    manifest = read_json(folder / "back.json")
    if manifest is None:
        raise ParcelError(
            f"{folder / 'back.json'}: is not there; was this the folder that run_slice.py wrote to?"
        )
    collected = len(read_json(root / KIT / "slices.json", []))
    if manifest["slices"] < collected:
        raise ParcelError(
            f"this is slice {manifest['slices']}, and {collected} slices were collected before: it is older."
        )
    unseal(folder, manifest, root)
    left, _ = split_steps(load_steps(root), Records(root))
    print(f"slice {manifest['slices']}: {len(manifest['files'])} files")
    print(f"{len(left)} steps are left: pack again and run a further slice" if left else "all steps are done")


if __name__ == "__main__":
    sys.exit(main())
