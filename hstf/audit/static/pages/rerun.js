// What the next run computes, its start, and how far it is.

/**
 * @typedef {object} Rerun
 * @property {{text: string, count: number}[]} jobs
 * @property {number | null} minutes
 * @property {string} command
 * @property {string} folder
 * @property {boolean} can_start
 * @property {boolean} running
 */

/**
 * @typedef {object} Progress
 * @property {"running" | "failed" | "waiting" | "finished"} state
 * @property {number} jobs_done
 * @property {number} jobs_total
 * @property {string | null} stage
 * @property {number | null} step
 * @property {number | null} steps
 * @property {number | null} seconds_left
 * @property {[number, number][]} losses
 * @property {string[]} log_tail
 * @property {{job: string, log: string, message: string[]}[]} failed
 */

import { get, post } from "../api.js";
import { el } from "../dom.js";
import { say } from "../messages.js";
import { linePlot } from "./plots.js";

export const id = "rerun";
export const title = "Train again";

const POLL_MS = 2000;
/** @type {number | null} */
let timer = null;
let wasRunning = false;

/**
 * @param {HTMLElement} root
 */
export async function show(root) {
  /** @type {Rerun} */
  const rerun = await get("/api/rerun");
  const live = el("div", { id: "live", "aria-live": "polite" });
  const parts = summary(rerun, root);
  root.replaceChildren(el("h1", {}, "Train again"), ...(rerun.running ? [live, ...parts] : [...parts, live]));
  wasRunning = rerun.running;
  await update(root, live);
}

export function hide() {
  if (timer !== null) {
    window.clearTimeout(timer);
    timer = null;
  }
}

/**
 * @param {Rerun} rerun
 * @param {HTMLElement} root
 * @returns {HTMLElement[]}
 */
function summary(rerun, root) {
  if (rerun.jobs.length === 0) {
    return [el("p", { id: "rerun-text" }, "Everything is up to date. A decision or a corrected label makes a run necessary.")];
  }
  const number = rerun.jobs.reduce((sum, job) => sum + job.count, 0);
  const time = rerun.minutes === null ? "" : `, about ${duration(rerun.minutes * 60)}`;
  const rows = rerun.jobs.map((job) => el("li", {}, job.count > 1 ? `${job.text} (${job.count} jobs)` : job.text));
  const button = el("button", { type: "button", id: "rerun-start", class: "accept", click: () => start(root) }, "Start now");
  button.disabled = rerun.running || !rerun.can_start;
  return [
    el("p", { id: "rerun-text" }, `The next run computes ${number} ${number === 1 ? "job" : "jobs"}${time}:`),
    el("ul", { id: "rerun-jobs" }, ...rows),
    el("p", {}, `Command, in ${rerun.folder}:`),
    el("pre", { id: "rerun-command" }, rerun.command),
    el("p", {}, button, " ", el("span", { class: "quiet" }, hint(rerun))),
  ];
}

/**
 * @param {Rerun} rerun
 * @returns {string}
 */
function hint(rerun) {
  if (rerun.running) {
    return "A run is active.";
  }
  return rerun.can_start
    ? "The run goes on if this page or the desk is closed."
    : "Start it in a terminal once: the options of the last run are not known.";
}

/**
 * @param {HTMLElement} root
 */
async function start(root) {
  const button = /** @type {HTMLButtonElement | null} */ (root.querySelector("#rerun-start"));
  if (button !== null) {
    button.disabled = true;
  }
  try {
    await post("/api/rerun", {});
  } catch (error) {
    say(error instanceof Error ? error.message : String(error), "error");
  }
  hide();
  await show(root);
}

/**
 * Show how far the run is, and again while it runs.
 * @param {HTMLElement} root
 * @param {HTMLElement} live
 */
async function update(root, live) {
  hide();
  /** @type {Progress | null} */
  let progress = null;
  try {
    progress = await get("/api/progress");
  } catch (error) {
    live.replaceChildren(el("p", { class: "quiet" }, error instanceof Error ? error.message : String(error)));
  }
  if (!live.isConnected) {
    return;
  }
  const isRunning = progress?.state === "running";
  if (progress !== null && wasRunning && !isRunning) {
    await show(root);
    return;
  }
  if (progress !== null) {
    live.replaceChildren(...state(progress));
    wasRunning = isRunning;
  }
  if (isRunning || progress === null) {
    timer = window.setTimeout(() => update(root, live), POLL_MS);
  }
}

/**
 * @param {Progress} progress
 * @returns {Node[]}
 */
function state(progress) {
  if (progress.jobs_total === 0) {
    return [];
  }
  const bar = el("progress", { max: progress.jobs_total, value: progress.jobs_done, "aria-label": "Jobs that are done" });
  /** @type {Node[]} */
  const parts = [
    el("h2", {}, HEADINGS[progress.state]),
    el("p", {}, bar, ` ${progress.jobs_done} of ${progress.jobs_total} jobs done${left(progress)}`),
  ];
  if (progress.stage !== null) {
    const step = progress.step === null ? "" : `: ${progress.step} of ${progress.steps}`;
    parts.push(el("p", { id: "rerun-stage" }, progress.stage + step));
  }
  for (const job of progress.failed) {
    parts.push(el("p", { class: "lines", role: "alert" }, `${job.job} failed: ${job.message.join(" ")} (${job.log})`));
  }
  if (progress.losses.length) {
    parts.push(linePlot(progress.losses, ["step", "loss"], "Loss of the training"));
  }
  if (progress.state !== "finished" && progress.log_tail.length) {
    parts.push(el("pre", { id: "rerun-log", tabindex: 0, "aria-label": "Last lines of the run" }, progress.log_tail.join("\n")));
  }
  return parts;
}

/** @type {Record<Progress["state"], string>} */
const HEADINGS = { running: "Running", failed: "Failed", waiting: "Not running", finished: "Last training" };

/**
 * @param {Progress} progress
 * @returns {string}
 */
function left(progress) {
  return progress.seconds_left === null ? "" : `, about ${duration(progress.seconds_left)} left`;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
function duration(seconds) {
  if (seconds < 90) {
    return `${Math.max(1, Math.round(seconds))} s`;
  }
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
