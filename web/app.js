// app.js - the playground: what happens when.
import { setKey, withKey } from "./access.js";
import { asCurl, asPython } from "./code.js";
import * as form from "./form.js";
import { take } from "./start.js";
import { Refusal, generate, pictureBlob, refusalOf } from "./stream.js";
import { parametersOf } from "./texts.js";
import { Pane, copyFrom, historyItem } from "./view.js";

const KEPT = 60; // runs in the strip
const $ = (id) => document.getElementById(id);
const runs = [];
let current = null; // the AbortController of what is being made

// ---- saying things ----

const announce = (text) => { $("live").textContent = text; };
function alertOf(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

async function explain(error) {
  if (!(error instanceof Refusal)) return alertOf(`Something went wrong: ${error.message}.`);
  if (error.param === "model") form.offer(await capabilities()); // one has come or gone
  if (form.showError(error.param, error.message)) return undefined;
  const retry = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return alertOf(`${error.message}.${retry}`);
}

// ---- making pictures ----

/** One or, to compare, two shots of the same seed. */
function plan() {
  const params = form.read();
  if (!$("taca_both").checked) return [{ params }];
  if (params.seed === undefined) {
    form.rollSeed();
    params.seed = form.read().seed;
    $("seed").value = ""; // the next one is random again
  }
  const plain = { ...params, taca: false };
  const always = params.loras?.filter((l) => l.window !== "taca"); // without its steps none follows it
  if (always?.length) plain.loras = always;
  else delete plain.loras;
  return [{ params: plain, label: "Without TACA" },
    { params: { ...params, taca: form.taca() }, label: "With TACA" }];
}

function busy(is) {
  const moves = document.activeElement === $(is ? "generate" : "stop");
  $("generate").disabled = is;
  $("stop").disabled = !is;
  if (moves) $(is ? "stop" : "generate").focus();
}

function onEvent(shot, pane, event) {
  if (event.type === "queued") {
    pane.queued(event);
    if (event.position > 0) announce(`In the queue, number ${event.position}`);
  } else if (event.type === "started") {
    pane.waiting = "Reading the prompt";
  } else if (event.type === "progress") {
    pane.progress(event);
    if (event.step === Math.ceil(event.steps / 2)) announce(`Step ${event.step} of ${event.steps}`);
  } else if (event.type === "preview") {
    pane.preview(URL.createObjectURL(pictureBlob(event)));
  } else if (event.type === "retrying") {
    pane.waiting = "Starting again after a fault";
  } else if (event.type === "image") {
    shot.blob = pictureBlob(event);
    shot.format = event.format;
    shot.seed = event.seed;
    shot.params = { ...shot.params, seed: event.seed };
    shot.width = event.width;
    shot.height = event.height;
  } else if (event.type === "completed") {
    shot.warnings = event.warnings;
  }
}

async function make(shot, pane, abort) {
  const begun = performance.now();
  const clock = setInterval(() => pane.tick(performance.now() - begun), 100);
  const previews = Math.min(8, Math.max(0, (shot.params.steps ?? 9) - 1));
  try {
    await generate({ ...shot.params, previews }, abort.signal, (e) => onEvent(shot, pane, e));
    shot.ms = performance.now() - begun;
    shot.url = URL.createObjectURL(shot.blob);
    pane.finished();
  } catch (error) {
    pane.ended(abort.signal.aborted ? "Stopped" : "Not made");
    if (!abort.signal.aborted) throw error;
  } finally {
    clearInterval(clock);
  }
}

async function start() {
  if ($("generate").disabled) return; // at work, or the form does not know the service yet
  form.clearErrors();
  alertOf("");
  if (!$("prompt").value.trim()) {
    form.showError("prompt", "Say what to draw.");
    return;
  }
  const abort = new AbortController();
  const shots = plan();
  const panes = shots.map((shot) => new Pane({ ...shot, width: shot.params.width,
    height: shot.params.height }, reuse));
  panes.forEach((pane, i) => { pane.shot = shots[i]; });
  current = abort;
  busy(true);
  stage(panes);
  if ($("panes").getBoundingClientRect().top > innerHeight * 0.8) $("panes").scrollIntoView();
  mark(null);
  announce("Sent");
  const ends = await Promise.allSettled(shots.map((shot, i) => make(shot, panes[i], abort)));
  current = null;
  busy(false);
  const failed = ends.find((end) => end.status === "rejected");
  if (failed) await explain(failed.reason);
  const done = shots.filter((shot) => shot.url);
  if (done.length) keep({ shots: done });
  else if (failed) back();
  if (done.length === shots.length)
    announce(`Done in ${(done[0].ms / 1000).toFixed(1)} seconds, seed ${done[0].seed}`);
  else if (abort.signal.aborted) announce("Stopped");
}

function stop() {
  current?.abort();
}

// ---- the stage and the strip ----

function stage(panes) {
  $("empty").hidden = true;
  $("panes").classList.toggle("pair", panes.length > 1);
  $("panes").replaceChildren(...panes.map((pane) => pane.root));
}

function mark(run) {
  for (const other of runs) other.button.removeAttribute("aria-current");
  run?.button.setAttribute("aria-current", "true");
}

function show(run) {
  if (current) return;
  stage(run.shots.map((shot) => new Pane(shot, reuse)));
  mark(run);
}

/** What was there before a request that came to nothing. */
function back() {
  if (runs.length) return show(runs[0]);
  $("panes").replaceChildren();
  $("empty").hidden = false;
  return undefined;
}

function keep(run) {
  runs.unshift(run);
  $("strip").prepend(historyItem(run, show));
  $("history").hidden = false;
  mark(run);
  if (runs.length <= KEPT) return;
  for (const shot of runs.pop().shots) URL.revokeObjectURL(shot.url);
  $("strip").lastElementChild.remove();
}

function reuse(params) {
  form.clearErrors();
  form.write(params);
  announce("Settings taken");
}

// ---- pictures as files ----

function sizeOf(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
    image.onerror = () => reject(new Error("this picture cannot be shown"));
    image.src = url;
  });
}

