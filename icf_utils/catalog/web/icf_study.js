"use strict";
// The study's page: search, facets, plots, and the selection as visits, series, protocol matrix or parameters.

/** The views of a selection. */
const ICF_VIEWS = [["visits", "Visits"], ["series", "Series"], ["matrix", "Protocol matrix"], ["parameters", "Parameters"]];

/** What the study's page shows, as its address says it. */
class IcfState {
  constructor(params) {
    this.query = params.get("q") || "";
    this.facets = params.getAll("f").map(icfPairOf).filter(Boolean);
    this.without = params.getAll("x").map(icfPairOf).filter(Boolean);
    this.period = params.get("date") || "";
    const view = params.get("view") || "visits";
    this.view = ICF_VIEWS.some(([name]) => name === view) ? view : "visits";
    const sort = params.get("sort") || "";
    this.descending = sort.startsWith("-");
    this.sort = this.descending ? sort.slice(1) : sort;
    this.page = Math.max(1, Math.floor(Number(params.get("page"))) || 1);
    this.columns = params.has("columns") ? params.get("columns").split(",").filter(Boolean) : null;
    this.by = params.get("by") === "description" ? "description" : "protocol";
    this.issue = params.get("show") in ICF_ISSUES ? params.get("show") : "";
  }

  /** The same with changes. A change of the selection leads to its first page. */
  with(changes) {
    const next = Object.assign(Object.create(IcfState.prototype), this, changes);
    if (!("page" in changes)) next.page = 1;
    return next;
  }

  get href() {
    const pair = ([tag, text]) => `${tag}=${text}`;
    return icfHref([], [
      ["q", this.query.trim()], ...this.facets.map((one) => ["f", pair(one)]), ...this.without.map((one) => ["x", pair(one)]),
      ["date", this.period], ["view", this.view === "visits" ? "" : this.view], ["sort", this.sort && (this.descending ? "-" : "") + this.sort],
      ["page", this.page > 1 ? this.page : ""], ["columns", this.columns ? this.columns.join(",") || "," : ""],
      ["by", this.by === "protocol" ? "" : this.by], ["show", this.issue],
    ]);
  }

  toggled(list, tag, text) {
    const kept = this[list].filter((one) => !(one[0] === tag && one[1] === text));
    return this.with({ [list]: kept.length < this[list].length ? kept : [...kept, [tag, text]], sort: this.sort });
  }

  has(list, tag, text) {
    return this[list].some((one) => one[0] === tag && one[1] === text);
  }
}

function icfPairOf(text) {
  const at = text.indexOf("=");
  return at > 0 ? [text.slice(0, at), text.slice(at + 1)] : null;
}

/** The study's page. It is made once, and shows each address that it is given. */
class IcfStudyPage {
  constructor(data, protocols, outputs) {
    this.index = new IcfIndex(data, outputs);
    this.usual = new IcfUsual(protocols);
    this.matrices = {};
    this.later = 0;
    this.state = new IcfState(new URLSearchParams());
    this.parts = {
      facts: icfEl("div"), plots: icfEl("div"), facets: icfEl("div"), chips: icfEl("div"), count: icfEl("div"),
      views: icfEl("div"), result: icfEl("div"),
    };
    this.element = this.build();
    window.addEventListener("beforeprint", () => this.showResult(true));
    window.addEventListener("afterprint", () => this.showResult(false));
  }

