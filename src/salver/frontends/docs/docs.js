// Renders openapi.json, and sends requests to the server that the page came from.
// All text is set as text, never as HTML: no name or answer can bring in markup.
"use strict";

const BASE = new URL(".", location.href);
const LONGEST_SAMPLE = 200000; // elements
const LONGEST_SHOWN = 200000; // characters

let api;
let index = [];
const forms = []; // the "try it" forms, to fill in when another model is chosen

function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

/** The thing that a {"$ref": "#/components/..."} stands for. */
function resolve(node) {
  if (!node?.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((part, key) => part[key], api);
}

/** Paragraphs, with `code` in them. */
function prose(text) {
  return (text ?? "").split("\n\n").filter(Boolean).map((paragraph) => element("p", {}, ...withCode(paragraph)));
}

function withCode(text) {
  return text.split("`").map((part, number) => (number % 2 ? element("code", {}, part) : part));
}

// ---- schemas -------------------------------------------------------------------------------------------------------

function typeOf(schema) {
  const name = schema.$ref?.split("/").pop();
  const found = resolve(schema);
  if (found.allOf) return typeOf(found.allOf[0]);
  if (found.anyOf) return found.anyOf.map(typeOf).join(" or ");
  if ("const" in found) return JSON.stringify(found.const);
  if (found.type === "array") return `list of ${Object.keys(found.items ?? {}).length ? typeOf(found.items) : "values"}`;
  if (found.enum && !name) return found.enum.join(" | ");
  return name ?? [found.type ?? "any"].flat().join(" or ");
}

/** The properties below a schema, as a nested list; null where there are none. */
function properties(schema) {
  const found = resolve(schema);
  if (found.allOf) return properties(found.allOf[0]);
  if (found.type === "array") return found.items ? properties(found.items) : null;
  if (found.enum) return element("p", { class: "type" }, found.enum.join(", "));
  if (!found.properties) return null;
  const items = Object.entries(found.properties).map(([name, property]) => {
    const mark = found.required?.includes(name) ? element("b", { title: "required" }, " *") : null;
    const line = [element("span", { class: "name" }, name), mark, " ", element("span", { class: "type" }, typeOf(property))];
    const meaning = property.description ?? resolve(property).description;
    if (meaning) line.push(" ", ...withCode(meaning));
    const below = properties(property);
    return element("li", {}, ...(below ? [element("details", {}, element("summary", {}, ...line), below)] : line));
  });
  return element("ul", { class: "schema" }, ...items);
}

function contentView(content) {
  return Object.entries(content ?? {}).flatMap(([type, { schema, examples }]) => {
    const found = resolve(schema);
    return [
      element("p", {}, element("code", {}, type), " ", element("span", { class: "type" }, typeOf(schema))),
      ...prose(found.description),
      properties(schema),
      ...Object.values(examples ?? {}).flatMap((example) => [
        element("p", { class: "quiet" }, `Example: ${example.summary}`),
        element("pre", {}, typeof example.value === "string" ? example.value : pretty(example.value)),
      ]),
    ];
  });
}

/** JSON with lists of plain values on one line. */
function pretty(value, indent = "") {
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    if (!value.some((each) => typeof each === "object" && each !== null)) {
      return `[${value.map((each) => JSON.stringify(each)).join(", ")}]`;
    }
    return `[\n${value.map((each) => inner + pretty(each, inner)).join(",\n")}\n${indent}]`;
  }
  if (typeof value === "object" && value !== null && Object.keys(value).length) {
    const members = Object.entries(value).map(([key, each]) => `${inner}${JSON.stringify(key)}: ${pretty(each, inner)}`);
    return `{\n${members.join(",\n")}\n${indent}}`;
  }
  return JSON.stringify(value);
}

// ---- operations ----------------------------------------------------------------------------------------------------

