import js from "@eslint/js";

const BROWSER = [
  "AbortSignal", "Blob", "CompressionStream", "DOMException", "DecompressionStream", "Event", "EventTarget",
  "HTMLButtonElement", "HTMLElement", "Node", "Path2D", "ResizeObserver", "Response", "URLSearchParams",
  "WheelEvent", "console", "document", "fetch", "globalThis", "indexedDB", "requestAnimationFrame", "window",
];
const HTML = ["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe", "write", "writeln"];

export default [
  { ignores: ["**/vendor/**"] },
  js.configs.recommended,
  {
    files: ["**/*.js"],
    languageOptions: {
      ecmaVersion: 2024,
      sourceType: "module",
      globals: Object.fromEntries(BROWSER.map((name) => [name, "readonly"])),
    },
    rules: {
      "eqeqeq": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-properties": [
        "error",
        ...HTML.map((property) => ({ property, message: "Text reaches the page as text: use el() or textContent." })),
      ],
      "no-var": "error",
      "prefer-const": "error",
      "max-len": ["error", { code: 150, ignoreComments: true }],
      "max-lines-per-function": ["error", { max: 60, skipComments: true, skipBlankLines: true }],
      "complexity": ["error", 14],
    },
  },
];
