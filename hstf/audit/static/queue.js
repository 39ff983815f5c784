// The list of cases: least predicted Dice first, with filters and search.

/**
 * @typedef {import("./types.js").Queue} Queue
 * @typedef {import("./types.js").QueueCase} QueueCase
 * @typedef {import("./types.js").Session} Session
 */

import { byId, el, fraction, inputById, selectById } from "./dom.js";

/** Names of the states of a case. */
export const STATUS = /** @type {Record<string, string>} */ ({
  undecided: "undecided",
  accepted: "accepted",
  rejected: "rejected",
  corrected: "corrected",
  open: "to decide again",
  question: "reviewers disagree",
});
const IS_LEFT = new Set(["undecided", "open", "question"]);

export class QueueList {
  /**
   * @param {(caseId: string) => void} onChoice
   */
  constructor(onChoice) {
    this.onChoice = onChoice;
    /** @type {QueueCase[]} */
    this.cases = [];
    /** @type {string | null} */
    this.current = null;
    this.list = byId("cases");
    this.search = inputById("search");
    this.filters = ["filter-status", "filter-site", "filter-class", "filter-reviewer"].map(selectById);
    this.search.addEventListener("input", () => this.draw());
    this.filters.forEach((filter) => filter.addEventListener("change", () => this.draw()));
  }

  /**
   * Show a queue.
   * @param {Queue} queue
   */
  show(queue) {
    this.cases = queue.cases;
    const [, site, structure, reviewer] = this.filters;
    options(site, "all sites", queue.cases.map((one) => one.site ?? ""));
    options(structure, "all classes", queue.cases.flatMap(classesOf));
    options(reviewer, "all reviewers", queue.cases.flatMap((one) => one.reviewers));
    this.showCounts(queue);
    this.draw();
  }

  /**
   * @param {Queue} queue
   */
  showCounts(queue) {
    const { undecided, accepted, rejected, corrected, total } = queue.counts;
    byId("counts").textContent =
      `${undecided} of ${total} left · ${accepted} accepted · ${rejected} rejected · ${corrected} corrected`;
    const bar = /** @type {HTMLProgressElement} */ (byId("progress"));
    bar.max = Math.max(1, total);
    bar.value = total - undecided;
  }

  /**
   * Replace the row of a case.
   * @param {QueueCase} row
   */
  update(row) {
    this.cases = this.cases.map((one) => (one.case_id === row.case_id ? row : one));
    this.draw();
  }

  /**
   * Mark the case that is open.
   * @param {string} caseId
   */
  mark(caseId) {
    this.current = caseId;
    this.draw();
    this.list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
  }

  /** @returns {QueueCase[]} cases that the filters let through */
  shown() {
    const [status, site, structure, reviewer] = this.filters.map((filter) => filter.value);
    const words = this.search.value.trim().toLowerCase();
    return this.cases.filter(
      (one) =>
        (status === "" || one.status === status || (status === "left" && IS_LEFT.has(one.status))) &&
        (site === "" || one.site === site) &&
        (structure === "" || classesOf(one).includes(structure)) &&
        (reviewer === "" || one.reviewers.includes(reviewer)) &&
        `${one.case_id} ${one.site ?? ""} ${one.group ?? ""}`.toLowerCase().includes(words),
    );
  }

  /** @returns {QueueCase | undefined} first case without a decision, or the first of all */
  first() {
    const shown = this.shown();
    return shown.find((one) => IS_LEFT.has(one.status)) ?? shown[0] ?? this.cases[0];
  }

  /**
   * Return the case that comes after one in the list.
   * @param {number} step 1 or -1
   * @returns {QueueCase | undefined}
   */
  beside(step) {
    const shown = this.shown();
    const at = shown.findIndex((one) => one.case_id === this.current);
    return at < 0 ? shown[0] : shown[at + step];
  }

  /**
   * Return the next cases without a decision, after the current one and then from the top.
   * @param {number} count
   * @returns {QueueCase[]}
   */
  upcoming(count) {
    const shown = this.shown();
    const at = shown.findIndex((one) => one.case_id === this.current);
    const rotated = [...shown.slice(at + 1), ...shown.slice(0, Math.max(0, at))];
    return rotated.filter((one) => IS_LEFT.has(one.status)).slice(0, count);
  }

  /** Draw the list. */
  draw() {
    const shown = this.shown();
    this.list.replaceChildren(...shown.map((one) => this.row(one)));
    if (shown.length === 0) {
      this.list.append(el("li", { class: "empty" }, "No case matches the filters."));
    }
  }

  /**
   * @param {QueueCase} one
   * @returns {HTMLElement}
   */
  row(one) {
    const isCurrent = one.case_id === this.current;
    const opened = one.opened_by.length ? `open: ${one.opened_by.join(", ")}` : null;
    const details = [STATUS[one.status] ?? one.status, one.site, opened].filter(Boolean).join(" · ");
    const button = el(
      "button",
      { type: "button", class: `case ${one.status}`, "aria-current": isCurrent ? "true" : null, click: () => this.onChoice(one.case_id) },
      el("span", { class: "name" }, one.case_id),
      el("span", { class: "dice", title: "predicted Dice" }, fraction(one.predicted_dice)),
      interval(one),
      el("span", { class: "details" }, details),
    );
    return el("li", {}, button);
  }
}

/**
 * Draw the interval of the predicted Dice.
 * @param {QueueCase} one
 * @returns {HTMLElement}
 */
export function interval(one) {
  const bar = el("span", { class: "interval", "aria-hidden": "true" });
  if (one.predicted_dice === null) {
    return bar;
  }
  const [low, high] = [one.low ?? one.predicted_dice, one.high ?? one.predicted_dice];
  const range = el("i", { class: "range" });
  range.style.left = `${100 * low}%`;
  range.style.width = `${100 * Math.max(0, high - low)}%`;
  const dot = el("i", { class: "dot" });
  dot.style.left = `${100 * one.predicted_dice}%`;
  bar.append(range, dot);
  return bar;
}

/**
 * Return the classes of a case, as the filter shows them.
 * @param {QueueCase} one
 * @returns {string[]}
 */
function classesOf(one) {
  const unusual = one.volumes.filter((volume) => volume.unusual);
  const present = one.volumes.filter((volume) => volume.ml > 0);
  return [...present.map((volume) => `has ${volume.class}`), ...unusual.map((volume) => `unusual ${volume.class}`)];
}

/**
 * Fill a select box; it is hidden when there is nothing to choose.
 * @param {HTMLSelectElement} select
 * @param {string} all
 * @param {string[]} values
 */
function options(select, all, values) {
  const chosen = select.value;
  const distinct = [...new Set(values)].filter((value) => value !== "").sort();
  select.replaceChildren(
    el("option", { value: "" }, all),
    ...distinct.map((value) => el("option", { value }, value)),
  );
  select.value = distinct.includes(chosen) ? chosen : "";
  select.hidden = distinct.length === 0;
}
