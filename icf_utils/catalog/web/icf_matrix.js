"use strict";
// Who lacks what: visits × protocols, and the parameters of each protocol, compared with what is usual in the study.

/** The parameters that are compared, as study_index.py counts them. */
const ICF_COMPARED = ["RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "Rows", "Columns", "SliceThickness", "PixelSpacing"];

/** What can be wrong with a cell of the matrix, or with a visit: mark, label, and explanation. */
const ICF_ISSUES = {
  missing: ["✕", "missing", "at least half of the study's visits have this protocol; this one has no series of it"],
  incomplete: ["◔", "incomplete", "a series has fewer images than is usual, or there are fewer series than usual"],
  repeated: ["↻", "repeated", "more series than is usual"],
  deviating: ["≠", "deviating", "TR, TE, TI, flip angle, matrix, slice thickness or pixel spacing differ from what is usual"],
  extra: ["+", "extra", "fewer than a tenth of the study's visits have this protocol"],
};

/** What is usual in the study: by protocol and description (`data/protocols.json`). */
class IcfUsual {
  constructor(lines) {
    this.pairs = new Map(lines.map(([protocol, description, visits, series, images, parameters]) => (
      [`${protocol}\n${description}`, { protocol, description, visits, series, images, parameters }]
    )));
  }

  get(protocol, description) {
    return this.pairs.get(`${protocol}\n${description}`);
  }

  /** Parameters in which values of a series differ from what is usual: [tag, value, usual]. */
  deviations(usual, value) {
    if (!usual || usual.visits < 2) return [];
    return ICF_COMPARED.filter((tag) => tag in usual.parameters && value(tag) !== undefined
      && JSON.stringify(value(tag)) !== JSON.stringify(usual.parameters[tag])).map((tag) => [tag, value(tag), usual.parameters[tag]]);
  }
}

function icfFirst(value) {
  return value === undefined ? "" : String(Array.isArray(value) ? value[0] : value);
}

/** The columns of the matrix, and which column and usual pair each kind of series has. Made once for a way of naming. */
class IcfMatrix {
  constructor(index, usual, by) {
    this.index = index;
    this.by = by;
    const protocol = index.column.get("ProtocolName");
    const description = index.column.get("SeriesDescription");
    const text = (kind, column) => (column === undefined ? "" : icfFirst(index.kindValue(kind, column)));
    const places = new Map();
    this.columnOf = new Int32Array(index.kinds.length);
    this.usualOf = index.kinds.map((_, kind) => usual.get(text(kind, protocol), text(kind, description)));
    this.deviationsOf = index.kinds.map((_, kind) => usual.deviations(this.usualOf[kind], (tag) => {
      const column = index.column.get(tag);
      return column === undefined ? undefined : index.kindValue(kind, column);
    }));
    index.kinds.forEach((_, kind) => {
      const names = [text(kind, protocol), text(kind, description)];
      const name = (by === "description" ? names[1] || names[0] : names[0] || names[1]) || "(unnamed)";
      if (!places.has(name)) places.set(name, places.size);
      this.columnOf[kind] = places.get(name);
    });
    this.names = [...places.keys()];
    this.count(index);
  }

  /** How many visits of the whole study have each column; the order of columns is that of their series. */
  count(index) {
    const having = new Uint32Array(this.names.length);
    const order = new Float64Array(this.names.length);
    const seen = new Int32Array(this.names.length).fill(-1);
    for (let row = 0; row < index.total; row += 1) {
      const column = this.columnOf[index.rowKind[row]];
      if (seen[column] === index.rowVisit[row]) continue;
      seen[column] = index.rowVisit[row];
      having[column] += 1;
      order[column] += row - index.visits[index.rowVisit[row]].first;
    }
    this.having = having;
    const visits = index.visits.length;
    this.expected = having.map((count) => (count * 2 >= visits ? 1 : 0));
    this.rare = having.map((count) => (count * 10 < visits ? 1 : 0));
    const rank = (at) => [this.expected[at] ? 0 : 1, order[at] / (having[at] || 1)];
    this.order = this.names.map((_, at) => at).filter((at) => having[at])
      .sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1] || icfCollator.compare(this.names[a], this.names[b]));
  }

  /** The cells of a visit by column: {rows, images, issues, notes}; those without a series only where one is missing. */
  cells(visit) {
    const { index } = this;
    const cells = new Map();
    const pairs = new Map();
    for (let row = visit.first; row < visit.end; row += 1) {
      const kind = index.rowKind[row];
      const column = this.columnOf[kind];
      const usual = this.usualOf[kind];
      let cell = cells.get(column);
      if (!cell) cells.set(column, (cell = { rows: [], images: 0, issues: new Set(), notes: [] }));
      cell.rows.push(row);
      cell.images += index.rowImages[row];
      if (usual) {
        if (!pairs.has(usual)) pairs.set(usual, { column, count: 0 });
        pairs.get(usual).count += 1;
        this.compare(cell, row, usual, this.deviationsOf[kind]);
      }
    }
    for (const [usual, { column, count }] of pairs) {
      if (usual.visits < 2 || count === usual.series) continue;
      const cell = cells.get(column);
      cell.issues.add(count > usual.series ? "repeated" : "incomplete");
      cell.notes.push(`${count} series of ${usual.description || usual.protocol}, usually ${usual.series}`);
    }
    for (const [column, cell] of cells) if (this.rare[column]) cell.issues.add("extra");
    this.order.forEach((column) => {
      if (this.expected[column] && !cells.has(column)) cells.set(column, { rows: [], images: 0, issues: new Set(["missing"]), notes: [] });
    });
    return cells;
  }

  compare(cell, row, usual, deviations) {
    if (usual.visits > 1 && this.index.rowImages[row] < usual.images) {
      cell.issues.add("incomplete");
      cell.notes.push(`series ${this.index.rowNumber[row]}: ${icfCounted(this.index.rowImages[row], "image", "images")}, usually ${usual.images}`);
    }
    for (const [tag, value, mode] of deviations) {
      cell.issues.add("deviating");
      cell.notes.push(`series ${this.index.rowNumber[row]}: ${icfTagLabel(tag)} ${icfWithUnit(tag, value)}, usually ${icfWithUnit(tag, mode)}`);
    }
  }
}

