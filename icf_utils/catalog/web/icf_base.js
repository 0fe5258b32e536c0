"use strict";
// What all pages of the catalog share: elements, addresses, files, numbers and texts.

/** What the first page says of the catalog: {study, catalog, name}. */
const icfSite = JSON.parse(document.getElementById("icf-site").textContent);

const icfCollator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// ---- elements

/** Set attributes; `on…` are listeners, `style` an object of properties; null, undefined and false are left out. */
function icfSet(element, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

/** Make an element. Children are elements and texts; values of headers only ever become texts. */
function icfEl(tag, attributes, ...children) {
  const element = icfSet(document.createElement(tag), attributes);
  element.append(...icfChildren(children));
  return element;
}

function icfChildren(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
}

/** Replace what is in an element. The focus stays on what has the same `data-focus`. */
function icfReplace(container, ...children) {
  const active = document.activeElement;
  const key = active && container.contains(active) ? active.getAttribute("data-focus") : null;
  container.replaceChildren(...icfChildren(children));
  if (key === null) return;
  const again = container.querySelector(`[data-focus="${CSS.escape(key)}"]`);
  if (again) again.focus({ preventScroll: true });
}

function icfButton(label, onclick, attributes) {
  return icfEl("button", { type: "button", onclick, ...attributes }, label);
}

/** A text that may be broken after an underscore and the like; what is copied is the text itself. */
function icfBreakable(text) {
  const parts = String(text).match(/[^_\-./]*[_\-./]|[^_\-./]+/g) || [];
  return parts.flatMap((part, at) => (at ? [icfEl("wbr"), part] : [part]));
}

// ---- addresses: everything that a page shows is in the part after "#"

/** The address as {path: [parts], params}. */
function icfAddress() {
  const text = window.location.hash.slice(1) || "/";
  const at = text.indexOf("?");
  const path = at < 0 ? text : text.slice(0, at);
  return {
    path: path.split("/").filter(Boolean).map(icfDecoded),
    params: new URLSearchParams(at < 0 ? "" : text.slice(at + 1)),
  };
}

function icfDecoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    return text;
  }
}

