// Buttons and boxes around the planes, and the tools of a correction.

/**
 * @typedef {import("./desk.js").Desk} Desk
 * @typedef {import("./viewer.js").Layer} Layer
 */

import { byId, el, selectById, swatch } from "./dom.js";
import { SIZES } from "./editor.js";
import { CT_WINDOWS, automaticWindow, windowOf } from "./windows.js";

const LAYOUTS = ["grid", "axial", "coronal", "sagittal"];

/**
 * Connect the controls with the desk.
 * @param {Desk} desk
 * @param {Record<string, () => void>} actions by name
 */
export function connect(desk, actions) {
  for (const button of document.querySelectorAll("button[data-action]")) {
    const name = button.getAttribute("data-action") ?? "";
    button.addEventListener("click", () => actions[name]?.());
  }
  for (const button of document.querySelectorAll("button[data-layer]")) {
    connectLayer(desk, /** @type {HTMLButtonElement} */ (button));
  }
  connectWindows(desk);
  connectTools(desk);
  desk.viewer.addEventListener("cursor", () => showCursor(desk));
  desk.viewer.addEventListener("window", () => showWindow(desk));
  desk.viewer.addEventListener("layer", () => showLayer(desk));
  desk.editor.addEventListener("change", () => showEditor(desk));
  showEditor(desk);
}

/**
 * A layer is shown while its button is held: by the mouse, or by space or Enter.
 * @param {Desk} desk
 * @param {HTMLButtonElement} button
 */
function connectLayer(desk, button) {
  const layer = /** @type {Layer} */ (button.dataset.layer);
  button.addEventListener("pointerdown", () => desk.hold(layer));
  for (const name of ["pointerup", "pointerleave", "blur", "keyup"]) {
    button.addEventListener(name, () => desk.release());
  }
  button.addEventListener("keydown", (event) => {
    if ((event.key === " " || event.key === "Enter") && !event.repeat) {
      event.preventDefault();
      desk.hold(layer);
    }
  });
}

/**
 * @param {Desk} desk
 */
function connectWindows(desk) {
  const select = selectById("window");
  const modality = selectById("modality");
  desk.addEventListener("open", () => {
    const images = desk.current?.details.layers.images ?? [];
    const n = desk.current?.image ?? 0;
    modality.replaceChildren(...images.map((image, index) => el("option", { value: index }, image.modality)));
    modality.value = String(n);
    modality.hidden = images.length < 2;
    const kind = desk.session.modalities[n]?.kind;
    const presets = kind === "ct" ? CT_WINDOWS : [];
    select.replaceChildren(
      el("option", { value: "" }, "window"),
      el("option", { value: "automatic" }, "automatic"),
      ...presets.map(([name], index) => el("option", { value: index }, name)),
    );
  });
  modality.addEventListener("change", () => desk.showModality(Number(modality.value)));
  select.addEventListener("change", () => {
    const image = desk.viewer.scene.image;
    if (image === null || select.value === "") {
      return;
    }
    if (select.value === "automatic") {
      desk.viewer.setWindow(automaticWindow(image));
    } else {
      const [, level, width] = CT_WINDOWS[Number(select.value)];
      desk.viewer.setWindow(windowOf(level, width));
    }
    select.blur();
  });
}

/**
 * @param {Desk} desk
 */
function connectTools(desk) {
  const pens = byId("pens");
  const { classes, ignore, background } = desk.session;
  const penButton = (/** @type {string} */ key, /** @type {string} */ name, /** @type {number} */ value, /** @type {string} */ colour) =>
    el("button", { type: "button", "data-pen": value, "aria-pressed": "false", click: () => desk.editor.setPen(value) },
      el("kbd", {}, key), swatch(colour), name);
  pens.replaceChildren(
    ...classes.map((one, n) => penButton(n < 9 ? String(n + 1) : "", one.name, one.value, one.colour)),
    penButton("0", "eraser", background, "transparent"),
  );
  if (ignore !== null) {
    pens.append(penButton("I", "ignore", ignore, "#c8c8c8"));
  }
  const size = /** @type {HTMLInputElement} */ (byId("brush"));
  size.max = String(SIZES.length - 1);
  size.addEventListener("input", () => desk.editor.resize(Number(size.value) - desk.editor.sizeIndex));
  for (const button of document.querySelectorAll("button[data-tool]")) {
    button.addEventListener("click", () => {
      desk.gestures.tool = /** @type {any} */ (button.getAttribute("data-tool"));
      showTool(desk);
    });
  }
  showTool(desk);
}

/**
 * @param {Desk} desk
 */
function showTool(desk) {
  for (const button of document.querySelectorAll("button[data-tool]")) {
    button.setAttribute("aria-pressed", String(button.getAttribute("data-tool") === desk.gestures.tool));
  }
}

/**
 * Show the state of the correction.
 * @param {Desk} desk
 */
function showEditor(desk) {
  const { editor } = desk;
  document.body.classList.toggle("editing", editor.isOn);
  byId("tools").hidden = !editor.isOn;
  byId("decide").hidden = editor.isOn;
  for (const button of document.querySelectorAll("button[data-pen]")) {
    button.setAttribute("aria-pressed", String(Number(button.getAttribute("data-pen")) === editor.pen));
  }
  const size = /** @type {HTMLInputElement} */ (byId("brush"));
  size.value = String(editor.sizeIndex);
  byId("brush-size").textContent = `${editor.size()} voxels`;
  byId("fill-pen").setAttribute("aria-pressed", String(editor.isFilling));
  const enabled = { undo: editor.history.done.length > 0, redo: editor.history.undone.length > 0 };
  for (const [name, isEnabled] of Object.entries(enabled)) {
    const button = /** @type {HTMLButtonElement} */ (document.querySelector(`button[data-action=${name}]`));
    button.disabled = !isEnabled;
  }
}

/**
 * @param {Desk} desk
 */
function showCursor(desk) {
  const at = desk.viewer.atCursor();
  if (at === null) {
    return;
  }
  const { classes, ignore } = desk.session;
  const known = classes.find((one) => one.value === at.value);
  const name = known?.name ?? (at.value === ignore ? "ignore" : "background");
  const intensity = Number(at.intensity.toPrecision(4));
  byId("cursor").textContent =
    `${name} · ${at.mm.map((mm) => mm.toFixed(1)).join(", ")} mm · voxel ${at.voxel.join(", ")} · intensity ${intensity}`;
}

/**
 * @param {Desk} desk
 */
function showWindow(desk) {
  const [low, high] = desk.viewer.scene.window;
  const shown = (/** @type {number} */ value) => Number(value.toPrecision(3)).toString();
  byId("window-now").textContent = `level ${shown((low + high) / 2)} width ${shown(high - low)}`;
}

/** @type {Record<string, string>} */
const SHOWN = {
  weight: "voxel weights: bright where the weight is low",
  disagreement: "disagreement of the ensemble",
  previous: "label of the previous round",
  automatic: "automatic label",
  nothing: "image without label",
};

/**
 * @param {Desk} desk
 */
function showLayer(desk) {
  const { held } = desk.viewer;
  const usual = desk.current?.details.layers.correction ? "corrected label" : "pseudo-label";
  byId("layer").textContent = held === null ? usual : SHOWN[held];
  byId("layer").classList.toggle("held", held !== null);
}

/**
 * Return the layout after another.
 * @param {string | undefined} current
 * @returns {string}
 */
export function nextLayout(current) {
  return LAYOUTS[(LAYOUTS.indexOf(current ?? "grid") + 1) % LAYOUTS.length];
}
