"""An audit desk over a tiny experiment from files, and browsers that use it."""

import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import httpx2
import nibabel as nib
import numpy as np
import yaml
from starlette.testclient import TestClient

from hstf.audit.desk import LAST, Desk
from hstf.audit.history import Action, History
from hstf.audit.saving import Saving
from hstf.audit.server import create_app
from hstf.config.experiment import Config
from hstf.runtime.files import read_sheet
from support.pseudo_label_files import AFFINE, SHAPE, make_experiment, write_verdicts

ADDRESS = "http://127.0.0.1:8765"


class AtOnce(Executor):
    """Runs everything at once, in this process."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def write_template(folder: Path) -> None:
    """Write an experiment with the pseudo-labels ``good`` and ``bad`` of round 1."""
    write_verdicts(make_experiment(folder, refine={"accepted_fraction": [1.0]}))


def copied(template: Path, folder: Path, **sections: object) -> Config:
    """Copy an experiment; write its configuration with relative paths, as the workflow does."""
    shutil.copytree(template, folder, dirs_exist_ok=True)
    config = Config.model_validate(
        {
            "cases": "cases.csv",
            "labels": {"background": 0, "organ": 3, "ignore": 9},
            "overrides": "overrides",
            "modalities": {"image": "mr"},
            **sections,
        }
    )
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (folder / "results" / "demo" / "config.yaml").write_text(text)
    return config


def desk_of(config: Config, cache: Path, consensus: str = LAST) -> Desk:
    """Return the desk of an experiment in the current folder."""
    cache.mkdir(exist_ok=True)
    return Desk(config, AtOnce(), cache, consensus=consensus)


class Browser:
    """A browser that has opened the address with the token."""

    def __init__(self, desk: Desk, reviewer: str = "", address: str = ADDRESS) -> None:
        self.desk = desk
        self.client = TestClient(create_app(desk), base_url=address)
        self.client.get("/", params={"token": desk.token}, follow_redirects=False)
        if reviewer:
            assert self.post("/api/reviewer", {"name": reviewer}).status_code == 200

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.client.get(path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> httpx2.Response:
        headers = {"X-HSTF": "1"} | options.pop("headers", {})
        return self.client.post(path, json=body or {}, headers=headers, **options)

    def row(self, case_id: str, number: int = 1) -> dict[str, Any]:
        rows = self.get("/api/queue", params={"round": number}).json()["cases"]
        return next(row for row in rows if row["case_id"] == case_id)

    def seen(self, case_id: str, number: int = 1) -> dict[str, str]:
        """Return the versions of the labels that a page shows, as it sends them."""
        query = {"round": number, "places": "0"}
        case = self.get(f"/api/cases/{case_id}", params=query).json()
        correction = case["layers"]["correction_sha256"]
        return {"sha256": case["sha256"], "correction_sha256": correction or ""}

    def decide(self, case_id: str, action: str, **more: object) -> httpx2.Response:
        body = {"round": 1, "action": action, **self.seen(case_id), "seconds": 7}
        return self.post(f"/api/cases/{case_id}/decision", body | more)

    def correct(self, case_id: str, content: bytes, **more: object) -> httpx2.Response:
        query = {"round": 1, **self.seen(case_id), "seconds": 12.5}
        return self.client.post(
            f"/api/cases/{case_id}/correction",
            params=query | more,
            content=content,
            headers={"X-HSTF": "1"},
        )

    def undo(self) -> httpx2.Response:
        return self.post("/api/undo")


def label(shift: int = 0) -> np.ndarray:
    """Return a corrected label: a block of the organ, and a plane to ignore."""
    data = np.zeros(SHAPE, np.uint8)
    data[8 + shift : 20 + shift, 6:18, 4:12] = 3
    data[0] = 9
    return data


def nifti(data: np.ndarray, affine: np.ndarray = AFFINE) -> bytes:
    """Return a label as a browser sends it."""
    return nib.Nifti1Image(data, affine).to_bytes()


def rows(desk: Desk) -> list[dict[str, str]]:
    """Return the rows of the table of decisions."""
    return [row for _, row in read_sheet(desk.layout.decisions)[1]]


def actions(desk: Desk) -> list[Action]:
    """Return the history as it is on disk."""
    return History(desk.layout).actions()


def saving(desk: Desk) -> Saving:
    """Return the overrides with a history that remembers nothing."""
    found = Saving(desk.layout)
    found.history = History(desk.layout)
    return found
