// start.js - the picture to start from and its mask: files to data URLs, and what is shown of them.

const $ = (id) => document.getElementById(id);
const KINDS = ["image", "mask"];

const chosen = { image: null, mask: null }; // data URLs
let onSize = () => {};

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("this file cannot be read"));
    reader.readAsDataURL(blob);
  });
}

/** Whatever the browser can show, as one of the kinds that services take. */
async function asSent(file) {
  if (["image/png", "image/jpeg"].includes(file.type)) return file;
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

function show() {
  if (!chosen.image) chosen.mask = null;
  for (const kind of KINDS) {
    const view = $(`${kind}_view`);
    view.hidden = !chosen[kind];
    $(`${kind}_drop`).hidden = !chosen[kind];
    if (chosen[kind]) view.src = chosen[kind];
    else view.removeAttribute("src");
  }
  $("start_more").hidden = !chosen.image;
}

export function set(image, mask) {
  chosen.image = image ?? null;
  chosen.mask = mask ?? null;
  show();
}

/** What of it belongs into a request. */
export function get() {
  const out = {};
  for (const kind of KINDS) if (chosen[kind]) out[kind] = chosen[kind];
  return out;
}

export async function take(kind, file) {
  const sent = await asSent(file);
  const bitmap = await createImageBitmap(sent);
  chosen[kind] = await dataUrl(sent);
  show();
  if (kind === "image") onSize(bitmap.width, bitmap.height);
}

/** sized: called with the sides of a new picture; failed: with what is wrong with a file. */
export function connect(sized, failed) {
  onSize = sized;
  for (const kind of KINDS) {
    const file = $(`${kind}_file`);
    $(kind).addEventListener("click", () => file.click());
    $(`${kind}_drop`).addEventListener("click", () => {
      chosen[kind] = null;
      show();
    });
    file.addEventListener("change", () => {
      if (file.files[0]) take(kind, file.files[0]).catch(() => failed(kind));
      file.value = "";
    });
  }
}
