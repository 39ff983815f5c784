// Where voxels are: planes of the patient, and positions in mm.

/**
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./types.js").Grid} Grid
 * @typedef {import("./types.js").Plane} Plane
 * @typedef {import("./types.js").Triple} Triple
 */

/**
 * Return the three planes, in radiological convention: the right of the patient is on the left.
 * @param {number[][]} affine
 * @returns {[Plane, Plane, Plane]} axial, coronal, sagittal
 */
export function planes(affine) {
  const [right, front, head] = worldAxes(affine);
  /** @type {(name: Plane["name"], across: Axis, u: Axis, v: Axis, letters: Plane["letters"]) => Plane} */
  const plane = (name, across, u, v, letters) => ({
    name,
    across: across.axis,
    u: u.axis,
    v: v.axis,
    // Indices that increase towards the right of the patient, to the head and to the front have to
    // be reversed: these sides are on the left and at the top of the screen.
    flipU: u.increases,
    flipV: v.increases,
    letters,
  });
  return [
    plane("axial", head, right, front, ["R", "L", "A", "P"]),
    plane("coronal", front, right, head, ["R", "L", "S", "I"]),
    plane("sagittal", right, front, head, ["A", "P", "S", "I"]),
  ];
}

/** @typedef {{axis: number, increases: boolean}} Axis */

/**
 * Return the voxel axis that is closest to each axis of the world (right, anterior, superior).
 * @param {number[][]} affine
 * @returns {[Axis, Axis, Axis]}
 */
function worldAxes(affine) {
  const cosines = affine.map((row) => row.slice(0, 3));
  for (let axis = 0; axis < 3; axis += 1) {
    const length = Math.hypot(cosines[0][axis], cosines[1][axis], cosines[2][axis]) || 1;
    cosines.forEach((row) => {
      row[axis] /= length;
    });
  }
  /** @type {Axis[]} */
  const found = [];
  const free = { rows: new Set([0, 1, 2]), axes: new Set([0, 1, 2]) };
  while (free.rows.size) {
    const pairs = [...free.rows].flatMap((row) => [...free.axes].map((axis) => [row, axis]));
    const size = (/** @type {number[]} */ [row, axis]) => Math.abs(cosines[row][axis]);
    const [row, axis] = pairs.reduce((best, pair) => (size(pair) > size(best) ? pair : best));
    found[row] = { axis, increases: cosines[row][axis] > 0 };
    free.rows.delete(row);
    free.axes.delete(axis);
  }
  return [found[0], found[1], found[2]];
}

/**
 * Return the position (mm) of a voxel.
 * @param {number[][]} affine
 * @param {Triple} voxel
 * @returns {Triple}
 */
export function toWorld(affine, voxel) {
  const [x, y, z] = affine.map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
  return [x, y, z];
}

/**
 * Return the voxel at a position (mm), within the image.
 * @param {Volume} volume
 * @param {Triple} mm
 * @returns {Triple}
 */
export function toVoxel(volume, mm) {
  const [a, b, c] = volume.affine;
  const offset = [mm[0] - a[3], mm[1] - b[3], mm[2] - c[3]];
  const determinant = det(a, b, c);
  /** @type {(column: number) => number} */
  const solve = (column) => {
    const rows = [a, b, c].map((row, index) => row.map((cell, n) => (n === column ? offset[index] : cell)));
    return det(rows[0], rows[1], rows[2]) / determinant;
  };
  return clamp(volume.dims, [solve(0), solve(1), solve(2)]);
}

/**
 * @param {number[]} a
 * @param {number[]} b
 * @param {number[]} c
 * @returns {number}
 */
function det(a, b, c) {
  return (
    a[0] * (b[1] * c[2] - b[2] * c[1]) -
    a[1] * (b[0] * c[2] - b[2] * c[0]) +
    a[2] * (b[0] * c[1] - b[1] * c[0])
  );
}

/**
 * Round a position to a voxel within the image.
 * @param {Triple} dims
 * @param {number[]} position
 * @returns {Triple}
 */
export function clamp(dims, position) {
  const [x, y, z] = position.map((value, axis) => Math.min(dims[axis] - 1, Math.max(0, Math.round(value))));
  return [x, y, z];
}

/**
 * Return the number of voxels between neighbours along each axis.
 * @param {Triple} dims
 * @returns {Triple}
 */
export function strides(dims) {
  return [1, dims[0], dims[0] * dims[1]];
}

/**
 * Return the index of a voxel.
 * @param {Triple} dims
 * @param {Triple} voxel
 * @returns {number}
 */
export function indexOf(dims, voxel) {
  return voxel[0] + dims[0] * (voxel[1] + dims[1] * voxel[2]);
}

/**
 * Return the middle of what is labelled in a slice; of the slice, if nothing is.
 * @param {import("./types.js").Volume} label
 * @param {number} axis across the slice
 * @param {number} slice
 * @param {number} background
 * @returns {Triple}
 */
export function middleOfSlice(label, axis, slice, background) {
  const middle = /** @type {Triple} */ (label.dims.map((size) => (size - 1) / 2));
  if (axis > 2) {
    return middle;
  }
  const [first, second] = [0, 1, 2].filter((other) => other !== axis);
  const steps = strides(label.dims);
  const start = Math.min(slice, label.dims[axis] - 1);
  const sums = [0, 0, 0];
  for (let i = 0; i < label.dims[first]; i++) {
    for (let j = 0; j < label.dims[second]; j++) {
      if (label.data[start * steps[axis] + i * steps[first] + j * steps[second]] !== background) {
        sums[0] += 1;
        sums[1] += i;
        sums[2] += j;
      }
    }
  }
  if (sums[0] > 0) {
    middle[first] = sums[1] / sums[0];
    middle[second] = sums[2] / sums[0];
  }
  middle[axis] = start;
  return /** @type {Triple} */ (middle.map(Math.round));
}
