"""Accept, reject, correct and undo: the requests that save something."""

import secrets
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from hstf.audit.calls import Call, Refusal, post, upload
from hstf.audit.consensus import REJECT, label_of
from hstf.audit.corrections import refuse_changed_correction
from hstf.audit.desk import Desk, version_of
from hstf.audit.examination import Examination, compare_files, examine, mean_dice
from hstf.audit.history import REPLACE, Action, History, Verdicts, verdicts_of
from hstf.audit.queue import case_row
from hstf.audit.saving import Changed, Saving, now
from hstf.experiment.overrides import read_overrides
from hstf.imaging.volumes import blank_volume
from hstf.runtime.files import sha256_file

INCOMING = ".incoming"
"""Folder of the labels that are being received, in the folder of converted volumes."""
HEADER_BYTES = 1 << 20
BYTES_PER_VOXEL = 8
MAXIMUM_BYTES = 2 << 30
GZIP = b"\x1f\x8b"
MESSAGES = 5


def decide(call: Call) -> dict[str, Any]:
    """Save that a pseudo-label is accepted or rejected."""
    desk = call.desk
    number = call.round()
    case_id = call.case_id()
    reviewer = call.named_reviewer()
    action = call.text("action")
    if action not in ("accept", REJECT):
        raise Refusal(400, "The action must be accept or reject.")
    reason = call.text("reason")
    if action == REJECT and not reason:
        raise Refusal(400, "A rejection needs a reason.")
    version = refuse_changed_version(call, number, case_id)
    verdict = Action(
        action=action,
        round=number,
        case_id=case_id,
        reviewer=reviewer,
        date=now(),
        reason=reason,
        sha256=version,
        dice_before=desk.refined_case(number, case_id)["predicted_dice"],
        seconds=call.seconds(),
    )
    others = _others(desk, verdict)
    if action == "accept" and others:
        work = desk.worker.submit(
            compare_files, desk.config, desk.layout.pseudo_label(number, case_id), others
        )
        verdict = replace(verdict, agreement=work.result())
    return _saved(call, verdict, [])


def correct(call: Call) -> dict[str, Any]:
    """Save a corrected label, after all checks of overrides."""
    desk = call.desk
    number = call.round()
    case_id = call.case_id()
    version = refuse_changed_version(call, number, case_id)
    assert call.file is not None
    received = _with_suffix(call.file)
    target = desk.cache / INCOMING / f"{secrets.token_hex(8)}.nii.gz"
    verdict = Action(
        action=REPLACE,
        round=number,
        case_id=case_id,
        reviewer=call.named_reviewer(),
        date=now(),
        reason=call.text("reason"),
        sha256=version,
        dice_before=desk.refined_case(number, case_id)["predicted_dice"],
        seconds=call.seconds(),
    )
    try:
        examination = desk.worker.submit(
            examine,
            desk.config,
            desk.cases[case_id],
            received,
            desk.layout.pseudo_label(number, case_id),
            _others(desk, verdict),
            target,
        ).result()
        messages = _refuse(call, examination, received)
        history = History.of(desk.layout)
        with history.locked():
            file, digest = history.keep(target, number, case_id, verdict.reviewer)
        verdict = replace(
            verdict,
            file=file,
            result_sha256=digest,
            voxels_changed=examination.voxels_changed,
            dice_after=mean_dice(examination.dice),
            agreement=examination.agreement,
        )
        return _saved(call, verdict, messages)
    finally:
        received.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def undo(call: Call) -> dict[str, Any]:
    """Take back the last decision of the reviewer."""
    desk = call.desk
    try:
        undone = Saving.of(desk).undo(call.named_reviewer())
    except Changed as error:
        raise Refusal(409, str(error)) from None
    if undone is None:
        return {"undone": None, "case": None}
    facts = {"case_id": undone.case_id, "action": undone.action, "round": undone.round}
    row = case_row(desk, undone.round, undone.case_id, call.session)
    return {"undone": facts, "case": row}


