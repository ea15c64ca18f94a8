// form.js - the settings: limits and defaults from the server, values to and from a request, and
// the place of each error.

import * as adapters from "./adapters.js";
import * as start from "./start.js";

const $ = (id) => document.getElementById(id);
const TEXTS = ["prompt", "negative_prompt"];
const NUMBERS = ["width", "height", "steps", "cfg_scale", "guidance_scale"];
const CHOICES = ["sampler", "schedule"];
const TACA = { taca_scale: "scale", taca_fraction: "fraction" };
/** Which input shows an error about a parameter, where the names differ. */
const PLACES = { size: "width", "taca.scale": "taca_scale", "taca.fraction": "taca_fraction" };
/** Parts of a picture's settings that say nothing about a repetition. */
const FORGET = ["model", "n", "output_format", "output_compression", "png_level", "metadata", "seed", "taca", "image",
  "mask", "strength", "loras"];

let models = []; // of each what it takes: the capabilities' list
let defaults = {};
let sides = null; // {min, max, multiple}
let extras = {}; // restored settings that have no input here
let tacaWindow = null; // a restored window other than a fraction
let onModel = () => {};

function limit(id, range, step) {
  const input = $(id);
  const slider = document.querySelector(`[data-for="${id}"]`);
  for (const [key, value] of Object.entries({ min: range.min, max: range.max, step })) {
    if (value === undefined) continue;
    input[key] = value;
    if (slider) slider[key] = value;
  }
  if (slider?.dataset.max) slider.max = Math.min(range.max, Number(slider.dataset.max));
}

export const model = () => $("model").value;
export const severalModels = () => models.length > 1;

/** The chosen model's limits and defaults. */
function setLimits() {
  const { parameters: p, model: facts, images, taca, loras } = models[$("model").selectedIndex];
  const multiple = facts.side_multiple_px;
  limit("width", p.width, multiple);
  limit("height", p.height, multiple);
  limit("steps", p.steps);
  sides = { ...p.width, multiple };
  $("start").hidden = !images.image_to_image;
  if (p.strength) limit("strength", p.strength, 0.05);
  limit("cfg_scale", p.cfg_scale, 0.1);
  limit("output_compression", p.output_compression);
  $("guidance_field").hidden = !p.guidance_scale;
  if (p.guidance_scale) limit("guidance_scale", p.guidance_scale, 0.1);
  limit("taca_scale", taca.scale, 0.05);
  limit("taca_fraction", { min: 0, max: 1 }, 0.05);
  adapters.offer(loras);
  $("prompt").maxLength = p.prompt.max_bytes;
  $("negative_prompt").maxLength = p.negative_prompt.max_bytes;
  defaults = { taca: taca.default };
  for (const name of [...NUMBERS, ...CHOICES, "strength", "output_compression"]) defaults[name] = p[name]?.default ?? null;
  for (const name of CHOICES)
    $(name).replaceChildren(...(p[name]?.values ?? []).map((value) => new Option(value)));
  offerFormats(p.output_format.values);
  onModel(facts);
}

/** The kind of file is people's own choice: neither a model nor a picture's settings change it. */
function offerFormats(values) {
  const was = $("output_format").value;
  $("output_format").replaceChildren(...values.map((v) => new Option(v.toUpperCase(), v)));
  setFormat(values.includes(was) ? was : values[0]);
}

function setFormat(format) {
  $("output_format").value = format;
  $("compression_field").hidden = format !== "jpeg";
}

/** Whether the model in the form would refuse what stands in it. */
function isOutside(name) {
  const { rangeUnderflow, rangeOverflow, stepMismatch } = $(name).validity;
  return rangeUnderflow || rangeOverflow || (stepMismatch && ["width", "height"].includes(name));
}

/** After another model was chosen: what people have set stays where that model takes it. */
function follow() {
  const were = defaults;
  const chosen = Object.fromEntries(CHOICES.map((name) => [name, $(name).value]));
  const loras = adapters.get();
  setLimits();
  const p = models[$("model").selectedIndex].parameters;
  for (const name of NUMBERS)
    put(name, $(name).value === `${were[name] ?? ""}` || isOutside(name) ? defaults[name] : $(name).value);
  for (const name of CHOICES)
    put(name, chosen[name] !== were[name] && p[name]?.values.includes(chosen[name])
      ? chosen[name] : defaults[name]);
  if ($("strength").value === "") put("strength", defaults.strength);
  adapters.set(loras);
  setExtras(Object.fromEntries(Object.entries(extras).filter(([name]) => p[name] && name !== "loras")),
    tacaWindow);
}

/** The models of the service; the one in the form stays when it is among them. */
export function offer(capabilities) {
  const was = model();
  models = capabilities.models.length ? capabilities.models : [capabilities];
  $("model").replaceChildren(...models.map((m) => new Option(m.model.id)));
  $("model_field").hidden = !severalModels();
  for (const id of [capabilities.model.id, was]) setModel(id);
  if (was) follow();
  else setLimits();
}

function setModel(id) {
  const at = models.findIndex((m) => m.model.id === id);
  if (at >= 0) $("model").selectedIndex = at;
}

function put(id, value) {
  $(id).value = value ?? "";
  const slider = document.querySelector(`[data-for="${id}"]`);
  if (slider) slider.value = value ?? slider.min;
  if (id === "cfg_scale") followCfg();
}

/** Without guidance there is nothing that a negative prompt could do. */
function followCfg() {
  const off = Number($("cfg_scale").value || defaults.cfg_scale) <= 1;
  $("negative_prompt").disabled = off;
  $("negative_prompt").placeholder = off ? "wants a CFG scale above 1" : "what to keep away from";
}

