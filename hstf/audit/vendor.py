"""Install the viewer of the audit desk: NiiVue, from npm, as ``static/vendor/niivue.umd.js``.

    python -m hstf.audit.vendor

The version and the checksum are those of ``frontend/package-lock.json``. A wheel of a release
contains the file; in a checkout it is installed once and is not under version control.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path

FRONTEND = Path(__file__).with_name("frontend")
VENDOR = Path(__file__).with_name("static") / "vendor"
VIEWER = VENDOR / "niivue.umd.js"
LOCK = VENDOR / "niivue.package-lock.json"
"""The lock file that the installed viewer was taken by."""
LICENCE = VENDOR / "NIIVUE-LICENSE.txt"
HOW = "Install Node.js (https://nodejs.org) and run: python -m hstf.audit.vendor"


def is_installed() -> bool:
    """Return whether the viewer of the lock file is installed."""
    if not VIEWER.is_file() or not LOCK.is_file():
        return False
    return LOCK.read_bytes() == (FRONTEND / "package-lock.json").read_bytes()


def install() -> None:
    """Download the viewer with npm, check it against the lock file, and copy it.

    Raises:
        HstfError: if npm is missing or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise HstfError(f"The viewer NiiVue is not installed, and npm was not found. {HOW}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("package.json", "package-lock.json"):
            shutil.copyfile(FRONTEND / file, folder / file)
        command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise HstfError(f"npm could not download NiiVue: {done.stderr.strip()[-500:]}")
        _copy(folder / "node_modules" / "@niivue" / "niivue" / "dist" / VIEWER.name, VIEWER)
    _copy(FRONTEND / LICENCE.name, LICENCE)
    # Last, because it marks the installation as complete.
    _copy(FRONTEND / "package-lock.json", LOCK)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def main() -> int:
    """Install the viewer unless it is installed."""
    if is_installed():
        return 0
    try:
        install()
    except HstfError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{VIEWER}: {VIEWER.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
