// Requests to the server.

/** @typedef {import("./types.js").Session} Session */

export class ServerError extends Error {
  /**
   * A refusal by the server.
   * @param {number} status
   * @param {string} message
   * @param {string | null} confirm text to confirm, where a confirmation is enough
   */
  constructor(status, message, confirm) {
    super(message);
    this.status = status;
    this.confirm = confirm;
  }
}

export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the server is lost.");
  }
}

/**
 * Send a request.
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>}
 */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      throw error;
    }
    throw new ConnectionLost();
  }
  if (!response.ok) {
    throw await refusal(response);
  }
  return response;
}

/**
 * Return the error of a response.
 * @param {Response} response
 * @returns {Promise<ServerError>}
 */
async function refusal(response) {
  let message = `The server answered ${response.status} ${response.statusText}.`;
  let confirm = null;
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    message = String(body.error ?? message);
    confirm = body.confirm ? String(body.confirm) : null;
  } catch {
    message = text.trim() || message;
  }
  return new ServerError(response.status, message, confirm);
}

/**
 * Get JSON.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return (await request(path, {})).json();
}

/**
 * Post JSON.
 * @param {string} path
 * @param {unknown} body
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-HSTF": "1" };
  const options = { method: "POST", headers, body: JSON.stringify(body) };
  return (await request(path, options)).json();
}

/**
 * Post a file.
 * @param {string} path
 * @param {Blob} body
 * @returns {Promise<any>}
 */
export async function postFile(path, body) {
  const headers = { "Content-Type": "application/octet-stream", "X-HSTF": "1" };
  return (await request(path, { method: "POST", headers, body })).json();
}

/**
 * Get a file; a compressed one is decompressed.
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<ArrayBuffer>}
 */
export async function getFile(path, signal) {
  const response = await request(path, { signal });
  let bytes;
  try {
    bytes = await response.arrayBuffer();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      throw error;
    }
    throw new ConnectionLost();
  }
  const start = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  if (start[0] !== 0x1f || start[1] !== 0x8b) {
    return bytes;
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/**
 * Compress bytes.
 * @param {Uint8Array<ArrayBuffer>[]} parts
 * @returns {Promise<Blob>}
 */
export async function gzip(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new CompressionStream("gzip"));
  return new Response(stream).blob();
}

/**
 * Return a path of a case.
 * @param {string} caseId
 * @param {string} rest
 * @returns {string}
 */
export function casePath(caseId, rest = "") {
  return `/api/cases/${encodeURIComponent(caseId)}${rest}`;
}