/** What a cell says: numbers of images, and marks. */
function icfCellSaid(cell, index) {
  if (!cell) return { text: "", marks: "", title: "no series" };
  const marks = Object.keys(ICF_ISSUES).filter((issue) => cell.issues.has(issue));
  const images = cell.rows.map((row) => index.rowImages[row]);
  const same = images.every((one) => one === images[0]);
  const text = !images.length ? "" : images.length === 1 ? String(images[0])
    : same ? `${images.length} × ${images[0]}` : images.length < 4 ? images.join(" + ") : `${images.length}: ${cell.images}`;
  return { text, marks, title: [marks.map((mark) => ICF_ISSUES[mark][1]).join(", "), ...cell.notes].filter(Boolean).join("; ") };
}

/** The rows of the matrix for visits: {visit, cells, issues: how many cells have each issue, total}. */
function icfMatrixRows(matrix, visits) {
  return visits.map((visit) => {
    const cells = matrix.cells(visit);
    const issues = {};
    let total = 0;
    for (const cell of cells.values()) {
      for (const issue of cell.issues) issues[issue] = (issues[issue] || 0) + 1;
      if (cell.issues.size) total += 1;
    }
    return { visit, cells, issues, total };
  });
}

/** The columns of the matrix as a table has them, for sorting and saving. */
function icfMatrixColumns(matrix, href) {
  const cell = (column) => (row) => {
    const found = row.cells.get(column);
    const { text, marks } = icfCellSaid(found, matrix.index);
    return [text, ...marks.length ? [`[${marks.map((mark) => ICF_ISSUES[mark][1]).join(", ")}]`] : []].filter(Boolean).join(" ");
  };
  return [
    { key: "visit", label: "Visit", text: (row) => row.visit.visit },
    ...(matrix.index.hasDates ? [{ key: "date", label: "Date", text: (row) => row.visit.date }] : []),
    { key: "issues", label: "Marked", numeric: true, text: (row) => String(row.total), value: (row) => row.total, export: (row) => row.total },
    ...matrix.order.map((column) => ({
      key: `m.${matrix.names[column]}`, header: matrix.names[column], label: matrix.names[column], column, text: cell(column), export: cell(column),
      value: (row) => (row.cells.get(column) || { images: "" }).images || (row.cells.has(column) ? 0 : ""),
    })),
  ];
}