/** A dropped picture that says how it was made is made again; any other is where to start. */
async function dropped(file) {
  alertOf("");
  const params = await file.arrayBuffer().then(parametersOf).catch(() => null);
  if (params || $("start").hidden) return restore(file);
  try {
    await take("image", file);
    return announce("A picture to start from");
  } catch {
    return alertOf(`Nothing taken: ${file.name} is no picture.`);
  }
}

async function restore(file) {
  alertOf("");
  try {
    const params = await parametersOf(await file.arrayBuffer());
    reuse(params);
    announce(`Settings restored, seed ${params.seed}`);
    if (params.model && params.model !== form.model())
      alertOf(`This picture was made with the model ${params.model}; here is ${form.model()}.`);
    if (current) return;
    const url = URL.createObjectURL(file);
    const [width, height] = await sizeOf(url);
    const format = file.type === "image/jpeg" ? "jpeg" : "png";
    const shot = { params, url, width, height, format, seed: params.seed };
    const { model, ...rest } = params; // another server may call it otherwise
    if (!form.severalModels() || model !== form.model()) shot.params = rest;
    const run = { shots: [shot] };
    keep(run);
    show(run);
  } catch (error) {
    alertOf(`Nothing restored: ${error.message}.`);
  }
}

function acceptDrops() {
  let depth = 0;
  const hasFile = (e) => e.dataTransfer?.types.includes("Files");
  const set = (n) => {
    depth = n;
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (e) => { if (hasFile(e)) { e.preventDefault(); set(depth + 1); } });
  addEventListener("dragleave", (e) => { if (hasFile(e)) set(Math.max(0, depth - 1)); });
  addEventListener("dragover", (e) => { if (hasFile(e)) e.preventDefault(); });
  addEventListener("drop", (e) => {
    if (!hasFile(e)) return;
    e.preventDefault();
    set(0);
    if (e.dataTransfer.files[0]) dropped(e.dataTransfer.files[0]);
  });
}

// ---- the beginning ----

/** Until somebody has typed a key. */
function askForKey() {
  $("login").hidden = false;
  $("key").focus();
  return new Promise((resolve) => {
    $("login").addEventListener("submit", (e) => {
      e.preventDefault();
      setKey($("key").value.trim());
      $("key").value = "";
      $("login").hidden = true;
      resolve();
    }, { once: true });
  });
}

/** Asks until the model is there. */
async function capabilities() {
  for (;;) {
    try {
      const response = await fetch("v1/capabilities", { headers: withKey() });
      if (response.ok) return await response.json();
      const refusal = await refusalOf(response);
      $("about").textContent = refusal.message;
      if (refusal.status === 401) {
        await askForKey();
        continue;
      }
    } catch {
      $("about").textContent = "The service does not answer.";
    }
    await new Promise((wake) => { setTimeout(wake, 1500); });
  }
}

const describe = (model) => {
  $("about").textContent = `${model.id} \u00b7 ${model.family} on ${model.device || model.backend}`;
};

function connect() {
  form.connect(describe);
  acceptDrops();
  $("form").addEventListener("submit", (e) => { e.preventDefault(); start(); });
  $("stop").addEventListener("click", stop);
  $("reset").addEventListener("click", () => { form.clearErrors(); form.reset(); });
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) restore($("file").files[0]);
    $("file").value = "";
  });
  $("form_curl").addEventListener("click", (e) => copyFrom(e.currentTarget, asCurl(form.read())));
  $("form_python").addEventListener("click", (e) => copyFrom(e.currentTarget, asPython(form.read())));
  addEventListener("keydown", (e) => {
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); start(); }
    if (e.key === "Escape") stop();
  });
  if (matchMedia("(max-width: 52rem)").matches) $("settings").open = false;
}

connect();
form.offer(await capabilities());
form.reset();
$("generate").disabled = false;