function operationView(path, method, operation, shared) {
  const parameters = [...shared, ...(operation.parameters ?? [])].map(resolve);
  const body = operation.requestBody;
  const parts = element("div", {}, ...prose(operation.description));
  const view = element(
    "details",
    { class: "operation", id: operation.operationId },
    element(
      "summary",
      {},
      element("span", { class: `method ${method}` }, method.toUpperCase()),
      element("span", { class: "path" }, path),
      element("span", { class: "quiet" }, operation.summary),
    ),
    parts,
  );
  // Built when it is first opened: the page starts fast.
  view.addEventListener("toggle", () => {
    if (!view.open || parts.dataset.built) return;
    parts.dataset.built = "yes";
    parts.append(tryIt(path, method, operation, parameters));
    if (parameters.length) {
      parts.append(element("h3", {}, "Parameters"), element("ul", { class: "schema" }, ...parameters.map(parameterView)));
    }
    if (body) parts.append(element("h3", {}, body.required ? "Body" : "Body (optional)"), ...present(contentView(body.content)));
    parts.append(element("h3", {}, "Answers"), ...Object.entries(operation.responses).map(answerView));
  });
  return view;
}

const present = (nodes) => nodes.filter((node) => node !== null);

function parameterView(parameter) {
  return element(
    "li",
    {},
    element("span", { class: "name" }, parameter.name),
    parameter.required ? element("b", { title: "required" }, " *") : null,
    " ",
    element("span", { class: "type" }, `${parameter.in}, ${typeOf(parameter.schema)}`),
    " ",
    ...withCode(parameter.description ?? ""),
  );
}

function answerView([status, answer]) {
  const found = resolve(answer);
  const headers = Object.entries(found.headers ?? {}).map(([name, header]) =>
    element("li", {}, element("span", { class: "name" }, name), " ", element("span", { class: "quiet" }, header.description)),
  );
  return element(
    "details",
    { class: "answer" },
    element("summary", {}, element("b", { class: status >= "400" ? "bad" : "post" }, status), " ", ...withCode(found.description)),
    headers.length ? element("ul", { class: "schema" }, ...headers) : null,
    ...present(contentView(found.content)),
  );
}

// ---- try it --------------------------------------------------------------------------------------------------------

function tryIt(path, method, operation, parameters) {
  const fields = {};
  const row = element("div", { class: "row" });
  for (const { name } of parameters.filter((parameter) => parameter.in === "path")) {
    fields[name] = element("input", { name, spellcheck: false, autocomplete: "off", required: true });
    row.append(element("label", {}, `${name} `, fields[name]));
  }
  const takesBody = Boolean(operation.requestBody);
  const body = takesBody ? element("textarea", { spellcheck: false, ariaLabel: "Body" }) : null;
  const examples = operation.requestBody?.content["application/json"]?.examples ?? {};
  const note = element("span", { class: "quiet" });
  const samples = element("div", { class: "row" });
  const form = { operation, fields, body, note };
  if (fields.model && takesBody && operation.tags[0] === "inference") {
    samples.append(element("button", { type: "button", onclick: () => fillIn(form) }, "Sample from the signature"));
  }
  for (const [model, example] of Object.entries(examples)) {
    const use = () => {
      body.value = pretty(example.value);
      if (fields.model) fields.model.value = model;
      note.textContent = "";
    };
    samples.append(element("button", { type: "button", onclick: use }, example.summary));
  }
  samples.append(note);
  const send = element("button", { class: "send" }, "Send");
  const result = element("div", { ariaLive: "polite" });
  const onsubmit = (event) => {
    event.preventDefault();
    const filled = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(fields[name].value.trim()));
    request(filled.slice(1), method.toUpperCase(), body?.value ?? "", send, result);
  };
  forms.push(form);
  fillIn(form);
  return element(
    "form",
    { onsubmit },
    element("h3", {}, "Try it"),
    row,
    samples.childNodes.length > 1 ? samples : null,
    body,
    element("div", { class: "row" }, send),
    result,
  );
}

