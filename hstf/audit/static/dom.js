// Elements of the page. Text reaches the page as text nodes only: no name is ever read as HTML.

/**
 * @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Attributes
 */

/**
 * Create an element.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} attributes functions become listeners; false, null and undefined are left out
 * @param {...(Node | string | number | null)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(name, value);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children) {
    if (child !== null) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
  return element;
}

/**
 * Return the element with an id.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) {
    throw new Error(`The page has no element ${id}.`);
  }
  return element;
}

/**
 * Return the input with an id.
 * @param {string} id
 * @returns {HTMLInputElement}
 */
export function inputById(id) {
  return /** @type {HTMLInputElement} */ (byId(id));
}

/**
 * Return the select box with an id.
 * @param {string} id
 * @returns {HTMLSelectElement}
 */
export function selectById(id) {
  return /** @type {HTMLSelectElement} */ (byId(id));
}

/**
 * Create an icon of a class: a square in its colour.
 * @param {string} colour
 * @returns {HTMLElement}
 */
export function swatch(colour) {
  const square = el("i", { class: "swatch", "aria-hidden": "true" });
  square.style.background = colour;
  return square;
}

/**
 * Show a fraction with two digits, or a dash.
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function fraction(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2);
}

/**
 * Show a volume.
 * @param {number | null | undefined} ml
 * @returns {string}
 */
export function millilitres(ml) {
  if (ml === null || ml === undefined) {
    return "–";
  }
  if (ml === 0 || ml >= 100) {
    return ml.toFixed(0);
  }
  return ml >= 10 ? ml.toFixed(1) : ml.toPrecision(2);
}
