// stream.js - one POST /v1/generate whose answer is an event stream. Knows nothing of the page.
import { withKey } from "./access.js";

/** What the server said no with: status, code, param, message, seconds until a retry makes sense. */
export class Refusal extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message || `the server answered ${status}`);
    Object.assign(this, { status, code: error?.code, param: error?.param, retryAfter });
  }
}

export async function refusalOf(response) {
  const body = await response.json().catch(() => null);
  return new Refusal(response.status, body?.error, Number(response.headers.get("Retry-After")) || 0);
}

/** Frames of text/event-stream: yields the JSON of each `data`; comments are skipped. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pieces.push(value);
    if (!value.includes("\n")) continue; // a picture is one long line in many pieces
    const parts = pieces.join("").split("\n\n");
    pieces = [parts.pop()];
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart()).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}

/** Calls `on(event)` for every event until the stream's last; throws a Refusal, an AbortError, or
 *  an Error when the connection breaks. Aborting closes the connection, which cancels the work. */
export async function generate(params, signal, on) {
  const response = await fetch("v1/generate", {
    method: "POST",
    headers: withKey({ "Content-Type": "application/json", Accept: "text/event-stream" }),
    body: JSON.stringify(params),
    signal,
  });
  if (!response.ok) throw await refusalOf(response);
  for await (const event of frames(response.body)) {
    if (event.type === "error") throw new Refusal(event.error.status ?? 500, event.error, 0);
    if (event.type === "cancelled") throw new Error(`cancelled: ${event.reason}`);
    on(event);
    if (event.type === "completed") return;
  }
  throw new Error("the connection ended before the picture was done");
}

export function pictureBlob(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: `image/${event.format || "png"}` });
}
