// Files of cases: opened, kept for a while, and fetched ahead.

import { getFile } from "./api.js";
import { readNifti } from "./nifti.js";

/** @typedef {import("./types.js").Volume} Volume */

/** Bytes of volumes that are kept. A CT of 512 × 512 × 300 and its label take 240 MB. */
const LIMIT = 900e6;

export class Files {
  constructor() {
    /** @type {Map<string, {volume: Promise<Volume>, bytes: number}>} oldest first */
    this.kept = new Map();
  }

  /**
   * Return a volume; it is fetched unless it is kept.
   * @param {string} url
   * @param {string} version of the file
   * @returns {Promise<Volume>}
   */
  get(url, version) {
    const key = `${url} ${version}`;
    const kept = this.kept.get(key);
    if (kept !== undefined) {
      this.kept.delete(key);
      this.kept.set(key, kept);
      return kept.volume;
    }
    const entry = { volume: getFile(url).then(readNifti), bytes: 0 };
    this.kept.set(key, entry);
    entry.volume.then(
      (volume) => {
        entry.bytes = volume.data.byteLength;
        this.shrink();
      },
      () => this.kept.delete(key),
    );
    return entry.volume;
  }

  /** Forget the oldest volumes. */
  shrink() {
    let bytes = [...this.kept.values()].reduce((sum, entry) => sum + entry.bytes, 0);
    for (const [key, entry] of this.kept) {
      if (bytes <= LIMIT || this.kept.size <= 2) {
        return;
      }
      bytes -= entry.bytes;
      this.kept.delete(key);
    }
  }

  /** @returns {boolean} whether there is room to fetch ahead */
  hasRoom() {
    const bytes = [...this.kept.values()].reduce((sum, entry) => sum + entry.bytes, 0);
    return bytes < LIMIT / 2;
  }
}
