// adapters.js - the adapters that this service has, a row each: whether, how strong, in which steps.

const $ = (id) => document.getElementById(id);
const WINDOWS = { always: "every step", taca: "TACA's steps" };
let rows = []; // {id, on, scale, window}

function input(type, id, label) {
  const e = document.createElement(type === "select" ? "select" : "input");
  if (type !== "select") e.type = type;
  e.id = id;
  if (label) e.setAttribute("aria-label", label);
  return e;
}

function row(adapter, range, at) {
  const root = document.createElement("div");
  root.className = "field adapter";
  const on = input("checkbox", `lora_${at}`);
  const name = document.createElement("label");
  name.append(on, adapter.id);
  name.title = `rank ${adapter.rank}, changes ${adapter.modules} matrices`;
  const window = input("select", `lora_${at}_window`, `${adapter.id} acts in`);
  for (const [value, text] of Object.entries(WINDOWS)) window.append(new Option(text, value));
  const scale = input("number", `lora_${at}_scale`, `Strength of ${adapter.id}`);
  Object.assign(scale, { min: range.min, max: range.max, step: 0.1, inputMode: "decimal", value: 1 });
  for (const e of [window, scale]) e.addEventListener("input", () => { on.checked = true; });
  root.append(name, window, scale);
  return { root, id: adapter.id, on, scale, window };
}

/** What `loras` of the capabilities says. */
export function offer(loras) {
  rows = loras.available.map((adapter, at) => row(adapter, loras.scale, at));
  $("adapters").hidden = rows.length === 0;
  $("adapter_rows").replaceChildren(...rows.map((r) => r.root));
}

/** A picture's list into the rows; returns what is not to be had here. */
export function set(list = []) {
  for (const r of rows) {
    const use = list.find((l) => l.id === r.id);
    r.on.checked = Boolean(use);
    r.scale.value = use?.scale ?? 1;
    r.window.value = use?.window ?? "always";
  }
  return list.filter((l) => !rows.some((r) => r.id === l.id));
}

const used = () => rows.filter((r) => r.on.checked);

export function get() {
  return used().map((r) => ({ id: r.id, window: r.window.value,
    ...(r.scale.value === "" ? {} : { scale: Number(r.scale.value) }) }));
}

/** The input of a parameter such as "loras[1].scale", after `before` entries that have none. */
export function place(param, before) {
  const found = /^loras\[(\d+)\](?:\.(\w+))?/.exec(param ?? "");
  const r = found && used()[found[1] - before];
  return r && ({ scale: r.scale, window: r.window }[found[2]] ?? r.on);
}
