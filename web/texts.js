// texts.js - what a PNG or JPEG says about itself: which settings it was made with.

const PNG = [137, 80, 78, 71, 13, 10, 26, 10];
const JPEG = [255, 216, 255];
const COMMENT = 254; // the marker of its segment
const PIXELS = 218;
const latin1 = new TextDecoder("latin1");
const utf8 = new TextDecoder();

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Keyword and text of one chunk: tEXt, zTXt or iTXt. */
async function textOf(type, data) {
  const zero = data.indexOf(0);
  if (zero < 1) return null;
  const keyword = latin1.decode(data.subarray(0, zero));
  if (type === "tEXt") return [keyword, latin1.decode(data.subarray(zero + 1))];
  if (type === "zTXt") return [keyword, latin1.decode(await inflate(data.subarray(zero + 2)))];
  const packed = data[zero + 1] === 1;
  const language = data.indexOf(0, zero + 3);
  const translated = data.indexOf(0, language + 1);
  if (language < 0 || translated < 0) return null;
  const text = data.subarray(translated + 1);
  return [keyword, utf8.decode(packed ? await inflate(text) : text)];
}

/** {keyword: text} of the chunks. */
async function pngTexts(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const texts = {};
  for (let at = 8; at + 12 <= bytes.length;) {
    const length = view.getUint32(at);
    const type = latin1.decode(bytes.subarray(at + 4, at + 8));
    if (at + 12 + length > bytes.length) break; // cut short: what came before still counts
    if (["tEXt", "zTXt", "iTXt"].includes(type)) {
      const pair = await textOf(type, bytes.subarray(at + 8, at + 8 + length)).catch(() => null);
      if (pair) texts[pair[0]] = pair[1];
    }
    at += 12 + length;
  }
  return texts;
}

/** All comments before the pixels that begin with "keyword: ", as one: a segment has 64 KiB. */
function jpegText(buffer, keyword) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  const begin = `${keyword}: `;
  const parts = [];
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 255 && bytes[at + 1] !== PIXELS;) {
    const end = at + 2 + view.getUint16(at + 2);
    const name = latin1.decode(bytes.subarray(at + 4, at + 4 + begin.length));
    if (bytes[at + 1] === COMMENT && name === begin && end <= bytes.length)
      parts.push(bytes.subarray(at + 4 + begin.length, end));
    at = end;
  }
  return new Blob(parts).text();
}

/** The parameters that taca wrote into its picture. */
export async function parametersOf(buffer) {
  const is = (signature) => signature.every((b, i) => new Uint8Array(buffer)[i] === b);
  if (!is(PNG) && !is(JPEG)) throw new Error("this file is neither a PNG nor a JPEG");
  const text = is(PNG) ? (await pngTexts(buffer)).taca : await jpegText(buffer, "taca");
  if (!text) throw new Error("this picture holds no taca settings");
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("the settings in this picture cannot be read");
  }
}
