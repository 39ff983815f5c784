// The page of the cases: opens cases, shows them, and saves decisions and corrections.

/**
 * @typedef {import("./types.js").CaseDetails} CaseDetails
 * @typedef {import("./types.js").QueueCase} QueueCase
 * @typedef {import("./types.js").Saved} Saved
 * @typedef {import("./types.js").Session} Session
 * @typedef {import("./types.js").Triple} Triple
 * @typedef {import("./types.js").Volume} Volume
 * @typedef {import("./viewer.js").Layer} Layer
 */

import { ConnectionLost, ServerError, casePath, get, gzip, post, postFile } from "./api.js";
import { askReason, choose, confirm } from "./dialogs.js";
import { byId, selectById } from "./dom.js";
import { draftOf, forgetDraft, keepDraft } from "./drafts.js";
import { Editor } from "./editor.js";
import { Files } from "./files.js";
import { middleOfSlice } from "./geometry.js";
import { Gestures } from "./gestures.js";
import { banner, say } from "./messages.js";
import { labelParts } from "./nifti.js";
import { Edit } from "./painting.js";
import { shortDate, showCase } from "./panel.js";
import { QueueList } from "./queue.js";
import { Viewer, bytesOf } from "./viewer.js";
import { automaticWindow } from "./windows.js";

const AHEAD = 2;
const RETRY_MS = 3000;
const RENEW_MS = 30_000;
const REFRESH_MS = 15_000;
/** Voxels up to which weights and the previous round are fetched before they are asked for. */
const SMALL = 30e6;

/**
 * @typedef {object} OpenCase
 * @property {QueueCase} row
 * @property {CaseDetails} details
 * @property {Volume} label the label that is shown
 * @property {number} image number of the image that is shown
 * @property {number} place number of the place that is shown
 * @property {number} since time of opening (ms)
 */

/**
 * Return the versions of the labels that are shown: the server refuses a decision if they have changed.
 * @param {CaseDetails} details
 */
function seen({ sha256, layers }) {
  return { sha256, correction_sha256: layers.correction_sha256 ?? "" };
}

export class Desk extends EventTarget {
  /**
   * @param {Session} session
   */
  constructor(session) {
    super();
    this.session = session;
    this.round = session.round;
    this.files = new Files();
    this.viewer = new Viewer(byId("stage"));
    this.viewer.setClasses(session.classes, session.ignore);
    this.editor = new Editor(this.viewer);
    this.editor.background = session.background;
    this.editor.pen = session.classes[0]?.value ?? session.background;
    this.gestures = new Gestures(this.viewer, this.editor);
    this.queue = new QueueList((caseId) => this.open(caseId));
    /** @type {OpenCase | null} */
    this.current = null;
    /** @type {string | null} case that is being opened */
    this.wanted = null;
    this.isBusy = false;
    this.isSending = false;
    this.retryTimer = 0;
    /** @type {Layer | null} layer whose key is held */
    this.held = null;
    window.setInterval(() => this.refresh(), REFRESH_MS);
    window.setInterval(() => this.renew(), RENEW_MS);
    window.addEventListener("beforeunload", (event) => {
      if (this.editor.hasChanges()) {
        event.preventDefault();
      }
    });
    window.addEventListener("pagehide", () => this.close());
  }

  /** Show the queue and open the first case without a decision. */
  async start() {
    await this.refresh();
    const first = this.queue.first();
    if (first === undefined) {
      say("This round has no pseudo-labels to look at.");
      return;
    }
    await this.open(first.case_id);
  }

  /** Get the queue again. */
  async refresh() {
    try {
      const queue = await get(`/api/queue?round=${this.round}`);
      this.queue.show(queue);
      this.showProblems(queue.problems ?? []);
      if (!this.isBusy) {
        banner(null);
      }
    } catch (error) {
      if (!this.isBusy) {
        this.report(error);
      }
    }
  }

  /**
   * @param {string[]} problems of the overrides folder
   */
  showProblems(problems) {
    const place = byId("problems");
    place.hidden = problems.length === 0;
    place.textContent = problems.join("\n");
  }

  /**
   * Show another round.
   * @param {number} round
   */
  async setRound(round) {
    if (!(await this.mayLeave())) {
      selectById("round").value = String(this.round);
      return;
    }
    this.round = round;
    this.current = null;
    await this.start();
  }

