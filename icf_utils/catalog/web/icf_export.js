"use strict";
// Take a selection away: identifiers, tables, commands and scripts.

/** A field of CSV or TSV (RFC 4180). A text that a spreadsheet would run as a formula gets an apostrophe before it. */
function icfField(value, separator) {
  const number = typeof value === "number";
  let text = value === undefined || value === null ? "" : String(value);
  if (!number && /^[=+\-@\t]/.test(text) && !/^[+-]?\d+(\.\d+)?$/.test(text)) text = `'${text}`;
  return new RegExp(`[${separator}"\n\r]`).test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function icfDelimited(header, rows, separator) {
  return [header, ...rows].map((row) => row.map((value) => icfField(value, separator)).join(separator)).join("\r\n") + "\r\n";
}

/** The table of shown columns, with plain values: sizes in bytes. */
function icfTableText(columns, rows, separator) {
  const kept = columns.filter((column) => column.export !== null);
  const value = (column, row) => (column.export || column.value || ((one) => icfCellText(column, one)))(row);
  return icfDelimited(kept.map((column) => column.header || column.key), rows.map((row) => kept.map((column) => value(column, row))), separator);
}

/** The lines of a selection file: the visits, or their selected series. */
function icfSelectionText(index, visits, selection) {
  if (selection.whole) return icfDelimited(["study", "visit"], visits.map((visit) => [icfSite.study, visit.visit]), "\t");
  const rows = [];
  for (const visit of visits) {
    const seen = new Set();
    for (let row = visit.first; row < visit.end; row += 1) if (selection.rows[row]) seen.add(index.rowNumber[row]);
    for (const number of seen) rows.push([icfSite.study, visit.visit, number]);
  }
  return icfDelimited(["study", "visit", "series"], rows, "\t");
}

/** A script that clones the datasets of visits, one after the other; it names those that have none. */
function icfCloneScript(index, visits) {
  const lines = ["#!/bin/sh", `# Clones ${icfCounted(visits.length, "visit", "visits")} of the study ${icfSite.study}. Needs DataLad with datalad-next.`, "set -eu"];
  for (const visit of visits) {
    const command = index.clone[visit.store] || "";
    lines.push(visit.dataset
      ? `[ -e ${visit.visit} ] || ${command.split("icf-identifier-of-the-visit").join(visit.visit)}`
      : `echo '${visit.visit}: has no dataset; its archive can be downloaded' >&2`);
  }
  return `${lines.join("\n")}\n`;
}

function icfArchiveAddresses(index, visits) {
  return visits.map((visit) => `${index.archives[visit.store]}/${icfSite.study}/${visit.visit}_dicom.tar\n`).join("");
}

/** The numbers of the selected series of a visit, sorted; those without a number cannot be named. */
function icfSelectedNumbers(index, visit, selection) {
  const numbers = new Set();
  for (let row = visit.first; row < visit.end; row += 1) if (selection.rows[row] && index.rowNumber[row] !== "") numbers.add(index.rowNumber[row]);
  return [...numbers].sort((a, b) => icfCompare(a, b, false));
}

/** The commands that retrieve a selection: one for the visits of a store whose series have the same numbers. */
function icfRetrieveCommands(index, visits, selection) {
  const groups = new Map();
  for (const visit of visits) {
    const options = selection.whole ? "" : icfSelectedNumbers(index, visit, selection).map((number) => ` --series ${icfShell(String(number))}`).join("");
    const key = `${visit.store}\n${options}`;
    if (!groups.has(key)) groups.set(key, { store: index.stores[visit.store], options, names: [] });
    groups.get(key).names.push(`${icfSite.study}/${visit.visit}`);
  }
  return [...groups.values()].flatMap(({ store, options, names }) => {
    const parts = [];
    for (let at = 0; at < names.length; at += 1000) parts.push(names.slice(at, at + 1000)); // a command line has its limits
    return parts.map((some) => `icf-utils retrieve --store ${icfShell(store)} ${some.join(" ")}${options} -d ${icfSite.study}-images`);
  });
}

/** The commands themselves, if they are few and short; else the script has them. */
function icfShortCommands(index, visits, selection) {
  if (visits.length > 100) return null;
  const commands = icfRetrieveCommands(index, visits, selection);
  return commands.length > 3 ? null : commands.map((command) => icfCommand("Retrieve the selection", command));
}

function icfRetrieveScript(index, visits, selection) {
  return `#!/bin/sh\n# Retrieves a selection of the study ${icfSite.study} into the folder ${icfSite.study}. Repeat it after an interruption.\nset -eu\n${icfRetrieveCommands(index, visits, selection).join("\n")}\n`;
}

/** What can be taken away: {visits, selection, columns, rows, what} as the page shows them. */
function icfTakeaway(index, { visits, selection, columns, rows, what, totals }) {
  const name = `${icfSite.study}-${what}`;
  const save = (label, suffix, type, make) => icfButton(label, () => icfSave(`${name}${suffix}`, make(), type), { "data-focus": `save ${label}` });
  const noun = { visits: "visits", series: "series", matrix: "protocol matrix", parameters: "parameters" }[what];
  return icfEl("details", { class: "icf-takeaway" },
    icfEl("summary", { "data-focus": "takeaway" }, `Take away ${icfCounted(visits.length, "visit", "visits")}, ${icfSize(totals.bytes)}`),
    icfEl("div", { class: "icf-takeaway-body" },
      icfEl("h2", null, "Identifiers"),
      icfEl("p", { class: "icf-buttons" }, icfCopyButton("Copy the identifiers", () => visits.map((visit) => visit.visit).join("\n")),
        icfButton("Save as text", () => icfSave(`${icfSite.study}-visits.txt`, `${visits.map((visit) => visit.visit).join("\n")}\n`, "text/plain"))),
      icfEl("h2", null, `The table of ${noun}, with the columns shown`),
      icfEl("p", { class: "icf-buttons" },
        save("CSV", ".csv", "text/csv", () => icfTableText(columns, rows(), ",")),
        save("TSV", ".tsv", "text/tab-separated-values", () => icfTableText(columns, rows(), "\t")),
        icfCopyButton("Copy for a spreadsheet", () => icfTableText(columns, rows(), "\t"))),
      icfEl("h2", null, "The images"),
      icfEl("p", null, selection.whole ? "Whole visits. " : "The selected series alone. ",
        "If the store requires a password, add ", icfEl("code", null, "--user NAME"), " to the commands of icf-utils."),
      icfEl("p", { class: "icf-buttons" },
        icfButton("Retrieve script", () => icfSave(`${icfSite.study}-retrieve.sh`, icfRetrieveScript(index, visits, selection), "text/x-shellscript")),
        icfButton("Selection file", () => icfSave(`${icfSite.study}-selection.tsv`, icfSelectionText(index, visits, selection), "text/tab-separated-values")),
        icfButton("Clone script", () => icfSave(`${icfSite.study}-clone.sh`, icfCloneScript(index, visits), "text/x-shellscript")),
        icfButton("List of archive addresses", () => icfSave(`${icfSite.study}-archives.txt`, icfArchiveAddresses(index, visits), "text/plain"))),
      icfShortCommands(index, visits, selection)));
}
