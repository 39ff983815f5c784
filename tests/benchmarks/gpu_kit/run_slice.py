"""One slice of time on the GPU machine: take in what was delivered, go on where the last slice stopped, pack what is new.

``python run_slice.py --parcels FOLDER --work FOLDER --out FOLDER [--seconds 540]``

Runs on a Python that has torch but no network. Called again with further parts, or for a further slice, it goes on.
"""

import argparse
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parcel import MIB, ParcelError, missing_parts, read_json, seal, sha256, take_in, unseal, write_json
from steps import KIT, Records, Step, files_to_send, load_steps, split_steps

PARCELS = ("code", "data", "state")
STOP_SECONDS = 5  # that a step has to end before it is killed
Fingerprints = dict[str, tuple[int, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a slice.

    Exit codes: 0 all is done, 1 a step failed, 2 wrong usage or parcels, 3 time is up, 4 parts are missing.
    """
    args = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        waiting = receive(args.parcels, args.work)
        if waiting:
            print("waiting for parts:", *waiting, sep="\n  ", flush=True)
            return 4
        install(args.work)
        check_machine(args.work)
        return run_slice(args, started + args.seconds - args.reserve)
    except ParcelError as error:
        print(f"run_slice: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parcels", type=Path, required=True, help="folder with what was delivered")
    add(
        "--work",
        type=Path,
        required=True,
        help="folder for everything, kept between calls where the machine is",
    )
    add("--out", type=Path, required=True, help="folder for what goes back")
    add("--seconds", type=float, default=540, help="this call ends by then")
    add("--reserve", type=float, default=30, help="seconds of these for packing")
    add("--together", type=int, default=1, help="steps of one kind that run side by side")
    add("--back-mib", type=float, default=60, help="most that goes back")
    add("--part-mib", type=float, default=15, help="largest part of it")
    return parser


def receive(source: Path, work: Path) -> list[str]:
    """Unpack each parcel that is whole and new; returns what is still missing, a sentence each."""
    inbox = work / KIT / "in"
    take_in(source, inbox)
    waiting: list[str] = []
    for name in PARCELS:
        manifest = read_json(inbox / f"{name}.json")
        if manifest is None:
            waiting.append(f"{name}.json: is not here yet")
        elif not _is_here(work, manifest):
            faults = missing_parts(inbox, manifest)
            if not faults:
                if name == "code":  # wheels of other versions must go
                    shutil.rmtree(work / KIT / "wheels", ignore_errors=True)
                unseal(inbox, manifest, work)
                write_json(work / KIT / "received" / f"{name}.json", manifest)
                print(f"{name}: unpacked, {len(manifest['files'])} files", flush=True)
            waiting += faults
    return waiting


def _is_here(work: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether this parcel was unpacked, or what it holds is older than what the machine has done since."""
    slices = len(read_json(work / KIT / "slices.json", []))
    if manifest["name"] == "state" and manifest["slices"] <= slices:
        write_json(work / KIT / "received" / "state.json", manifest)  # what the other side has
        return True
    return bool(read_json(work / KIT / "received" / f"{manifest['name']}.json") == manifest)


def install(work: Path) -> None:
    """Install the wheels of the parcel, without any network, once."""
    wheels = sorted((work / KIT / "wheels").glob("*.whl"))
    stamp, names = work / KIT / "installed.json", [wheel.name for wheel in wheels]
    if not wheels or read_json(stamp) == names:
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--upgrade",
    ]
    done = subprocess.run(
        [*command, "--target", str(work / KIT / "site"), *map(str, wheels)], capture_output=True, text=True
    )
    if done.returncode:
        raise ParcelError(
            f"pip could not install the wheels, are they for this Python?\n{done.stderr.strip()}"
        )
    write_json(stamp, names)


def check_machine(work: Path) -> None:
    """See that torch and all other requirements are there, in versions that do; says what the machine is.

    Raises:
        ParcelError: naming each requirement that is not met.
    """
    from pip._vendor.packaging.requirements import Requirement

    sys.path.insert(0, str(work / KIT / "site"))
    faults = []
    for line in read_json(work / KIT / "steps.json")["requirements"]:
        requirement = Requirement(line)
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{line}: is not there; pack without it among --assumed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{line}: {found} is there; pack without it among --assumed")
    if faults:
        raise ParcelError("\n".join(["this Python lacks packages:", *faults]))
    see = "import torch as t; print('torch', t.__version__, *map(t.cuda.get_device_name, range(t.cuda.device_count())))"
    seen = subprocess.run([sys.executable, "-c", see], capture_output=True, text=True)
    print(f"Python {sys.version.split()[0]}, {seen.stdout or seen.stderr}", end="", flush=True)


def run_slice(args: argparse.Namespace, deadline: float) -> int:
    """Do steps until ``deadline``, then pack what is new; returns the exit code."""
    steps, records = load_steps(args.work), Records(args.work)
    received = read_json(args.work / KIT / "received" / "state.json")
    slices = read_json(args.work / KIT / "slices.json", [])
    watch = _watch_gpu(args.work / KIT / f"gpu_{len(slices)}.csv")
    done, code = 0, 3
    try:
        while deadline > time.monotonic():
            left, _ = split_steps(steps, records)
            if not left:
                code = 0
                break
            group = together(left, args.together)
            if not run_group(args.work, group, records, deadline):
                code = 1 if deadline > time.monotonic() else 3
                break
            done += len(group)
    finally:
        if watch is not None:
            watch.terminate()
    left, _ = split_steps(steps, records)
    slices.append({"done": done, "left": len(left), "code": code})
    write_json(args.work / KIT / "slices.json", slices)
    _send_back(args, steps, records, received["files"], len(slices))
    print(
        f"slice {len(slices)}: {done} steps done, {len(left)} left"
        + (f", next: {left[0].command}" if left else "")
    )
    return code


def together(left: Sequence[Step], most: int) -> list[Step]:
    """The next step, and at most ``most`` - 1 others of its kind that wait for nothing but what is done: members, shards."""
    waited_for = {name for step in left for name in step.outputs}
    alike = [step for step in left if step.rule == left[0].rule and waited_for.isdisjoint(step.inputs)]
    return alike[:most]


def run_group(work: Path, group: Sequence[Step], records: Records, deadline: float) -> bool:
    """Run steps side by side, at the longest until ``deadline``; returns whether all ended well."""
    before, started = fingerprints(work), time.monotonic()
    threads = max(1, len(os.sched_getaffinity(0)) // len(group))
    running = {step: _start(work, step, threads) for step in group}
    codes = {step: _wait(process, deadline) for step, process in running.items()}
    changed = [name for name, value in fingerprints(work).items() if before.get(name) != value]
    for step, code in codes.items():
        seconds = time.monotonic() - started
        records.add(step, changed, code == 0, seconds)
        word = {0: "done", None: "stopped, time is up"}.get(code, f"FAILED with {code}")
        print(f"{seconds:7.1f} s  {word}: {step.command.split(' > ')[0]}", flush=True)
        if code:
            print(_tail(work, step), flush=True)
    return all(code == 0 for code in codes.values())


def _start(work: Path, step: Step, threads: int) -> "subprocess.Popen[bytes]":
    for folder in step.folders:
        (work / folder).mkdir(parents=True, exist_ok=True)
    tools = work / KIT / "bin" / "hstf"
    tools.parent.mkdir(exist_ok=True)
    tools.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hstf "$@"\n')
    tools.chmod(0o755)
    paths = [str(work.resolve()), str((work / KIT / "site").resolve()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PATH": f"{tools.parent.resolve()}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(filter(None, paths)),
        "OMP_NUM_THREADS": str(threads),  # as Snakemake tells its jobs
    }
    return subprocess.Popen(["bash", "-c", step.command], cwd=work, env=environment, start_new_session=True)


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> int | None:
    """The exit code, or None when the deadline ended it."""
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return None


def fingerprints(work: Path) -> Fingerprints:
    """Size and time of each file of the results; half-written ones begin with a dot."""
    found = {}
    for path in (work / read_json(work / KIT / "steps.json")["results"]).rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            stat = path.stat()
            found[str(path.relative_to(work))] = (stat.st_size, stat.st_mtime_ns)
    return found


def _tail(work: Path, step: Step) -> str:
    log = work / step.command.split(" > ")[-1].removesuffix(" 2>&1").strip("'")
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.is_file() else ""


def _watch_gpu(path: Path) -> "subprocess.Popen[bytes] | None":
    """Write how busy the GPU is, every five seconds, where nvidia-smi is there."""
    query = "--query-gpu=timestamp,utilization.gpu,memory.used"
    try:
        with path.open("wb") as stream:
            return subprocess.Popen(["nvidia-smi", query, "--format=csv,noheader", "-l", "5"], stdout=stream)
    except FileNotFoundError:
        path.unlink()
        return None


def _send_back(
    args: argparse.Namespace,
    steps: Sequence[Step],
    records: Records,
    received: Mapping[str, str],
    slices: int,
) -> None:
    made_again = read_json(args.work / KIT / "steps.json")["made_again"]
    known = {name for name, digest in received.items() if _unchanged(args.work / name, digest)}
    names, left_out = files_to_send(steps, records, made_again, int(args.back_mib * MIB), known)
    names += [
        f"{KIT}/slices.json",
        *(str(p.relative_to(args.work)) for p in (args.work / KIT).glob("gpu_*.csv")),
    ]
    files = {name: args.work / name for name in dict.fromkeys(names)}
    manifest = seal(args.out, "back", files, int(args.part_mib * MIB), slices=slices)
    size = sum(part["bytes"] for part in manifest["parts"]) / MIB
    print(f"back: {len(files)} files, {len(manifest['parts'])} parts, {size:.1f} MiB")
    if left_out:
        print(f"{len(left_out)} files stay: {args.back_mib:g} MiB may go back. A later slice on this machine has them;"
              f" elsewhere what needs them is made again: {', '.join(left_out[:5])}")  # fmt: skip


def _unchanged(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


if __name__ == "__main__":
    sys.exit(main())
