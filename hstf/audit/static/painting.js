// Drawing in a label: brush, filled outline, growth from a stroke, interpolation between slices.
// Pure functions of arrays; whatever they change goes through an Edit, so that it can be undone.

/**
 * @typedef {import("./types.js").Grid} Grid
 * @typedef {import("./types.js").Plane} Plane
 * @typedef {import("./types.js").Triple} Triple
 * @typedef {import("./types.js").Change} Change
 */

import { indexOf, strides } from "./geometry.js";

/** Collects the voxels that one action changes. */
export class Edit {
  /**
   * @param {Uint8Array} voxels
   */
  constructor(voxels) {
    this.voxels = voxels;
    /** @type {Map<number, number>} value before the action, by index */
    this.before = new Map();
  }

  /**
   * @param {number} index
   * @param {number} value
   */
  set(index, value) {
    const old = this.voxels[index];
    if (old === value) {
      return;
    }
    if (!this.before.has(index)) {
      this.before.set(index, old);
    }
    this.voxels[index] = value;
  }

  /**
   * Return what changed, or null.
   * @returns {Change | null}
   */
  finish() {
    const changed = [...this.before].filter(([index, old]) => this.voxels[index] !== old);
    if (changed.length === 0) {
      return null;
    }
    const indices = Uint32Array.from(changed, ([index]) => index);
    return {
      indices,
      before: Uint8Array.from(changed, ([, old]) => old),
      after: Uint8Array.from(indices, (index) => this.voxels[index]),
    };
  }
}

/** Actions that can be undone and redone. */
export class History {
  /**
   * @param {Uint8Array} voxels
   */
  constructor(voxels) {
    this.voxels = voxels;
    /** @type {Change[]} */
    this.done = [];
    /** @type {Change[]} */
    this.undone = [];
  }

  /**
   * @param {Change | null} change
   */
  push(change) {
    if (change !== null) {
      this.done.push(change);
      this.undone = [];
    }
  }

  /** @returns {boolean} whether there was something to undo */
  undo() {
    const change = this.done.pop();
    if (change === undefined) {
      return false;
    }
    write(this.voxels, change.indices, change.before);
    this.undone.push(change);
    return true;
  }

  /** @returns {boolean} whether there was something to redo */
  redo() {
    const change = this.undone.pop();
    if (change === undefined) {
      return false;
    }
    write(this.voxels, change.indices, change.after);
    this.done.push(change);
    return true;
  }
}

/**
 * @param {Uint8Array} voxels
 * @param {Uint32Array} indices
 * @param {Uint8Array} values
 */
function write(voxels, indices, values) {
  for (let n = 0; n < indices.length; n += 1) {
    voxels[indices[n]] = values[n];
  }
}

/**
 * Draw a line with a round brush in a plane.
 * @param {Edit} edit
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {Triple} from
 * @param {Triple} to in the same slice
 * @param {number} diameter of the brush, in voxels of the finer axis
 * @param {number} value
 */
export function drawLine(edit, grid, plane, from, to, diameter, value) {
  const { u, v } = plane;
  const steps = Math.max(Math.abs(to[u] - from[u]), Math.abs(to[v] - from[v]), 1);
  const offsets = brush(grid, plane, diameter);
  for (let step = 0; step <= steps; step += 1) {
    const centre = /** @type {Triple} */ ([...to]);
    centre[u] = Math.round(from[u] + ((to[u] - from[u]) * step) / steps);
    centre[v] = Math.round(from[v] + ((to[v] - from[v]) * step) / steps);
    stamp(edit, grid, plane, centre, offsets, value);
  }
}

/**
 * Return the voxels of a round brush, relative to its centre.
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {number} diameter
 * @returns {[number, number][]}
 */
export function brush(grid, plane, diameter) {
  const fine = Math.min(grid.spacing[plane.u], grid.spacing[plane.v]);
  const radius = (diameter * fine) / 2;
  const [reachU, reachV] = [plane.u, plane.v].map((axis) => Math.ceil(radius / grid.spacing[axis]));
  /** @type {[number, number][]} */
  const offsets = [];
  for (let du = -reachU; du <= reachU; du += 1) {
    for (let dv = -reachV; dv <= reachV; dv += 1) {
      const distance = Math.hypot(du * grid.spacing[plane.u], dv * grid.spacing[plane.v]);
      if (distance < radius || (du === 0 && dv === 0)) {
        offsets.push([du, dv]);
      }
    }
  }
  return offsets;
}

/**
 * @param {Edit} edit
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {Triple} centre
 * @param {[number, number][]} offsets
 * @param {number} value
 */
function stamp(edit, grid, plane, centre, offsets, value) {
  const { u, v } = plane;
  const voxel = /** @type {Triple} */ ([...centre]);
  for (const [du, dv] of offsets) {
    voxel[u] = centre[u] + du;
    voxel[v] = centre[v] + dv;
    const isInside =
      voxel[u] >= 0 && voxel[v] >= 0 && voxel[u] < grid.dims[u] && voxel[v] < grid.dims[v];
    if (isInside) {
      edit.set(indexOf(grid.dims, voxel), value);
    }
  }
}