  /**
   * Open a case.
   * @param {string} caseId
   */
  async open(caseId) {
    if (!(await this.mayLeave())) {
      return;
    }
    this.close();
    this.wanted = caseId;
    this.queue.mark(caseId);
    byId("stage").setAttribute("aria-busy", "true");
    try {
      await this.load(caseId);
    } catch (error) {
      if (this.wanted !== caseId) {
        return;
      }
      // Nothing can be decided on a case that is not shown.
      this.close();
      this.viewer.clear();
      this.report(error, () => this.open(caseId));
    }
    if (this.wanted === caseId) {
      byId("stage").removeAttribute("aria-busy");
    }
  }

  /**
   * Open a case of a round at a slice.
   * @param {import("./links.js").CaseLink} link
   */
  async openAt({ caseId, round, axis, slice }) {
    if (!(await this.mayLeave())) {
      return;
    }
    if (round !== this.round && this.session.rounds.includes(round)) {
      this.close();
      this.round = round;
      await this.refresh();
    }
    if (!this.queue.cases.some((one) => one.case_id === caseId)) {
      say("The round has no pseudo-label of this case.");
      return;
    }
    await this.open(caseId);
    if (axis !== null && slice !== null && this.current?.details.case_id === caseId) {
      this.viewer.moveTo(middleOfSlice(this.current.label, axis, slice, this.session.background));
    }
  }

  /**
   * Fetch a case and show it.
   * @param {string} caseId
   */
  async load(caseId) {
    const row = this.queue.cases.find((one) => one.case_id === caseId);
    if (row === undefined) {
      return;
    }
    const places = this.placesOf(caseId);
    // An error is shown where the places are awaited.
    places.catch(() => undefined);
    const details = await this.detailsOf(caseId);
    const url = details.layers.correction ?? details.layers.label;
    const [image, label] = await Promise.all([this.imageOf(details, 0), this.labelOf(details, url)]);
    if (this.wanted !== caseId) {
      return;
    }
    if (label.dims.join() !== image.dims.join()) {
      throw new Error(`The label has ${label.dims.join("×")} voxels, its image ${image.dims.join("×")}.`);
    }
    this.current = { row, details, label, image: 0, place: -1, since: Date.now() };
    this.viewer.open(image, this.windowOf(details, 0, image), bytesOf(label).slice());
    this.showFacts();
    this.dispatchEvent(new Event("open"));
    await this.showPlaces(this.current, places);
    this.renew();
    this.fetchAhead(details);
    await this.offerDraft();
  }

  /**
   * @param {string} caseId
   * @returns {Promise<CaseDetails>}
   */
  detailsOf(caseId) {
    return get(casePath(caseId, `?round=${this.round}&places=0`));
  }

  /**
   * Return the uncertain places of a case; of a large scan they take the server seconds.
   * @param {string} caseId
   * @returns {Promise<{places: import("./types.js").Place[]}>}
   */
  placesOf(caseId) {
    return get(casePath(caseId, `/places?round=${this.round}`));
  }

  /**
   * Go to the first uncertain place as soon as the places are there.
   * @param {OpenCase} current
   * @param {Promise<{places: import("./types.js").Place[]}>} places
   */
  async showPlaces(current, places) {
    byId("place").textContent = "…";
    try {
      current.details.places = (await places).places;
    } catch (error) {
      // Image and label are there, so the case can be looked at without them.
      if (this.current === current) {
        byId("place").textContent = "unknown";
        this.report(error);
      }
      return;
    }
    if (this.current === current) {
      this.nextPlace();
    }
  }

  /**
   * @param {CaseDetails} details
   * @param {number} n
   * @returns {Promise<Volume>}
   */
  imageOf(details, n) {
    return this.files.get(details.layers.images[n].url, "");
  }

  /**
   * @param {CaseDetails} details
   * @param {string} url
   * @returns {Promise<Volume>}
   */
  labelOf(details, url) {
    // Any program may save a corrected label, with or without a decision.
    return this.files.get(url, `${details.sha256} ${details.layers.correction_sha256 ?? ""}`);
  }

