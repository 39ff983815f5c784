// Window and level of an image.

/**
 * @typedef {import("./types.js").Volume} Volume
 */

/** Windows of CT: name, level and width (HU). */
export const CT_WINDOWS = /** @type {[string, number, number][]} */ ([
  ["soft tissue", 40, 400],
  ["liver", 60, 160],
  ["lung", -600, 1500],
  ["bone", 400, 1800],
  ["brain", 40, 80],
  ["angiography", 300, 600],
]);

const SAMPLES = 200_000;
const MARGIN = 0.01;

/**
 * Return the window between the percentiles 1 and 99 of the voxels above the minimum.
 * @param {Volume} volume
 * @returns {[number, number]}
 */
export function automaticWindow(volume) {
  const step = Math.max(1, Math.floor(volume.data.length / SAMPLES));
  const found = [];
  for (let index = Math.floor(step / 2); index < volume.data.length; index += step) {
    const value = volume.data[index] * volume.slope + volume.intercept;
    if (Number.isFinite(value)) {
      found.push(value);
    }
  }
  const sorted = Float64Array.from(found).sort();
  if (sorted.length === 0) {
    return [0, 1];
  }
  // Air around the body would take up half of the window.
  const shown = sorted.subarray(sorted.findLastIndex((value) => value === sorted[0]));
  const low = shown[Math.floor((shown.length - 1) * MARGIN)];
  const high = shown[Math.ceil((shown.length - 1) * (1 - MARGIN))];
  return high > low ? [low, high] : [low, low + 1];
}

/**
 * Return the window of a level and a width.
 * @param {number} level
 * @param {number} width
 * @returns {[number, number]}
 */
export function windowOf(level, width) {
  return [level - width / 2, level + width / 2];
}
