// The three-dimensional view: NiiVue draws the label, and the image faintly around it.
// It gets a reduced copy, so that it is quick without a graphics card and needs little memory.

/**
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./types.js").Triple} Triple
 */

import { el } from "./dom.js";
import { strides } from "./geometry.js";

/** Maximum number of voxels along an axis of the reduced copy. */
const SIZE = 96;
const SOURCE = "vendor/niivue.umd.js";
const RENDER = 4;
const HEADER_BYTES = 352;

export const MISSING =
  "The three-dimensional view is not installed. Install Node.js and run: python -m hstf.audit.vendor";

export class SolidView {
  /**
   * @param {HTMLCanvasElement} canvas
   */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {any} */
    this.viewer = null;
    /** @type {number} */
    this.turn = 0;
  }

  /**
   * Show a label and, faintly, its image.
   * @param {Volume} image
   * @param {[number, number]} window
   * @param {Uint8Array} label
   * @param {Map<number, [number, number, number]>} colours
   * @returns {Promise<void>}
   */
  async show(image, window, label, colours) {
    this.turn += 1;
    const turn = this.turn;
    const niivue = await loadNiivue();
    if (turn !== this.turn) {
      return;
    }
    const viewer = await this.started(niivue);
    const grey = reduced(image, (index) => greyOf(image, window, index));
    const classes = reduced(image, (index) => (colours.has(label[index]) ? label[index] : 0));
    const [back, drawing] = [
      await niivue.NVImage.new(grey, "image.nii", "gray", 1, null, 0, 255),
      await niivue.NVImage.new(classes, "label.nii", "gray", 1, null, 0, 255),
    ];
    if (turn !== this.turn) {
      return;
    }
    viewer.setDrawColormap(drawColours(colours));
    viewer.volumes = [back];
    viewer.setVolume(back, 0);
    viewer.loadDrawing(drawing);
    viewer.drawScene();
  }

  /**
   * @param {any} niivue
   * @returns {Promise<any>}
   */
  async started(niivue) {
    if (this.viewer !== null) {
      return this.viewer;
    }
    const viewer = new niivue.Niivue({
      logLevel: "error",
      sliceType: RENDER,
      dragAndDropEnabled: false,
      isOrientCube: true,
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      viewModeHotKey: "",
      crosshairWidth: 0,
      loadingText: "",
      backColor: [0, 0, 0, 1],
    });
    await viewer.attachToCanvas(this.canvas, false);
    const draw3D = viewer.draw3D.bind(viewer);
    viewer.draw3D = (/** @type {any[]} */ ...rest) => {
      const shader = viewer.renderShader;
      shader.use(viewer.gl);
      viewer.gl.uniform1f(shader.uniforms.backOpacity, 0.12);
      return draw3D(...rest);
    };
    viewer.drawOpacity = 1;
    viewer.setRenderAzimuthElevation(120, 15);
    this.viewer = viewer;
    return viewer;
  }
}

/** @type {Promise<any> | null} */
let loading = null;

/**
 * Load NiiVue once.
 * @returns {Promise<any>}
 */
function loadNiivue() {
  loading ??= new Promise((resolve, reject) => {
    const script = el("script", {
      src: SOURCE,
      load: () => resolve(/** @type {any} */ (globalThis).niivue),
      error: () => {
        loading = null;
        reject(new Error(MISSING));
      },
    });
    document.head.append(script);
  });
  return loading;
}

/**
 * @param {Map<number, [number, number, number]>} colours
 */
function drawColours(colours) {
  const map = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (let value = 1; value < 256; value += 1) {
    const [red, green, blue] = colours.get(value) ?? [0, 0, 0];
    map.R.push(red);
    map.G.push(green);
    map.B.push(blue);
    map.A.push(colours.has(value) ? 255 : 0);
    map.I.push(value);
    map.labels.push(String(value));
  }
  return map;
}

/**
 * @param {Volume} image
 * @param {[number, number]} window
 * @param {number} index
 * @returns {number}
 */
function greyOf(image, [low, high], index) {
  const value = image.data[index] * image.slope + image.intercept;
  return Math.max(0, Math.min(255, (255 * (value - low)) / (high - low || 1)));
}

/**
 * Return the bytes of a NIfTI file with every n-th voxel.
 * @param {Volume} volume
 * @param {(index: number) => number} value of a voxel, 0 to 255
 * @returns {ArrayBuffer}
 */
function reduced(volume, value) {
  const steps = volume.dims.map((size) => Math.ceil(size / SIZE));
  const dims = volume.dims.map((size, axis) => Math.floor(size / steps[axis]) || 1);
  const buffer = new ArrayBuffer(HEADER_BYTES + dims[0] * dims[1] * dims[2]);
  writeHeader(new DataView(buffer), dims, steps, volume);
  const voxels = new Uint8Array(buffer, HEADER_BYTES);
  const [stepX, stepY, stepZ] = strides(volume.dims).map((stride, axis) => stride * steps[axis]);
  let n = 0;
  for (let z = 0; z < dims[2]; z += 1) {
    for (let y = 0; y < dims[1]; y += 1) {
      for (let x = 0; x < dims[0]; x += 1) {
        voxels[n] = value(x * stepX + y * stepY + z * stepZ);
        n += 1;
      }
    }
  }
  return buffer;
}

/**
 * @param {DataView} view
 * @param {number[]} dims
 * @param {number[]} steps
 * @param {Volume} volume
 */
function writeHeader(view, dims, steps, volume) {
  view.setInt32(0, 348, true);
  [3, ...dims, 1, 1, 1, 1].forEach((value, n) => view.setInt16(40 + 2 * n, value, true));
  view.setInt16(70, 2, true);
  view.setInt16(72, 8, true);
  view.setFloat32(76, 1, true);
  steps.forEach((step, axis) => {
    view.setFloat32(80 + 4 * axis, step * volume.spacing[axis], true);
  });
  view.setFloat32(108, HEADER_BYTES, true);
  view.setFloat32(112, 1, true);
  view.setInt16(254, 1, true);
  volume.affine.forEach((row, r) => {
    row.forEach((cell, c) => {
      view.setFloat32(280 + 16 * r + 4 * c, c < 3 ? cell * steps[c] : cell, true);
    });
  });
  [0x6e, 0x2b, 0x31, 0].forEach((byte, n) => view.setUint8(344 + n, byte));
}