/**
 * Fill the area that a closed outline encloses in a slice.
 * @param {Edit} edit
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {Triple[]} outline
 * @param {number} value
 */
export function fillOutline(edit, grid, plane, outline, value) {
  const { u, v } = plane;
  if (outline.length < 3) {
    return;
  }
  const rows = outline.map((point) => point[v]);
  const voxel = /** @type {Triple} */ ([...outline[0]]);
  for (let row = Math.min(...rows); row <= Math.max(...rows); row += 1) {
    voxel[v] = row;
    const crossings = crossingsOf(outline, u, v, row);
    for (let n = 0; n + 1 < crossings.length; n += 2) {
      for (let at = Math.ceil(crossings[n]); at <= crossings[n + 1]; at += 1) {
        voxel[u] = at;
        edit.set(indexOf(grid.dims, voxel), value);
      }
    }
  }
}

/**
 * Return where a row crosses an outline, in ascending order.
 * @param {Triple[]} outline
 * @param {number} u
 * @param {number} v
 * @param {number} row
 * @returns {number[]}
 */
function crossingsOf(outline, u, v, row) {
  /** @type {number[]} */
  const crossings = [];
  outline.forEach((point, n) => {
    const next = outline[(n + 1) % outline.length];
    if (point[v] <= row !== next[v] <= row) {
      const part = (row - point[v]) / (next[v] - point[v]);
      crossings.push(point[u] + part * (next[u] - point[u]));
    }
  });
  return crossings.sort((a, b) => a - b);
}

/**
 * Grow from voxels into the background, to connected voxels of a similar intensity.
 * @param {Edit} edit
 * @param {Grid} grid
 * @param {Uint32Array} seeds
 * @param {(index: number) => number} intensity
 * @param {{deviations: number, reach: number}} limits deviations of the intensity from the seeds, and
 *   steps from them
 * @param {number} value
 * @param {number} background
 */
export function grow(edit, grid, seeds, intensity, limits, value, background) {
  const [mean, deviation] = meanAndDeviation(seeds, intensity);
  const tolerance = limits.deviations * deviation;
  const steps = strides(grid.dims);
  const isAlike = (/** @type {number} */ index) =>
    edit.voxels[index] === background && Math.abs(intensity(index) - mean) <= tolerance;
  let front = [...seeds];
  for (let step = 0; step < limits.reach; step += 1) {
    /** @type {number[]} */
    const next = [];
    for (const index of front.flatMap((from) => neighbours(grid.dims, steps, from))) {
      if (isAlike(index)) {
        edit.set(index, value);
        next.push(index);
      }
    }
    front = next;
  }
}

/**
 * @param {Uint32Array} indices
 * @param {(index: number) => number} intensity
 * @returns {[number, number]}
 */
function meanAndDeviation(indices, intensity) {
  let sum = 0;
  let squares = 0;
  for (const index of indices) {
    const value = intensity(index);
    sum += value;
    squares += value * value;
  }
  const mean = sum / indices.length;
  const deviation = Math.sqrt(Math.max(0, squares / indices.length - mean * mean));
  return [mean, deviation || Math.abs(mean) * 0.05 || 1e-6];
}

/**
 * Return the six neighbours of a voxel.
 * @param {Triple} dims
 * @param {Triple} steps
 * @param {number} index
 * @returns {number[]}
 */
function neighbours(dims, steps, index) {
  /** @type {number[]} */
  const found = [];
  for (let axis = 0; axis < 3; axis += 1) {
    const at = Math.floor(index / steps[axis]) % dims[axis];
    if (at > 0) {
      found.push(index - steps[axis]);
    }
    if (at < dims[axis] - 1) {
      found.push(index + steps[axis]);
    }
  }
  return found;
}

/**
 * Interpolate a class between two slices, by the signed distance to its outline in each. The outlines
 * are moved along the line between their centres, so that a slanted structure stays whole. Voxels of
 * other classes stay.
 * @param {Edit} edit
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {number} first
 * @param {number} last
 * @param {number} value
 * @param {number} background
 */
