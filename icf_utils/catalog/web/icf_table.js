"use strict";
// Tables that can be sorted and paged through. Their state is that of the page, and so in its address.

const ICF_ROWS = 50; // rows of a table that are shown at a time

/** What steps through something long; `go(page)` gives the link of a page, of which the first is 1. */
function icfPager(page, size, total, what, go) {
  const last = Math.max(1, Math.ceil(total / size));
  if (last === 1) return null;
  const step = (label, target, off) => (off
    ? icfEl("span", { class: "icf-off" }, label)
    : icfEl("a", { href: go(target), "data-focus": `page ${label}`, "data-page": "" }, label));
  return icfEl("nav", { class: "icf-pager", "aria-label": `Pages of ${what}` },
    step("First", 1, page === 1), step("Previous", page - 1, page === 1),
    icfEl("span", null, `${icfNumber((page - 1) * size + 1)}–${icfNumber(Math.min(page * size, total))} of ${icfNumber(total)}`),
    step("Next", page + 1, page >= last), step("Last", last, page >= last));
}

/** Rows in another order. A column may have `value`, which gives what is compared. */
function icfSortRows(rows, column, descending) {
  if (!column) return rows;
  const value = column.value || ((row) => row[column.key]);
  const keyed = rows.map((row, at) => [value(row), at, row]);
  keyed.sort((a, b) => icfCompare(a[0], b[0], descending) || a[1] - b[1]);
  return keyed.map((one) => one[2]);
}

/** The text of a cell, as it is exported and copied. */
function icfCellText(column, row) {
  const found = column.text ? column.text(row) : row[column.key];
  return found === undefined || found === null ? "" : String(found);
}

/**
 * A table. A column is {key, label, numeric, fixed, text(row), value(row), cell(row)}; `cell` gives what is shown in place
 * of the text. `sort` is {key, descending}, `onsort(key, descending)` gives the link that sorts. On narrow screens each
 * row becomes a block with labels, and the order is chosen from a list.
 */
function icfTable({ columns, rows, caption, sort, page, onsort, onpage, name, all }) {
  const start = (page - 1) * ICF_ROWS;
  const shown = all ? rows : rows.slice(start, start + ICF_ROWS);
  return icfEl("div", { class: `icf-table ${name || ""}` },
    icfSorting(columns, sort, onsort),
    icfEl("table", { role: "table" },
      icfEl("caption", { class: "icf-unseen" }, caption),
      icfEl("thead", { role: "rowgroup" }, icfEl("tr", { role: "row" }, columns.map((column) => icfHeading(column, sort, onsort)))),
      icfEl("tbody", { role: "rowgroup" }, shown.map((row) => icfRow(columns, row)))),
    all ? null : icfPager(page, ICF_ROWS, rows.length, caption, onpage));
}

function icfHeading(column, sort, onsort) {
  const active = sort.key === column.key;
  const direction = column.fixed ? null : !active ? "none" : sort.descending ? "descending" : "ascending";
  const mark = !active ? "↕" : sort.descending ? "↓" : "↑";
  return icfEl("th", { role: "columnheader", scope: "col", class: `icf-head-${column.key}${column.numeric ? " icf-number" : ""}`, "aria-sort": direction },
    column.fixed ? icfEl("span", { class: "icf-fixed-heading" }, column.label)
      : [icfEl("a", { href: onsort(column.key, active && !sort.descending), "data-focus": `sort ${column.key}` },
        column.label, icfEl("span", { "aria-hidden": "true", class: "icf-sort-mark" }, mark)),
      icfEl("span", { class: "icf-plain-heading" }, column.label)]);
}

function icfRow(columns, row) {
  return icfEl("tr", { role: "row" }, columns.map((column) => {
    const text = icfCellText(column, row);
    const shown = column.cell ? column.cell(row) : text;
    const names = [`icf-cell-${column.key}`, column.numeric ? "icf-number" : "", text === "" ? "icf-empty" : ""];
    return icfEl("td", { role: "cell", "data-label": column.label, class: names.filter(Boolean).join(" ") }, shown);
  }));
}

/** The order, chosen from a list: for narrow screens, where the headings are not shown. */
function icfSorting(columns, sort, onsort) {
  const sortable = columns.filter((column) => !column.fixed);
  const choose = (key, descending) => { window.location.hash = onsort(key, descending).slice(1); };
  const option = (value, label, chosen) => icfEl("option", { value, selected: chosen }, label);
  const keys = icfEl("select", { "data-focus": "sort key", onchange: (event) => choose(event.target.value, false) },
    sortable.some((column) => column.key === sort.key) ? null : option("", "as listed", true),
    sortable.map((column) => option(column.key, column.label, column.key === sort.key)));
  const order = icfEl("select", {
    "aria-label": "Order", "data-focus": "sort order", onchange: (event) => choose(sort.key, event.target.value === "true"),
  }, option("false", "ascending", !sort.descending), option("true", "descending", sort.descending));
  return icfEl("div", { class: "icf-sorting" }, icfEl("label", null, "Sort by ", keys), sort.key ? order : null);
}
