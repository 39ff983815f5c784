// Predicted Dice against what the corrected labels show.

/**
 * @typedef {object} CorrectedCase
 * @property {string} case_id
 * @property {number} round
 * @property {string} reviewer
 * @property {number} predicted
 * @property {number | null} low
 * @property {number | null} high
 * @property {number} measured
 */

/**
 * @typedef {object} Feedback
 * @property {CorrectedCase[]} cases
 * @property {string[]} changed cases whose pseudo-label was computed again since
 * @property {string[]} problems
 * @property {string} text
 */

import { get } from "../api.js";
import { el, fraction } from "../dom.js";
import { diagonalPlot } from "./plots.js";

export const id = "feedback";
export const title = "Feedback";

const LIMITS = "The corrected label is the reference. A reviewer starts from the pseudo-label, so voxels that nobody looked at"
  + " count as right: the measured Dice is an upper bound. Doubtful cases are corrected first, so corrected cases are no random sample.";

/**
 * @param {HTMLElement} root
 */
export async function show(root) {
  /** @type {Feedback} */
  const feedback = await get("/api/feedback");
  root.replaceChildren(
    el("h1", {}, "Is predicted Dice right?"),
    el("p", { id: "feedback-text" }, feedback.text),
    ...notes(feedback),
    ...(feedback.cases.length ? content(feedback.cases) : []),
  );
}

/**
 * @param {Feedback} feedback
 * @returns {HTMLElement[]}
 */
function notes(feedback) {
  const lines = [...feedback.problems];
  if (feedback.changed.length) {
    lines.push(`Not compared, because the pseudo-label was computed again since: ${feedback.changed.join(", ")}.`);
  }
  return lines.map((line) => el("p", { class: "quiet" }, line));
}

/**
 * @param {CorrectedCase[]} cases
 * @returns {Node[]}
 */
function content(cases) {
  const markers = cases.map((one) => ({
    at: /** @type {[number, number]} */ ([one.predicted, one.measured]),
    range: one.low === null || one.high === null ? null : /** @type {[number, number]} */ ([one.low, one.high]),
    title: `${one.case_id}, round ${one.round}`,
  }));
  return [
    diagonalPlot(markers, ["predicted Dice, with its 90% interval", "measured Dice"], "Predicted and measured Dice of the corrected cases"),
    el("p", { class: "quiet" }, LIMITS),
    table(cases),
  ];
}

/**
 * @param {CorrectedCase[]} cases
 * @returns {HTMLElement}
 */
function table(cases) {
  const heads = ["case", "round", "reviewer", "predicted", "90% interval", "measured"];
  const rows = cases.map((one) =>
    el("tr", {},
      el("th", { scope: "row" }, one.case_id),
      el("td", {}, one.round),
      el("td", {}, one.reviewer || "–"),
      el("td", {}, fraction(one.predicted)),
      el("td", {}, one.low === null ? "–" : `${fraction(one.low)} to ${fraction(one.high)}`),
      el("td", {}, fraction(one.measured)),
    ),
  );
  return el("table", { id: "corrected" },
    el("caption", {}, "Corrected cases"),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows),
  );
}