/** Fill a form in for the chosen model. */
function fillIn({ operation, fields, body, note }) {
  if (!fields.model) return;
  fields.model.value = byId("model").value;
  if (fields.version) fields.version.value = byId("version-of-model").value;
  if (!body || operation.tags[0] !== "inference") return;
  const metadata = chosen.metadata;
  if (!metadata) {
    body.value = "";
    note.textContent = chosen.problem;
    return;
  }
  const { sample, remark } = operation.operationId.startsWith("infer") ? inferSample(metadata) : generateSample(metadata);
  body.value = pretty(sample);
  note.textContent = remark;
}

/** Element values that fit a datatype. They mean nothing. */
function values(datatype, count) {
  if (datatype === "BYTES") return Array(count).fill("The model is small. It fits on a laptop.");
  if (datatype === "BOOL") return Array(count).fill(true);
  return Array(count).fill(0);
}

function inferSample(metadata) {
  let remark = "Made from the signature; the values mean nothing.";
  const inputs = metadata.inputs.map((input) => {
    const datatype = input.datatype === "ANY" ? "FP32" : input.datatype;
    const shape = input.shape.map((size) => (size === -1 ? 1 : size));
    const count = shape.reduce((product, size) => product * size, 1);
    if (datatype === "FP16" || datatype === "BF16") remark = `${datatype} has no JSON form; send it in binary form.`;
    if (count > LONGEST_SAMPLE) remark = `${input.name} has ${count} elements, too many for this page.`;
    return { name: input.name, datatype, shape, data: values(datatype, Math.min(count, LONGEST_SAMPLE)) };
  });
  return { sample: { inputs }, remark };
}

function generateSample(metadata) {
  const { sample, remark } = inferSample(metadata);
  const plain = sample.inputs.map(({ name, data }) => [name, data.length === 1 ? data[0] : data]);
  return { sample: Object.fromEntries(plain), remark };
}

// ---- requests ------------------------------------------------------------------------------------------------------

async function request(path, method, body, send, result) {
  if (send.stop) {
    send.stop.abort();
    return;
  }
  send.stop = new AbortController();
  send.textContent = "Stop";
  const url = new URL(path, BASE);
  const options = { method, signal: send.stop.signal, cache: "no-store" };
  if (body) Object.assign(options, { body, headers: { "content-type": "application/json" } });
  const status = element("p", {}, "…");
  const text = element("pre", {});
  const headers = element("pre", {});
  const curl = `curl ${method === "GET" ? "" : `-X ${method} `}'${url}'${body ? ` -d '${body.replaceAll("'", "'\\''")}'` : ""}`;
  result.replaceChildren(
    status,
    text,
    element("details", {}, element("summary", {}, "Headers"), headers),
    element("details", {}, element("summary", {}, "As a command"), element("pre", {}, shortened(curl))),
  );
  const started = performance.now();
  const took = () => `${(performance.now() - started).toFixed(1)} ms`;
  try {
    const answer = await fetch(url, options);
    headers.textContent = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    const say = (more) => {
      const line = `${answer.status} ${answer.statusText}`.trim();
      status.replaceChildren(element("b", { class: answer.ok ? "post" : "bad" }, line), ` in ${took()}${more}`);
    };
    say("");
    const bytes = await readAll(answer, text);
    say(`, ${bytes.length} bytes`);
    text.textContent = shortened(readable(bytes, answer.headers));
  } catch (error) {
    const stopped = error.name === "AbortError";
    status.replaceChildren(element("b", { class: "bad" }, stopped ? "stopped" : `no answer: ${error.message}`), ` after ${took()}`);
  } finally {
    delete send.stop;
    send.textContent = "Send";
  }
}

