// NIfTI files: read one, and write a label with the header of another.

/**
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./types.js").Voxels} Voxels
 * @typedef {import("./types.js").Triple} Triple
 */

const UINT8 = 2;

/** @type {Record<number, [number, (buffer: ArrayBuffer, start: number, count: number) => Voxels]>} */
const TYPES = {
  2: [1, (buffer, start, count) => new Uint8Array(buffer, start, count)],
  4: [2, (buffer, start, count) => new Int16Array(buffer, start, count)],
  8: [4, (buffer, start, count) => new Int32Array(buffer, start, count)],
  16: [4, (buffer, start, count) => new Float32Array(buffer, start, count)],
  64: [8, (buffer, start, count) => new Float64Array(buffer, start, count)],
  256: [1, (buffer, start, count) => new Int8Array(buffer, start, count)],
  512: [2, (buffer, start, count) => new Uint16Array(buffer, start, count)],
  768: [4, (buffer, start, count) => new Uint32Array(buffer, start, count)],
  1024: [8, (buffer, start, count) => Float64Array.from(new BigInt64Array(buffer, start, count), Number)],
  1280: [8, (buffer, start, count) => Float64Array.from(new BigUint64Array(buffer, start, count), Number)],
};

/**
 * Read the bytes of an uncompressed NIfTI-1 or NIfTI-2 file.
 * @param {ArrayBuffer} buffer
 * @returns {Volume}
 */
export function readNifti(buffer) {
  const fields = readHeader(buffer);
  const [size, view] = TYPES[fields.datatype] ?? [0, null];
  if (view === null) {
    throw new Error(`The voxel type ${fields.datatype} of NIfTI is not supported.`);
  }
  const count = fields.dims[0] * fields.dims[1] * fields.dims[2];
  if (buffer.byteLength < fields.start + count * size) {
    throw new Error("The file is shorter than its header says.");
  }
  const isAligned = fields.start % size === 0 && fields.little;
  const voxels = isAligned ? buffer : aligned(buffer, fields.start, count, size, fields.little);
  return {
    data: view(voxels, isAligned ? fields.start : 0, count),
    dims: fields.dims,
    spacing: fields.spacing,
    affine: fields.affine,
    slope: fields.slope,
    intercept: fields.intercept,
    header: new Uint8Array(buffer.slice(0, fields.start)),
  };
}

/**
 * Return the parts of a label file: the header of a volume, and voxels of one byte.
 * @param {Volume} volume
 * @param {Uint8Array<ArrayBuffer>} voxels
 * @returns {Uint8Array<ArrayBuffer>[]}
 */
export function labelParts(volume, voxels) {
  const header = new Uint8Array(volume.header);
  const view = new DataView(header.buffer);
  const little = isLittle(view);
  const isSecond = headerSize(view, little) === 540;
  view.setInt16(isSecond ? 12 : 70, UINT8, little);
  view.setInt16(isSecond ? 14 : 72, 8, little);
  if (isSecond) {
    view.setFloat64(176, 1, little);
    view.setFloat64(184, 0, little);
  } else {
    view.setFloat32(112, 1, little);
    view.setFloat32(116, 0, little);
  }
  return [header, voxels];
}

/**
 * Read the fields of a header that the desk needs.
 * @param {ArrayBuffer} buffer
 */
function readHeader(buffer) {
  if (buffer.byteLength < 352) {
    throw new Error("The file is no NIfTI file: it is too short.");
  }
  const view = new DataView(buffer);
  const little = isLittle(view);
  const isSecond = headerSize(view, little) === 540;
  const at = isSecond ? SECOND : FIRST;
  /** @type {(start: number) => number} */
  const real = (start) =>
    isSecond ? view.getFloat64(start, little) : view.getFloat32(start, little);
  /** @type {(start: number) => number} */
  const whole = (start) =>
    isSecond ? Number(view.getBigInt64(start, little)) : view.getInt16(start, little);
  const step = isSecond ? 8 : 4;
  const dims = /** @type {Triple} */ (
    [1, 2, 3].map((axis) => Math.max(1, whole(at.dim + axis * (isSecond ? 8 : 2))))
  );
  const spacing = /** @type {Triple} */ (
    [1, 2, 3].map((axis) => Math.abs(real(at.pixdim + axis * step)) || 1)
  );
  const slope = real(at.slope);
  const isScaled = Number.isFinite(slope) && slope !== 0;
  const affine = readAffine(view, little, isSecond, dims, spacing, real, step);
  return {
    little,
    dims,
    // The voxel sizes of the header may contradict the sform, which is used.
    spacing: lengths(affine),
    datatype: view.getInt16(at.datatype, little),
    start: isSecond ? Number(view.getBigInt64(168, little)) : view.getFloat32(108, little),
    slope: isScaled ? slope : 1,
    intercept: isScaled ? real(at.slope + step) || 0 : 0,
    affine,
  };
}