  /**
   * Fetch what will be needed next.
   * @param {CaseDetails} details
   */
  async fetchAhead(details) {
    try {
      if (this.current !== null && this.current.label.data.length < SMALL) {
        await Promise.all([this.layer("weight"), this.layer("previous")]);
      }
      for (const row of this.queue.upcoming(AHEAD)) {
        if (!this.files.hasRoom() || this.current?.details !== details) {
          return;
        }
        const next = await this.detailsOf(row.case_id);
        const url = next.layers.correction ?? next.layers.label;
        await Promise.all([this.imageOf(next, 0), this.labelOf(next, url), this.placesOf(row.case_id)]);
      }
    } catch (error) {
      // What is not fetched now is fetched when the case is opened, with a message.
      console.info("Not fetched ahead:", error);
    }
  }

  /** Mark the case as open. */
  async renew() {
    if (this.current === null || document.hidden) {
      return;
    }
    try {
      await post(casePath(this.current.details.case_id, "/open"), { round: this.round });
    } catch (error) {
      console.info("The case was not marked as open:", error);
    }
  }

  /** Remove the mark of the open case. */
  close() {
    const current = this.current;
    if (current !== null) {
      const options = {
        method: "POST",
        keepalive: true,
        headers: { "Content-Type": "application/json", "X-HSTF": "1" },
        body: JSON.stringify({ round: this.round }),
      };
      fetch(casePath(current.details.case_id, "/close"), options).catch(() => undefined);
    }
    this.current = null;
  }

  /** @returns {Promise<boolean>} whether the open case may be left */
  async mayLeave() {
    if (this.isBusy) {
      return false;
    }
    if (this.editor.hasChanges()) {
      const text = "The correction is not saved. Enter saves it.";
      if (!(await confirm("Leave the correction?", text, "Leave without saving"))) {
        return false;
      }
    }
    this.editor.stop(false);
    return true;
  }

  showFacts() {
    if (this.current !== null) {
      const { row, details } = this.current;
      showCase(this.session, row, details, (mm) => this.viewer.jump(mm));
    }
  }

  /** Go to the next uncertain place. */
  nextPlace() {
    const current = this.current;
    if (current === null) {
      return;
    }
    const { places } = current.details;
    if (places.length === 0) {
      byId("place").textContent = "no uncertain place";
      return;
    }
    current.place = (current.place + 1) % places.length;
    const place = places[current.place];
    byId("place").textContent =
      `place ${current.place + 1} of ${places.length}: ${place.class}, weight ${place.weight.toFixed(2)}`;
    this.viewer.jump(place.mm);
  }

  /**
   * Go to another case of the list.
   * @param {number} step
   */
  async beside(step) {
    const next = this.queue.beside(step);
    if (next !== undefined) {
      await this.open(next.case_id);
    }
  }

  /** Show the next image of the case. */
  async nextModality() {
    const current = this.current;
    if (current === null || current.details.layers.images.length < 2) {
      return;
    }
    await this.showModality((current.image + 1) % current.details.layers.images.length);
  }

  /**
   * @param {number} n
   */
  async showModality(n) {
    const current = this.current;
    if (current === null) {
      return;
    }
    try {
      const image = await this.imageOf(current.details, n);
      if (this.current !== current) {
        return;
      }
      if (image.dims.join() !== current.label.dims.join()) {
        throw new Error(`${current.details.layers.images[n].modality} is not on the grid of the label.`);
      }
      current.image = n;
      this.viewer.setImage(image, this.windowOf(current.details, n, image));
      this.dispatchEvent(new Event("open"));
    } catch (error) {
      this.report(error);
    }
  }

  /**
   * @param {CaseDetails} details
   * @param {number} n
   * @param {Volume} image
   * @returns {[number, number]}
   */
  windowOf(details, n, image) {
    return details.layers.images[n].window ?? automaticWindow(image);
  }

  /**
   * Fetch a layer of the open case.
   * @param {Layer} name
   * @returns {Promise<boolean>} whether the case has it
   */
  async layer(name) {
    const current = this.current;
    if (current === null || name === "nothing") {
      return current !== null;
    }
    const { layers } = current.details;
    const automatic = layers.correction === null ? null : layers.label;
    const url = name === "automatic" ? automatic : layers[name];
    if (url === null) {
      return false;
    }
    const volume = await this.labelOf(current.details, url);
    if (this.current === current && volume.data.length === current.label.data.length) {
      this.viewer.layers.set(name, volume);
    }
    return true;
  }

  /**
   * Show a layer while a key or a button is held.
   * @param {Layer} name
   */
  async hold(name) {
    this.held = name;
    try {
      const isThere = await this.layer(name);
      if (!isThere) {
        say("This case does not have this layer.");
      } else if (this.held === name) {
        this.viewer.hold(name);
      }
    } catch (error) {
      this.report(error);
    }
  }

