// png.js - text chunks of a PNG: which settings a picture was made with.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
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

/** {keyword: text}; throws when the bytes are no PNG. */
export async function pngTexts(buffer) {
  const bytes = new Uint8Array(buffer);
  if (SIGNATURE.some((b, i) => bytes[i] !== b)) throw new Error("this file is not a PNG");
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

/** The parameters that taca wrote into its picture. */
export async function parametersOf(buffer) {
  const text = (await pngTexts(buffer)).taca;
  if (!text) throw new Error("this PNG holds no taca settings");
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("the settings in this PNG cannot be read");
  }
}
