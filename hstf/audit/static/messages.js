// Messages at the bottom of the page, and the banner of a lost connection.

import { byId, el } from "./dom.js";

const SHOWN_MS = 6000;

/**
 * Show a message for a while; an error stays until it is closed.
 * @param {string} text
 * @param {"info" | "error"} kind
 */
export function say(text, kind = "info") {
  const list = byId("messages");
  const message = el("p", { class: `message ${kind} lines`, role: kind === "error" ? "alert" : "status" }, text);
  message.append(el("button", { type: "button", "aria-label": "Close the message", click: () => message.remove() }, "×"));
  list.append(message);
  while (list.children.length > 4) {
    list.firstElementChild?.remove();
  }
  if (kind === "info") {
    window.setTimeout(() => message.remove(), SHOWN_MS);
  }
}

/**
 * Show the banner; null hides it.
 * @param {string | null} text
 * @param {(() => void) | null} onRetry
 */
export function banner(text, onRetry = null) {
  const place = byId("banner");
  place.hidden = text === null;
  if (text === null) {
    place.replaceChildren();
    return;
  }
  const retry = onRetry === null ? null : el("button", { type: "button", id: "retry", click: onRetry }, "Try again");
  place.replaceChildren(...[el("span", {}, text), retry].filter((part) => part !== null));
}
