// Correcting a label: pens, eraser, fill, growth, interpolation, undo and redo.

/**
 * @typedef {import("./types.js").Triple} Triple
 * @typedef {import("./types.js").Grid} Grid
 * @typedef {import("./types.js").Change} Change
 * @typedef {import("./types.js").Plane} Plane
 * @typedef {import("./viewer.js").Viewer} Viewer
 * @typedef {import("./planes.js").PlaneView} PlaneView
 */

import { Edit, History, drawLine, fillOutline, grow, interpolate } from "./painting.js";

/** Diameters of the brush, in voxels. */
export const SIZES = [1, 2, 3, 5, 8, 12, 18, 26, 40];
const FIRST_SIZE = 3;
/** Each growth accepts more intensities than the one before, but reaches only this many voxels. */
const GROWTH = { deviations: 2, more: 0.5, reach: 5 };

/**
 * @typedef {object} Stroke
 * @property {Plane} plane
 * @property {Triple[]} points
 * @property {Edit} edit
 */

/** @typedef {{seeds: Uint32Array, value: number, plane: Plane, deviations: number}} LastStroke */

export class Editor extends EventTarget {
  /**
   * @param {Viewer} viewer
   */
  constructor(viewer) {
    super();
    this.viewer = viewer;
    this.isOn = false;
    /** Whether nothing can be drawn, because the label is being saved. */
    this.isLocked = false;
    this.background = 0;
    this.pen = 0;
    this.sizeIndex = FIRST_SIZE;
    this.isFilling = false;
    this.history = new History(new Uint8Array(0));
    /** @type {Uint8Array} label when the editor was opened */
    this.original = new Uint8Array(0);
    /** @type {Stroke | null} */
    this.stroke = null;
    /** @type {LastStroke | null} */
    this.last = null;
    /** @type {{change: Change | null, key: string, slice: number}[]} strokes with plane and pen, and their slice */
    this.drawn = [];
  }

  /** Start to correct the label that the viewer shows. */
  start() {
    const label = this.viewer.label;
    if (label === null || this.isOn) {
      return;
    }
    this.isOn = true;
    this.history = new History(label);
    this.original = label.slice();
    this.last = null;
    this.drawn = [];
    this.viewer.scene.hasCursor = false;
    this.changed();
  }

  /**
   * End the correction.
   * @param {boolean} keeps whether the label stays as drawn
   */
  stop(keeps) {
    if (!this.isOn) {
      return;
    }
    if (!keeps) {
      this.viewer.label?.set(this.original);
    }
    this.isOn = false;
    this.stroke = null;
    this.viewer.scene.hasCursor = true;
    this.viewer.views.forEach((view) => {
      view.brush = null;
    });
    this.viewer.refreshSolid();
    this.changed();
  }

  /** @returns {boolean} whether anything was drawn */
  hasChanges() {
    return this.isOn && this.history.done.length > 0;
  }

  /** @returns {number} diameter of the brush */
  size() {
    return SIZES[this.sizeIndex];
  }

  /**
   * @param {number} value
   */
  setPen(value) {
    this.pen = value;
    this.changed();
  }

  /**
   * @param {number} step
   */
  resize(step) {
    this.sizeIndex = Math.min(SIZES.length - 1, Math.max(0, this.sizeIndex + step));
    this.changed();
  }

  /** Switch between a brush and an outline that is filled. */
  toggleFill() {
    this.isFilling = !this.isFilling;
    this.changed();
  }

  /** @returns {Grid} */
  grid() {
    const image = this.viewer.scene.image;
    if (image === null) {
      throw new Error("No image is open.");
    }
    return { dims: image.dims, spacing: image.spacing };
  }

  /**
   * Begin a stroke.
   * @param {PlaneView} view
   * @param {Triple} at
   */
  press(view, at) {
    if (this.isLocked) {
      return;
    }
    const edit = new Edit(this.history.voxels);
    this.stroke = { plane: view.shown(), points: [at], edit };
    this.paint(at, at);
  }

  /**
   * Continue a stroke.
   * @param {Triple} at
   */
  drag(at) {
    if (this.stroke === null) {
      return;
    }
    const from = this.stroke.points[this.stroke.points.length - 1];
    this.stroke.points.push(at);
    this.paint(from, at);
  }

