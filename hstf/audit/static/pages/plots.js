// Small plots as SVG: a line, and points against the diagonal.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 520;
const HEIGHT = 340;
const LEFT = 56;
const RIGHT = 24;
const TOP = 12;
const BOTTOM = 44;
const TICKS = 5;

/** @typedef {[number, number]} Point */

/**
 * @typedef {object} Marker
 * @property {Point} at
 * @property {Point | null} range of the horizontal value
 * @property {string} title shown on the point
 */

/**
 * A part of a plot; text reaches it as text nodes alone.
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 * @returns {SVGElement}
 */
function part(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, String(value));
  }
  element.append(...children);
  return /** @type {SVGElement} */ (element);
}

/**
 * The plane of a plot: from values to pixels, with axes.
 * @param {Point} across minimum and maximum
 * @param {Point} up
 * @param {[string, string]} names of both axes
 * @param {(value: number) => string} text of a tick of the horizontal axis
 */
function plane(across, up, names, text) {
  const x = (/** @type {number} */ value) =>
    LEFT + ((value - across[0]) / (across[1] - across[0])) * (WIDTH - LEFT - RIGHT);
  const y = (/** @type {number} */ value) =>
    HEIGHT - BOTTOM - ((value - up[0]) / (up[1] - up[0])) * (HEIGHT - TOP - BOTTOM);
  const axes = part("g", { class: "axes" });
  for (let tick = 0; tick <= TICKS; tick++) {
    const right = across[0] + ((across[1] - across[0]) * tick) / TICKS;
    const high = up[0] + ((up[1] - up[0]) * tick) / TICKS;
    axes.append(
      part("text", { x: x(right), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, text(right)),
      part("text", { x: LEFT - 8, y: y(high) + 4, "text-anchor": "end" }, high.toFixed(2)),
      part("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(high), y2: y(high), class: "grid" }),
    );
  }
  axes.append(
    part("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, names[0]),
    part("text", { x: -HEIGHT / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle" }, names[1]),
  );
  return { x, y, axes };
}

/**
 * @param {string} label what the plot shows, for a screen reader
 * @param {...Node} children
 * @returns {SVGElement}
 */
function picture(label, ...children) {
  return part("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": label }, ...children);
}

/**
 * Draw a line.
 * @param {Point[]} points at least one
 * @param {[string, string]} names of both axes
 * @param {string} label
 * @returns {SVGElement}
 */
export function linePlot(points, names, label) {
  const right = points.map((point) => point[0]);
  const high = points.map((point) => point[1]);
  const low = Math.min(0, ...high);
  const { x, y, axes } = plane([0, Math.max(1, ...right)], [low, Math.max(low + 1e-6, ...high)], names, (value) => value.toFixed(0));
  const path = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" ");
  const last = points[points.length - 1];
  return picture(label, axes, part("polyline", { points: path, class: "line" }),
    part("circle", { cx: x(last[0]), cy: y(last[1]), r: 3.5, class: "point" }));
}

/**
 * Draw points against the diagonal, each with its range.
 * @param {Marker[]} markers at least one
 * @param {[string, string]} names of both axes
 * @param {string} label
 * @returns {SVGElement}
 */
export function diagonalPlot(markers, names, label) {
  const values = markers.flatMap((marker) => [...marker.at, ...(marker.range ?? [])]);
  const low = Math.max(0, Math.floor(Math.min(...values) * 10) / 10);
  const { x, y, axes } = plane([low, 1], [low, 1], names, (value) => value.toFixed(2));
  const shown = [];
  for (const { at, range, title } of markers) {
    if (range !== null) {
      shown.push(part("line", { x1: x(range[0]), x2: x(range[1]), y1: y(at[1]), y2: y(at[1]), class: "range" }));
    }
    shown.push(part("circle", { cx: x(at[0]), cy: y(at[1]), r: 4.5, class: "point" }, part("title", {}, title)));
  }
  const diagonal = part("line", { x1: x(low), y1: y(low), x2: x(1), y2: y(1), class: "diagonal" });
  return picture(label, axes, diagonal, ...shown);
}