export function reset() {
  for (const name of [...NUMBERS, ...CHOICES]) put(name, defaults[name]);
  for (const [id, member] of Object.entries(TACA)) put(id, defaults.taca[member]);
  put("strength", defaults.strength);
  put("output_compression", defaults.output_compression);
  setFormat("png");
  start.set();
  adapters.set();
  put("negative_prompt", "");
  put("seed", "");
  $("taca_off").checked = true;
  setExtras({}, null);
}

function setExtras(others, otherWindow) {
  extras = others;
  tacaWindow = otherWindow;
  const names = [...Object.keys(extras), ...(tacaWindow ? [`TACA ${Object.keys(tacaWindow)[0]}`] : [])];
  $("extras").hidden = names.length === 0;
  $("extras_text").textContent = `Also restored: ${names.join(", ")}.`;
  $("taca_fraction").disabled = tacaWindow !== null;
}
export const dropExtras = () => setExtras({}, null);

/** The request that the form describes. Without a seed the server chooses one. */
export function read() {
  const params = { prompt: $("prompt").value, ...extras };
  if (severalModels()) params.model = model();
  if ($("negative_prompt").value && !$("negative_prompt").disabled) params.negative_prompt = $("negative_prompt").value;
  for (const name of NUMBERS)
    if ($(name).value !== "" && !$(name).closest("[hidden]")) params[name] = Number($(name).value);
  for (const name of CHOICES)
    if ($(name).value !== defaults[name]) params[name] = $(name).value;
  if (!$("start").hidden) Object.assign(params, start.get());
  if (params.image && $("strength").value !== "") params.strength = Number($("strength").value);
  const loras = [...(extras.loras ?? []), ...adapters.get()];
  if (loras.length) params.loras = loras;
  const seed = $("seed").value.trim();
  if (seed !== "" && seed !== "-1") params.seed = /^\d+$/.test(seed) ? Number(seed) : seed;
  params.taca = $("taca_off").checked ? false : taca();
  if ($("output_format").value !== "png") params.output_format = $("output_format").value;
  if (!$("compression_field").hidden && $("output_compression").value !== "")
    params.output_compression = Number($("output_compression").value);
  return params;
}

export function taca() {
  const value = {};
  for (const [id, member] of Object.entries(TACA))
    if ($(id).value !== "" && !$(id).disabled) value[member] = Number($(id).value);
  return { ...value, ...tacaWindow };
}

/** The settings of a picture back into the form. */
export function write(params) {
  setModel(params.model);
  setLimits();
  for (const name of TEXTS) put(name, params[name]);
  for (const name of [...NUMBERS, ...CHOICES]) put(name, params[name] ?? defaults[name]);
  put("seed", params.seed);
  put("strength", params.strength ?? defaults.strength);
  start.set(params.image, params.mask);
  const { scale, fraction, ...otherWindow } = params.taca || {};
  $(params.taca ? "taca_on" : "taca_off").checked = true;
  put("taca_scale", scale ?? defaults.taca.scale);
  put("taca_fraction", fraction ?? defaults.taca.fraction);
  const known = [...TEXTS, ...NUMBERS, ...CHOICES, ...FORGET];
  const others = Object.entries(params).filter(([name]) => !known.includes(name));
  const missing = adapters.set(params.loras);
  if (missing.length) others.push(["loras", missing]);
  setExtras(Object.fromEntries(others), Object.keys(otherWindow).length ? otherWindow : null);
}

// ---- errors ----

export function clearErrors() {
  for (const note of document.querySelectorAll(".error")) note.remove();
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
}

/** True when an input took the message. */
export function showError(param, message) {
  const input = param && (adapters.place(param, extras.loras?.length ?? 0) ??
    $(PLACES[param] ?? param) ?? $(param.split(".")[0]));
  if (!input?.closest("#form") || input.closest("[hidden]")) return false;
  const note = document.createElement("p");
  note.className = "error";
  note.id = `${input.id}_error`;
  note.setAttribute("role", "alert");
  note.textContent = message;
  input.closest("details")?.setAttribute("open", "");
  (input.closest(".field") ?? input.parentElement).append(note);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", note.id);
  (input.querySelector(":checked") ?? input).focus();
  return true;
}

// ---- what the inputs do to each other ----

export function rollSeed() {
  put("seed", crypto.getRandomValues(new Uint32Array(1))[0]);
}

/** The nearest size of this shape that may be asked for. */
function takeSize(width, height) {
  const factor = Math.min(1, sides.max / Math.max(width, height));
  const near = (px) => Math.max(Math.ceil(sides.min / sides.multiple),
    Math.round((px * factor) / sides.multiple)) * sides.multiple;
  put("width", near(width));
  put("height", near(height));
}

/** chosen: called with what there is to say about the model in the form. */
export function connect(chosen) {
  onModel = chosen;
  $("model").addEventListener("change", follow);
  $("cfg_scale").addEventListener("input", followCfg);
  $("output_format").addEventListener("change", () => setFormat($("output_format").value));
  start.connect(takeSize, (kind) => showError(kind, "This file is no picture."));
  for (const slider of document.querySelectorAll("[data-for]")) {
    const input = $(slider.dataset.for);
    slider.addEventListener("input", () => {
      input.value = slider.value;
      followCfg();
    });
    input.addEventListener("input", () => { slider.value = input.value; });
  }
  $("dice").addEventListener("click", rollSeed);
  $("swap").addEventListener("click", () => {
    const width = $("width").value;
    put("width", $("height").value);
    put("height", width);
  });
  $("extras_drop").addEventListener("click", dropExtras);
}