/** The link of a page: parameters are [name, value] pairs; empty values are left out. */
function icfHref(path, pairs) {
  const params = new URLSearchParams((pairs || []).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  const query = params.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
}

function icfVisitHref(visit) {
  return icfHref(["visit", visit]);
}

// ---- files

/** What a page says if a file cannot be shown: `sentence` is for the reader. */
class IcfProblem extends Error {}

/** Read a JSON file of the catalog. The browser asks the server whether its copy is still current. */
async function icfJson(path, missing) {
  let response;
  try {
    const early = window.icfEarly[path];
    delete window.icfEarly[path];
    response = await (early || window.icfFetch(path));
  } catch (error) {
    throw new IcfProblem(`The server does not answer, so the file ${path} could not be loaded. Check the connection, and reload the page.`);
  }
  if (response.status === 401 || response.status === 403) {
    throw new IcfProblem(`The server requires permission to read the file ${path} (${response.status}). Log in, or ask the operator of this catalog.`);
  }
  if (response.status === 404 || response.status === 410) {
    throw new IcfProblem(missing || `The file ${path} is missing. ${icfRebuild()}`);
  }
  if (!response.ok) {
    throw new IcfProblem(`The server could not deliver the file ${path} (${response.status}). Try again later.`);
  }
  try {
    return await response.json();
  } catch (error) {
    throw new IcfProblem(`The file ${path} is incomplete or damaged. Reload the page; if that does not help: ${icfRebuild()}`);
  }
}

function icfRebuild() {
  return `Whoever runs this catalog can rebuild it with 'icf-utils catalog build -o STORE ${icfSite.study}'.`;
}

function icfAlert(problem) {
  const sentence = problem instanceof IcfProblem ? problem.message : `The page failed: ${problem.message}. Reload it.`;
  return icfEl("div", { class: "icf-card", role: "alert" }, icfEl("p", null, sentence),
    icfEl("p", null, icfEl("a", { href: "#/" }, "All visits")));
}

/** Addresses that a browser can follow; anything else stays text. */
function icfIsLink(address) {
  return /^https?:\/\//.test(address || "");
}

// ---- numbers and texts

/** A size in decimal units, as everywhere in the catalog. */
function icfSize(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB", "PB"];
  let value = bytes / 1000;
  let unit = 0;
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toFixed(1)} ${units[unit]}`;
}

function icfNumber(value) {
  return icfNumberFormat.format(value);
}

const icfNumberFormat = new Intl.NumberFormat("en");

function icfCounted(number, one, more) {
  return `${icfNumber(number)} ${number === 1 ? one : more}`;
}

/** A recorded value as text; several values are joined. */
function icfValueText(value) {
  return value === undefined || value === null ? "" : Array.isArray(value) ? value.join(", ") : String(value);
}

/** Compare values: numbers by size, texts with their numbers; what is empty comes last. */
function icfCompare(a, b, descending) {
  const empty = (value) => value === "" || value === undefined || value === null;
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : icfCollator.compare(String(a), String(b));
  return descending ? -order : order;
}

/** Quote a text for a POSIX shell. */
function icfShell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;
}

// ---- copying and saving

/** Put text on the clipboard; where a page may not (plain http), by way of a selection. */
async function icfCopy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    const field = icfEl("textarea", { class: "icf-unseen", readonly: true, "aria-hidden": "true" });
    field.value = text;
    document.body.append(field);
    const before = document.activeElement;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (before) before.focus({ preventScroll: true });
    return done;
  }
}

/** Save a text as a file of the reader. */
function icfSave(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = icfEl("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A button that copies what `text()` gives, and says so. */
function icfCopyButton(label, text, attributes) {
  const said = icfEl("span", { class: "icf-said", role: "status" });
  const copy = async () => {
    said.textContent = (await icfCopy(text())) ? "Copied" : "Select and copy by hand";
    setTimeout(() => { said.textContent = ""; }, 2500);
  };
  return [said, icfButton(label, copy, attributes)];
}

/** A command to copy. */
function icfCommand(title, command) {
  return icfEl("div", { class: "icf-command" },
    icfEl("div", { class: "icf-command-head" }, icfEl("span", null, title),
      icfCopyButton("Copy", () => command, { "aria-label": `Copy the command: ${title}` })),
    icfEl("pre", { tabindex: "0", role: "group", "aria-label": title }, icfEl("code", null, command)));
}

/** Numbers that say how much there is. */
function icfFacts(facts) {
  const item = ([name, value]) => icfEl("div", null, icfEl("dt", null, name),
    icfEl("dd", null, typeof value === "number" ? icfNumber(value) : value));
  return icfEl("dl", { class: "icf-facts" }, facts.filter(([, value]) => value !== "").map(item));
}

// ---- recorded tags: labels, units, and how they are grouped

const ICF_TAGS = {
  SeriesDescription: { label: "Description", name: "description" },
  ProtocolName: { label: "Protocol", name: "protocol" },
  Modality: { label: "Modality", name: "modality" },
  MRAcquisitionType: { label: "Acquisition type", group: "Contrast" },
  PulseSequenceName: { label: "Sequence name", name: "sequence", group: "Contrast" },
  RepetitionTime: { label: "TR", name: "tr", unit: "ms", group: "Timing" },
  EchoTime: { label: "TE", name: "te", unit: "ms", group: "Timing" },
  InversionTime: { label: "TI", name: "ti", unit: "ms", group: "Timing" },
  EchoTrainLength: { label: "Echo train length", name: "etl", group: "Timing" },
  FlipAngle: { label: "Flip angle", name: "flip", unit: "°", group: "Contrast" },
  ScanningSequence: { label: "Scanning sequence", group: "Contrast" },
  SequenceVariant: { label: "Sequence variant", group: "Contrast" },
  ImageType: { label: "Image type", group: "Contrast" },
  Rows: { label: "Rows", group: "Geometry" },
  Columns: { label: "Columns", group: "Geometry" },
  PixelSpacing: { label: "Pixel spacing", unit: "mm", group: "Geometry" },
  SliceThickness: { label: "Slice thickness", name: "slice", unit: "mm", group: "Geometry" },
  NumberOfFrames: { label: "Frames", group: "Geometry" },
  BodyPartExamined: { label: "Body part", name: "body", group: "Geometry" },
  Manufacturer: { label: "Manufacturer", name: "manufacturer", group: "Scanner" },
  ManufacturerModelName: { label: "Scanner", name: "model", group: "Scanner" },
  MagneticFieldStrength: { label: "Field strength", name: "field", unit: "T", group: "Scanner" },
};

const ICF_GROUPS = ["Timing", "Contrast", "Geometry", "Scanner", "Other"];

function icfTagLabel(tag) {
  return (ICF_TAGS[tag] || {}).label || tag;
}

function icfTagUnit(tag) {
  return (ICF_TAGS[tag] || {}).unit || "";
}

/** A value with its unit; several values of a size are joined by ×. */
function icfWithUnit(tag, value) {
  const text = tag === "PixelSpacing" && Array.isArray(value) ? value.join(" × ") : icfValueText(value);
  const unit = icfTagUnit(tag);
  return !text || !unit ? text : unit === "°" ? `${text}°` : `${text} ${unit}`;
}