  /** Show the label again. */
  release() {
    this.held = null;
    this.viewer.hold(null);
  }

  // ---- decisions

  /** Accept the label. Where a corrected one is shown, ask which is meant. */
  async accept() {
    const current = this.current;
    if (current === null || this.isBusy) {
      return;
    }
    if (this.editor.isOn) {
      say("Enter saves the correction, Escape leaves it.");
      return;
    }
    if (current.details.layers.correction === null) {
      await this.decide("accept", "");
      return;
    }
    const meant = await choose("Which label is right?", [
      ["shown", "The corrected label, which is shown"],
      ["automatic", "The automatic label"],
    ]);
    if (meant === "automatic") {
      await this.decide("accept", "");
    } else if (meant === "shown") {
      await this.sendLabel(current, bytesOf(current.label), "corrected label confirmed");
    }
  }

  /** Reject the label with a reason. */
  async reject() {
    if (this.current === null || this.isBusy) {
      return;
    }
    if (this.editor.isOn) {
      say("Enter saves the correction, Escape leaves it.");
      return;
    }
    const reason = await askReason(this.session.reasons);
    if (reason !== null) {
      await this.decide("reject", reason);
    }
  }

  /**
   * @param {"accept" | "reject"} action
   * @param {string} reason
   */
  async decide(action, reason) {
    const current = this.current;
    if (current === null || this.isBusy) {
      return;
    }
    const { case_id: caseId } = current.details;
    const { reviewer } = this.session;
    const body = { round: this.round, action, reason, reviewer, ...seen(current.details), seconds: this.seconds(current) };
    const word = action === "accept" ? "accepted" : "rejected";
    await this.send(
      `The decision on ${caseId} is kept in this page.`,
      (/** @type {boolean} */ isConfirmed) =>
        post(casePath(caseId, "/decision"), isConfirmed ? { ...body, confirmed: true } : body),
      (saved) => this.finish(saved, `${caseId}: ${word}. U takes it back.`),
    );
  }

  /**
   * Send something until the server has it; meanwhile nothing else can be decided.
   * @param {string} kept what is kept where, if the connection is lost
   * @param {(isConfirmed: boolean) => Promise<Saved>} request
   * @param {(saved: Saved) => Promise<void>} onSaved
   * @param {boolean} isConfirmed
   */
  async send(kept, request, onSaved, isConfirmed = false) {
    if (this.isSending) {
      return;
    }
    window.clearTimeout(this.retryTimer);
    this.setBusy(true);
    this.isSending = true;
    const again = () => this.send(kept, request, onSaved, isConfirmed);
    let saved;
    try {
      saved = await request(isConfirmed);
      this.isSending = false;
    } catch (error) {
      this.isSending = false;
      if (error instanceof ConnectionLost) {
        banner(`The connection to the server is lost. ${kept} It is sent as soon as the server answers.`, again);
        this.retryTimer = window.setTimeout(again, RETRY_MS);
        return;
      }
      this.setBusy(false);
      banner(null);
      if (error instanceof ServerError && error.confirm !== null && !isConfirmed) {
        if (await confirm("Is this right?", error.confirm, "Yes, save it")) {
          await this.send(kept, request, onSaved, true);
        }
        return;
      }
      this.report(error);
      return;
    }
    this.setBusy(false);
    banner(null);
    await onSaved(saved);
  }

  /**
   * Say whether something is being saved. Until it is, nothing else is decided or drawn.
   * @param {boolean} isBusy
   */
  setBusy(isBusy) {
    this.isBusy = isBusy;
    this.editor.isLocked = isBusy;
    document.body.classList.toggle("saving", isBusy);
  }

  /**
   * Show what was saved, and open the next case.
   * @param {Saved} saved
   * @param {string} text
   */
  async finish(saved, text) {
    say([text, ...saved.messages].join("\n"));
    const [next] = this.queue.upcoming(1);
    this.queue.update(saved.case);
    await this.refresh();
    if (next !== undefined) {
      await this.open(next.case_id);
      return;
    }
    say("No undecided case is left in this list.");
    await this.open(saved.case.case_id);
  }

  /**
   * @param {OpenCase} current
   * @returns {number} seconds since the case was opened
   */
  seconds(current) {
    return Math.round((Date.now() - current.since) / 1000);
  }

