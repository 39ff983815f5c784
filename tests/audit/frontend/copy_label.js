// Read a NIfTI file as the desk does, print what it found, and write its voxels as a label.

import { readFileSync, writeFileSync } from "node:fs";

import { labelParts, readNifti } from "../../../hstf/audit/static/nifti.js";

const [source, target] = process.argv.slice(2);
const bytes = readFileSync(source);
const volume = readNifti(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
const values = Array.from(volume.data, (value) => value * volume.slope + volume.intercept);
const parts = labelParts(volume, Uint8Array.from(values));
writeFileSync(target, Buffer.concat(parts.map((part) => Buffer.from(part))));
const { dims, spacing, affine } = volume;
console.log(JSON.stringify({ dims, spacing, affine, values }));
