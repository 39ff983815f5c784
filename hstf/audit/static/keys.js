// The keys of the desk. The overview on ? is made from the same table.

/**
 * @typedef {object} Key
 * @property {string} key as KeyboardEvent.key, lower case
 * @property {string} shown
 * @property {string} text
 * @property {string} action
 * @property {"decide" | "view" | "layers" | "correct"} group
 * @property {boolean} [isHeld] whether the action ends when the key is released
 */

/** @type {Key[]} */
export const KEYS = [
  { key: "a", shown: "A", text: "accept, and go to the next case", action: "accept", group: "decide" },
  { key: "r", shown: "R", text: "reject: choose or type a reason", action: "reject", group: "decide" },
  { key: "e", shown: "E", text: "correct", action: "edit", group: "decide" },
  { key: "enter", shown: "Enter", text: "save the correction, and go to the next case", action: "save", group: "decide" },
  { key: "escape", shown: "Esc", text: "leave the correction without saving", action: "cancel", group: "decide" },
  { key: "u", shown: "U", text: "take back what you saved last", action: "undoSaved", group: "decide" },
  { key: "n", shown: "N", text: "next case", action: "next", group: "decide" },
  { key: "p", shown: "P", text: "previous case", action: "previous", group: "decide" },
  { key: "j", shown: "J", text: "next uncertain place", action: "place", group: "view" },
  { key: "arrowup", shown: "↑ ↓", text: "next and previous slice of the plane under the mouse", action: "sliceUp", group: "view" },
  { key: "arrowdown", shown: "", text: "", action: "sliceDown", group: "view" },
  { key: "+", shown: "+ −", text: "zoom in and out", action: "zoomIn", group: "view" },
  { key: "=", shown: "", text: "", action: "zoomIn", group: "view" },
  { key: "-", shown: "", text: "", action: "zoomOut", group: "view" },
  { key: "home", shown: "Home", text: "show all of the image", action: "resetView", group: "view" },
  { key: "o", shown: "O", text: "outlines or filled areas", action: "fill", group: "view" },
  { key: "m", shown: "M", text: "next modality", action: "modality", group: "view" },
  { key: "l", shown: "L", text: "larger plane: axial, coronal, sagittal, all", action: "layout", group: "view" },
  { key: "x", shown: "X", text: "three-dimensional view on or off", action: "solid", group: "view" },
  { key: "?", shown: "?", text: "this overview", action: "help", group: "view" },
  { key: "w", shown: "W", text: "voxel weights: bright where the weight is low", action: "weight", group: "layers", isHeld: true },
  { key: "d", shown: "D", text: "disagreement of the ensemble", action: "disagreement", group: "layers", isHeld: true },
  { key: "v", shown: "V", text: "label of the previous round", action: "previousRound", group: "layers", isHeld: true },
  { key: "c", shown: "C", text: "automatic label, where a corrected one is shown", action: "automatic", group: "layers", isHeld: true },
  { key: "s", shown: "S", text: "the image without label", action: "nothing", group: "layers", isHeld: true },
  { key: "0", shown: "0", text: "eraser", action: "eraser", group: "correct" },
  { key: "i", shown: "I", text: "pen “ignore”: the student does not learn from these voxels", action: "ignore", group: "correct" },
  { key: "[", shown: "[ ]", text: "smaller and larger brush", action: "smaller", group: "correct" },
  { key: "]", shown: "", text: "", action: "larger", group: "correct" },
  { key: "f", shown: "F", text: "fill the outline that is drawn", action: "fillPen", group: "correct" },
  { key: "g", shown: "G", text: "grow from the last stroke to similar voxels; again: accept more", action: "grow", group: "correct" },
  { key: "t", shown: "T", text: "interpolate between the two slices that were drawn last", action: "interpolate", group: "correct" },
  { key: "z", shown: "Z", text: "undo a stroke", action: "undo", group: "correct" },
  { key: "y", shown: "Y", text: "redo", action: "redo", group: "correct" },
];

export const DIGITS = { shown: "1 … 9", text: "pen of a class" };

/** @type {Record<string, string>} */
export const GROUPS = {
  decide: "Decide",
  view: "View",
  layers: "Show while the key is held",
  correct: "Correct",
};

/** The mouse, for the overview. */
export const MOUSE = [
  ["Left button", "move the cursor; draw in a correction (Alt: move the cursor)"],
  ["Right button", "window: left and right changes the width, up and down the level"],
  ["Shift or middle button", "move the image"],
  ["Wheel", "scroll through slices; with Ctrl: zoom"],
  ["Double click", "show all of the image"],
];

/**
 * Return whether typing goes to a field, not to the desk.
 * @param {KeyboardEvent} event
 * @returns {boolean}
 */
export function isTyping(event) {
  const target = event.target;
  if (!(target instanceof HTMLElement)) {
    return false;
  }
  const isField = ["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName);
  return isField || target.closest("dialog") !== null;
}

/**
 * Listen to the keys of the desk.
 * @param {Record<string, () => void>} actions
 * @param {Record<string, () => void>} ends what happens when a held key is released
 * @param {(digit: number) => void} onDigit
 */
export function listen(actions, ends, onDigit) {
  /** @type {Set<string>} */
  const held = new Set();
  document.addEventListener("keydown", (event) => {
    const pressed = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) {
      return;
    }
    // Enter and space press the button that has the focus.
    if (pressed === "enter" && event.target instanceof HTMLButtonElement) {
      return;
    }
    const key = KEYS.find((one) => one.key === pressed);
    if (key === undefined) {
      if (/^[1-9]$/.test(pressed)) {
        onDigit(Number(pressed));
      }
      return;
    }
    event.preventDefault();
    if (key.isHeld === true && event.repeat) {
      return;
    }
    if (key.isHeld === true) {
      held.add(pressed);
    }
    actions[key.action]?.();
  });
  document.addEventListener("keyup", (event) => {
    const pressed = event.key.toLowerCase();
    if (held.delete(pressed)) {
      const key = KEYS.find((one) => one.key === pressed);
      ends[key?.action ?? ""]?.();
    }
  });
  window.addEventListener("blur", () => {
    held.clear();
    ends.nothing?.();
  });
}
