// Start: who reviews, then the cases; the menu of pages; the keys.

/** @typedef {import("./types.js").Session} Session */

import { ConnectionLost, get, post } from "./api.js";
import { Desk } from "./desk.js";
import { askName, showKeys } from "./dialogs.js";
import { byId, el, selectById } from "./dom.js";
import { listen } from "./keys.js";
import { caseOf } from "./links.js";
import { banner, say } from "./messages.js";
import { PAGES } from "./pages.js";
import { connect, nextLayout } from "./toolbar.js";

const CASES = "cases";
const SOLID = "hstf-audit-3d";

async function start() {
  /** @type {Session} */
  let session = await get("/api/session");
  document.title = `${session.experiment} · audit desk`;
  byId("experiment").textContent = session.experiment;
  if (session.reviewer === null) {
    session = await nameReviewer(session, true);
  }
  byId("reviewer").textContent = session.reviewer ?? "";
  const desk = new Desk(session);
  const actions = actionsOf(desk);
  connect(desk, actions);
  showSolid(desk, window.localStorage.getItem(SOLID) !== "off");
  connectKeys(desk, actions);
  byId("reviewer").addEventListener("click", () => rename(desk));
  connectRounds(desk);
  connectPages(desk);
  await desk.start();
  await openLinked(desk);
  window.addEventListener("hashchange", () => openLinked(desk));
}

/**
 * @param {Session} session
 * @param {boolean} isNeeded
 * @returns {Promise<Session>}
 */
async function nameReviewer(session, isNeeded) {
  const name = await askName(session.reviewers, session.reviewer ?? "", isNeeded);
  return name === null ? session : post("/api/reviewer", { name });
}

/**
 * @param {Desk} desk
 */
async function rename(desk) {
  try {
    desk.session = await nameReviewer(desk.session, false);
    byId("reviewer").textContent = desk.session.reviewer ?? "";
    await desk.refresh();
  } catch (error) {
    desk.report(error);
  }
}

/**
 * @param {Desk} desk
 * @returns {Record<string, () => void>}
 */
function actionsOf(desk) {
  const { editor, viewer } = desk;
  const background = desk.session.background;
  const editing = (/** @type {() => void} */ action) => () =>
    editor.isOn && !editor.isLocked ? action() : undefined;
  const scroll = (/** @type {number} */ steps) => {
    const view = viewer.views.find((one) => one.canvas.matches(":hover")) ?? viewer.views[0];
    if (viewer.scene.image !== null) {
      viewer.scroll(view, steps);
    }
  };
  return {
    accept: () => desk.accept(),
    reject: () => desk.reject(),
    edit: () => desk.edit(),
    save: () => desk.saveEdit(),
    cancel: () => desk.cancelEdit(),
    undoSaved: () => desk.undoSaved(),
    next: () => desk.beside(1),
    previous: () => desk.beside(-1),
    place: () => desk.nextPlace(),
    sliceUp: () => scroll(1),
    sliceDown: () => scroll(-1),
    zoomIn: () => viewer.zoom(1.2, viewer.scene.cursor),
    zoomOut: () => viewer.zoom(1 / 1.2, viewer.scene.cursor),
    resetView: () => viewer.resetView(),
    fill: () => {
      viewer.scene.isFilled = !viewer.scene.isFilled;
      byId("fill").setAttribute("aria-pressed", String(viewer.scene.isFilled));
      viewer.redraw();
    },
    modality: () => desk.nextModality(),
    layout: () => viewer.setLayout(nextLayout(viewer.stage.dataset.layout)),
    solid: () => showSolid(desk, !viewer.hasSolid),
    help: () => showKeys(),
    weight: () => desk.hold("weight"),
    disagreement: () => desk.hold("disagreement"),
    previousRound: () => desk.hold("previous"),
    automatic: () => desk.hold("automatic"),
    nothing: () => desk.hold("nothing"),
    eraser: editing(() => editor.setPen(background)),
    ignore: editing(() => {
      if (desk.session.ignore === null) {
        say("The configuration has no value for voxels to ignore (labels: ignore).");
      } else {
        editor.setPen(desk.session.ignore);
      }
    }),
    smaller: editing(() => editor.resize(-1)),
    larger: editing(() => editor.resize(1)),
    fillPen: editing(() => editor.toggleFill()),
    grow: editing(() => say(editor.growLast())),
    interpolate: editing(() => say(editor.interpolateLast())),
    undo: editing(() => editor.undo()),
    redo: editing(() => editor.redo()),
  };
}

