// docs.js - /openapi.json for people: routes, fields, ranges, examples.

const root = document.getElementById("doc");
let doc;

function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) e.setAttribute(name, value);
  e.append(...children.filter((child) => child !== null && child !== undefined));
  return e;
}

/** Text with `code` in back-quotes. */
function prose(text) {
  return (text ?? "").split("`").map((part, i) => (i % 2 ? element("code", null, part) : part));
}

function resolve(o) {
  if (!o?.$ref) return o;
  return o.$ref.slice(2).split("/").reduce((at, key) => at[key], doc);
}

const nameOf = (schema) => schema?.$ref?.match(/schemas\/(\w+)$/)?.[1];

function typeOf(schema) {
  if (nameOf(schema)) return nameOf(schema);
  const s = resolve(schema);
  if (s.anyOf) return s.anyOf.map(typeOf).filter((t) => t !== "null").join(" or ");
  if (s.const !== undefined) return JSON.stringify(s.const);
  if (s.type === "array") return `list of ${typeOf(s.items ?? {})}`;
  const types = [s.type ?? "any"].flat().filter((t, _, all) => t !== "null" || all.length === 1);
  return types.join(" or ");
}

function rangeOf(schema) {
  const s = resolve(schema);
  const ranged = s.anyOf ? resolve(s.anyOf[0]) : s;
  const parts = [];
  if (ranged.minimum !== undefined && ranged.maximum !== undefined)
    parts.push(`${ranged.minimum} \u2026 ${ranged.maximum}`);
  else if (ranged.minimum !== undefined) parts.push(`from ${ranged.minimum}`);
  if (s.multipleOf) parts.push(`multiples of ${s.multipleOf}`);
  if (s.maxLength) parts.push(`${s.minLength ?? 0} \u2026 ${s.maxLength} bytes`);
  if (s.enum) parts.push(s.enum.filter((v) => v !== null).join(", "));
  return parts.join("; ");
}

function rows(schema, prefix = "") {
  const s = resolve(schema);
  return Object.entries(s.properties ?? {}).flatMap(([name, property]) => {
    const p = resolve(property);
    const must = s.required?.includes(name) && s.additionalProperties === false;
    const row = element("tr", null, element("td", null, element("code", null, prefix + name)),
      element("td", null, typeOf(property)), element("td", null, rangeOf(property)),
      element("td", null, must ? "required" : p.default === undefined ? "" : JSON.stringify(p.default)),
      element("td", null, ...prose(p.description)));
    const inner = p.anyOf?.map(resolve).find((choice) => choice.properties) ?? (p.properties ? p : null);
    return [row, ...(inner ? rows(inner, `${prefix}${name}.`) : [])];
  });
}

function table(schema) {
  const head = ["Field", "Type", "Range", "Default", "Meaning"].map((t) =>
    element("th", { scope: "col" }, t));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Fields" },
    element("table", null, element("thead", null, element("tr", null, ...head)),
      element("tbody", null, ...rows(schema))));
}

function curl(method, path, example) {
  const url = new URL(path.slice(1), document.baseURI).href.replaceAll("%7B", "{").replaceAll("%7D", "}");
  const verb = method === "get" || (method === "post" && example) ? "" : `-X ${method.toUpperCase()} `;
  const data = example ? ` --json '${JSON.stringify(example).replaceAll("'", "'\\''")}'` : "";
  return element("pre", { tabindex: "0" }, `curl ${verb}${url}${data}`);
}

function bodyOf(operation) {
  const content = operation.requestBody?.content?.["application/json"];
  if (!content) return [];
  const name = nameOf(content.schema);
  return [element("p", { class: "note" }, "Body: ", element("a", { href: `#${name}` }, name), ".")];
}

function parametersOf(operation, item) {
  const all = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map(resolve);
  if (!all.length) return [];
  return [element("dl", null, ...all.flatMap((p) => [
    element("dt", null, element("code", null, p.name), p.in === "path" ? "" : ` (${p.in})`),
    element("dd", null, ...prose(p.description))]))];
}

function answersOf(operation) {
  return element("dl", null, ...Object.entries(operation.responses).flatMap(([status, ref]) => {
    const r = resolve(ref);
    const kinds = Object.entries(r.content ?? {}).flatMap(([type, c], i) => {
      const name = nameOf(c.schema);
      return [i ? ", " : " ", element("code", null, type),
        ...(name ? [" ", element("a", { href: `#${name}` }, name)] : [])];
    });
    return [element("dt", null, element("code", null, status === "default" ? "else" : status)),
      element("dd", null, ...prose(r.description), ...kinds)];
  }));
}

function operation(path, method, item) {
  const o = item[method];
  const examples = Object.values(o.requestBody?.content["application/json"].examples ?? {});
  const commands = examples.length ? examples.map((x) => curl(method, path, x.value)) : [curl(method, path)];
  return element("article", { id: o.operationId },
    element("h3", null, element("span", { class: "verb" }, method.toUpperCase()), " ",
      element("code", null, path)),
    element("p", null, o.summary, "."),
    o.description ? element("p", { class: "note" }, ...prose(o.description)) : null,
    ...parametersOf(o, item), ...bodyOf(o), ...commands, answersOf(o));
}

function render() {
  const methods = ["get", "put", "post", "delete"];
  for (const tag of doc.tags) {
    const section = element("section", null, element("h2", null, tag.name));
    for (const [path, item] of Object.entries(doc.paths))
      for (const method of methods)
        if (item[method]?.tags.includes(tag.name)) section.append(operation(path, method, item));
    root.append(section);
  }
  const objects = element("section", null, element("h2", null, "Objects"));
  for (const [name, schema] of Object.entries(doc.components.schemas))
    objects.append(element("article", { id: name }, element("h3", null, name),
      schema.description ? element("p", { class: "note" }, ...prose(schema.description)) : null,
      schema.properties ? table(schema) : element("p", null, typeOf(schema))));
  root.append(objects);
}

const said = document.getElementById("about");
const response = await fetch("openapi.json");
const body = await response.json();
if (response.ok) {
  doc = body;
  said.textContent = `version ${doc.info.version}`;
  root.append(element("p", { class: "lead" }, ...prose(doc.info.description)));
  render();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} else {
  said.textContent = body.error.message;
}
