"""The audit desk in a real browser: what a reviewer sees and does, down to the files."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest
from support.browser import (
    ROOT,
    Server,
    chromium,
    node_path,
    npm_path,
    open_desk,
    wait_until,
)
from support.desk_phantom import write_desk

from hstf.audit import vendor
from hstf.runtime.files import read_csv

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '<img src=x onerror="window.stolen=1">'
WITHOUT_3D = "localStorage.setItem('hstf-audit-3d', 'off')"
FRONTEND = ROOT / "hstf" / "audit" / "frontend"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("desk")
    write_desk(folder, cases=9, size=(40, 36, 24), sites=(HOSTILE, "south"))
    started = Server(folder)
    started.start()
    yield started
    started.kill()


NewPage = Callable[..., "Page"]


@pytest.fixture
def new_page(browser: "Browser", server: Server) -> Iterator[NewPage]:
    """Return a function that opens the desk as a reviewer; errors of the page fail the test."""
    errors: list[str] = []
    contexts = []

    def open_page(reviewer: str = "AB", *, solid: bool = False) -> "Page":
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        contexts.append(context)
        if not solid:
            context.add_init_script(WITHOUT_3D)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: note_violation(message.text))
        open_desk(page, server.url, reviewer)
        return page

    def note_violation(text: str) -> None:
        if "Content Security Policy" in text or "Content-Security-Policy" in text:
            errors.append(text)

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def name(page: "Page") -> str:
    return page.inner_text("#case-name")


def go_to(page: "Page", case_id: str) -> None:
    page.click(f".case:has-text('{case_id}')")
    page.wait_for_selector(f"#case-name:text-is('{case_id}')")
    page.wait_for_selector("#stage:not([aria-busy])")


def wait_for_next(page: "Page", case_id: str) -> None:
    """Wait until another case than ``case_id`` is open."""
    page.wait_for_function(
        "name => document.getElementById('case-name').textContent !== name", arg=case_id
    )
    page.wait_for_selector("#stage:not([aria-busy])")


def decision(server: Server, case_id: str) -> dict[str, str]:
    """Return the last row of the table of decisions on a case."""
    path = server.folder / "overrides" / "decisions.csv"
    rows = [row for row in read_csv(path) if row["case_id"] == case_id]
    return rows[-1]


def draw(page: "Page", shift: int = 0) -> None:
    """Draw a stroke in the axial plane."""
    box = page.locator("#plane-axial").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2 + shift, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y - 10)
    page.mouse.down()
    page.mouse.move(x, y + 15, steps=4)
    page.mouse.move(x + 30, y - 10, steps=4)
    page.mouse.up()


def pixels(page: "Page", plane: str = "axial") -> str:
    """Return what a plane shows."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    return page.evaluate(f"document.getElementById('plane-{plane}').toDataURL()")


# ---- decisions


def test_opens_at_the_worst_undecided_case(new_page: NewPage) -> None:
    page = new_page()
    assert name(page) == "case_000"
    dice = [float(text) for text in page.locator(".case .dice").all_inner_texts()]
    assert dice == sorted(dice)
    assert "place 1 of" in page.inner_text("#place")
    first = page.inner_text("#cursor")
    page.keyboard.press("j")
    assert page.inner_text("#cursor") != first
    assert "Radiological" in page.inner_text("#convention")


def test_good_case_takes_one_key_and_a_bad_one_two(new_page: NewPage, server: Server) -> None:
    page = new_page("Dr. Mo")
    go_to(page, "case_005")
    page.keyboard.press("a")
    wait_for_next(page, "case_005")
    row = decision(server, "case_005")
    assert (row["action"], row["reviewer"]) == ("accept", "Dr. Mo")
    assert len(row["sha256"]) == 64
    go_to(page, "case_006")
    page.keyboard.press("r")
    page.keyboard.press("2")
    wait_for_next(page, "case_006")
    row = decision(server, "case_006")
    assert (row["action"], row["reason"]) == ("reject", "metal artefact")
    page.select_option("#filter-status", "rejected")
    assert page.locator(".case .name").all_inner_texts() == ["case_006"]
    assert "1 accepted · 1 rejected" in page.inner_text("#counts")
    # What was saved last is taken back, and the case is open again.
    page.select_option("#filter-status", "")
    page.keyboard.press("u")
    page.wait_for_selector("#case-name:text-is('case_006')")
    page.wait_for_selector("#state:text-is('undecided')")


