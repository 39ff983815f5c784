"""The volumes of a case, as NIfTI on the grid of its image.

Files that are NIfTI already are sent as they are. Others are converted once, by another process,
into a folder that is removed at the end. The server never holds a volume.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from starlette.responses import FileResponse, Response

from hstf.audit.calls import Call, Refusal, get
from hstf.audit.corrections import SEEN, correction_version, shown_correction
from hstf.audit.desk import Desk
from hstf.experiment.cases import Case
from hstf.imaging.arrays import open_array
from hstf.imaging.geometry import GEOMETRY, Geometry
from hstf.imaging.guards import MASK
from hstf.imaging.volume_files import is_nifti
from hstf.imaging.volumes import blank_volume, read_image, write_like
from hstf.method.tta_summary import DISAGREEMENT, UNCERTAINTY
from hstf.runtime.files import find_files

CACHE_BYTES = 4 << 30
"""Maximum size of the converted volumes together."""
CT_WINDOW = (-160, 240)
"""Soft tissue (HU)."""
SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Layers:
    """The volumes of a case in a round."""

    desk: Desk
    case: Case
    number: int

    def file(self, name: str) -> Path | None:
        """Return the file of a layer; None if the case does not have it.

        Args:
            name: ``image-<k>``, ``label``, ``previous``, ``weight``, ``disagreement`` or
                ``correction``.
        """
        layout = self.desk.layout
        case_id = self.case.case_id
        if name.startswith("image-"):
            return self._image(name.removeprefix("image-"))
        finders: dict[str, Callable[[], Path | None]] = {
            "label": lambda: layout.pseudo_label(self.number, case_id),
            "weight": lambda: layout.pseudo_labels(self.number) / f"{case_id}.weight{SUFFIX}",
            "previous": self._previous,
            "disagreement": self._disagreement,
            "correction": self._correction,
        }
        path = finders[name]() if name in finders else None
        return path if path is not None and path.is_file() else None

    def _image(self, index: str) -> Path | None:
        images = self.case.images
        if index not in map(str, range(len(images))):
            return None
        image = images[int(index)]
        if is_nifti(image):
            return image
        kinds = list(self.desk.config.modalities.values())
        is_mask = kinds[int(index)] == MASK
        return self._cached(image, "image", partial(convert_image, image, is_mask))

    def _previous(self) -> Path | None:
        """Return what the previous round learned from, or else its pseudo-label."""
        if self.number == 1:
            return None
        layout = self.desk.layout
        learned = layout.labels(self.number - 1) / f"{self.case.case_id}{SUFFIX}"
        return learned if learned.is_file() else self._label_of(self.number - 1)

    def _label_of(self, number: int) -> Path:
        return self.desk.layout.pseudo_label(number, self.case.case_id)

    def _correction(self) -> Path | None:
        return shown_correction(self.desk, self.number, self.case.case_id)

    def has_disagreement(self) -> bool:
        """Return whether the predictions of the ensemble are there."""
        return self._uncertainty.is_file() and self._geometry.is_file()

    @property
    def _uncertainty(self) -> Path:
        return self.desk.layout.teacher(self.number) / self.case.case_id / UNCERTAINTY

    @property
    def _geometry(self) -> Path:
        return self.desk.layout.preprocessed / self.case.case_id / GEOMETRY

    def _disagreement(self) -> Path | None:
        if not self.has_disagreement():
            return None
        source = self._uncertainty
        image = self.case.images[0]
        write = partial(write_disagreement, source, self._geometry, image)
        return self._cached(source, "disagreement", write)

    def _cached(self, source: Path, kind: str, write: Callable[[Path], None]) -> Path:
        """Return a converted volume, and convert it first if it is not there.

        Args:
            source: what it is made from.
            kind: what it is.
            write: writes it; it must be picklable.

        Raises:
            Refusal: if the source is missing.
        """
        if not source.is_file():
            raise Refusal(404, f"{source}: is missing.")
        stat = source.stat()
        key = f"{kind} {source.absolute()} {stat.st_mtime_ns} {stat.st_size}"
        target = self.desk.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}{SUFFIX}"
        if not target.is_file():
            shrink(self.desk.cache, CACHE_BYTES)
            self.desk.worker.submit(write, target).result()
        return target


def convert_image(source: Path, is_mask: bool, target: Path) -> None:
    """Write an image of any format as NIfTI; whole numbers are stored as int16."""
    if target.is_file():
        return
    image = read_image(source, is_mask)
    data = image.data
    is_small = data.size > 0 and data.min() >= -32768 and data.max() <= 32767
    if is_small and np.array_equal(data, np.rint(data)):
        data = data.astype(np.int16)
    write_like(target, data, image)


def write_disagreement(uncertainty: Path, geometry: Path, image: Path, target: Path) -> None:
    """Write the disagreement of the ensemble on the grid of the image, 0 to 255."""
    if target.is_file():
        return
    on_grid = open_array(uncertainty)[DISAGREEMENT]
    native = Geometry.load(geometry).scalar_to_native(on_grid)
    write_like(target, native, blank_volume(image))


def shrink(folder: Path, maximum: int) -> None:
    """Remove the oldest files of a folder until it has at most ``maximum`` bytes."""
    files = []
    for path in find_files(folder, "*"):
        with suppress(FileNotFoundError):  # another request may remove it, too
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= maximum:
            break
        path.unlink(missing_ok=True)
        total -= size


def addresses(layers: Layers) -> dict[str, Any]:
    """Return the address of each layer of a case; None if the case does not have it.

    The address of the corrected label names its version, so that a page never shows another one.
    """
    case_id = layers.case.case_id
    kinds = layers.desk.config.modalities
    images = []
    for index, (modality, kind) in enumerate(kinds.items()):
        window = list(CT_WINDOW) if kind == "ct" else None
        url = _address(case_id, f"image-{index}", layers.number)
        images.append({"modality": modality, "url": url, "window": window})
    found: dict[str, Any] = {"images": images}
    for name in ("label", "previous", "weight"):
        has_layer = layers.file(name) is not None
        found[name] = _address(case_id, name, layers.number) if has_layer else None
    version = correction_version(layers.file("correction"))
    address = f"{_address(case_id, 'correction', layers.number)}&version={version}"
    found["correction"] = address if version is not None else None
    found[SEEN] = version
    has_disagreement = layers.has_disagreement()
    found["disagreement"] = (
        _address(case_id, "disagreement", layers.number) if has_disagreement else None
    )
    return found


def _address(case_id: str, name: str, number: int) -> str:
    return f"/api/cases/{case_id}/layers/{name}{SUFFIX}?round={number}"


def layer(call: Call) -> Response:
    """Send a layer; a browser that has it already gets the status 304.

    Raises:
        Refusal: if there is no such layer, or no longer in the version of the address.
    """
    desk = call.desk
    name = str(call.path["name"]).removesuffix(SUFFIX)
    path = Layers(desk, desk.cases[call.case_id()], call.round()).file(name)
    if path is None or not path.is_file():
        raise Refusal(404, "The case has no such volume.")
    version = call.text("version")
    if version and version != correction_version(path):
        raise Refusal(409, "The corrected label was saved again meanwhile. Open the case again.")
    stat = path.stat()
    content = f"{path} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}"
    tag = f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if call.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


ROUTES = [get("/api/cases/{case_id}/layers/{name}", layer)]