  build() {
    const { parts } = this;
    if (!this.index.visits.length) return icfEl("div", null, icfEl("p", { class: "icf-card icf-nothing" }, "This study has no visit yet."));
    this.field = icfEl("input", {
      id: "icf-q", type: "search", autocomplete: "off", spellcheck: "false", "aria-describedby": "icf-q-help",
      placeholder: "protocol, modality, description, visit …", oninput: () => this.typed(),
    });
    this.clearButton = icfButton("Clear", () => { this.field.value = ""; this.typed(); this.field.focus(); });
    const examples = this.index.examples().map((query, at) => [at ? ", " : "", icfEl("a", { href: icfHref([], [["q", query]]) }, icfEl("code", null, query))]);
    const help = icfEl("details", { class: "icf-help" }, icfEl("summary", null, "How to search"), ICF_SEARCH_HELP.map(([code, text]) => (
      icfEl("p", null, icfEl("code", null, code), ` ${text}`))));
    this.facetBox = icfEl("details", { class: "icf-facets icf-card", open: window.matchMedia("(min-width: 60rem)").matches },
      icfEl("summary", null, "Filter"), parts.facets);
    return icfEl("div", null,
      icfEl("section", { class: "icf-overview", "aria-label": "Overview" }, parts.facts, parts.plots),
      icfEl("div", { class: "icf-search-columns" },
        icfEl("section", { "aria-label": "Filter", class: "icf-facet-column" }, this.facetBox),
        icfEl("section", { class: "icf-card icf-results", "aria-label": "Results" },
          icfEl("form", { class: "icf-search", role: "search", onsubmit: (event) => event.preventDefault() },
            icfEl("label", { for: "icf-q" }, "Search series and visits"),
            icfEl("div", { class: "icf-field" }, this.field, this.clearButton),
            icfEl("p", { id: "icf-q-help" }, "Words apply to the same series; case and accents do not matter. Examples: ", examples, "."), help),
          parts.chips, parts.count, parts.views, parts.result)));
  }

