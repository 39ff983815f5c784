// Three linked planes and the three-dimensional view of a case.

/**
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./types.js").Triple} Triple
 * @typedef {import("./types.js").LabelClass} LabelClass
 */

import { el } from "./dom.js";
import { clamp, indexOf, planes, toVoxel, toWorld } from "./geometry.js";
import { PlaneView } from "./planes.js";
import { SolidView } from "./solid.js";

const NAMES = /** @type {const} */ (["axial", "coronal", "sagittal"]);
const ZOOM = { minimum: 0.5, maximum: 20 };
const SOLID_DELAY = 350;

/** @typedef {"weight" | "disagreement" | "previous" | "automatic" | "nothing"} Layer */

export class Viewer extends EventTarget {
  /**
   * @param {HTMLElement} stage
   */
  constructor(stage) {
    super();
    this.stage = stage;
    /** @type {import("./planes.js").Scene} */
    this.scene = {
      image: null,
      window: [0, 1],
      label: null,
      heat: null,
      heatColour: uncertainty,
      isFilled: false,
      colours: new Map(),
      cursor: [0, 0, 0],
      centre: [0, 0, 0],
      zoom: 1,
      hasCursor: true,
    };
    this.views = NAMES.map((name) => new PlaneView(planeCanvas(stage, name), this.scene));
    this.solidNote = el("p", { class: "solid-note" });
    const canvas = el("canvas", { "aria-label": "Three-dimensional view of the label: drag to turn" });
    this.solidPane = el("div", { class: "pane solid" }, canvas, this.solidNote);
    stage.append(this.solidPane);
    this.solid = new SolidView(canvas);
    this.hasSolid = true;
    /** @type {Uint8Array | null} label of the case, with what has been drawn */
    this.label = null;
    /** @type {Map<Layer, Volume>} */
    this.layers = new Map();
    /** @type {Layer | null} */
    this.held = null;
    this.isDrawn = true;
    this.solidTimer = 0;
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  /**
   * Set the colours of the classes.
   * @param {LabelClass[]} classes
   * @param {number | null} ignore value of voxels to ignore
   */
  setClasses(classes, ignore) {
    this.scene.colours = new Map(classes.map((one) => [one.value, rgb(one.colour)]));
    if (ignore !== null) {
      this.scene.colours.set(ignore, [200, 200, 200]);
    }
  }

  /** Show nothing. */
  clear() {
    this.scene.image = null;
    this.scene.label = null;
    this.scene.heat = null;
    this.label = null;
    this.layers.clear();
    this.redraw();
  }

  /**
   * Show a case.
   * @param {Volume} image
   * @param {[number, number]} window
   * @param {Uint8Array} label
   */
  open(image, window, label) {
    const grid = { dims: image.dims, spacing: image.spacing };
    planes(image.affine).forEach((plane, n) => this.views[n].setGrid(plane, grid));
    this.label = label;
    this.layers.clear();
    this.scene.image = image;
    this.scene.window = window;
    this.hold(null);
    const middle = clamp(image.dims, image.dims.map((size) => (size - 1) / 2));
    this.scene.centre = middle;
    this.scene.zoom = 1;
    this.moveTo(middle);
    this.changed("window");
    this.refreshSolid();
  }

  /**
   * Show another image of the same case.
   * @param {Volume} image
   * @param {[number, number]} window
   */
  setImage(image, window) {
    this.scene.image = image;
    this.scene.window = window;
    this.changed("window");
    this.redraw();
    this.refreshSolid();
  }

  /**
   * @param {[number, number]} window
   */
  setWindow(window) {
    this.scene.window = window;
    this.changed("window");
    this.redraw();
  }

  /**
   * Move the cursor to a voxel.
   * @param {number[]} voxel
   */
  moveTo(voxel) {
    if (this.scene.image === null) {
      return;
    }
    this.scene.cursor = clamp(this.scene.image.dims, voxel);
    this.changed("cursor");
    this.redraw();
  }

  /**
   * Move the cursor to a position (mm), and the view with it if it is zoomed.
   * @param {Triple} mm
   */
  jump(mm) {
    const image = this.scene.image;
    if (image === null) {
      return;
    }
    const voxel = toVoxel(image, mm);
    if (this.scene.zoom > 1) {
      this.scene.centre = voxel;
    }
    this.moveTo(voxel);
  }

  /**
   * Move the cursor through slices.
   * @param {PlaneView} view
   * @param {number} steps
   */
  scroll(view, steps) {
    const voxel = /** @type {Triple} */ ([...this.scene.cursor]);
    const plane = view.shown();
    voxel[plane.across] += steps;
    this.moveTo(voxel);
  }

  /**
   * Zoom all planes, around a voxel that stays where it is.
   * @param {number} factor
   * @param {Triple} fixed
   */
  zoom(factor, fixed) {
    const old = this.scene.zoom;
    const zoom = Math.min(ZOOM.maximum, Math.max(ZOOM.minimum, old * factor));
    const { centre } = this.scene;
    const at = (/** @type {number} */ axis) => fixed[axis] + ((centre[axis] - fixed[axis]) * old) / zoom;
    this.scene.centre = [at(0), at(1), at(2)];
    this.scene.zoom = zoom;
    this.redraw();
  }

  /** Show all of the image. */
  resetView() {
    const image = this.scene.image;
    if (image !== null) {
      this.scene.zoom = 1;
      this.scene.centre = clamp(image.dims, image.dims.map((size) => (size - 1) / 2));
      this.redraw();
    }
  }

  /**
   * Show a layer instead of the label for as long as it is held; null: the label.
   * @param {Layer | null} layer
   * @returns {boolean} whether the layer is there
   */
  hold(layer) {
    const volume = layer === null ? undefined : this.layers.get(layer);
    const isThere = layer === null || layer === "nothing" || volume !== undefined;
    this.held = isThere ? layer : null;
    const isHeat = this.held === "weight" || this.held === "disagreement";
    this.scene.heat = isHeat ? (volume ?? null) : null;
    this.scene.heatColour = this.held === "weight" ? uncertainty : disagreement;
    this.scene.label = this.label;
    if (this.held === "nothing") {
      this.scene.label = null;
    }
    if (this.held === "previous" || this.held === "automatic") {
      this.scene.label = volume === undefined ? null : bytesOf(volume);
    }
    this.changed("layer");
    this.redraw();
    return isThere;
  }

  /** Draw the planes before the next frame. */
  redraw() {
    if (!this.isDrawn) {
      return;
    }
    this.isDrawn = false;
    requestAnimationFrame(() => {
      this.isDrawn = true;
      this.views.forEach((view) => view.draw());
    });
  }

  /** Draw the three-dimensional view when nothing else happens. */
  refreshSolid() {
    window.clearTimeout(this.solidTimer);
    const { image } = this.scene;
    if (!this.hasSolid || image === null || this.label === null || this.solidPane.offsetWidth === 0) {
      return;
    }
    const label = this.label;
    this.solidTimer = window.setTimeout(() => {
      this.solid.show(image, this.scene.window, label, this.scene.colours).then(
        () => this.solidNote.replaceChildren(),
        (/** @type {Error} */ error) => this.solidNote.replaceChildren(error.message),
      );
    }, SOLID_DELAY);
  }

  /**
   * Switch the three-dimensional view on or off.
   * @param {boolean} isOn
   */
  setSolid(isOn) {
    this.hasSolid = isOn;
    this.stage.classList.toggle("flat", !isOn);
    this.refreshSolid();
  }

  /**
   * Show one plane larger, or all alike.
   * @param {string} name axial, coronal, sagittal, or grid
   */
  setLayout(name) {
    this.stage.dataset.layout = name;
  }

  /** Return what is at the cursor. */
  atCursor() {
    const { image, cursor } = this.scene;
    if (image === null || this.label === null) {
      return null;
    }
    const index = indexOf(image.dims, cursor);
    return {
      mm: toWorld(image.affine, cursor),
      voxel: cursor,
      intensity: image.data[index] * image.slope + image.intercept,
      value: this.label[index],
    };
  }

  /** Adapt the canvases to the size of the window. */
  resize() {
    const ratio = window.devicePixelRatio || 1;
    for (const { canvas } of this.views) {
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    }
    this.redraw();
  }

  /**
   * @param {string} name
   */
  changed(name) {
    this.dispatchEvent(new Event(name));
  }
}

/**
 * @param {HTMLElement} stage
 * @param {string} name
 * @returns {HTMLCanvasElement}
 */
function planeCanvas(stage, name) {
  const label = `${name} plane: wheel scrolls, drag with the right button changes the window`;
  const canvas = el("canvas", { id: `plane-${name}`, "aria-label": label, role: "img" });
  stage.append(el("div", { class: `pane ${name}` }, canvas));
  return canvas;
}

/**
 * Return the voxels of a label as bytes.
 * @param {Volume} volume
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytesOf(volume) {
  if (volume.data instanceof Uint8Array && volume.slope === 1 && volume.intercept === 0) {
    return /** @type {Uint8Array<ArrayBuffer>} */ (volume.data);
  }
  return Uint8Array.from(volume.data, (value) => Math.round(value * volume.slope + volume.intercept));
}

/**
 * Return the colour of a voxel weight (0 to 255): the lower, the brighter.
 * @param {number} weight
 * @returns {[number, number, number, number]}
 */
function uncertainty(weight) {
  return heat(1 - weight / 255);
}

/**
 * Return the colour of a disagreement (0 to 255): the higher, the brighter.
 * @param {number} value
 * @returns {[number, number, number, number]}
 */
function disagreement(value) {
  return heat(value / 255);
}

/**
 * @param {number} value 0 to 1
 * @returns {[number, number, number, number]}
 */
function heat(value) {
  const x = Math.min(1, Math.max(0, value));
  return [255, Math.round(60 + 180 * x), Math.round(40 * x), Math.round(210 * Math.sqrt(x))];
}

/**
 * @param {string} colour `#rrggbb`
 * @returns {[number, number, number]}
 */
function rgb(colour) {
  const value = Number.parseInt(colour.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}