const FIRST = { dim: 40, datatype: 70, pixdim: 76, slope: 112, qform: 252, quatern: 256, srow: 280 };
const SECOND = { dim: 16, datatype: 12, pixdim: 104, slope: 176, qform: 344, quatern: 352, srow: 400 };

/**
 * @param {DataView} view
 * @param {boolean} little
 * @param {boolean} isSecond
 * @param {Triple} dims
 * @param {Triple} spacing
 * @param {(start: number) => number} real
 * @param {number} step bytes of a real number
 * @returns {number[][]}
 */
function readAffine(view, little, isSecond, dims, spacing, real, step) {
  const at = isSecond ? SECOND : FIRST;
  /** @type {(start: number) => number} */
  const code = (start) => (isSecond ? view.getInt32(start, little) : view.getInt16(start, little));
  if (code(at.qform + (isSecond ? 4 : 2)) > 0) {
    return [0, 1, 2].map((row) => [0, 1, 2, 3].map((n) => real(at.srow + (4 * row + n) * step)));
  }
  if (code(at.qform) > 0) {
    const [b, c, d, x, y, z] = [0, 1, 2, 3, 4, 5].map((n) => real(at.quatern + n * step));
    const sign = real(at.pixdim) < 0 ? -1 : 1;
    return quaternionAffine([b, c, d], [x, y, z], [spacing[0], spacing[1], sign * spacing[2]]);
  }
  return centredAffine(dims, spacing);
}

/**
 * Return the length (mm) of a voxel along each axis.
 * @param {number[][]} affine
 * @returns {Triple}
 */
function lengths(affine) {
  const length = (/** @type {number} */ axis) => Math.hypot(...affine.map((row) => row[axis])) || 1;
  return [length(0), length(1), length(2)];
}

/**
 * Return the affine of a file without one, as nibabel does: x is flipped, and 0 mm is the centre.
 * @param {Triple} dims
 * @param {Triple} spacing
 * @returns {number[][]}
 */
function centredAffine(dims, spacing) {
  const scale = [-spacing[0], spacing[1], spacing[2]];
  return scale.map((mm, row) => {
    const cells = [0, 0, 0, (-mm * (dims[row] - 1)) / 2];
    cells[row] = mm;
    return cells;
  });
}

/**
 * @param {number[]} quaternion b, c and d
 * @param {number[]} offset
 * @param {number[]} scale
 * @returns {number[][]}
 */
function quaternionAffine([b, c, d], offset, scale) {
  const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d));
  const rows = [
    [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
    [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
    [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
  ];
  return rows.map((row, index) => [...row.map((cell, n) => cell * scale[n]), offset[index]]);
}

/**
 * @param {DataView} view
 * @returns {boolean}
 */
function isLittle(view) {
  return [348, 540].includes(view.getInt32(0, true));
}

/**
 * @param {DataView} view
 * @param {boolean} little
 * @returns {number}
 */
function headerSize(view, little) {
  const size = view.getInt32(0, little);
  if (size !== 348 && size !== 540) {
    throw new Error("The file is no NIfTI file.");
  }
  return size;
}

/**
 * Copy voxels to an aligned buffer in the byte order of this machine.
 * @param {ArrayBuffer} buffer
 * @param {number} start
 * @param {number} count
 * @param {number} size bytes of a voxel
 * @param {boolean} little
 * @returns {ArrayBuffer}
 */
function aligned(buffer, start, count, size, little) {
  const bytes = new Uint8Array(buffer.slice(start, start + count * size));
  if (!little) {
    for (let first = 0; first < bytes.length; first += size) {
      bytes.subarray(first, first + size).reverse();
    }
  }
  return bytes.buffer;
}