  /** The reader types: the page follows at once, the address a little later. */
  typed() {
    const before = this.state;
    this.show(this.state.with({ query: this.field.value }), true);
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      // Back leads to what was shown before the typing began
      const method = this.typing ? "replaceState" : "pushState";
      if (before.href !== this.state.href || this.typing) window.history[method](null, "", this.state.href);
      this.typing = true;
    }, 300);
  }

  /** Show an address: the address has changed, so nobody is typing. */
  follow(params) {
    clearTimeout(this.later);
    this.typing = false;
    this.show(new IcfState(params), false);
  }

  show(state, typing) {
    this.state = state;
    if (!this.index.visits.length) return;
    if (!typing && this.field.value.trim() !== state.query.trim()) this.field.value = state.query;
    this.clearButton.hidden = !this.field.value;
    this.problem = "";
    try {
      this.tree = icfParse(state.query, this.index.fields);
      this.queried = this.index.select(this.tree);
    } catch (error) {
      if (!(error instanceof IcfQueryError)) throw error;
      this.problem = error.message;
      this.tree = null;
      this.queried = this.index.wholeVisits(() => false);
    }
    this.selection = this.narrowed("");
    this.found = this.index.visits.filter((visit) => this.selection.ok[visit.at]);
    this.reasonAtoms = this.index.reasonAtoms(this.tree);
    this.showSummary();
    this.showResult(false);
  }

  /** The selection by everything but the facet that is named, which counts its values as if it was not used. */
  narrowed(except) {
    const { state, index } = this;
    let found = this.queried;
    const groups = new Map();
    for (const [tag, text] of state.facets) groups.set(tag, [...(groups.get(tag) || []), text]);
    for (const [tag, texts] of groups) if (tag !== except) found = index.both(found, index.selectFacet(tag, texts));
    for (const [tag, text] of state.without) found = index.both(found, index.not(index.selectFacet(tag, [text])));
    if (state.period && index.hasDates) found = index.both(found, index.wholeVisits((visit) => icfPeriodFits(state.period, visit.date)));
    return found;
  }

  showSummary() {
    const { index, state, parts, selection } = this;
    this.totals = index.totals(selection);
    const { visits, series, images, bytes } = this.totals;
    icfReplace(parts.facts, icfFacts([["Visits", visits], ["Series", series], ["Images", images], [selection.whole ? "Size" : "Size of these series", icfSize(bytes)]]));
    const modalities = index.facetCounts("Modality", selection);
    icfReplace(parts.plots,
      icfTimeline(this.found.map((visit) => visit.date), (range) => state.with({ period: range }).href),
      icfBars("Visits with a modality", modalities, (text) => (state.has("facets", "Modality", text) ? state : state.toggled("facets", "Modality", text)).href));
    const facets = ICF_FACETS.map((tag) => this.facet(tag)).filter(Boolean);
    icfReplace(parts.facets, facets.length ? facets : icfEl("p", { class: "icf-nothing" }, "No series left to filter."));
    icfReplace(parts.chips, this.chips());
    const all = icfCounted(index.visits.length, "visit", "visits");
    const narrowed = this.tree || this.problem || state.facets.length || state.without.length || state.period;
    const said = narrowed ? `${icfNumber(visits)} of ${all}${selection.whole ? "" : `, ${icfNumber(series)} series`}` : all;
    icfReplace(parts.count, icfEl("p", { class: "icf-count", role: "status" }, said,
      this.problem ? icfEl("span", { class: "icf-unknown" }, this.problem) : null));
    icfReplace(parts.views, icfEl("nav", { class: "icf-views", "aria-label": "Views of the selection" }, ICF_VIEWS.map(([view, label]) => icfEl("a", {
      href: state.with({ view, sort: "", descending: false, columns: null, issue: "" }).href, "aria-current": view === state.view ? "page" : null, "data-focus": `view ${view}`,
    }, label))));
  }

  /** A facet: its values with the numbers of visits; the first ones, and the others on demand. */
  facet(tag) {
    const { state, index } = this;
    const counts = index.facetCounts(tag, this.narrowed(tag));
    for (const [one, text] of state.facets) if (one === tag && !counts.some(([value]) => value === text)) counts.push([text, 0]);
    if (!counts.length || (counts.length === 1 && !state.facets.some(([one]) => one === tag) && !["ProtocolName", "processing", "news"].includes(tag))) return null;
    this.opened = this.opened || new Set();
    // those that few visits lack come after those that all have, and are what readers look for
    const most = this.opened.has(tag) ? counts.length : tag === "ProtocolName" ? 16 : 8;
    const item = ([text, count]) => {
      const chosen = state.has("facets", tag, text);
      const label = tag === "year" ? text : icfWithUnit(tag, text);
      return icfEl("li", { class: chosen ? "icf-chosen" : null },
        icfEl("a", { class: "icf-facet-value", href: state.toggled("facets", tag, text).href, "aria-current": chosen ? "true" : null, "data-focus": `facet ${tag} ${text}` },
          icfEl("span", { class: "icf-box", "aria-hidden": "true" }, chosen ? "☑" : "☐"), icfEl("span", { class: "icf-facet-text" }, icfBreakable(label)), " ",
          icfEl("span", { class: "icf-count-of" }, icfNumber(count))),
        ["year", "news"].includes(tag) ? null : icfEl("a", {
          class: "icf-without", href: state.toggled("without", tag, text).href, "data-focus": `without ${tag} ${text}`, title: `Visits without ${label}`, "aria-label": `Visits without ${label}`,
        }, "without"));
    };
    return icfEl("fieldset", null, icfEl("legend", null, icfFacetLabel(tag)), icfEl("ul", null, counts.slice(0, most).map(item)),
      counts.length > most ? icfButton(`Show all ${counts.length}`, () => { this.opened.add(tag); this.showSummary(); }, { class: "icf-as-link", "data-focus": `all ${tag}` }) : null);
  }

  /** What narrows the selection besides the query; each can be removed. */
  chips() {
    const { state } = this;
    const chip = (text, next) => icfEl("li", null, icfEl("a", { href: next.href, "aria-label": `Remove: ${text}` }, text, icfEl("span", { "aria-hidden": "true" }, " ×")));
    const found = [
      ...state.facets.map(([tag, text]) => chip(`${icfFacetLabel(tag)}: ${tag === "year" ? text : icfWithUnit(tag, text)}`, state.toggled("facets", tag, text))),
      ...state.without.map(([tag, text]) => chip(`without ${icfFacetLabel(tag).toLowerCase()} ${icfWithUnit(tag, text)}`, state.toggled("without", tag, text))),
      ...(state.period ? [chip(`Date: ${state.period}`, state.with({ period: "" }))] : []),
    ];
    if (!found.length) return null;
    const cleared = state.with({ facets: [], without: [], period: "" });
    return icfEl("ul", { class: "icf-chips", "aria-label": "Filters in use" }, found, found.length > 1 ? icfEl("li", null, icfEl("a", { href: cleared.href }, "Remove all")) : null);
  }

  // ---- results

  showResult(all) {
    if (!this.selection) return;
    const { state, parts } = this;
    if (!this.found.length) {
      icfReplace(parts.result, this.problem ? null : icfEl("p", { class: "icf-nothing" }, "No visit fits. Try fewer words, or remove a filter."));
      return;
    }
    const make = { visits: () => this.visitsView(all), series: () => this.seriesView(all), matrix: () => this.matrixView(all), parameters: () => this.parametersView(all) };
    const takeaway = parts.result.querySelector(".icf-takeaway");
    const open = takeaway && takeaway.open;
    const chooser = parts.result.querySelector(".icf-chooser");
    const choosing = chooser && chooser.open;
    icfReplace(parts.result, make[state.view]());
    if (open && parts.result.querySelector(".icf-takeaway")) parts.result.querySelector(".icf-takeaway").open = true;
    if (choosing && parts.result.querySelector(".icf-chooser")) parts.result.querySelector(".icf-chooser").open = true;
  }

  /** The columns shown, and the box to choose them; the first column is always shown. */
  chosen(available, standard) {
    const { state } = this;
    const wanted = new Set(state.columns || standard);
    const columns = available.filter((column, at) => at === 0 || wanted.has(column.key));
    const box = (column) => icfEl("label", null, icfEl("input", {
      type: "checkbox", checked: wanted.has(column.key), "data-focus": `column ${column.key}`, onchange: (event) => {
        const next = available.filter((one, at) => at && (one === column ? event.target.checked : wanted.has(one.key))).map((one) => one.key);
        const same = next.join() === standard.filter((key) => available.some((one) => one.key === key)).join();
        window.location.hash = state.with({ columns: same ? null : next, page: state.page }).href.slice(1);
      },
    }), ` ${column.label}`);
    const chooser = icfEl("details", { class: "icf-chooser" }, icfEl("summary", { "data-focus": "chooser" }, "Columns"), icfEl("div", { class: "icf-boxes" }, available.slice(1).map(box)));
    return { columns, chooser };
  }

  table({ columns, chooser, rows, visits, name, caption, what, all, order }) {
    const { state } = this;
    const sort = { key: state.sort || order, descending: state.descending };
    const sorted = icfSortRows(rows, columns.find((column) => column.key === state.sort), state.descending);
    const takeaway = icfTakeaway(this.index, { visits, selection: this.selection, columns, rows: () => sorted, what, totals: this.totals });
    const last = Math.max(1, Math.ceil(rows.length / ICF_ROWS));
    return [icfEl("div", { class: "icf-tools" }, takeaway, chooser), icfTable({
      columns, rows: sorted, caption, sort, name, all, page: Math.min(state.page, last),
      onsort: (key, descending) => state.with({ sort: key === order && !descending ? "" : key, descending }).href,
      onpage: (page) => state.with({ page }).href,
    })];
  }

  visitsView(all) {
    const { index } = this;
    const values = (visit, tag) => {
      const found = new Set();
      for (let row = visit.first; row < visit.end; row += 1) for (const one of [index.value(row, tag)].flat()) if (one !== undefined) found.add(one);
      return [...found].sort((a, b) => icfCompare(a, b, false)).join(", ");
    };
    const of = (tag, key, label) => ({ key, label, text: (visit) => values(visit, tag) });
    const available = [
      { key: "visit", label: "Visit", cell: (visit) => this.visitCell(visit) },
      ...(index.hasDates ? [{ key: "date", label: "Date" }] : []),
      ...(index.hasVersions ? [{ key: "version", label: "Version", numeric: true, text: (visit) => String(visit.version), value: (visit) => visit.version }] : []),
      of("Modality", "modalities", "Modalities"),
      { key: "series", label: "Series", numeric: true, text: (visit) => icfNumber(visit.series), value: (visit) => visit.series },
      { key: "images", label: "Images", numeric: true, text: (visit) => icfNumber(visit.images), value: (visit) => visit.images },
      { key: "bytes", label: "Size", numeric: true, text: (visit) => icfSize(visit.bytes), value: (visit) => visit.bytes },
      of("ProtocolName", "protocols", "Protocols"), of("ManufacturerModelName", "scanner", "Scanner"),
      of("MagneticFieldStrength", "field", "Field strength (T)"), of("BodyPartExamined", "body", "Body part"),
    ].filter((column) => !["protocols", "scanner", "field", "body"].includes(column.key) || index.column.has({ protocols: "ProtocolName", scanner: "ManufacturerModelName", field: "MagneticFieldStrength", body: "BodyPartExamined" }[column.key]));
    const { columns, chooser } = this.chosen(available, ["date", "version", "modalities", "series", "images", "bytes"]);
    return this.table({ columns, chooser, rows: this.found, visits: this.found, name: "icf-visits", caption: "Visits", what: "visits", all, order: "visit" });
  }

  visitCell(visit) {
    const reasons = this.tree ? this.index.reasons(visit, this.selection, this.reasonAtoms) : [];
    return [icfEl("a", { href: icfVisitHref(visit.visit) }, visit.visit),
      visit.news ? [" ", icfEl("span", { class: "icf-badge" }, visit.news)] : null,
      reasons.length ? icfEl("span", { class: "icf-reasons" }, reasons.map(([tag, text]) => icfEl("span", null, icfEl("b", null, icfTagLabel(tag)), ` ${text}`))) : null];
  }

  seriesView(all) {
    const { index } = this;
    const rows = [];
    for (let row = 0; row < index.total; row += 1) if (this.selection.rows[row] && this.selection.ok[index.rowVisit[row]]) rows.push(row);
    const visit = (row) => index.visits[index.rowVisit[row]];
    const tag = (name) => ({
      key: name, label: icfTagLabel(name) + (icfTagUnit(name) ? ` (${icfTagUnit(name)})` : ""), numeric: index.column.has(name) && typeof index.values[index.column.get(name)][0] === "number",
      text: (row) => icfValueText(index.value(row, name)), value: (row) => { const found = index.value(row, name); return Array.isArray(found) ? found.join(", ") : found; },
      header: name,
    });
    const first = ["SeriesDescription", "ProtocolName", "Modality"];
    const others = index.tags.filter((name) => !first.includes(name)).sort((a, b) => icfTagRank(a) - icfTagRank(b) || icfCollator.compare(a, b));
    const available = [
      { key: "visit", label: "Visit", text: (row) => visit(row).visit, cell: (row) => icfEl("a", { href: icfHref(["visit", visit(row).visit], [["series", index.rowNumber[row]]]) }, visit(row).visit) },
      ...(index.hasDates ? [{ key: "date", label: "Date", text: (row) => visit(row).date }] : []),
      { key: "number", label: "No.", header: "SeriesNumber", numeric: true, text: (row) => String(index.rowNumber[row]), value: (row) => index.rowNumber[row] },
      ...first.filter((name) => index.column.has(name)).map(tag),
      { key: "images", label: "Images", numeric: true, text: (row) => icfNumber(index.rowImages[row]), value: (row) => index.rowImages[row] },
      { key: "bytes", label: "Size", numeric: true, text: (row) => icfSize(index.rowBytes[row]), value: (row) => index.rowBytes[row] },
      ...others.map(tag),
    ];
    const { columns, chooser } = this.chosen(available, ["number", ...first, "images", "RepetitionTime", "EchoTime"]);
    return this.table({ columns, chooser, rows, visits: this.found, name: "icf-series-list", caption: "Series", what: "series", all, order: "visit" });
  }

  matrix() {
    const { by } = this.state;
    if (!this.matrices[by]) this.matrices[by] = new IcfMatrix(this.index, this.usual, by);
    return this.matrices[by];
  }

  matrixView(all) {
    const { state, index } = this;
    const matrix = this.matrix();
    const every = icfMatrixRows(matrix, this.found);
    const rows = state.issue ? every.filter((row) => row.issues[state.issue]) : every;
    const columns = icfMatrixColumns(matrix);
    const lacking = this.lacking(matrix);
    const sorted = icfSortRows(rows, columns.find((column) => column.key === state.sort), state.descending);
    const last = Math.max(1, Math.ceil(rows.length / ICF_ROWS));
    const page = Math.min(state.page, last);
    const tag = state.by === "description" ? "SeriesDescription" : "ProtocolName";
    const links = {
      sort: (key, descending) => state.with({ sort: key, descending }).href,
      without: (name) => state.with({ without: [...state.without, [this.isValue(tag, name) ? tag : "SeriesDescription", name]] }).href,
    };
    const visits = rows.map((row) => row.visit);
    const part = this.selection.whole || !state.issue ? this.selection : this.selection;
    const totals = state.issue ? { bytes: visits.reduce((sum, visit) => sum + visit.bytes, 0) } : this.totals;
    const other = state.by === "description" ? ["protocol", "protocol names"] : ["description", "series descriptions"];
    return [
      icfEl("div", { class: "icf-tools" },
        icfTakeaway(index, { visits, selection: part, columns, rows: () => sorted, what: "matrix", totals }),
        icfEl("a", { class: "icf-switch", href: state.with({ by: other[0], sort: "" }).href, "data-focus": "by" }, `Columns by ${other[1]}`)),
      icfMatrixLegend(every, state.issue, (issue) => state.with({ issue }).href),
      icfEl("p", { class: "icf-about" }, "Numbers are images. Each visit is compared with what is usual in the whole study; choose a mark to see only the visits that have it."),
      rows.length ? icfMatrixTable(matrix, columns, all ? sorted : sorted.slice((page - 1) * ICF_ROWS, page * ICF_ROWS), state, links, lacking) : icfEl("p", { class: "icf-nothing" }, "No visit has this mark."),
      all ? null : icfPager(page, ICF_ROWS, rows.length, "the protocol matrix", (next) => state.with({ page: next }).href),
    ];
  }

  isValue(tag, text) {
    const column = this.index.column.get(tag);
    return column !== undefined && this.index.values[column].some((value) => [value].flat().some((one) => String(one) === text));
  }

  /** How many of the selected visits lack each column. */
  lacking(matrix) {
    const { index } = this;
    const lacking = new Uint32Array(matrix.names.length).fill(this.found.length);
    const seen = new Int32Array(matrix.names.length).fill(-1);
    for (let row = 0; row < index.total; row += 1) {
      const column = matrix.columnOf[index.rowKind[row]];
      const visit = index.rowVisit[row];
      if (!this.selection.ok[visit] || seen[column] === visit) continue;
      seen[column] = visit;
      lacking[column] -= 1;
    }
    return lacking;
  }

  parametersView(all) {
    const { index, state } = this;
    const rows = icfParameterRows(index, this.matrix(), this.selection);
    const total = this.found.length;
    const link = (row, tag, value) => {
      const parts = [["ProtocolName", "protocol", row.protocol], ["SeriesDescription", "description", row.description]]
        .filter(([name, , text]) => text && index.column.has(name)).map(([, name, text]) => `${name}:="${text.replace(/"/g, "")}"`);
      const texts = [value].flat().map((one) => `${index.fields.get(tag.toLowerCase())}:=${icfQuoted(one)}`);
      return state.with({ query: [...parts, ...new Set(texts)].join(" "), view: "series", sort: "", columns: null }).href;
    };
    const cell = (tag) => (row) => row.values[tag].slice(0, 4).map(([value, count], at) => icfEl("div", { class: at ? "icf-other-value" : null },
      row.values[tag].length === 1 ? icfWithUnit(tag, value)
        : [icfEl("a", { href: link(row, tag, value) }, icfWithUnit(tag, value)), icfEl("span", { class: "icf-about" }, ` in ${icfNumber(count)}`)]))
      .concat(row.values[tag].length > 4 ? [icfEl("div", { class: "icf-about" }, `and ${row.values[tag].length - 4} more values`)] : []);
    const text = (tag) => (row) => row.values[tag].map(([value, count]) => (row.values[tag].length > 1 ? `${icfValueText(value)} (${count})` : icfValueText(value))).join("; ");
    const columns = [
      { key: "protocol", label: "Protocol", cell: (row) => icfBreakable(row.protocol) },
      { key: "description", label: "Description", cell: (row) => icfBreakable(row.description) },
      { key: "visits", label: "Visits", numeric: true, text: (row) => `${icfNumber(row.visits.size)}`, value: (row) => row.visits.size },
      { key: "varied", label: "Same in all", text: (row) => (row.varied ? "no" : "yes"), value: (row) => row.varied },
      ...ICF_COMPARED.filter((tag) => rows.some((row) => row.values[tag] && row.values[tag].length)).map((tag) => ({ key: tag, label: icfTagLabel(tag), text: text(tag), cell: cell(tag), fixed: true })),
    ];
    const varied = rows.filter((row) => row.varied).length;
    return [icfEl("p", { class: "icf-about" }, varied
      ? `${icfCounted(varied, "protocol has", "protocols have")} parameters that differ between visits; ${icfNumber(rows.length - varied)} ${rows.length - varied === 1 ? "is" : "are"} the same in all of ${icfCounted(total, "visit", "visits")}.`
      : `TR, TE and the other parameters of each protocol are the same in all of ${icfCounted(total, "visit", "visits")}.`),
    this.table({ columns, chooser: null, rows, visits: this.found, name: "icf-parameter-table", caption: "Parameters of each protocol", what: "parameters", all, order: "" })];
  }
}

function icfPeriodFits(period, date) {
  const [from, to] = period.includes("..") ? period.split("..") : [period, period];
  return date !== "" && (!from || date.slice(0, from.length) >= from) && (!to || date.slice(0, to.length) <= to);
}

/** The order of optional columns: known tags first. */
function icfTagRank(tag) {
  const at = Object.keys(ICF_TAGS).indexOf(tag);
  return at < 0 ? 99 : at;
}

const ICF_SEARCH_HELP = [
  ["mprage te:2.98", "series that fit both: words next to each other apply to the same series"],
  ["mprage AND bold", "visits that have a series of each"],
  ["-fieldmap  or  NOT fieldmap", "visits without a series that fits"],
  ["t1 OR t2, (t1 OR t2) te:<30", "one or the other; parentheses group"],
  ["te:<30, tr:2000..2500, te:!=2.98", "comparisons and ranges of numbers; te:3 is not 30"],
  ["date:2023-01..2023-06, date:>=2023", "dates, up to and including the last one"],
  ['protocol:="T1w", "resting state"', "the whole value; words kept together"],
  ["images:<100, number:5, size:>1GB, series:<10", "images and number of a series, size and series of a visit"],
];