def test_everything_is_done_by_mouse_and_named_for_screen_readers(
    new_page: NewPage, server: Server
) -> None:
    page = new_page()
    go_to(page, "case_007")
    page.click("button:has-text('Reject')")
    page.fill("#reason", "too dark, <b>really</b>")
    page.click("dialog button.primary")
    wait_for_next(page, "case_007")
    assert decision(server, "case_007")["reason"] == "too dark, <b>really</b>"
    page.click("button[data-action=edit]")
    page.click("#pens button:has-text('ignore')")
    page.fill("#brush", "5")
    assert page.inner_text("#brush-size") == "12 voxels"
    page.click("button[data-action=cancel]")
    page.wait_for_selector("#tools", state="hidden")
    page.click("button[aria-label='Keys and mouse']")
    assert "take back what you saved last" in page.inner_text("dialog")
    page.click("dialog button:has-text('Close')")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, canvas, [role=group]')]
        .filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.title))
        .map(one => one.outerHTML)"""
    )
    assert unnamed == []


# ---- view


def test_scroll_window_zoom_pan_and_layers(new_page: NewPage) -> None:
    page = new_page()
    go_to(page, "case_001")
    box = page.locator("#plane-axial").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen = [pixels(page)]
    page.mouse.move(x, y)
    page.mouse.wheel(0, 120)
    seen.append(pixels(page))
    window = page.inner_text("#window-now")
    page.mouse.down(button="right")
    page.mouse.move(x + 40, y + 20, steps=3)
    page.mouse.up(button="right")
    assert page.inner_text("#window-now") != window
    seen.append(pixels(page))
    page.keyboard.press("+")
    seen.append(pixels(page))
    page.mouse.down(button="middle")
    page.mouse.move(x + 10, y, steps=2)
    page.mouse.up(button="middle")
    seen.append(pixels(page))
    page.keyboard.press("j")
    seen.append(pixels(page))
    page.keyboard.press("o")
    seen.append(pixels(page))
    page.keyboard.press("m")
    wait_until(lambda: page.input_value("#modality") == "1")
    seen.append(pixels(page))
    same = [(a, b) for a in range(len(seen)) for b in range(a) if seen[a] == seen[b]]
    assert same == []
    usual = pixels(page)
    for key, text in (("w", "voxel weights"), ("s", "image without label")):
        page.keyboard.down(key)
        page.wait_for_selector(f"#layer.held:has-text('{text}')")
        assert pixels(page) != usual
        page.keyboard.up(key)
        page.wait_for_selector("#layer:not(.held)")
        assert pixels(page) == usual
    # There is no previous round, and nothing of an ensemble.
    page.keyboard.press("d")
    page.wait_for_selector(".message:has-text('does not have this layer')")


def test_three_dimensional_view(new_page: NewPage) -> None:
    without = new_page()
    without.route("**/vendor/*", lambda route: route.abort())
    without.keyboard.press("x")
    without.wait_for_selector(".solid-note:has-text('python -m hstf.audit.vendor')")
    npm_path()
    if not vendor.is_installed():
        vendor.install()
    page = new_page(solid=True)
    wait_until(lambda: page.evaluate("window.niivue !== undefined"), 30)
    note = page.locator(".solid-note")
    wait_until(lambda: len(page.locator(".solid canvas").screenshot()) > 3000, 30)
    assert note.inner_text() == ""


def test_names_are_never_read_as_html(new_page: NewPage) -> None:
    page = new_page(HOSTILE)
    assert page.inner_text("#reviewer") == HOSTILE
    assert HOSTILE in page.inner_text("#cases")
    page.select_option("#filter-site", HOSTILE)
    go_to(page, "case_002")
    page.goto(page.url.split("#")[0] + "#agreement")
    page.wait_for_selector("#page h1")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.stolen") is None


# ---- corrections


def test_correction_is_drawn_undone_saved_and_there_after_a_restart(
    new_page: NewPage, server: Server
) -> None:
    page = new_page()
    go_to(page, "case_003")
    noticed = time.monotonic()
    usual = pixels(page)
    page.keyboard.press("e")
    page.keyboard.press("2")
    draw(page)
    drawn = pixels(page)
    assert drawn != usual
    page.keyboard.press("z")
    assert pixels(page) != drawn
    page.keyboard.press("y")
    page.keyboard.press("i")
    draw(page, 25)
    page.keyboard.press("Enter")
    wait_for_next(page, "case_003")
    # From noticing to the saved correction, with the checks of the server.
    assert time.monotonic() - noticed < 20
    automatic = nib.load(server.folder / "results/abdomen/round_1/pseudo_labels/case_003.nii.gz")
    corrected = nib.load(server.folder / "overrides/round_1/case_003.nii.gz")
    assert np.array_equal(automatic.affine, corrected.affine)
    assert corrected.get_data_dtype() == np.uint8
    before, after = np.asarray(automatic.dataobj), np.asarray(corrected.dataobj)
    changed = before != after
    assert 10 < changed.sum() < 2000
    assert set(np.unique(after[changed])) == {2, 255}
    row = decision(server, "case_003")
    assert (row["action"], row["reviewer"]) == ("replace", "AB")
    server.kill()
    server.start()
    again = new_page("CD")
    go_to(again, "case_003")
    assert again.inner_text("#state") == "corrected"
    assert again.inner_text("#layer") == "corrected label"
    shown = pixels(again)
    again.keyboard.down("c")
    again.wait_for_selector("#layer.held:has-text('automatic label')")
    assert pixels(again) != shown
    again.keyboard.up("c")
    assert "AB" in again.inner_text("#facts")
    # To accept what is shown is to agree with the corrected label, not to discard it.
    again.keyboard.press("a")
    again.wait_for_selector("dialog:has-text('Which label is right?')")
    again.keyboard.press("Enter")
    wait_for_next(again, "case_003")
    row = decision(server, "case_003")
    assert (row["action"], row["reviewer"]) == ("replace", "CD")
    kept = nib.load(server.folder / "overrides/round_1/case_003.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj), after)


def test_correction_of_another_program_is_never_replaced_by_an_old_one(
    new_page: NewPage, server: Server
) -> None:
    page = new_page()
    go_to(page, "case_002")
    automatic = nib.load(server.folder / "results/abdomen/round_1/pseudo_labels/case_002.nii.gz")
    path = server.folder / "overrides/round_1/case_002.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)

    def save_elsewhere(value: int) -> np.ndarray:
        voxels = np.asarray(automatic.dataobj).copy()
        voxels[10:30, 10:26, 6:18] = value
        nib.save(nib.Nifti1Image(voxels, automatic.affine), path)
        return voxels

    # The page shows the automatic label: to accept it would remove the corrected one.
    save_elsewhere(1)
    page.keyboard.press("a")
    page.wait_for_selector(".message:has-text('Open the case again')")
    assert path.is_file()
    page.click(".message button")  # an error stays until it is closed
    page.wait_for_selector(".message", state="detached")
    go_to(page, "case_001")
    go_to(page, "case_002")
    assert page.inner_text("#layer") == "corrected label"
    # The page shows the first corrected label: to accept it would replace the second one.
    second = save_elsewhere(2)
    page.keyboard.press("a")
    page.wait_for_selector("dialog:has-text('Which label is right?')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".message:has-text('another program')")
    page.wait_for_selector("body:not(.saving)")
    assert np.array_equal(np.asarray(nib.load(path).dataobj), second)
    go_to(page, "case_001")
    go_to(page, "case_002")
    page.keyboard.press("a")
    page.wait_for_selector("dialog:has-text('Which label is right?')")
    page.keyboard.press("Enter")
    wait_for_next(page, "case_002")
    assert decision(server, "case_002")["action"] == "replace"
    assert np.array_equal(np.asarray(nib.load(path).dataobj), second)


def test_lost_connection_does_not_lose_a_stroke(new_page: NewPage, server: Server) -> None:
    page = new_page()
    go_to(page, "case_004")
    page.route("**/correction?*", lambda route: route.abort())
    page.keyboard.press("e")
    page.keyboard.press("1")
    draw(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#banner:has-text('connection to the server is lost')")
    assert "kept in this browser" in page.inner_text("#banner")
    # The browser is closed by mistake; the drawing is offered when the case is opened again.
    page.evaluate("window.onbeforeunload = null")
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{server.port}/")
    other.wait_for_selector("#case-name:not(:empty)")
    other.wait_for_selector("#stage:not([aria-busy])")
    go_to_with_draft(other, "case_004")
    # Escape keeps it.
    other.keyboard.press("Escape")
    other.wait_for_selector("dialog", state="detached")
    go_to(other, "case_001")
    go_to_with_draft(other, "case_004")
    other.click("dialog button:has-text('Continue')")
    other.wait_for_selector("#tools:not([hidden])")
    other.keyboard.press("Escape")
    other.wait_for_selector("dialog")
    other.close()
    assert not (server.folder / "overrides/round_1/case_004.nii.gz").exists()
    page.unroute("**/correction?*")
    page.click("#retry")
    wait_for_next(page, "case_004")
    page.wait_for_selector("#banner", state="hidden")
    assert (server.folder / "overrides/round_1/case_004.nii.gz").exists()


def test_nothing_is_drawn_while_a_correction_is_saved(new_page: NewPage) -> None:
    page = new_page()
    go_to(page, "case_004")
    held = []
    page.evaluate("() => { IDBFactory.prototype.open = () => { throw new Error('none') } }")
    page.route("**/correction?*", lambda route: held.append(route))
    page.keyboard.press("e")
    page.keyboard.press("1")
    draw(page, 10)
    page.mouse.move(0, 0)
    drawn = pixels(page)
    page.keyboard.press("Enter")
    wait_until(lambda: page.evaluate("document.body.className").count("saving") and held)
    draw(page, -25)
    page.keyboard.press("z")
    page.mouse.move(0, 0)
    assert pixels(page) == drawn
    held[0].abort()
    # The browser cannot store anything, and the page does not claim that it has.
    page.wait_for_selector("#banner:has-text('page only: do not close it')")
    # An impatient reviewer sends it once only.
    page.evaluate("for (let n = 0; n < 3; n++) document.getElementById('retry').click()")
    wait_until(lambda: page.evaluate("true") and len(held) > 1)
    assert len(held) == 2
    held[1].continue_()
    wait_for_next(page, "case_004")


def test_case_is_shown_without_its_places(new_page: NewPage) -> None:
    page = new_page()
    failure = {"error": "The process that reads volumes has ended."}
    held = []
    page.route("**/case_001/places?*", lambda route: held.append(route))
    page.route("**/case_005/places?*", lambda route: route.fulfill(status=500, json=failure))
    page.click(".case:has-text('case_001')")
    page.wait_for_selector("#case-name:text-is('case_001')")
    go_to(page, "case_005")
    page.wait_for_selector(".message:has-text('has ended')")
    assert page.inner_text("#place") == "unknown"
    shown = pixels(page)
    # The answer about a case that was left hides nothing.
    for route in held:
        route.fulfill(status=500, json=failure)
    page.keyboard.down("s")
    page.wait_for_selector("#layer.held")
    page.keyboard.up("s")
    page.wait_for_selector("#layer:not(.held)")
    assert pixels(page) == shown
    page.keyboard.press("ArrowUp")
    assert pixels(page) != shown


def go_to_with_draft(page: "Page", case_id: str) -> None:
    page.click(f".case:has-text('{case_id}')")
    page.wait_for_selector("dialog:has-text('Continue with your correction?')")


# ---- several reviewers


def test_second_reviewer_sees_who_is_there_and_the_disagreement(new_page: NewPage) -> None:
    first = new_page("AB")
    go_to(first, "case_008")
    second = new_page("CD")
    second.wait_for_selector(".case:has-text('case_008'):has-text('open: AB')")
    first.keyboard.press("a")
    wait_for_next(first, "case_008")
    go_to(second, "case_008")
    second.keyboard.press("r")
    second.keyboard.press("1")
    wait_for_next(second, "case_008")
    second.click("#page-agreement")
    row = second.locator("#pairs tr:has-text('case_008')").inner_text()
    assert "AB" in row and "CD" in row
    assert "accepted" in row and "rejected" in row
    second.click("#page-cases")
    second.wait_for_selector("#stage")


# ---- scripts


def test_scripts_draw_and_measure_as_they_should() -> None:
    command = [node_path(), "--test", "tests/audit/frontend/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


KINDS = ["oblique", "qform", "scaled", "big-endian", "nifti-2", "no affine", "no affine, nifti-2"]
KINDS += ["int64", "uint64, big-endian", "other voxel sizes"]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_keep_their_geometry_voxel_for_voxel(kind: str, tmp_path: Path) -> None:
    affine = np.array([[0, -0.9, 0.3, 20], [1.2, 0, 0, -7], [0, -0.3, -1.9, 50], [0, 0, 0, 1]])
    data = np.random.default_rng(0).integers(0, 5, (5, 6, 7)).astype(np.int16)
    source, target = tmp_path / "source.nii", tmp_path / "target.nii"
    image: nib.Nifti1Image = nib.Nifti1Image(data, affine)
    if kind == "qform":
        affine = np.diag([-1.5, -1.5, 2.0, 1])
        image = nib.Nifti1Image(data.astype(np.uint8), None)
        image.set_qform(affine, 1)
    if kind == "scaled":
        image.header.set_slope_inter(0.5, 1)
    if kind == "big-endian":
        image = nib.Nifti1Image(data, affine, nib.Nifti1Header(endianness=">"))
    if kind == "int64":
        image = nib.Nifti1Image(data.astype(np.int64), affine, dtype=np.int64)
    if kind == "uint64, big-endian":
        header = nib.Nifti1Header(endianness=">")
        image = nib.Nifti1Image(data.astype(np.uint64), affine, header, dtype=np.uint64)
    if kind == "other voxel sizes":
        image.header["pixdim"][1:4] = 1
    if kind == "nifti-2":
        image = nib.Nifti2Image(data, affine)
    if kind.startswith("no affine"):
        image = (nib.Nifti2Image if "nifti-2" in kind else nib.Nifti1Image)(data, None)
        image.header.set_zooms((2, 1.5, 5))
    nib.save(image, source)
    script = ROOT / "tests/audit/frontend/copy_label.js"
    done = subprocess.run(
        [node_path(), str(script), str(source), str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    expected = nib.load(source)
    values = np.asarray(expected.dataobj)
    assert np.allclose(read["values"], values.ravel(order="F"))
    assert np.allclose(read["affine"], expected.affine[:3], atol=1e-5)
    spacing = np.linalg.norm(expected.affine[:3, :3], axis=0)
    assert np.allclose(read["spacing"], spacing, atol=1e-5)
    written = nib.load(target)
    assert np.array_equal(written.affine, expected.affine)
    assert np.array_equal(np.asarray(written.dataobj), values.astype(np.uint8))


def test_scripts_are_linted_and_typed() -> None:
    npm = npm_path()
    if not (FRONTEND / "node_modules").is_dir():
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=FRONTEND, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"npm could not install ESLint and TypeScript: {done.stderr[-300:]}")
    for script in ("lint", "types"):
        done = subprocess.run(
            [npm, "run", "--silent", script], cwd=FRONTEND, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_lock_file_has_checksums_and_no_hosts() -> None:
    lock = json.loads((FRONTEND / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert not any("resolved" in entry for entry in packages.values())
    assert packages["node_modules/@niivue/niivue"]["version"]
