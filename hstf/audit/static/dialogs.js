// Dialogs: name of the reviewer, reason of a rejection, a confirmation, the overview of the keys.

import { el } from "./dom.js";
import { DIGITS, GROUPS, KEYS, MOUSE } from "./keys.js";

/**
 * Show a dialog until it is closed.
 * @param {string} title
 * @param {(close: (value: string | null) => void) => Node[]} content
 * @param {boolean} isModal whether Escape is refused
 * @returns {Promise<string | null>}
 */
function ask(title, content, isModal = false) {
  return new Promise((resolve) => {
    /** @type {string | null} */
    let answer = null;
    const close = (/** @type {string | null} */ value) => {
      answer = value;
      dialog.close();
    };
    const dialog = el("dialog", { "aria-label": title }, el("h2", {}, title), ...content(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.addEventListener("cancel", (event) => {
      if (isModal) {
        event.preventDefault();
      }
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.scrollTop = 0;
  });
}

/**
 * Ask for the name of the reviewer.
 * @param {string[]} known names
 * @param {string} current
 * @param {boolean} isNeeded
 * @returns {Promise<string | null>}
 */
export function askName(known, current, isNeeded) {
  return ask(
    "Who reviews?",
    (close) => {
      const input = el("input", {
        id: "reviewer-name",
        name: "name",
        list: "reviewer-names",
        required: true,
        maxlength: 80,
        autocomplete: "off",
        value: current,
        "aria-label": "Your name",
      });
      const names = el("datalist", { id: "reviewer-names" }, ...known.map((name) => el("option", { value: name })));
      const submit = (/** @type {Event} */ event) => {
        event.preventDefault();
        if (input.value.trim() !== "") {
          close(input.value.trim());
        }
      };
      return [
        el("p", {}, "Your name is written beside each of your decisions."),
        el("form", { submit }, input, names, el("button", { class: "primary" }, "Start")),
      ];
    },
    isNeeded,
  );
}

/**
 * Ask for the reason of a rejection: one key of the list, or typed.
 * @param {string[]} reasons
 * @returns {Promise<string | null>}
 */
export function askReason(reasons) {
  return ask("Why is this label rejected?", (close) => {
    const buttons = reasons.slice(0, 9).map((reason, n) =>
      el("button", { type: "button", click: () => close(reason) }, el("kbd", {}, n + 1), reason),
    );
    const input = el("input", { id: "reason", maxlength: 300, "aria-label": "Another reason", placeholder: "Another reason" });
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (input.value.trim() !== "") {
        close(input.value.trim());
      }
    };
    const list = el("div", { class: "reasons" }, ...buttons);
    const body = el("div", { class: "reason-body" },
      list,
      el("form", { submit }, input, el("button", { class: "primary" }, "Reject")),
    );
    body.addEventListener("keydown", (event) => {
      const reason = reasons[Number(event.key) - 1];
      if (reason !== undefined && event.target !== input && event.key !== " ") {
        event.preventDefault();
        close(reason);
      }
    });
    return [body];
  });
}

/**
 * Ask for a confirmation.
 * @param {string} title
 * @param {string} text
 * @param {string} yes
 * @returns {Promise<boolean>}
 */
export async function confirm(title, text, yes) {
  const answer = await ask(title, (close) => [
    el("p", { class: "lines" }, text),
    el("p", { class: "buttons" },
      el("button", { type: "button", class: "primary", click: () => close("yes") }, yes),
      el("button", { type: "button", click: () => close(null) }, "Cancel"),
    ),
  ]);
  return answer === "yes";
}

/**
 * Ask for one of several choices; the first one has the focus.
 * @param {string} title
 * @param {[string, string][]} choices value and text
 * @param {string} text
 * @returns {Promise<string | null>}
 */
export function choose(title, choices, text = "") {
  return ask(title, (close) => [
    ...(text === "" ? [] : [el("p", { class: "lines" }, text)]),
    el("p", { class: "buttons" },
      ...choices.map(([value, text]) => el("button", { type: "button", click: () => close(value) }, text)),
    ),
  ]);
}

/** Show the keys. */
export function showKeys() {
  return ask("Keys and mouse", (close) => [
    el("div", { class: "keys" }, ...Object.keys(GROUPS).map(keyTable), mouseTable()),
    el("p", { class: "buttons" }, el("button", { type: "button", class: "primary", click: () => close(null) }, "Close")),
  ]);
}

/**
 * @param {string} group
 * @returns {HTMLElement}
 */
function keyTable(group) {
  const shown = KEYS.filter((key) => key.group === group && key.shown !== "");
  const rows = shown.map((key) => row(key.shown, key.text));
  if (group === "correct") {
    rows.unshift(row(DIGITS.shown, DIGITS.text));
  }
  return el("table", {}, el("caption", {}, GROUPS[group]), el("tbody", {}, ...rows));
}

/** @returns {HTMLElement} */
function mouseTable() {
  return el("table", {}, el("caption", {}, "Mouse"), el("tbody", {}, ...MOUSE.map(([what, text]) => row(what, text))));
}

/**
 * @param {string} shown
 * @param {string} text
 * @returns {HTMLElement}
 */
function row(shown, text) {
  return el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, shown)), el("td", {}, text));
}