export function interpolate(edit, grid, plane, first, last, value, background) {
  const near = signedDistance(edit.voxels, grid, plane, first, value);
  const far = signedDistance(edit.voxels, grid, plane, last, value);
  if (near === null || far === null) {
    return;
  }
  const steps = strides(grid.dims);
  const width = grid.dims[plane.u];
  const size = near.distances.length;
  const path = [far.centre[0] - near.centre[0], far.centre[1] - near.centre[1]];
  for (let slice = first + 1; slice < last; slice += 1) {
    const part = (slice - first) / (last - first);
    const fromNear = path.map((step) => Math.round(part * step));
    const fromFar = path.map((step) => Math.round((part - 1) * step));
    for (let n = 0; n < size; n += 1) {
      const [u, v] = [n % width, Math.floor(n / width)];
      const distance = valueAt(near, u - fromNear[0], v - fromNear[1]) * (1 - part) +
        valueAt(far, u - fromFar[0], v - fromFar[1]) * part;
      const index = slice * steps[plane.across] + u * steps[plane.u] + v * steps[plane.v];
      const present = edit.voxels[index];
      if (distance < 0 && present === background) {
        edit.set(index, value);
      } else if (distance >= 0 && present === value) {
        edit.set(index, background);
      }
    }
  }
}

/** @typedef {{distances: Float64Array, width: number, height: number, centre: [number, number]}} Shape */

/**
 * Return the distance at a voxel of a slice; far away outside of it.
 * @param {Shape} shape
 * @param {number} u
 * @param {number} v
 * @returns {number}
 */
function valueAt({ distances, width, height }, u, v) {
  return u < 0 || v < 0 || u >= width || v >= height ? FAR : distances[v * width + u];
}

/**
 * Return the distance (mm) of each voxel of a slice to a class, negative inside; null without it.
 * @param {Uint8Array} voxels
 * @param {Grid} grid
 * @param {Plane} plane
 * @param {number} slice
 * @param {number} value
 * @returns {Shape | null}
 */
function signedDistance(voxels, grid, plane, slice, value) {
  const steps = strides(grid.dims);
  const [width, height] = [grid.dims[plane.u], grid.dims[plane.v]];
  const scale = [grid.spacing[plane.u], grid.spacing[plane.v]];
  const inside = new Uint8Array(width * height);
  for (let n = 0; n < inside.length; n += 1) {
    const index =
      slice * steps[plane.across] + (n % width) * steps[plane.u] + Math.floor(n / width) * steps[plane.v];
    inside[n] = voxels[index] === value ? 1 : 0;
  }
  if (!inside.includes(1)) {
    return null;
  }
  const toInside = distance(inside, 1, width, height, scale);
  const toOutside = distance(inside, 0, width, height, scale);
  const distances = toInside.map((squared, n) => Math.sqrt(squared) - Math.sqrt(toOutside[n]));
  return { distances, width, height, centre: centreOf(inside, width) };
}

/**
 * @param {Uint8Array} inside
 * @param {number} width
 * @returns {[number, number]}
 */
function centreOf(inside, width) {
  const sum = [0, 0, 0];
  inside.forEach((value, n) => {
    sum[0] += value * (n % width);
    sum[1] += value * Math.floor(n / width);
    sum[2] += value;
  });
  return [sum[0] / sum[2], sum[1] / sum[2]];
}

const FAR = 1e12;

/**
 * Return the squared distance to the nearest voxel with a value (Felzenszwalb and Huttenlocher).
 * @param {Uint8Array} mask
 * @param {number} target
 * @param {number} width
 * @param {number} height
 * @param {number[]} scale
 * @returns {Float64Array}
 */
function distance(mask, target, width, height, scale) {
  const squared = Float64Array.from(mask, (value) => (value === target ? 0 : FAR));
  const line = new Float64Array(Math.max(width, height));
  for (let column = 0; column < width; column += 1) {
    transformLine(squared, column, width, height, scale[1], line);
  }
  for (let row = 0; row < height; row += 1) {
    transformLine(squared, row * width, 1, width, scale[0], line);
  }
  return squared;
}

/**
 * Replace the values of a line by the lower envelope of their parabolas.
 * @param {Float64Array} values
 * @param {number} start
 * @param {number} step
 * @param {number} count
 * @param {number} scale
 * @param {Float64Array} line
 */
function transformLine(values, start, step, count, scale, line) {
  for (let n = 0; n < count; n += 1) {
    line[n] = values[start + n * step];
  }
  const square = scale * scale;
  const vertices = [0];
  const borders = [-Infinity];
  for (let n = 1; n < count; n += 1) {
    let border = crossing(line, vertices[vertices.length - 1], n, square);
    while (border <= borders[borders.length - 1]) {
      vertices.pop();
      borders.pop();
      border = crossing(line, vertices[vertices.length - 1], n, square);
    }
    vertices.push(n);
    borders.push(border);
  }
  let at = 0;
  for (let n = 0; n < count; n += 1) {
    while (at + 1 < vertices.length && borders[at + 1] < n) {
      at += 1;
    }
    values[start + n * step] = line[vertices[at]] + square * (n - vertices[at]) ** 2;
  }
}

/**
 * Return where the parabolas of two voxels cross.
 * @param {Float64Array} line
 * @param {number} left
 * @param {number} right
 * @param {number} square
 * @returns {number}
 */
function crossing(line, left, right, square) {
  const rise = line[right] / square + right * right - line[left] / square - left * left;
  return rise / (2 * (right - left));
}
