// code.js - a request as text that people paste elsewhere.
import { hasKey } from "./access.js";

const url = () => new URL("v1/generate", document.baseURI).href;
export const endingOf = (format) => (format === "jpeg" ? ".jpg" : ".png");
/** Of a picture of strangers' settings only what can be nothing else gets into a command as it is. */
const fileName = (params) =>
  `taca-${/^\d+$/.test(params.seed) ? params.seed : "random"}${endingOf(params.output_format)}`;
const typeOf = (params) => (params.output_format === "jpeg" ? "image/jpeg" : "image/png");

/** Pictures are pasted as files of these names, not as their bytes. */
const FILES = { image: "start", mask: "mask" };
const nameOf = (kind, url) => `${FILES[kind]}.${url.startsWith("data:image/jpeg") ? "jpg" : "png"}`;

/** In single quotes for a POSIX shell. */
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(params) {
  const rest = Object.entries(params).filter(([name]) => !FILES[name]);
  const files = Object.keys(FILES).filter((name) => params[name])
    .map((name) => `,"${name}":"'"$(base64 <${nameOf(name, params[name])} | tr -d '\\n')"'"`).join("");
  const body = shell(JSON.stringify(Object.fromEntries(rest)));
  const key = hasKey() ? ' \\\n  -H "Authorization: Bearer $TACA_API_KEY"' : "";
  return `curl --no-progress-meter --fail-with-body ${shell(url())} \\
  --json ${files ? `${body.slice(0, -2)}${files}}'` : body} \\
  -H 'Accept: ${typeOf(params)}' -o ${fileName(params)}${key}
`;
}

/** JSON as a Python literal. */
function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value).map(([k, v]) => `${python(k)}: ${python(v)}`).join(", ")}}`;
  return JSON.stringify(value);
}

export function asPython(params) {
  const value = (k, v) => (FILES[k] ? `base64.b64encode(open("${nameOf(k, v)}", "rb").read()).decode()` : python(v));
  const fields = Object.entries(params).map(([k, v]) => `    ${python(k)}: ${value(k, v)},\n`).join("");
  const key = hasKey();
  return `${params.image ? "import base64\n" : ""}import json
${key ? "import os\n" : ""}import urllib.request

request = {
${fields}}
call = urllib.request.Request(
    ${python(url())},
    data=json.dumps(request).encode(),
    headers={"Content-Type": "application/json", "Accept": ${python(typeOf(params))}${
    key ? ",\n             \"Authorization\": \"Bearer \" + os.environ[\"TACA_API_KEY\"]" : ""}},
)
with urllib.request.urlopen(call) as answer, open(${python(fileName(params))}, "wb") as file:
    file.write(answer.read())
`;
}

/** Where the clipboard may not be used (plain http from elsewhere), the old way. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}