/** The whole body; an event stream is shown as it comes. */
async function readAll(answer, text) {
  if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
    return new Uint8Array(await answer.arrayBuffer());
  }
  const chunks = [];
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    text.append(decoder.decode(part.value, { stream: true }));
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function readable(bytes, headers) {
  const length = headers.get("inference-header-content-length");
  const text = new TextDecoder().decode(length === null ? bytes : bytes.subarray(0, Number(length)));
  let shown = text;
  if (headers.get("content-type") === "application/json" || length !== null) {
    try {
      shown = pretty(JSON.parse(text));
    } catch {
      // Shown as it came.
    }
  }
  if (length === null) return shown;
  const binary = bytes.subarray(Number(length));
  const start = [...binary.subarray(0, 256)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${shown}\n\n${binary.length} bytes of tensors: ${start}${binary.length > 256 ? " …" : ""}`;
}

function shortened(text) {
  return text.length <= LONGEST_SHOWN ? text : `${text.slice(0, LONGEST_SHOWN)}\n… ${text.length - LONGEST_SHOWN} characters more`;
}

// ---- choosing a model ----------------------------------------------------------------------------------------------

const chosen = { metadata: null, problem: "" };

async function loadIndex() {
  try {
    const answer = await fetch(new URL("v2/repository/index", BASE), { method: "POST" });
    index = await answer.json();
  } catch {
    index = [];
  }
  const names = [...new Set(index.map((entry) => entry.name))];
  byId("model").replaceChildren(...names.map((name) => element("option", { value: name }, label(name))));
  const ready = names.find((name) => index.some((entry) => entry.name === name && entry.state === "READY"));
  if (ready) byId("model").value = ready;
  await chooseModel();
}

function label(name) {
  const ready = index.some((entry) => entry.name === name && entry.state === "READY");
  return ready ? name : `${name} (not ready)`;
}

async function chooseModel() {
  const name = byId("model").value;
  const versions = index.filter((entry) => entry.name === name && entry.version);
  byId("version-of-model").replaceChildren(
    ...versions.map(({ version, state }) => element("option", { value: version }, state === "READY" ? version : `${version} (${state.toLowerCase()})`)),
  );
  const newest = versions.findLast((entry) => entry.state === "READY") ?? versions.at(-1);
  if (newest) byId("version-of-model").value = newest.version;
  await chooseVersion();
}

async function chooseVersion() {
  const [name, version] = [byId("model").value, byId("version-of-model").value];
  chosen.metadata = null;
  chosen.problem = name ? "" : "There is no model.";
  if (name) {
    const path = `v2/models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;
    try {
      const answer = await fetch(new URL(path, BASE));
      const found = await answer.json();
      if (byId("model").value !== name || byId("version-of-model").value !== version) return; // another one by now
      if (answer.ok) chosen.metadata = found;
      else chosen.problem = found.error;
    } catch (error) {
      chosen.problem = error.message;
    }
  }
  forms.forEach(fillIn);
}

// ---- the page ------------------------------------------------------------------------------------------------------

function render() {
  byId("version").textContent = api.info.version;
  byId("main").append(...prose(api.info.description));
  for (const tag of api.tags) {
    const section = element("section", {}, element("h2", {}, tag.name), element("p", { class: "quiet" }, tag.description));
    const contents = [element("h2", {}, tag.name)];
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of ["get", "put", "post", "delete"]) {
        const operation = item[method];
        if (!operation || operation.tags[0] !== tag.name) continue;
        section.append(operationView(path, method, operation, item.parameters ?? []));
        contents.push(
          element(
            "a",
            { href: `#${operation.operationId}`, title: operation.summary },
            element("span", { class: method }, method.toUpperCase().padEnd(5)),
            ...breakable(path.replace("/v2/", "")),
          ),
        );
      }
    }
    byId("main").append(section);
    byId("contents").append(...contents);
  }
}

/** A path that may be broken behind its slashes. */
function breakable(path) {
  return path.split(/(?<=\/)/).flatMap((part) => [part, element("wbr")]);
}

function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) {
    target.open = true;
    target.scrollIntoView();
  }
}

async function start() {
  try {
    api = await (await fetch(new URL("openapi.json", BASE))).json();
  } catch (error) {
    byId("main").append(element("p", { class: "bad" }, `openapi.json can't be read: ${error.message}`));
    return;
  }
  render();
  byId("model").addEventListener("change", chooseModel);
  byId("version-of-model").addEventListener("change", chooseVersion);
  addEventListener("hashchange", openTarget);
  await loadIndex();
  openTarget();
}

start();
