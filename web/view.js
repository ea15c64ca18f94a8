// view.js - how a picture in the making and a finished one look. A shot is one request:
// {params, label, state, width, height, blob, format, url, seed, steps, ms, warnings}.
import { asCurl, asPython, copy, endingOf } from "./code.js";

const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

export function button(text, action) {
  const b = element("button", "link", text);
  b.type = "button";
  b.addEventListener("click", () => action(b));
  return b;
}

/** Copies, and says so in the button for a moment. */
export async function copyFrom(b, text) {
  const was = b.textContent;
  b.textContent = (await copy(text)) ? "Copied" : "Copying is not allowed here";
  setTimeout(() => { b.textContent = was; }, 1500);
}

const describe = (taca) => taca
  ? `TACA ${taca.scale ?? ""}${taca.fraction === undefined ? "" : ` for the first ${Math.round(taca.fraction * 100)} %`}`
  : "";

export class Pane {
  constructor(shot, reuse) {
    this.shot = shot;
    this.reuse = reuse;
    this.root = element("figure");
    this.box = element("div", "picture");
    this.image = element("img");
    this.image.alt = "";
    this.wait = element("span", "wait");
    this.box.append(this.image, this.wait);
    this.bar = element("progress");
    this.bar.setAttribute("aria-label", shot.label || "Progress");
    this.state = element("p", "state");
    this.facts = element("p", "facts");
    this.links = element("div", "links");
    const caption = element("figcaption");
    if (shot.label) caption.append(element("p", "title", shot.label));
    caption.append(this.bar, this.state, this.facts, this.links);
    this.root.append(this.box, caption);
    this.shape(shot.width, shot.height);
    if (shot.url) this.finished();
    else this.image.hidden = true;
  }

  shape(width, height) {
    const ratio = width && height ? width / height : 1;
    this.box.style.aspectRatio = `${ratio}`;
    this.root.style.maxWidth = `calc(68vh * ${ratio})`;
  }

  say(text) {
    this.state.textContent = text;
  }

  queued(event) {
    const eta = event.eta_ms === null ? "" : `, about ${seconds(event.eta_ms)} in all`;
    this.waiting = event.position > 0
      ? `In the queue, number ${event.position}${eta}` : `About to start${eta}`;
    this.tick(this.ms ?? 0);
  }

  progress(event) {
    this.bar.max = event.steps;
    this.bar.value = event.step;
    const left = event.eta_ms === null ? "" : ` \u00b7 about ${seconds(event.eta_ms)} left`;
    const others = event.batch > 1 ? ` \u00b7 ${event.batch} share the batch` : "";
    this.waiting = `Step ${event.step} of ${event.steps}${left}${others}`;
    this.tick(this.ms ?? 0);
  }

  /** The line below a picture in the making. */
  tick(ms) {
    this.ms = ms;
    this.say(`${this.waiting ?? "Sending"} \u00b7 ${seconds(ms)}`);
  }

  preview(url) {
    if (this.rough) URL.revokeObjectURL(this.rough);
    this.rough = url;
    this.image.src = url;
    this.image.hidden = false;
    this.image.classList.add("rough");
    this.image.onload = () => { // half a pixel of the preview is softened away
      const wide = this.box.clientWidth / (this.image.naturalWidth || 1);
      this.image.style.setProperty("--soft", `${Math.min(12, wide / 2).toFixed(1)}px`);
    };
    this.image.alt = "A rough preview";
  }

  finished() {
    const { shot } = this;
    if (this.rough) URL.revokeObjectURL(this.rough);
    this.shape(shot.width, shot.height);
    this.image.src = shot.url;
    this.image.hidden = false;
    this.image.classList.remove("rough");
    this.image.alt = shot.params.prompt;
    this.bar.hidden = true;
    this.wait.textContent = "";
    this.say(shot.ms === undefined ? "From the file" : `Done in ${seconds(shot.ms)}`);
    const facts = [shot.params.model, `seed ${shot.seed}`, `${shot.width}\u2009\u00d7\u2009${shot.height}`,
      shot.params.steps && `${shot.params.steps} steps`,
      shot.params.cfg_scale && `CFG ${shot.params.cfg_scale}`, describe(shot.params.taca),
      ...(shot.params.loras ?? []).map((l) => `${l.id} ${l.scale ?? 1}`)];
    this.facts.textContent = facts.filter(Boolean).join(" \u00b7 ");
    for (const warning of shot.warnings ?? [])
      this.facts.after(element("p", "note", warning.message));
    const save = element("a", "", "Download");
    save.href = shot.url;
    save.download = `taca-${shot.seed}${endingOf(shot.format)}`;
    save.className = "link";
    this.links.replaceChildren(save, button("Use settings", () => this.reuse(shot.params)),
      button("Copy curl", (b) => copyFrom(b, asCurl(shot.params))),
      button("Copy Python", (b) => copyFrom(b, asPython(shot.params))));
  }

  ended(text) {
    this.bar.hidden = true;
    this.say(text);
    if (this.image.hidden) this.wait.textContent = "no picture";
  }
}

/** One entry of the strip of earlier pictures. */
export function historyItem(run, show) {
  const item = element("li");
  const b = element("button");
  b.type = "button";
  const shot = run.shots.at(-1);
  const image = element("img");
  image.src = shot.url;
  image.alt = `${shot.params.prompt}, seed ${shot.seed}`;
  b.append(image);
  if (run.shots.length > 1) b.append(element("span", "mark", "pair"));
  else if (shot.params.taca) b.append(element("span", "mark", "TACA"));
  b.addEventListener("click", () => show(run));
  item.append(b);
  run.button = b;
  return item;
}
