// Correcting a label, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Editor } from "../../../hstf/audit/static/editor.js";

const DIMS = [20, 20, 60];
const AXIAL = { name: "axial", u: 0, v: 1, across: 2 };

function at(x, y, z) {
  return x + 20 * (y + 20 * z);
}

/** An organ (1) in all slices, with a lesion (2) in slice 42. */
function organ() {
  const label = new Uint8Array(20 * 20 * 60);
  for (let z = 0; z < 60; z += 1) {
    for (let n = 0; n < 144; n += 1) {
      label[at(4 + (n % 12), 4 + Math.floor(n / 12), z)] = 1;
    }
  }
  for (const [x, y] of [[8, 8], [9, 8], [8, 9], [9, 9]]) {
    label[at(x, y, 42)] = 2;
  }
  return label;
}

function editorOf(label) {
  const viewer = {
    label,
    scene: { image: { dims: DIMS, spacing: [1, 1, 1], data: label }, hasCursor: true },
    views: [],
    redraw() {},
    refreshSolid() {},
  };
  const editor = new Editor(viewer);
  editor.start();
  editor.setPen(1);
  editor.sizeIndex = 0;
  return editor;
}

function stroke(editor, point) {
  editor.press({ shown: () => AXIAL }, point);
  editor.release();
}

function changedSlices(label, before) {
  const slices = new Set();
  for (let index = 0; index < label.length; index += 1) {
    if (label[index] !== before[index]) {
      slices.add(Math.floor(index / 400));
    }
  }
  return [...slices].sort((a, b) => a - b);
}

test("interpolation changes the slices between the last two strokes only", () => {
  const label = organ();
  const before = label.slice();
  const editor = editorOf(label);
  stroke(editor, [3, 3, 10]);
  stroke(editor, [3, 4, 40]);
  stroke(editor, [3, 4, 44]);
  assert.match(editor.interpolateLast(), /between the slices 40 and 44/);
  assert.deepEqual(changedSlices(label, before), [10, 40, 41, 42, 43, 44]);
  assert.equal(label.filter((value) => value === 2).length, 4, "the lesion stays");
});

test("nothing is drawn while the label is being saved", () => {
  const label = organ();
  const before = label.slice();
  const editor = editorOf(label);
  editor.isLocked = true;
  stroke(editor, [3, 3, 10]);
  assert.deepEqual(label, before);
  editor.isLocked = false;
  stroke(editor, [3, 3, 10]);
  assert.deepEqual(changedSlices(label, before), [10]);
});

test("a stroke that was undone is no end of an interpolation", () => {
  const label = organ();
  const before = label.slice();
  const editor = editorOf(label);
  stroke(editor, [3, 3, 40]);
  stroke(editor, [3, 3, 10]);
  editor.undo();
  assert.match(editor.interpolateLast(), /Draw this class in two slices/);
  editor.redo();
  assert.match(editor.interpolateLast(), /between the slices 10 and 40/);
  assert.equal(changedSlices(label, before)[0], 10);
});