  /** End a stroke. */
  release() {
    if (this.stroke === null) {
      return;
    }
    const { plane, points, edit } = this.stroke;
    this.stroke = null;
    if (this.isFilling) {
      fillOutline(edit, this.grid(), plane, points, this.pen);
    }
    const change = edit.finish();
    this.history.push(change);
    this.remember(change, plane, points[0][plane.across]);
    if (change !== null) {
      const seeds = change.indices;
      this.last = { seeds, value: this.pen, plane, deviations: GROWTH.deviations };
    }
    this.finished();
  }

  /** Give up a stroke. */
  abandon() {
    if (this.stroke === null) {
      return;
    }
    const change = this.stroke.edit.finish();
    this.stroke = null;
    const history = new History(this.history.voxels);
    history.push(change);
    history.undo();
    this.finished();
  }

  /**
   * @param {Triple} from
   * @param {Triple} to
   */
  paint(from, to) {
    if (this.stroke !== null) {
      const size = this.isFilling ? 1 : this.size();
      drawLine(this.stroke.edit, this.grid(), this.stroke.plane, from, to, size, this.pen);
      this.viewer.redraw();
    }
  }

  /**
   * Remember a slice with a stroke, for the interpolation.
   * @param {Change | null} change
   * @param {Plane} plane
   * @param {number} slice
   */
  remember(change, plane, slice) {
    this.drawn.push({ change, key: `${plane.name} ${this.pen}`, slice });
  }

  /**
   * Return the last two slices with a stroke of the pen in a plane, without strokes that were undone.
   * @param {Plane} plane
   * @returns {number[]}
   */
  lastSlices(plane) {
    const key = `${plane.name} ${this.pen}`;
    /** @type {number[]} */
    const found = [];
    for (const stroke of [...this.drawn].reverse()) {
      const isDone = stroke.change === null || this.history.done.includes(stroke.change);
      if (stroke.key === key && isDone && !found.includes(stroke.slice)) {
        found.push(stroke.slice);
      }
    }
    return found.slice(0, 2).sort((a, b) => a - b);
  }

  /**
   * Grow from the last stroke; each repetition accepts more intensities.
   * @returns {string} what happened
   */
  growLast() {
    const image = this.viewer.scene.image;
    if (this.last === null || image === null || this.last.value === this.background) {
      return "Draw a stroke of a class first: it grows from there.";
    }
    const { seeds, value } = this.last;
    const edit = new Edit(this.history.voxels);
    const intensity = (/** @type {number} */ index) => image.data[index];
    const limits = { deviations: this.last.deviations, reach: GROWTH.reach };
    grow(edit, this.grid(), seeds, intensity, limits, value, this.background);
    this.last.deviations += GROWTH.more;
    const change = edit.finish();
    this.history.push(change);
    this.finished();
    if (change !== null) {
      this.last.seeds = Uint32Array.from([...seeds, ...change.indices]);
    }
    return `${change?.indices.length ?? 0} voxels were added. G again grows further, Z undoes it.`;
  }

  /**
   * Interpolate the class of the last stroke between the two slices that were drawn last.
   * @returns {string} what happened
   */
  interpolateLast() {
    const plane = this.last?.plane;
    const [first, last] = plane === undefined ? [] : this.lastSlices(plane);
    if (plane === undefined || last === undefined) {
      return "Draw this class in two slices of a plane first: the slices between are interpolated.";
    }
    const edit = new Edit(this.history.voxels);
    interpolate(edit, this.grid(), plane, first, last, this.pen, this.background);
    const change = edit.finish();
    this.history.push(change);
    this.finished();
    return `${change?.indices.length ?? 0} voxels were changed between the slices ${first} and ${last}.`;
  }

  /** Undo the last action. */
  undo() {
    this.history.undo();
    this.finished();
  }

  /** Redo the action that was undone. */
  redo() {
    this.history.redo();
    this.finished();
  }

  finished() {
    this.viewer.redraw();
    this.viewer.refreshSolid();
    this.changed();
  }

  changed() {
    this.viewer.redraw();
    this.dispatchEvent(new Event("change"));
  }
}
