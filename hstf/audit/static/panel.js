// The right side: what is known of the open case.

/**
 * @typedef {import("./types.js").CaseDetails} CaseDetails
 * @typedef {import("./types.js").Component} Component
 * @typedef {import("./types.js").Place} Place
 * @typedef {import("./types.js").QueueCase} QueueCase
 * @typedef {import("./types.js").Session} Session
 * @typedef {import("./types.js").Triple} Triple
 */

import { byId, el, fraction, millilitres, swatch } from "./dom.js";
import { STATUS, interval } from "./queue.js";

/**
 * Show a case.
 * @param {Session} session
 * @param {QueueCase} row
 * @param {CaseDetails | null} details
 * @param {(mm: Triple) => void} onJump
 */
export function showCase(session, row, details, onJump) {
  byId("case-name").textContent = row.case_id;
  const parts = [qualityPart(row), decisionPart(row), volumePart(session, row)];
  if (details !== null) {
    parts.push(
      notePart(details),
      componentPart(session, details.components, onJump),
      versionPart(details),
    );
  }
  byId("facts").replaceChildren(...parts.filter((part) => part !== null));
}

/**
 * @param {QueueCase} row
 * @returns {HTMLElement}
 */
function qualityPart(row) {
  const range = row.low === null || row.high === null ? "" : ` (${fraction(row.low)} to ${fraction(row.high)})`;
  const facts = el("dl", {},
    el("dt", {}, "predicted Dice"),
    el("dd", {}, el("strong", {}, fraction(row.predicted_dice)), range),
    el("dt", {}, "automatic verdict"),
    el("dd", {}, row.verdict),
  );
  if (row.verdict_reason) {
    facts.append(el("dt", {}, "reason"), el("dd", {}, row.verdict_reason));
  }
  if (row.dice_previous !== null) {
    facts.append(el("dt", {}, "Dice with the previous round"), el("dd", {}, fraction(row.dice_previous)));
  }
  return el("section", {}, interval(row), facts);
}

/**
 * @param {QueueCase} row
 * @returns {HTMLElement}
 */
function decisionPart(row) {
  const state = el("p", { class: `state ${row.status}`, id: "state" }, STATUS[row.status] ?? row.status);
  const section = el("section", {}, state);
  const { decision } = row;
  if (decision !== null) {
    const who = [decision.reviewer, shortDate(decision.date), decision.reason].filter((text) => text);
    section.append(el("p", { class: "quiet" }, who.join(" · ")));
  }
  if (row.opened_by.length) {
    section.append(el("p", { class: "warning" }, `Also open: ${row.opened_by.join(", ")}`));
  }
  return section;
}

/**
 * @param {Session} session
 * @param {QueueCase} row
 * @returns {HTMLElement | null}
 */
function volumePart(session, row) {
  if (row.volumes.length === 0) {
    return null;
  }
  const rows = row.volumes.map((volume) => {
    const known = session.classes.find((one) => one.name === volume.class);
    const range = volume.low_ml === null ? "" : `${millilitres(volume.low_ml)} to ${millilitres(volume.high_ml)}`;
    return el("tr", { class: volume.unusual ? "unusual" : null },
      el("th", { scope: "row" }, known ? swatch(known.colour) : null, volume.class),
      el("td", {}, millilitres(volume.ml)),
      el("td", { class: "quiet" }, range),
    );
  });
  const heads = ["class", "here", "labelled cases"].map((text) => el("th", { scope: "col" }, text));
  return el("section", {},
    el("table", {},
      el("caption", {}, "Volume (ml)"),
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...rows),
    ),
  );
}

/**
 * @param {CaseDetails} details
 * @returns {HTMLElement | null}
 */
function notePart(details) {
  if (details.notes.length === 0) {
    return null;
  }
  return el("section", {}, ...details.notes.map((note) => el("p", { class: "warning" }, note)));
}

/**
 * @param {Session} session
 * @param {Component[]} components
 * @param {(mm: Triple) => void} onJump
 * @returns {HTMLElement | null}
 */
function componentPart(session, components, onJump) {
  if (components.length === 0) {
    return null;
  }
  const rows = components.map((one) => {
    const known = session.classes.find((other) => other.name === one.class);
    const jump = el("button", { type: "button", class: "link", click: () => onJump(one.centre) },
      known ? swatch(known.colour) : null, `${one.class} ${one.number}`);
    return el("tr", { class: one.kept ? null : "dropped" },
      el("th", { scope: "row" }, jump),
      el("td", {}, fraction(one.probability)),
      el("td", {}, millilitres(one.ml)),
      el("td", {}, one.kept ? "kept" : "dropped"),
    );
  });
  const heads = ["lesion", "probability", "ml", ""].map((text) => el("th", { scope: "col" }, text));
  return el("section", {},
    el("table", { id: "lesions" },
      el("caption", {}, `Lesions (${components.length})`),
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...rows),
    ),
  );
}

/**
 * @param {CaseDetails} details
 * @returns {HTMLElement | null}
 */
function versionPart(details) {
  if (details.versions.length === 0) {
    return null;
  }
  const items = details.versions.map((one) => {
    const text = [one.action, one.reviewer, shortDate(one.date), one.reason].filter((part) => part).join(" · ");
    return el("li", { title: one.sha256 }, text);
  });
  const summary = el("summary", {}, `Saved versions (${items.length})`);
  return el("section", {}, el("details", { id: "versions" }, summary, el("ol", {}, ...items)));
}

/**
 * Show a date of ISO 8601 to the minute.
 * @param {string} date
 * @returns {string}
 */
export function shortDate(date) {
  return date.replace("T", " ").slice(0, 16);
}