/** The matrix of one page of rows. `href` makes links: sort(key), without(column name), visit. */
function icfMatrixTable(matrix, columns, rows, state, links, lacking) {
  const [fixed, protocols] = [columns.filter((one) => one.column === undefined), columns.filter((one) => one.column !== undefined)];
  const heading = (column) => {
    const active = state.sort === column.key;
    const mark = !active ? "" : state.descending ? " ↓" : " ↑";
    const rotated = column.column !== undefined;
    return icfEl("th", { scope: "col", class: rotated ? "icf-rotated" : null, "aria-sort": !active ? "none" : state.descending ? "descending" : "ascending" },
      icfEl("a", { href: links.sort(column.key, active && !state.descending), "data-focus": `sort ${column.key}`, title: column.label }, icfEl("span", null, column.label + mark)));
  };
  const without = (column) => icfEl("td", null, lacking[column.column]
    ? icfEl("a", {
      href: links.without(column.label), "data-focus": `without ${column.label}`, title: `Visits without ${column.label}`,
      "aria-label": `${icfCounted(lacking[column.column], "visit", "visits")} without ${column.label}`,
    }, icfNumber(lacking[column.column])) : "0");
  const body = (row) => icfEl("tr", null,
    icfEl("th", { scope: "row" }, icfEl("a", { href: icfVisitHref(row.visit.visit) }, row.visit.visit)),
    fixed.slice(1).map((column) => icfEl("td", { class: column.numeric ? "icf-number" : null }, column.text(row))),
    protocols.map((column) => icfMatrixCell(row.cells.get(column.column), matrix.index)));
  return icfEl("div", { class: "icf-scroll", tabindex: "0", role: "region", "aria-label": "Protocol matrix" },
    icfEl("table", { class: "icf-matrix" },
      icfEl("caption", { class: "icf-unseen" }, "Numbers of images of each protocol in each visit"),
      icfEl("thead", null,
        icfEl("tr", null, columns.map(heading)),
        icfEl("tr", { class: "icf-lacking" }, icfEl("th", { scope: "row", colspan: fixed.length }, "Visits without it"), protocols.map(without))),
      icfEl("tbody", null, rows.map(body))));
}

function icfMatrixCell(cell, index) {
  const { text, marks, title } = icfCellSaid(cell, index);
  if (!cell) return icfEl("td", { class: "icf-none" }, icfEl("span", { "aria-hidden": "true" }, "·"), icfEl("span", { class: "icf-unseen" }, "none"));
  return icfEl("td", { class: marks.length ? `icf-marked icf-${marks[0]}` : null, title: title || null },
    text, marks.map((mark) => [" ", icfEl("span", { class: "icf-mark", "aria-hidden": "true" }, ICF_ISSUES[mark][0])]),
    title ? icfEl("span", { class: "icf-unseen" }, ` ${title}`) : null);
}

/** What the marks mean; each is a link to the visits that have it. */
function icfMatrixLegend(rows, chosen, href) {
  const item = ([issue, [mark, label, explanation]]) => {
    const count = rows.filter((row) => row.issues[issue]).length;
    const active = chosen === issue;
    return icfEl("li", { title: explanation },
      icfEl("a", { href: href(active ? "" : issue), "aria-current": active ? "true" : null, "data-focus": `issue ${issue}` },
        icfEl("span", { class: `icf-mark icf-marked icf-${issue}`, "aria-hidden": "true" }, mark), ` ${label} `,
        icfEl("span", { class: "icf-count-of" }, icfNumber(count))));
  };
  return icfEl("ul", { class: "icf-legend", "aria-label": "Only visits with" }, Object.entries(ICF_ISSUES).map(item));
}

// ---- parameters

/** For each protocol and description: how many visits have it, and the values of each parameter, most frequent first. */
function icfParameterRows(index, matrix, selection) {
  const groups = new Map();
  const tags = ICF_COMPARED.filter((tag) => index.column.has(tag));
  const text = (kind, tag) => (index.column.has(tag) ? icfFirst(index.kindValue(kind, index.column.get(tag))) : "");
  for (let row = 0; row < index.total; row += 1) {
    if (!selection.rows[row]) continue;
    const kind = index.rowKind[row];
    const key = matrix.usualOf[kind] || `${text(kind, "ProtocolName")}\n${text(kind, "SeriesDescription")}`;
    let group = groups.get(key);
    if (!group) {
      group = { protocol: text(kind, "ProtocolName"), description: text(kind, "SeriesDescription"), series: 0, kinds: new Map(), visits: new Set() };
      groups.set(key, group);
    }
    group.series += 1;
    group.visits.add(index.rowVisit[row]);
    group.kinds.set(kind, (group.kinds.get(kind) || 0) + 1);
  }
  const rows = [...groups.values()].map((group) => {
    const values = {};
    for (const tag of tags) values[tag] = icfTally(index, group.kinds, tag);
    return { ...group, values, varied: Object.values(values).filter((found) => found.length > 1).length };
  });
  return rows.sort((a, b) => b.visits.size - a.visits.size || icfCollator.compare(a.protocol, b.protocol) || icfCollator.compare(a.description, b.description));
}

/** The values of a tag with the number of series: [value, count], most frequent first. */
function icfTally(index, kinds, tag) {
  const counts = new Map();
  for (const [kind, count] of kinds) {
    const place = index.kinds[kind][index.column.get(tag)];
    if (place >= 0) counts.set(place, (counts.get(place) || 0) + count);
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([place, count]) => [index.values[index.column.get(tag)][place], count]);
}
