// How far reviewers agree who looked at the same case.

/**
 * @typedef {import("../types.js").Agreement} Agreement
 * @typedef {import("../types.js").Session} Session
 */

import { get } from "../api.js";
import { el, fraction, swatch } from "../dom.js";

export const id = "agreement";
export const title = "Agreement";

/** @type {Record<string, string>} */
const RULES = {
  last: "The last decision on a case is in force.",
  third: "Where two reviewers disagree, the decision of a third is in force.",
};

/** @type {Record<string, string>} */
const ACTIONS = { accept: "accepted", reject: "rejected", replace: "corrected", "": "open: reviewers disagree" };

/**
 * @param {HTMLElement} root
 * @param {Session} session
 * @param {number} round
 */
export async function show(root, session, round) {
  /** @type {Agreement} */
  const agreement = await get(`/api/agreement?round=${round}`);
  root.replaceChildren(
    el("h1", {}, "Agreement of reviewers"),
    el("p", {}, RULES[session.consensus] ?? `Rule: ${session.consensus}.`),
    ...content(agreement, session),
  );
}

/**
 * @param {Agreement} agreement
 * @param {Session} session
 * @returns {HTMLElement[]}
 */
function content(agreement, session) {
  if (agreement.pairs.length === 0) {
    return [el("p", { class: "quiet" }, "No case was decided by two reviewers yet. A case can be decided again under another name.")];
  }
  return [pairTable(agreement, session), kappaTable(agreement), consensusTable(agreement)];
}

/**
 * @param {Agreement} agreement
 * @param {Session} session
 * @returns {HTMLElement}
 */
function pairTable(agreement, session) {
  const named = session.classes.filter((one) => agreement.pairs.some((pair) => one.name in pair.dice));
  const heads = ["case", "reviewers", "verdicts"].map((text) => el("th", { scope: "col" }, text));
  const classHeads = named.map((one) => el("th", { scope: "col" }, swatch(one.colour), `Dice, ${one.name}`));
  const rows = agreement.pairs.map((pair) =>
    el("tr", { class: pair.agree ? null : "unusual" },
      el("th", { scope: "row" }, pair.case_id),
      el("td", {}, pair.readers.join(" and ")),
      el("td", {}, pair.verdicts.map((verdict) => ACTIONS[verdict] ?? verdict).join(" and ")),
      ...named.map((one) => el("td", {}, fraction(pair.dice[one.name]))),
    ),
  );
  return el("table", { id: "pairs" },
    el("caption", {}, "Cases with two reviewers"),
    el("thead", {}, el("tr", {}, ...heads, ...classHeads)),
    el("tbody", {}, ...rows),
  );
}

/**
 * @param {Agreement} agreement
 * @returns {HTMLElement}
 */
function kappaTable(agreement) {
  const heads = ["reviewers", "cases", "kappa"].map((text) => el("th", { scope: "col" }, text));
  const rows = agreement.kappa.map((one) =>
    el("tr", {},
      el("th", { scope: "row" }, one.readers.join(" and ")),
      el("td", {}, one.cases),
      el("td", {}, fraction(one.kappa)),
    ),
  );
  return el("table", { id: "kappa" },
    el("caption", {}, "Cohen's kappa of the decisions (1: always alike, 0: as by chance, –: chance alone agrees)"),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...rows),
  );
}

/**
 * @param {Agreement} agreement
 * @returns {HTMLElement}
 */
function consensusTable(agreement) {
  const heads = ["case", "in force", "by"].map((text) => el("th", { scope: "col" }, text));
  const rows = agreement.consensus.map((one) =>
    el("tr", {}, el("th", { scope: "row" }, one.case_id), el("td", {}, ACTIONS[one.action ?? ""] ?? one.action), el("td", {}, one.by ?? "")),
  );
  return el("table", { id: "consensus" },
    el("caption", {}, "What is in force"),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...rows),
  );
}
