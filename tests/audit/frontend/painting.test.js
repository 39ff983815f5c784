// Drawing in a label. Run with: node --test tests/audit/frontend

import assert from "node:assert/strict";
import { test } from "node:test";

import { clamp, planes, toVoxel, toWorld } from "../../../hstf/audit/static/geometry.js";
import { Edit, History, brush, drawLine, fillOutline, grow, interpolate } from "../../../hstf/audit/static/painting.js";
import { automaticWindow } from "../../../hstf/audit/static/windows.js";

const GRID = { dims: [12, 10, 6], spacing: [1, 1, 2] };
const AXIAL = planes([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]])[0];

function empty() {
  return new Uint8Array(12 * 10 * 6);
}

function at(x, y, z) {
  return x + 12 * (y + 10 * z);
}

function count(voxels, value) {
  return voxels.filter((one) => one === value).length;
}

test("the right of the patient is on the left, the front is at the top", () => {
  const [axial, coronal, sagittal] = planes([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0]]);
  assert.deepEqual([axial.u, axial.v, axial.flipU, axial.flipV], [0, 1, true, true]);
  assert.deepEqual(axial.letters, ["R", "L", "A", "P"]);
  assert.deepEqual([coronal.u, coronal.v, coronal.across], [0, 2, 1]);
  assert.deepEqual([sagittal.u, sagittal.v, sagittal.letters[0]], [1, 2, "A"]);
});

test("planes follow permuted, flipped and oblique axes", () => {
  const [axial] = planes([[0, -0.9, 0.3, 20], [1.2, 0, 0, -7], [0, -0.3, -1.9, 50]]);
  assert.deepEqual([axial.across, axial.u, axial.v], [2, 1, 0]);
  assert.deepEqual([axial.flipU, axial.flipV], [false, true]);
});

test("positions in mm and voxels are inverse, and stay in the image", () => {
  const affine = [[0, -0.9, 0.3, 20], [1.2, 0, 0, -7], [0, -0.3, -1.9, 50]];
  const volume = { dims: [12, 10, 6], affine };
  assert.deepEqual(toVoxel(volume, toWorld(affine, [3, 7, 4])), [3, 7, 4]);
  assert.deepEqual(clamp([12, 10, 6], [-3, 99, 2.4]), [0, 9, 2]);
});

test("a brush is round in mm and one voxel at least", () => {
  assert.equal(brush(GRID, AXIAL, 1).length, 1);
  assert.equal(brush(GRID, AXIAL, 3).length, 9);
  const thick = { dims: GRID.dims, spacing: [1, 3, 2] };
  assert.deepEqual(brush(thick, AXIAL, 3).map(([, dv]) => dv), [0, 0, 0]);
});

test("a line is closed, stays in its slice, and is cut off at the border", () => {
  const edit = new Edit(empty());
  drawLine(edit, GRID, AXIAL, [0, 0, 2], [9, 4, 2], 1, 3);
  assert.equal(count(edit.voxels, 3), 10);
  assert.equal(edit.voxels[at(9, 4, 2)], 3);
  drawLine(edit, GRID, AXIAL, [11, 9, 2], [11, 9, 2], 5, 4);
  assert.ok(edit.voxels.subarray(at(0, 0, 3)).every((value) => value === 0));
});

test("what was drawn is undone and redone voxel for voxel", () => {
  const voxels = empty().fill(7, 0, 60);
  const before = voxels.slice();
  const history = new History(voxels);
  const edit = new Edit(voxels);
  drawLine(edit, GRID, AXIAL, [1, 1, 0], [8, 6, 0], 3, 2);
  edit.set(0, 1);
  edit.set(0, 7);
  history.push(edit.finish());
  const after = voxels.slice();
  assert.ok(history.undo());
  assert.deepEqual(voxels, before);
  assert.ok(history.redo());
  assert.deepEqual(voxels, after);
  assert.equal(history.redo(), false);
});

test("an edit that changes nothing is no action", () => {
  const history = new History(empty());
  history.push(new Edit(history.voxels).finish());
  assert.equal(history.undo(), false);
});

test("an outline is filled, a concave one as well", () => {
  const edit = new Edit(empty());
  const outline = [[1, 1, 1], [8, 1, 1], [8, 8, 1], [4, 4, 1], [1, 8, 1]];
  fillOutline(edit, GRID, AXIAL, outline, 5);
  assert.equal(edit.voxels[at(3, 3, 1)], 5);
  assert.equal(edit.voxels[at(4, 7, 1)], 0);
  assert.equal(edit.voxels[at(10, 2, 1)], 0);
});

test("growth takes similar connected background, no further than its reach", () => {
  const voxels = empty();
  voxels[at(6, 5, 3)] = 9;
  const edit = new Edit(voxels);
  edit.set(at(2, 5, 3), 4);
  const bright = (index) => (Math.floor(index / 12) % 10 === 5 ? 100 : 0);
  const seeds = Uint32Array.from([at(2, 5, 3)]);
  grow(edit, GRID, seeds, bright, { deviations: 1, reach: 3 }, 4, 0);
  assert.deepEqual([3, 4, 5, 6].map((x) => voxels[at(x, 5, 3)]), [4, 4, 4, 9]);
  assert.equal(voxels[at(2, 4, 3)], 0);
  assert.equal(voxels[at(2, 5, 5)], 4);
});

test("slices between two drawn ones are interpolated", () => {
  const voxels = empty();
  const edit = new Edit(voxels);
  fillOutline(edit, GRID, AXIAL, [[2, 2, 0], [4, 2, 0], [4, 5, 0], [2, 5, 0]], 1);
  fillOutline(edit, GRID, AXIAL, [[6, 2, 4], [8, 2, 4], [8, 5, 4], [6, 5, 4]], 1);
  edit.set(at(11, 9, 2), 1);
  interpolate(edit, GRID, AXIAL, 0, 4, 1, 0);
  assert.equal(voxels[at(5, 4, 2)], 1);
  assert.equal(voxels[at(11, 9, 2)], 0);
  assert.ok(count(voxels.subarray(at(0, 0, 2), at(0, 0, 3)), 1) > 0);
  assert.equal(count(voxels.subarray(at(0, 0, 5)), 1), 0);
});

test("a class that is missing in one slice is not interpolated", () => {
  const voxels = empty();
  voxels[at(3, 3, 0)] = 1;
  const before = voxels.slice();
  interpolate(new Edit(voxels), GRID, AXIAL, 0, 4, 1, 0);
  assert.deepEqual(voxels, before);
});

test("the automatic window ignores air and outliers", () => {
  const data = new Float32Array(10_000).fill(0);
  for (let n = 5000; n < 10_000; n += 1) {
    data[n] = 100 + (n % 100);
  }
  data[9999] = 1e6;
  const [low, high] = automaticWindow({ data, slope: 1, intercept: 0 });
  assert.ok(low >= 0 && low <= 110);
  assert.ok(high > 190 && high < 210);
  assert.deepEqual(automaticWindow({ data: new Float32Array(9).fill(4), slope: 1, intercept: 0 }), [4, 5]);
});