/**
 * Switch the three-dimensional view on or off; the browser remembers it.
 * @param {Desk} desk
 * @param {boolean} isOn
 */
function showSolid(desk, isOn) {
  desk.viewer.setSolid(isOn);
  byId("solid").setAttribute("aria-pressed", String(isOn));
  window.localStorage.setItem(SOLID, isOn ? "on" : "off");
}

/**
 * @param {Desk} desk
 * @param {Record<string, () => void>} actions
 */
function connectKeys(desk, actions) {
  const end = () => desk.release();
  const ends = { weight: end, disagreement: end, previousRound: end, automatic: end, nothing: end };
  /** @type {Record<string, () => void>} */
  const onCases = {};
  for (const [name, action] of Object.entries(actions)) {
    onCases[name] = () => (isOnCases() ? action() : undefined);
  }
  onCases.help = actions.help;
  listen(onCases, ends, (digit) => {
    const chosen = desk.session.classes[digit - 1];
    if (desk.editor.isOn && chosen !== undefined && isOnCases()) {
      desk.editor.setPen(chosen.value);
    }
  });
}

/** @returns {boolean} */
function isOnCases() {
  return !byId("desk").hidden;
}

/**
 * @param {Desk} desk
 */
function connectRounds(desk) {
  const select = selectById("round");
  const { rounds } = desk.session;
  select.replaceChildren(...rounds.map((round) => el("option", { value: round }, `round ${round}`)));
  select.value = String(desk.round);
  select.addEventListener("change", async () => {
    await desk.setRound(Number(select.value));
    select.blur();
    showPage(desk);
  });
}

/**
 * @param {Desk} desk
 */
function connectPages(desk) {
  const links = [{ id: CASES, title: "Cases" }, ...PAGES].map((page) =>
    el("a", { href: `#${page.id}`, id: `page-${page.id}` }, page.title),
  );
  byId("menu").replaceChildren(...links);
  window.addEventListener("hashchange", () => showPage(desk));
  showPage(desk);
}

/**
 * Open the case of the address.
 * @param {Desk} desk
 */
async function openLinked(desk) {
  const link = caseOf(window.location.hash);
  if (link === null) {
    return;
  }
  // The same link can be followed again.
  window.history.replaceState(null, "", `#${CASES}`);
  await desk.openAt(link);
  selectById("round").value = String(desk.round);
}

/** @type {import("./pages.js").Page | undefined} */
let shown;

/**
 * Show the page of the address.
 * @param {Desk} desk
 */
async function showPage(desk) {
  shown?.hide?.();
  const name = window.location.hash.slice(1);
  shown = PAGES.find((page) => page.id === name);
  const root = byId("page");
  byId("desk").hidden = shown !== undefined;
  root.hidden = shown === undefined;
  root.replaceChildren();
  for (const link of byId("menu").children) {
    const isCurrent = link.id === `page-${shown?.id ?? CASES}`;
    if (isCurrent) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
  if (shown === undefined) {
    desk.viewer.resize();
    return;
  }
  try {
    await shown.show(root, desk.session, desk.round);
  } catch (error) {
    desk.report(error, () => showPage(desk));
  }
}

start().catch((error) => {
  if (error instanceof ConnectionLost) {
    banner("The connection to the server is lost. Is 'hstf audit' still running?", () => window.location.reload());
    return;
  }
  console.error(error);
  say(error instanceof Error ? error.message : String(error), "error");
});
