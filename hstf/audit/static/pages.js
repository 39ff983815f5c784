// The pages beside the cases. A page is a module in pages/ with an id, a title and a function show.

import * as agreement from "./pages/agreement.js";
import * as feedback from "./pages/feedback.js";
import * as rerun from "./pages/rerun.js";
import * as suggest from "./pages/suggest.js";

/**
 * @typedef {object} Page
 * @property {string} id of the address: #agreement
 * @property {string} title in the menu
 * @property {(root: HTMLElement, session: import("./types.js").Session, round: number) => Promise<void> | void} show
 *   fills the page, which is empty
 * @property {() => void} [hide] called when another page is opened
 */

/** @type {Page[]} */
export const PAGES = [rerun, suggest, agreement, feedback];
