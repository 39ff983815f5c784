// Draw a slice of a volume on a canvas: image, heat map, label, cursor. No WebGL: a window or a slice
// changes at once, on machines without a graphics card as well.

/**
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./types.js").Grid} Grid
 * @typedef {import("./types.js").Plane} Plane
 * @typedef {import("./types.js").Triple} Triple
 */

import { strides } from "./geometry.js";

/**
 * @typedef {object} Scene what all planes show
 * @property {Volume | null} image
 * @property {[number, number]} window lower and upper intensity
 * @property {Uint8Array | null} label
 * @property {Volume | null} heat
 * @property {(value: number) => [number, number, number, number]} heatColour of a value
 * @property {boolean} isFilled
 * @property {Map<number, [number, number, number]>} colours of the classes, by value
 * @property {Triple} cursor voxel
 * @property {Triple} centre voxel in the middle of the view
 * @property {number} zoom
 * @property {boolean} hasCursor
 */

const FILL_OPACITY = 0.45;
const SCALE_BARS = [100, 50, 20, 10, 5, 2, 1];

export class PlaneView {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Scene} scene
   */
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.scene = scene;
    /** @type {Plane | null} */
    this.plane = null;
    /** @type {Grid} */
    this.grid = { dims: [1, 1, 1], spacing: [1, 1, 1] };
    this.pixels = document.createElement("canvas");
    this.layer = document.createElement("canvas");
    /** @type {{voxel: Triple, diameter: number} | null} */
    this.brush = null;
  }

  /**
   * Show the planes of a grid.
   * @param {Plane} plane
   * @param {Grid} grid
   */
  setGrid(plane, grid) {
    this.plane = plane;
    this.grid = grid;
    for (const canvas of [this.pixels, this.layer]) {
      canvas.width = grid.dims[plane.u];
      canvas.height = grid.dims[plane.v];
    }
  }

  /** Return the pixels of the screen per mm. */
  scale() {
    const plane = this.shown();
    const { dims, spacing } = this.grid;
    const width = dims[plane.u] * spacing[plane.u];
    const height = dims[plane.v] * spacing[plane.v];
    return Math.min(this.canvas.width / width, this.canvas.height / height) * this.scene.zoom;
  }

  /**
   * Return the place of a voxel's corner on the canvas.
   * @param {number} atU index along u, in screen order (0 is left)
   * @param {number} atV
   * @returns {[number, number]}
   */
  toScreen(atU, atV) {
    const plane = this.shown();
    const scale = this.scale();
    const [centreU, centreV] = [this.ordered(plane.u), this.ordered(plane.v)];
    return [
      this.canvas.width / 2 + (atU - centreU - 0.5) * scale * this.grid.spacing[plane.u],
      this.canvas.height / 2 + (atV - centreV - 0.5) * scale * this.grid.spacing[plane.v],
    ];
  }

  /**
   * Return the voxel (not rounded) at a place of the canvas, in the slice of the cursor.
   * @param {number} x
   * @param {number} y
   * @returns {Triple}
   */
  toVoxel(x, y) {
    const plane = this.shown();
    const scale = this.scale();
    const voxel = /** @type {Triple} */ ([...this.scene.cursor]);
    const place = [
      (x - this.canvas.width / 2) / (scale * this.grid.spacing[plane.u]),
      (y - this.canvas.height / 2) / (scale * this.grid.spacing[plane.v]),
    ];
    voxel[plane.u] = this.scene.centre[plane.u] + (plane.flipU ? -place[0] : place[0]);
    voxel[plane.v] = this.scene.centre[plane.v] + (plane.flipV ? -place[1] : place[1]);
    return voxel;
  }

  /** @returns {Plane} */
  shown() {
    if (this.plane === null) {
      throw new Error("No image is open.");
    }
    return this.plane;
  }

  /**
   * Return the index of the centre along an axis, in screen order.
   * @param {number} axis
   * @returns {number}
   */
  ordered(axis) {
    const plane = this.shown();
    const isFlipped = axis === plane.u ? plane.flipU : plane.flipV;
    const at = this.scene.centre[axis];
    return isFlipped ? this.grid.dims[axis] - 1 - at : at;
  }

  /** Draw everything. */
  draw() {
    const context = this.canvas.getContext("2d", { alpha: false });
    if (context === null) {
      return;
    }
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.plane === null || this.scene.image === null) {
      return;
    }
    this.drawImage(context);
    if (this.scene.heat !== null) {
      this.drawHeat(context, this.scene.heat);
    }
    if (this.scene.label !== null) {
      this.drawLabel(context, this.scene.label);
    }
    this.drawMarks(context);
  }

  /**
   * Return index of the first voxel and steps of a slice in screen order.
   * @returns {{first: number, stepU: number, stepV: number, width: number, height: number}}
   */
  walk() {
    const plane = this.shown();
    const { dims } = this.grid;
    const steps = strides(dims);
    const [width, height] = [dims[plane.u], dims[plane.v]];
    const first =
      this.scene.cursor[plane.across] * steps[plane.across] +
      (plane.flipU ? (width - 1) * steps[plane.u] : 0) +
      (plane.flipV ? (height - 1) * steps[plane.v] : 0);
    return {
      first,
      stepU: plane.flipU ? -steps[plane.u] : steps[plane.u],
      stepV: plane.flipV ? -steps[plane.v] : steps[plane.v],
      width,
      height,
    };
  }

  /**
   * @param {CanvasRenderingContext2D} context
   */
  drawImage(context) {
    const { image, window } = this.scene;
    const target = this.pixels.getContext("2d");
    if (image === null || target === null) {
      return;
    }
    const { first, stepU, stepV, width, height } = this.walk();
    const picture = target.createImageData(width, height);
    const words = new Uint32Array(picture.data.buffer);
    const gain = 255 / (Math.max(window[1] - window[0], 1e-9) / image.slope);
    const lift = (image.intercept - window[0]) / image.slope;
    const { data } = image;
    let n = 0;
    for (let row = 0; row < height; row += 1) {
      let index = first + row * stepV;
      for (let column = 0; column < width; column += 1) {
        const grey = (data[index] + lift) * gain;
        const byte = grey > 255 ? 255 : grey > 0 ? grey | 0 : 0;
        words[n] = 0xff000000 | (byte << 16) | (byte << 8) | byte;
        n += 1;
        index += stepU;
      }
    }
    target.putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = true;
    this.place(context, this.pixels);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Volume} heat
   */
  drawHeat(context, heat) {
    const target = this.layer.getContext("2d");
    if (target === null) {
      return;
    }
    const { first, stepU, stepV, width, height } = this.walk();
    const picture = target.createImageData(width, height);
    for (let n = 0; n < width * height; n += 1) {
      const index = first + (n % width) * stepU + Math.floor(n / width) * stepV;
      const value = heat.data[index] * heat.slope + heat.intercept;
      picture.data.set(this.scene.heatColour(value), 4 * n);
    }
    target.putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = false;
    this.place(context, this.layer);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {HTMLCanvasElement} picture
   */
  place(context, picture) {
    const [left, top] = this.toScreen(0, 0);
    const [right, bottom] = this.toScreen(picture.width, picture.height);
    context.drawImage(picture, left, top, right - left, bottom - top);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Uint8Array} label
   */
  drawLabel(context, label) {
    const { first, stepU, stepV, width, height } = this.walk();
    const slice = new Uint8Array(width * height);
    for (let row = 0, n = 0; row < height; row += 1) {
      for (let index = first + row * stepV, column = 0; column < width; column += 1, n += 1) {
        slice[n] = label[index];
        index += stepU;
      }
    }
    if (this.scene.isFilled) {
      this.drawFill(context, slice);
    }
    this.drawOutlines(context, slice, width, height);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Uint8Array} slice
   */
  drawFill(context, slice) {
    const target = this.layer.getContext("2d");
    if (target === null) {
      return;
    }
    const picture = target.createImageData(this.layer.width, this.layer.height);
    const words = new Uint32Array(picture.data.buffer);
    const table = new Uint32Array(256);
    for (const [value, [red, green, blue]] of this.scene.colours) {
      table[value] = (Math.round(255 * FILL_OPACITY) << 24) | (blue << 16) | (green << 8) | red;
    }
    slice.forEach((value, n) => {
      words[n] = table[value];
    });
    target.putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = false;
    this.place(context, this.layer);
  }

  /**
   * Draw the borders between voxels of different classes.
   * @param {CanvasRenderingContext2D} context
   * @param {Uint8Array} slice
   * @param {number} width
   * @param {number} height
   */
  drawOutlines(context, slice, width, height) {
    const [left, top] = this.toScreen(0, 0);
    const [right, bottom] = this.toScreen(width, height);
    const [stepX, stepY] = [(right - left) / width, (bottom - top) / height];
    /** @type {Map<number, Path2D>} */
    const paths = new Map();
    /** @type {(value: number, x: number, y: number, dx: number, dy: number) => void} */
    const line = (value, x, y, dx, dy) => {
      let path = paths.get(value);
      if (path === undefined) {
        path = new Path2D();
        paths.set(value, path);
      }
      path.moveTo(left + x * stepX, top + y * stepY);
      path.lineTo(left + (x + dx) * stepX, top + (y + dy) * stepY);
    };
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const value = slice[y * width + x];
        const beside = x + 1 < width ? slice[y * width + x + 1] : value;
        const below = y + 1 < height ? slice[(y + 1) * width + x] : value;
        if (beside !== value) {
          line(this.scene.colours.has(value) ? value : beside, x + 1, y, 0, 1);
        }
        if (below !== value) {
          line(this.scene.colours.has(value) ? value : below, x, y + 1, 1, 0);
        }
      }
    }
    context.lineWidth = 1.5 * (window.devicePixelRatio || 1);
    context.lineCap = "square";
    for (const [value, path] of paths) {
      const colour = this.scene.colours.get(value);
      if (colour !== undefined) {
        context.strokeStyle = `rgb(${colour.join(" ")})`;
        context.stroke(path);
      }
    }
  }

  /**
   * Draw cursor, brush, sides of the patient, slice number and scale.
   * @param {CanvasRenderingContext2D} context
   */
  drawMarks(context) {
    const plane = this.shown();
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas;
    if (this.scene.hasCursor) {
      this.drawCursor(context, ratio);
    }
    if (this.brush !== null) {
      this.drawBrush(context, ratio);
    }
    context.font = `${13 * ratio}px system-ui, sans-serif`;
    context.fillStyle = "#aeb8c4";
    context.textBaseline = "middle";
    const edge = 8 * ratio;
    this.text(context, plane.letters[0], edge, height / 2, "left");
    this.text(context, plane.letters[1], width - edge, height / 2, "right");
    context.textBaseline = "top";
    this.text(context, plane.letters[2], width / 2, edge, "center");
    const slice = this.scene.cursor[plane.across] + 1;
    this.text(context, `${plane.name} ${slice}/${this.grid.dims[plane.across]}`, edge, edge, "left");
    context.textBaseline = "bottom";
    this.text(context, plane.letters[3], width / 2, height - edge, "center");
    this.drawScaleBar(context, ratio);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {CanvasTextAlign} align
   */
  text(context, text, x, y, align) {
    context.textAlign = align;
    context.fillText(text, x, y);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} ratio
   */
  drawCursor(context, ratio) {
    const [x, y] = this.middleOf(this.scene.cursor);
    const gap = 14 * ratio;
    context.strokeStyle = "rgb(116 179 240 / 70%)";
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, y - gap);
    context.moveTo(x, y + gap);
    context.lineTo(x, this.canvas.height);
    context.moveTo(0, y);
    context.lineTo(x - gap, y);
    context.moveTo(x + gap, y);
    context.lineTo(this.canvas.width, y);
    context.stroke();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} ratio
   */
  drawBrush(context, ratio) {
    if (this.brush === null) {
      return;
    }
    const plane = this.shown();
    const [x, y] = this.middleOf(this.brush.voxel);
    const fine = Math.min(this.grid.spacing[plane.u], this.grid.spacing[plane.v]);
    context.strokeStyle = "#fff";
    context.lineWidth = ratio;
    context.beginPath();
    context.arc(x, y, (this.brush.diameter * fine * this.scale()) / 2, 0, 2 * Math.PI);
    context.stroke();
  }

  /**
   * Return the place of the middle of a voxel on the canvas.
   * @param {Triple} voxel
   * @returns {[number, number]}
   */
  middleOf(voxel) {
    const plane = this.shown();
    const { dims } = this.grid;
    const u = plane.flipU ? dims[plane.u] - 1 - voxel[plane.u] : voxel[plane.u];
    const v = plane.flipV ? dims[plane.v] - 1 - voxel[plane.v] : voxel[plane.v];
    return this.toScreen(u + 0.5, v + 0.5);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} ratio
   */
  drawScaleBar(context, ratio) {
    const scale = this.scale();
    const length = SCALE_BARS.find((mm) => mm * scale < this.canvas.width / 4);
    if (length === undefined) {
      return;
    }
    const [left, bottom] = [8 * ratio, this.canvas.height - 8 * ratio];
    context.fillRect(left, bottom - 2 * ratio, length * scale, 2 * ratio);
    this.text(context, `${length} mm`, left, bottom - 5 * ratio, "left");
  }
}
