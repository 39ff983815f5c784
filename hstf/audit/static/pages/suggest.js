// What to label next: the scans and slices of `hstf suggest`, with reasons.

/**
 * @typedef {object} Row
 * @property {number} rank
 * @property {"scan" | "slice"} kind
 * @property {string} case_id
 * @property {number | null} slice
 * @property {number | null} axis
 * @property {"doubt" | "random"} how
 * @property {string} structure
 * @property {number | null} doubt_ml
 * @property {number | null} predicted_dice
 * @property {string} reason
 * @property {string | null} template
 */

/**
 * @typedef {object} Suggestions
 * @property {number} round
 * @property {string | null} date
 * @property {string} table
 * @property {Row[]} rows
 * @property {{case_id: string, action: "skip" | "later", round: number}[]} aside
 * @property {string[]} problems
 * @property {boolean} running
 * @property {boolean} failed
 * @property {string[]} log_tail
 * @property {number | null} done
 * @property {number | null} total
 */

import { get, post } from "../api.js";
import { el, fraction, inputById, millilitres } from "../dom.js";
import { caseAddress } from "../links.js";
import { say } from "../messages.js";
import { shortDate } from "../panel.js";
import { STATUS } from "../queue.js";

export const id = "suggest";
export const title = "What to label next";

const POLL_MS = 2000;
const WANTED = { scans: 5, slices: 10 };
/** @type {number | null} */
let timer = null;

/**
 * @param {HTMLElement} root
 */
export async function show(root) {
  /** @type {Suggestions} */
  const found = await get("/api/suggest");
  await draw(root, found);
}

export function hide() {
  if (timer !== null) {
    window.clearTimeout(timer);
    timer = null;
  }
}

/**
 * @param {HTMLElement} root
 * @param {Suggestions} found
 */
async function draw(root, found) {
  /** @type {import("../types.js").Queue} */
  const queue = await get(`/api/queue?round=${found.round}`);
  const states = new Map(queue.cases.map((one) => [one.case_id, STATUS[one.status] ?? one.status]));
  const live = el("div", { id: "suggest-live", "aria-live": "polite" });
  const list = (/** @type {Row["kind"]} */ kind) => found.rows.filter((row) => row.kind === kind);
  root.replaceChildren(
    el("h1", { tabindex: -1 }, title),
    el("p", { id: "suggest-text" }, summary(found)),
    ...found.problems.map((text) => el("p", { class: "lines", role: "alert" }, text)),
    form(root, found),
    live,
    ...table(root, found, "Scans", list("scan"), states),
    ...table(root, found, "Slices", list("slice"), states),
    ...aside(root, found),
  );
  watch(root, live, found);
}

/**
 * @param {Suggestions} found
 * @returns {string}
 */
function summary(found) {
  if (found.date === null) {
    return "Nothing has been computed yet. The network reads every scan, which takes a while.";
  }
  return `Computed on ${shortDate(found.date)} (UTC), the most useful first: ${found.table}`;
}

/**
 * @param {HTMLElement} root
 * @param {Suggestions} found
 * @returns {HTMLElement}
 */
function form(root, found) {
  const number = (/** @type {"scans" | "slices"} */ name) =>
    el("input", { id: `suggest-${name}`, type: "number", min: 0, max: 1000, step: 1, value: WANTED[name], required: true });
  const text = found.date === null ? "Compute" : "Compute again";
  const button = el("button", { type: "submit", id: "suggest-start", class: "accept" }, text);
  button.disabled = found.running;
  const submit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    compute(root, button);
  };
  return el(
    "form",
    { id: "suggest-form", "aria-label": "Numbers to suggest", submit },
    el("label", {}, "Scans ", number("scans")),
    " ",
    el("label", {}, "Slices ", number("slices")),
    " ",
    button,
  );
}

/**
 * @param {HTMLElement} root
 * @param {HTMLButtonElement} button
 */
async function compute(root, button) {
  WANTED.scans = Number(inputById("suggest-scans").value);
  WANTED.slices = Number(inputById("suggest-slices").value);
  button.disabled = true;
  await attempt(() => post("/api/suggest", WANTED));
  hide();
  await attempt(() => show(root));
}

/**
 * Show how far the computation is; when it has ended, show its table.
 * @param {HTMLElement} root
 * @param {HTMLElement} live
 * @param {Suggestions} found
 */
function watch(root, live, found) {
  hide();
  live.replaceChildren(...progress(found));
  if (!found.running) {
    return;
  }
  timer = window.setTimeout(async () => {
    /** @type {Suggestions} */
    let now = found;
    await attempt(async () => {
      now = await get("/api/suggest");
    });
    if (!live.isConnected) {
      return;
    }
    if (now.running) {
      watch(root, live, now);
    } else {
      await attempt(() => draw(root, now));
    }
  }, POLL_MS);
}

