// Addresses that open a case at a slice.

/**
 * @typedef {object} CaseLink
 * @property {string} caseId
 * @property {number} round
 * @property {number | null} axis axis of the file across the slices
 * @property {number | null} slice
 */

const START = "#case?";

/**
 * @param {CaseLink} link
 * @returns {string}
 */
export function caseAddress(link) {
  const query = new URLSearchParams({ case: link.caseId, round: String(link.round) });
  if (link.axis !== null && link.slice !== null) {
    query.set("axis", String(link.axis));
    query.set("slice", String(link.slice));
  }
  return START + query;
}

/**
 * Return what an address opens; null if it is no address of a case.
 * @param {string} hash
 * @returns {CaseLink | null}
 */
export function caseOf(hash) {
  if (!hash.startsWith(START)) {
    return null;
  }
  const query = new URLSearchParams(hash.slice(START.length));
  const number = (/** @type {string} */ name) => {
    const text = query.get(name) ?? "";
    return /^\d{1,6}$/.test(text) ? Number(text) : null;
  };
  return { caseId: query.get("case") ?? "", round: number("round") ?? 0, axis: number("axis"), slice: number("slice") };
}