  /** Take back the last thing that this reviewer saved. */
  async undoSaved() {
    if (this.isBusy || !(await this.mayLeave())) {
      return;
    }
    try {
      const answer = await post("/api/undo", { reviewer: this.session.reviewer });
      if (answer.undone === null) {
        say("There is nothing to take back.");
        return;
      }
      const { case_id: caseId, action } = answer.undone;
      say(`${caseId}: taken back (${action}).`);
      await this.refresh();
      await this.open(caseId);
    } catch (error) {
      this.report(error);
    }
  }

  // ---- corrections

  /** Start a correction. */
  edit() {
    if (this.current === null || this.isBusy) {
      return;
    }
    this.release();
    this.editor.start();
  }

  /** Leave a correction without saving. */
  async cancelEdit() {
    if (!this.editor.isOn || !(await this.mayLeave())) {
      return;
    }
    await forgetDraft(this.draftKey());
  }

  /** Save the correction and open the next case. */
  async saveEdit() {
    const current = this.current;
    if (current === null || !this.editor.isOn || this.isBusy) {
      return;
    }
    this.editor.release();
    if (!this.editor.hasChanges()) {
      say("Nothing was drawn. Escape leaves the correction, then A accepts the label.");
      return;
    }
    const voxels = /** @type {Uint8Array<ArrayBuffer>} */ (this.editor.history.voxels);
    await this.sendLabel(current, voxels, "correction saved");
  }

  /**
   * Send a corrected label; what was drawn is kept in the browser until the server has it.
   * @param {OpenCase} current
   * @param {Uint8Array<ArrayBuffer>} voxels
   * @param {string} done what has happened then
   */
  async sendLabel(current, voxels, done) {
    this.setBusy(true);
    const { case_id: caseId } = current.details;
    let kept = `The decision on ${caseId} is kept in this page.`;
    let file;
    try {
      file = await gzip(labelParts(current.label, voxels));
      if (this.editor.isOn) {
        const isStored = await keepDraft(this.draftKey(), await gzip([voxels]));
        const place = isStored ? "browser" : "page only: do not close it";
        kept = `Your correction of ${caseId} is kept in this ${place}.`;
      }
    } catch (error) {
      this.setBusy(false);
      this.report(error);
      return;
    }
    const query = new URLSearchParams({
      round: String(this.round),
      reason: "",
      reviewer: this.session.reviewer ?? "",
      ...seen(current.details),
      seconds: String(this.seconds(current)),
    });
    const path = casePath(caseId, `/correction?${query}`);
    await this.send(
      kept,
      (isConfirmed) => postFile(isConfirmed ? `${path}&confirmed=1` : path, file),
      async (saved) => {
        await forgetDraft(this.draftKey());
        this.editor.stop(true);
        await this.finish(saved, `${caseId}: ${done}. U takes it back.`);
      },
    );
  }

  draftKey() {
    return `${this.session.experiment} ${this.round} ${this.current?.details.case_id ?? ""}`;
  }

  /** Offer a correction that was not sent. */
  async offerDraft() {
    const current = this.current;
    const draft = await draftOf(this.draftKey());
    if (current === null || draft === null || this.current !== current) {
      return;
    }
    const text = `A correction of ${shortDate(draft.saved)} (UTC) did not reach the server.`;
    const answer = await choose("Continue with your correction?", [
      ["continue", "Continue"],
      ["later", "Not now, keep it"],
      ["delete", "Delete it"],
    ], text);
    if (answer === "delete") {
      await forgetDraft(this.draftKey());
    }
    if (answer !== "continue") {
      return;
    }
    const stream = draft.label.stream().pipeThrough(new DecompressionStream("gzip"));
    const voxels = new Uint8Array(await new Response(stream).arrayBuffer());
    if (this.current !== current || voxels.length !== current.label.data.length) {
      return;
    }
    this.editor.start();
    const edit = new Edit(this.editor.history.voxels);
    voxels.forEach((value, index) => edit.set(index, value));
    this.editor.history.push(edit.finish());
    this.editor.finished();
  }

  /**
   * Show an error.
   * @param {unknown} error
   * @param {(() => void) | null} onRetry
   */
  report(error, onRetry = null) {
    if (error instanceof ConnectionLost) {
      banner("The connection to the server is lost. Is 'hstf audit' still running?", onRetry ?? (() => this.refresh()));
      return;
    }
    console.error(error);
    say(error instanceof Error ? error.message : String(error), "error");
  }
}