/**
 * @param {Suggestions} found
 * @returns {Node[]}
 */
function progress(found) {
  /** @type {Node[]} */
  const parts = [];
  if (found.running) {
    const bar = el("progress", { "aria-label": "Scans that are read" });
    if (found.total) {
      bar.max = found.total;
      bar.value = found.done ?? 0;
    }
    const count = found.total ? ` ${found.done} of ${found.total} scans read` : " started";
    parts.push(el("p", {}, bar, count));
  }
  if (found.failed) {
    parts.push(el("p", { role: "alert" }, "The computation has failed. Its last lines:"));
  }
  if (found.log_tail.length) {
    const attributes = { id: "suggest-log", tabindex: 0, "aria-label": "Last lines of the computation" };
    parts.push(el("pre", attributes, found.log_tail.join("\n")));
  }
  return parts;
}

/**
 * @param {HTMLElement} root
 * @param {Suggestions} found
 * @param {string} caption
 * @param {Row[]} rows
 * @param {Map<string, string>} states state of each case that can be opened
 * @returns {Node[]}
 */
function table(root, found, caption, rows, states) {
  if (rows.length === 0) {
    return [];
  }
  const names = ["", "Case", "Class", "Doubt", "Predicted Dice", "Why", "State", ""];
  const head = el("tr", {}, ...names.map((name) => (name ? el("th", { scope: "col" }, name) : el("td"))));
  const lines = rows.map((row) =>
    el(
      "tr",
      {},
      el("td", {}, row.rank),
      el("th", { scope: "row" }, place(found, row, states)),
      el("td", {}, row.structure),
      el("td", {}, `${millilitres(row.doubt_ml)} ml`),
      el("td", {}, fraction(row.predicted_dice)),
      el("td", {}, ...why(row)),
      el("td", {}, states.get(row.case_id) ?? "–"),
      el("td", { class: "buttons" }, button(root, row.case_id, "skip", "Skip"), button(root, row.case_id, "later", "Later")),
    ),
  );
  const id = `suggest-${rows[0].kind}-rows`;
  return [el("table", { id, class: "suggestions" }, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...lines))];
}

/**
 * Return the name of a case, as a link if the desk can open it.
 * @param {Suggestions} found
 * @param {Row} row
 * @param {Map<string, string>} states
 * @returns {Node}
 */
function place(found, row, states) {
  const text = row.slice === null ? row.case_id : `${row.case_id}, slice ${row.slice} of axis ${row.axis}`;
  if (!states.has(row.case_id)) {
    return el("span", {}, text);
  }
  const { case_id: caseId, axis, slice } = row;
  return el("a", { href: caseAddress({ caseId, round: found.round, axis, slice }) }, text);
}

/**
 * @param {Row} row
 * @returns {Node[]}
 */
function why(row) {
  const mark = row.how === "random" ? [el("span", { class: "state question" }, "random"), " "] : [];
  const template = row.template === null ? [] : [el("br"), el("span", { class: "quiet" }, `Template: ${row.template}`)];
  return [...mark, row.reason, ...template].map((part) => (part instanceof Node ? part : document.createTextNode(part)));
}

/**
 * @param {HTMLElement} root
 * @param {string} caseId
 * @param {"skip" | "later" | "again"} action
 * @param {string} text
 * @returns {HTMLButtonElement}
 */
function button(root, caseId, action, text) {
  return el(
    "button",
    {
      type: "button",
      "aria-label": `${text}: ${caseId}`,
      title: HINTS[action],
      click: () => attempt(async () => {
        const found = await post("/api/suggest/aside", { case_id: caseId, action });
        await draw(root, found);
        say(`${caseId}: ${DONE[action]}.`);
        // The button with the focus is gone.
        root.querySelector("h1")?.focus();
      }),
    },
    text,
  );
}

const HINTS = {
  skip: "Never suggest this case",
  later: "Do not suggest this case until a later round has pseudo-labels",
  again: "Take this case off the list",
};

const DONE = { skip: "is not suggested again", later: "is kept for a later round", again: "can be suggested" };

/**
 * @param {HTMLElement} root
 * @param {Suggestions} found
 * @returns {Node[]}
 */
function aside(root, found) {
  if (found.aside.length === 0) {
    return [];
  }
  const rows = found.aside.map((one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, one.case_id),
      el("td", {}, one.action === "skip" ? "skipped" : `later: after round ${one.round}`),
      el("td", {}, button(root, one.case_id, "again", "Suggest again")),
    ),
  );
  return [el("table", { id: "suggest-aside" }, el("caption", {}, "Set aside"), el("tbody", {}, ...rows))];
}

/**
 * Do something; an error is shown as a message.
 * @param {() => Promise<unknown>} action
 */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), "error");
  }
}
