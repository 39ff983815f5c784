// Corrections that could not be sent: kept in the browser until the server has them.

const STORE = "drafts";

/** @typedef {{key: string, label: Blob, saved: string}} Draft */

/**
 * @returns {Promise<IDBDatabase>}
 */
function database() {
  const request = indexedDB.open("hstf-audit", 1);
  request.addEventListener("upgradeneeded", () => request.result.createObjectStore(STORE, { keyPath: "key" }));
  return finished(request);
}

/**
 * @template Result
 * @param {IDBRequest<Result>} request
 * @returns {Promise<Result>}
 */
function finished(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error ?? new Error("IndexedDB failed.")));
  });
}

/**
 * Keep a correction. A browser without storage keeps it only in the page.
 * @param {string} key
 * @param {Blob} label compressed voxels
 * @returns {Promise<boolean>} whether it was stored
 */
export async function keepDraft(key, label) {
  try {
    const store = (await database()).transaction(STORE, "readwrite").objectStore(STORE);
    await finished(store.put({ key, label, saved: new Date().toISOString() }));
    return true;
  } catch (error) {
    console.warn("The draft was not stored.", error);
    return false;
  }
}

/**
 * Return a correction that was kept, or null.
 * @param {string} key
 * @returns {Promise<Draft | null>}
 */
export async function draftOf(key) {
  try {
    const store = (await database()).transaction(STORE).objectStore(STORE);
    return (await finished(store.get(key))) ?? null;
  } catch {
    return null;
  }
}

/**
 * Forget a correction.
 * @param {string} key
 */
export async function forgetDraft(key) {
  try {
    const store = (await database()).transaction(STORE, "readwrite").objectStore(STORE);
    await finished(store.delete(key));
  } catch (error) {
    console.warn("The draft was not removed.", error);
  }
}