def refuse_changed_version(call: Call, number: int, case_id: str) -> str:
    """Return the SHA-256 of the pseudo-label that the reviewer has seen.

    Raises:
        Refusal: if it is not the pseudo-label that is there now.
    """
    desk = call.desk
    seen = call.text("sha256").casefold()
    if not seen:
        raise Refusal(400, "sha256: the version of the pseudo-label that was seen is missing.")
    path = desk.layout.pseudo_label(number, case_id)
    present = version_of(desk.refined_case(number, case_id))
    if not path.is_file() or sha256_file(path) != present:
        raise Refusal(409, f"{path}: is missing or was edited there. Run snakemake again.")
    if seen != present:
        raise Refusal(
            409, f"The pseudo-label of {case_id} was computed again meanwhile. Look at it again."
        )
    return present


def _with_suffix(file: Path) -> Path:
    """Give a received file the suffix of its content."""
    with file.open("rb") as stream:
        suffix = ".nii.gz" if stream.read(2) == GZIP else ".nii"
    return file.rename(file.with_name(file.name + suffix))


def _others(desk: Desk, new: Action) -> dict[str, Path]:
    """Return the labels of other reviewers that differ from that of a new decision, by action."""
    found = {}
    history = History.of(desk.layout)
    for action in _verdicts(desk, new).values():
        if action.reviewer == new.reviewer or action.action == REJECT:
            continue
        if action.file is not None:
            found[action.id] = history.folder / action.file
        elif label_of(action) == new.sha256 and new.action == REPLACE:
            found[action.id] = desk.layout.pseudo_label(new.round, new.case_id)
    return {name: path for name, path in found.items() if path.is_file()}


def _verdicts(desk: Desk, new: Action) -> Verdicts:
    """Return the decisions on a case with the new one, which is not saved yet."""
    saving = Saving.of(desk)
    with saving.history.locked():
        before = saving.state(new.round, new.case_id)
    actions = [*saving.history.actions(), replace(new, before=before)]
    return verdicts_of(actions, new.round)[new.case_id]


def _refuse(call: Call, examination: Examination, received: Path) -> list[str]:
    """Refuse a label with problems, and one that must be confirmed.

    Returns:
        What may be a mistake.
    """
    findings = examination.findings
    problems = [text.removeprefix(f"{received}: ") for text in findings.problems]
    if problems:
        raise Refusal(400, "The corrected label was not saved: " + "; ".join(problems))
    if findings.questions and call.text("confirmed") != "1":
        questions = "; ".join(findings.questions)
        raise Refusal(409, f"The corrected label was not saved: {questions}.", confirm=questions)
    return [f"The corrected label {text}." for text in findings.remarks]


def _saved(call: Call, verdict: Action, messages: list[str]) -> dict[str, Any]:
    """Save a decision and return the answer to the browser.

    Raises:
        Refusal: if another corrected label is there now than the reviewer has seen.
    """
    desk = call.desk
    refuse = partial(refuse_changed_correction, call, verdict.round, verdict.case_id)
    action = Saving.of(desk).save(verdict, desk.consensus, refuse)
    if not action.is_in_force:
        messages.append(
            "Reviewers disagree. The first decision stays in force until a third one decides."
        )
    if action.before.file is not None and action.before.file != action.after.file:
        path = History.of(desk.layout).folder / action.before.file
        messages.append(f"The earlier corrected label is kept: {path}")
    problems: list[str] = []
    read_overrides(desk.layout, desk.schedule, desk.cases, problems)
    messages += [f"Problem in the overrides: {problem}." for problem in problems[:MESSAGES]]
    row = case_row(desk, action.round, action.case_id, call.session)
    return {"case": row, "messages": messages}


def place(call: Call) -> Path:
    """Return where a corrected label is received; refuse it before it is sent if that is known."""
    number = call.round()
    case_id = call.case_id()
    call.named_reviewer()
    refuse_changed_version(call, number, case_id)
    folder = call.desk.cache / INCOMING
    folder.mkdir(exist_ok=True)
    return folder / secrets.token_hex(8)


def limit(call: Call) -> int:
    """Return the maximum number of bytes of a corrected label.

    Raises:
        HstfError: if the image cannot be read.
    """
    image = call.desk.cases[call.case_id()].images[0]
    voxels = prod(blank_volume(image).data.shape)
    return min(MAXIMUM_BYTES, BYTES_PER_VOXEL * voxels + HEADER_BYTES)


ROUTES = [
    post("/api/cases/{case_id}/decision", decide),
    upload("/api/cases/{case_id}/correction", correct, place, limit),
    post("/api/undo", undo),
]
