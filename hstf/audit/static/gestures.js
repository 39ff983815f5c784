// The mouse on the planes: cursor, brush, window, pan, zoom and scroll.

/**
 * @typedef {import("./viewer.js").Viewer} Viewer
 * @typedef {import("./editor.js").Editor} Editor
 * @typedef {import("./planes.js").PlaneView} PlaneView
 * @typedef {import("./types.js").Triple} Triple
 */

import { clamp } from "./geometry.js";

/** @typedef {"cursor" | "window" | "pan" | "zoom" | "draw"} Tool */

const ZOOM_STEP = 1.2;
const DRAG_ZOOM = 200;
const LEFT = 0;
const MIDDLE = 1;
/** Pixels of a wheel that is one slice. */
const WHEEL_STEP = 50;

export class Gestures {
  /**
   * @param {Viewer} viewer
   * @param {Editor} editor
   */
  constructor(viewer, editor) {
    this.viewer = viewer;
    this.editor = editor;
    /** @type {Tool} tool of the left button while nothing is edited */
    this.tool = "cursor";
    /** @type {{tool: Tool, x: number, y: number, fixed: Triple} | null} */
    this.dragged = null;
    this.wheel = 0;
    for (const view of viewer.views) {
      const canvas = view.canvas;
      canvas.addEventListener("pointerdown", (event) => this.press(view, event));
      canvas.addEventListener("pointermove", (event) => this.move(view, event));
      canvas.addEventListener("pointerup", (event) => this.release(view, event));
      canvas.addEventListener("pointercancel", () => this.cancel());
      canvas.addEventListener("pointerleave", () => this.leave(view));
      canvas.addEventListener("wheel", (event) => this.scroll(view, event), { passive: false });
      canvas.addEventListener("contextmenu", (event) => event.preventDefault());
      canvas.addEventListener("dblclick", () => viewer.resetView());
    }
  }

  /**
   * Return the tool of a button.
   * @param {PointerEvent} event
   * @returns {Tool}
   */
  toolOf(event) {
    if (event.button === MIDDLE || (event.button === LEFT && event.shiftKey)) {
      return "pan";
    }
    if (event.button !== LEFT) {
      return "window";
    }
    if (event.altKey) {
      return "cursor";
    }
    return this.editor.isOn && this.tool === "cursor" ? "draw" : this.tool;
  }

  /**
   * @param {PlaneView} view
   * @param {PointerEvent} event
   */
  press(view, event) {
    if (view.plane === null || this.viewer.scene.image === null || this.dragged !== null) {
      return;
    }
    event.preventDefault();
    view.canvas.setPointerCapture(event.pointerId);
    const at = this.voxelOf(view, event);
    const tool = this.toolOf(event);
    this.dragged = { tool, x: event.clientX, y: event.clientY, fixed: at };
    if (tool === "cursor") {
      this.viewer.moveTo(at);
    } else if (tool === "draw") {
      this.editor.press(view, this.inside(at));
    }
  }

  /**
   * @param {PlaneView} view
   * @param {PointerEvent} event
   */
  move(view, event) {
    if (view.plane === null || this.viewer.scene.image === null) {
      return;
    }
    const at = this.voxelOf(view, event);
    if (this.editor.isOn) {
      const diameter = this.editor.isFilling ? 1 : this.editor.size();
      view.brush = { voxel: this.inside(at), diameter };
      this.viewer.redraw();
    }
    if (this.dragged === null) {
      return;
    }
    const [dx, dy] = [event.clientX - this.dragged.x, event.clientY - this.dragged.y];
    this.dragged.x = event.clientX;
    this.dragged.y = event.clientY;
    this.drag(view, at, dx, dy);
  }

  /**
   * @param {PlaneView} view
   * @param {Triple} at
   * @param {number} dx
   * @param {number} dy
   */
  drag(view, at, dx, dy) {
    const tool = this.dragged?.tool;
    if (tool === "cursor") {
      this.viewer.moveTo(at);
    } else if (tool === "draw") {
      this.editor.drag(this.inside(at));
    } else if (tool === "window") {
      this.dragWindow(dx, dy);
    } else if (tool === "pan") {
      this.pan(view, dx, dy);
    } else if (tool === "zoom") {
      this.viewer.zoom(Math.exp(-dy / DRAG_ZOOM), this.dragged?.fixed ?? at);
    }
  }

  /**
   * @param {PlaneView} view
   * @param {PointerEvent} event
   */
  release(view, event) {
    if (this.dragged === null) {
      return;
    }
    view.canvas.releasePointerCapture(event.pointerId);
    const { tool } = this.dragged;
    this.dragged = null;
    if (tool === "draw") {
      this.editor.release();
    }
    if (tool === "window") {
      this.viewer.refreshSolid();
    }
  }

  cancel() {
    this.dragged = null;
    this.editor.abandon();
  }

  /**
   * @param {PlaneView} view
   */
  leave(view) {
    view.brush = null;
    this.viewer.redraw();
  }

  /**
   * Widen the window to the right, darken the image downwards.
   * @param {number} dx
   * @param {number} dy
   */
  dragWindow(dx, dy) {
    const [low, high] = this.viewer.scene.window;
    const [level, width] = [(low + high) / 2, high - low];
    const wider = Math.max(width * Math.exp(dx / 200), 1e-6);
    const moved = level + (dy * width) / 300;
    this.viewer.setWindow([moved - wider / 2, moved + wider / 2]);
  }

  /**
   * @param {PlaneView} view
   * @param {number} dx
   * @param {number} dy
   */
  pan(view, dx, dy) {
    const ratio = window.devicePixelRatio || 1;
    const { canvas } = view;
    const middle = view.toVoxel(canvas.width / 2, canvas.height / 2);
    const moved = view.toVoxel(canvas.width / 2 - dx * ratio, canvas.height / 2 - dy * ratio);
    const centre = /** @type {Triple} */ ([...this.viewer.scene.centre]);
    const plane = view.shown();
    for (const axis of [plane.u, plane.v]) {
      centre[axis] += moved[axis] - middle[axis];
    }
    this.viewer.scene.centre = centre;
    this.viewer.redraw();
  }

  /**
   * @param {PlaneView} view
   * @param {WheelEvent} event
   */
  scroll(view, event) {
    event.preventDefault();
    if (view.plane === null || this.viewer.scene.image === null) {
      return;
    }
    if (event.ctrlKey || event.metaKey) {
      this.viewer.zoom(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, this.voxelOf(view, event));
      return;
    }
    // A wheel sends large steps, a touchpad many small ones.
    this.wheel += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * WHEEL_STEP;
    const steps = Math.trunc(this.wheel / WHEEL_STEP);
    if (steps !== 0) {
      this.wheel -= steps * WHEEL_STEP;
      this.viewer.scroll(view, -Math.sign(steps) * Math.min(Math.abs(steps), 3));
    }
  }

  /**
   * @param {PlaneView} view
   * @param {MouseEvent} event
   * @returns {Triple}
   */
  voxelOf(view, event) {
    const box = view.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    return view.toVoxel((event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio);
  }

  /**
   * @param {Triple} at
   * @returns {Triple}
   */
  inside(at) {
    return clamp(this.editor.grid().dims, at);
  }
}
