"use strict";
// All series of a study in memory: which of them a query, facets and periods select, and counts over them.

/** The facets of the study's page: what they count, in the order in which they are shown. */
const ICF_FACETS = ["news", "Modality", "ProtocolName", "ManufacturerModelName", "MagneticFieldStrength", "year", "BodyPartExamined", "processing"];

/** Label of a facet. */
function icfFacetLabel(tag) {
  return { year: "Year", processing: "Processing", news: "New since you last looked" }[tag] || icfTagLabel(tag);
}

/**
 * A selection: `ok[visit]` says whether a visit is selected, `rows[row]` whether a series is. If it is `whole`, it was made
 * by properties of visits: all series of its visits are selected, also of visits that have none.
 */
class IcfIndex {
  /** Make the index of `data/study.json` and `data/outputs.json`, described in study_index.py and outputs/listing.py. */
  constructor(data, outputs) {
    this.processings = [...new Set(outputs.map(([, processing]) => processing))].sort(icfCollator.compare);
    this.outcomes = new Map(outputs.map(([visit, processing, state]) => [`${visit} ${processing}`, state]));
    this.stores = data.stores;
    this.archives = data.archives || data.stores;
    this.clone = data.clone;
    this.record = data.record;
    this.tags = data.tags;
    this.values = data.values;
    this.kinds = data.kinds;
    this.column = new Map(this.tags.map((tag, at) => [tag, at]));
    this.byName = new Map(this.tags.map((tag, at) => [tag.toLowerCase(), at]));
    // folded once, and not at each key
    this.folded = this.values.map((column) => column.map((value) => (
      (Array.isArray(value) ? value : [value]).map((one) => (typeof one === "number" ? one : icfFolded(one).replace(/"/g, "")))
    )));
    this.addVisits(data.visits);
    this.fields = this.named();
    this.everything = this.wholeVisits(() => true);
  }

  addVisits(lines) {
    const total = lines.reduce((sum, line) => sum + line[5].length, 0);
    this.rowKind = new Uint32Array(total);
    this.rowVisit = new Uint32Array(total);
    this.rowImages = new Uint32Array(total);
    this.rowBytes = new Float64Array(total);
    this.rowNumber = new Array(total);
    this.total = total;
    this.visits = [];
    let row = 0;
    const ordered = lines.map((line) => line).sort((a, b) => icfCollator.compare(a[0], b[0]));
    for (const [visit, date, bytes, store, dataset, kinds, numbers, images, sizes, version = 1] of ordered) {
      const at = this.visits.length;
      const first = row;
      for (let one = 0; one < kinds.length; one += 1, row += 1) {
        this.rowKind[row] = kinds[one];
        this.rowVisit[row] = at;
        this.rowImages[row] = images[one];
        this.rowBytes[row] = sizes[one];
        this.rowNumber[row] = numbers[one];
      }
      this.visits.push({
        at, visit, date, bytes, store, version, news: "", dataset: dataset === 1, first, end: row, series: kinds.length,
        images: images.reduce((sum, one) => sum + one, 0), folded: icfFolded(visit),
      });
    }
    this.hasDates = this.visits.some((visit) => visit.date);
    this.hasVersions = this.visits.some((visit) => visit.version > 1);
    icfMarkNews(this.visits);
  }

  /** What a query may name, in small letters, and how it is shown. */
  named() {
    const fields = new Map([["visit", "visit"]]);
    if (this.hasDates) fields.set("date", "date");
    for (const tag of this.tags) fields.set(tag.toLowerCase(), (ICF_TAGS[tag] || {}).name || tag);
    for (const name of ["number", "images", "series", "size"]) fields.set(name, name);
    return fields;
  }

  /** The value of a tag in a row, or undefined. */
  value(row, tag) {
    const column = this.column.get(tag);
    return column === undefined ? undefined : this.kindValue(this.rowKind[row], column);
  }

  kindValue(kind, column) {
    const place = this.kinds[kind][column];
    return place < 0 ? undefined : this.values[column][place];
  }

  // ---- selections

  wholeVisits(test) {
    const ok = Uint8Array.from(this.visits, (visit) => (test(visit) ? 1 : 0));
    return { whole: true, ok, rows: this.rowsOf(ok) };
  }

  rowsOf(ok) {
    const rows = new Uint8Array(this.total);
    for (const visit of this.visits) if (ok[visit.at]) rows.fill(1, visit.first, visit.end);
    return rows;
  }

  seriesWhere(test) {
    const rows = new Uint8Array(this.total);
    for (let row = 0; row < this.total; row += 1) rows[row] = test(row) ? 1 : 0;
    return this.ofRows(rows);
  }

  kindsWhere(flags) {
    const rows = new Uint8Array(this.total);
    for (let row = 0; row < this.total; row += 1) rows[row] = flags[this.rowKind[row]];
    return this.ofRows(rows);
  }

  ofRows(rows) {
    const ok = new Uint8Array(this.visits.length);
    for (let row = 0; row < this.total; row += 1) if (rows[row]) ok[this.rowVisit[row]] = 1;
    return { whole: false, ok, rows };
  }

  /** What both select: the same series, in selected visits. */
  both(a, b) {
    if (a.whole && b.whole) {
      const ok = a.ok.map((one, at) => one & b.ok[at]);
      return { whole: true, ok, rows: this.rowsOf(ok) };
    }
    return this.ofRows(a.rows.map((one, at) => one & b.rows[at]));
  }

  /** What one of them selects. */
  either(a, b) {
    const found = { whole: a.whole && b.whole, ok: a.ok.map((one, at) => one | b.ok[at]), rows: a.rows.map((one, at) => one | b.rows[at]) };
    return found;
  }

  /** Visits that both select, with the series of both. */
  together(a, b) {
    const ok = a.ok.map((one, at) => one & b.ok[at]);
    const rows = a.rows.map((one, at) => (one | b.rows[at]) & ok[this.rowVisit[at]]);
    return { whole: a.whole && b.whole, ok, rows };
  }

  not(a) {
    return this.wholeVisits((visit) => !a.ok[visit.at]);
  }

  // ---- queries

  /** The selection of a tree that icfParse made. */
  select(tree) {
    if (!tree) return this.everything;
    if (tree.kind === "not") return this.not(this.select(tree.part));
    if (tree.kind === "atom") return this.selectAtom(tree);
    const combine = { all: this.both, or: this.either, and: this.together }[tree.kind];
    return tree.parts.map((part) => this.select(part)).reduce((a, b) => combine.call(this, a, b));
  }

  selectAtom(atom) {
    const { field, word } = atom;
    if (!field) return this.selectWord(word);
    if (field === "visit") return this.wholeVisits(this.textTest(atom, (visit) => visit.folded));
    if (field === "date") return this.wholeVisits((visit) => visit.date !== "" && icfDateFits(atom, visit.date));
    if (field === "size") return this.wholeVisits((visit) => icfNumberFits(atom, visit.bytes));
    if (field === "series") return this.wholeVisits((visit) => icfNumberFits(atom, visit.series));
    if (field === "images") return this.seriesWhere((row) => icfNumberFits(atom, this.rowImages[row]));
    if (field === "number") return this.seriesWhere((row) => icfItemFits(atom, this.rowNumber[row]));
    return this.kindsWhere(this.fittingKinds(atom));
  }

  /** A word without a tag: of the visit's name or date, or of a series. */
  selectWord(word) {
    const visits = this.wholeVisits((visit) => visit.folded.includes(word) || visit.date.startsWith(word));
    const series = this.kindsWhere(this.fittingKinds({ field: "", operator: "", word }));
    if (!visits.ok.some(Boolean)) return series;
    const found = this.either(visits, series);
    return series.ok.some((one, at) => one && !visits.ok[at]) ? found : visits;
  }

  textTest({ operator, word }, text) {
    if (operator === "=") return (one) => text(one) === word;
    if (operator === "!=") return (one) => text(one) !== word;
    return (one) => text(one).includes(word);
  }

  /** For each value of each tag that an atom names, whether it fits. */
  fittingValues(atom) {
    return this.tags.map((tag, column) => {
      if (atom.field && tag.toLowerCase() !== atom.field) return null;
      const negative = atom.operator === "!=";
      const test = negative ? { ...atom, operator: "=" } : atom;
      return Uint8Array.from(this.folded[column], (items) => (items.some((item) => icfItemFits(test, item)) !== negative ? 1 : 0));
    });
  }

  fittingKinds(atom) {
    const fitting = this.fittingValues(atom);
    return Uint8Array.from(this.kinds, (kind) => (
      fitting.some((flags, column) => flags && kind[column] >= 0 && flags[kind[column]]) ? 1 : 0
    ));
  }

  /** Series with one of the values of a facet, or visits of one of the years. */
  selectFacet(tag, texts) {
    if (tag === "year") return this.wholeVisits((visit) => texts.includes(visit.date.slice(0, 4)));
    if (tag === "news") return this.wholeVisits((visit) => texts.includes(visit.news));
    if (tag === "processing") return this.wholeVisits((visit) => this.outcomesOf(visit).some((text) => texts.includes(text)));
    const column = this.column.get(tag);
    const wanted = new Set(texts);
    if (column === undefined) return this.seriesWhere(() => false);
    const flags = Uint8Array.from(this.kinds, (kind) => (
      kind[column] >= 0 && [this.values[column][kind[column]]].flat().some((one) => wanted.has(String(one))) ? 1 : 0
    ));
    return this.kindsWhere(flags);
  }

  /** What each processing of the study made of a visit: "dcm2niix: success". */
  outcomesOf(visit) {
    return this.processings.map((name) => `${name}: ${this.outcomes.get(`${visit.visit} ${name}`) || "not made"}`);
  }

  /** How many of the selected visits have each value of a facet: [text, count], most frequent first. */
  facetCounts(tag, selection) {
    const counts = new Map();
    if (tag === "year") {
      for (const visit of this.visits) {
        const year = visit.date.slice(0, 4);
        if (year && selection.ok[visit.at]) counts.set(year, (counts.get(year) || 0) + 1);
      }
      return [...counts].sort((a, b) => icfCollator.compare(a[0], b[0]));
    }
    if (tag === "news") {
      for (const visit of this.visits) if (visit.news && selection.ok[visit.at]) counts.set(visit.news, (counts.get(visit.news) || 0) + 1);
      return [...counts].sort((a, b) => icfCollator.compare(a[0], b[0]));
    }
    if (tag === "processing") {
      for (const visit of this.visits) {
        if (selection.ok[visit.at]) for (const text of this.outcomesOf(visit)) counts.set(text, (counts.get(text) || 0) + 1);
      }
      return [...counts].sort((a, b) => icfCollator.compare(a[0], b[0]));
    }
    const column = this.column.get(tag);
    if (column === undefined) return [];
    const seen = new Int32Array(this.values[column].length).fill(-1);
    const visits = new Uint32Array(this.values[column].length);
    for (let row = 0; row < this.total; row += 1) {
      const place = this.kinds[this.rowKind[row]][column];
      if (place < 0 || !selection.rows[row] || seen[place] === this.rowVisit[row]) continue;
      seen[place] = this.rowVisit[row];
      visits[place] += 1;
    }
    this.values[column].forEach((value, place) => {
      if (visits[place]) for (const one of [value].flat()) counts.set(String(one), (counts.get(String(one)) || 0) + visits[place]);
    });
    return [...counts].sort((a, b) => b[1] - a[1] || icfCollator.compare(a[0], b[0]));
  }

  /** Totals of a selection. The size is that of whole archives, or of the selected series alone. */
  totals(selection) {
    let [visits, series, images, bytes] = [0, 0, 0, 0];
    for (const visit of this.visits) {
      if (!selection.ok[visit.at]) continue;
      visits += 1;
      if (selection.whole) bytes += visit.bytes;
    }
    for (let row = 0; row < this.total; row += 1) {
      if (!selection.rows[row]) continue;
      series += 1;
      images += this.rowImages[row];
      if (!selection.whole) bytes += this.rowBytes[row];
    }
    return { visits, series, images, bytes };
  }

  /** The values by which selected series of a visit fit a query, those of a tag together. */
  reasons(visit, selection, atoms) {
    const groups = new Map();
    let left = 6;
    for (let row = visit.first; row < visit.end && left; row += 1) {
      if (!selection.rows[row]) continue;
      for (const { column, flags } of atoms) {
        const place = this.kinds[this.rowKind[row]][column];
        if (place < 0 || !flags[place] || !left) continue;
        const texts = groups.get(this.tags[column]) || new Set();
        const text = icfWithUnit(this.tags[column], this.values[column][place]);
        if (!texts.has(text)) left -= 1;
        groups.set(this.tags[column], texts.add(text));
      }
    }
    return [...groups].map(([tag, texts]) => [tag, [...texts].join(", ")]);
  }

  /** What `reasons` needs of a query: the columns that its parts look at, and the values that fit. */
  reasonAtoms(tree) {
    if (!tree || tree.kind === "not") return [];
    if (tree.parts) return tree.parts.flatMap((part) => this.reasonAtoms(part));
    return this.fittingValues(tree).flatMap((flags, column) => (flags && flags.some(Boolean) ? [{ column, flags }] : []));
  }

  /** Queries that find something here: by the values that most visits have. */
  examples() {
    const found = [];
    const add = (tag, make) => {
      const [first] = this.facetCounts(tag, this.everything);
      if (first) found.push(make(first[0]));
    };
    const named = (tag) => this.fields.get(tag.toLowerCase());
    const word = (text) => icfQuoted((/[\p{L}\p{M}\p{N}]+(?:[. ][\p{L}\p{M}\p{N}]+)?/u.exec(text.toLowerCase()) || [text])[0]);
    add("ProtocolName", (text) => `protocol:${word(text)}`);
    add("SeriesDescription", (text) => `description:${word(text)}`);
    add("EchoTime", (text) => `te:<=${text}`);
    const rarer = this.facetCounts("ProtocolName", this.everything).find(([, count]) => count < this.visits.length);
    if (rarer) found.push(`-protocol:${word(rarer[0])}`);
    const dated = this.visits.find((visit) => visit.date);
    if (dated) found.push(`date:${dated.date.slice(0, 4)}`);
    for (const tag of this.tags) if (found.length < 3 && !named(tag).match(/protocol|description/)) add(tag, (text) => `${named(tag).toLowerCase()}:${icfQuoted(text.toLowerCase())}`);
    return found.length ? found.slice(0, 5) : this.visits.slice(0, 1).map((visit) => `visit:${icfQuoted(visit.visit)}`);
  }
}

/**
 * Mark the visits that this browser has not shown before ("new visit"), or in an earlier version only ("new version"). What
 * it has shown is kept in its storage; the marks stay until its tab is closed. The first time, nothing is marked.
 */
function icfMarkNews(visits) {
  const key = `icf-seen ${icfSite.catalog}`;
  try {
    const before = window.sessionStorage.getItem(key) || window.localStorage.getItem(key);
    setTimeout(() => icfKeepSeen(key, visits), 1000); // not while the page is being made
    if (!before) return;
    window.sessionStorage.setItem(key, before);
    const seen = new Map(Object.entries(JSON.parse(before)));
    for (const visit of visits) {
      if (!seen.has(visit.visit)) visit.news = "new visit";
      else if (seen.get(visit.visit) < visit.version) visit.news = "new version";
    }
  } catch (error) {
    // no storage, or one that is full: nothing is marked
  }
}

function icfKeepSeen(key, visits) {
  try {
    window.localStorage.setItem(key, JSON.stringify(Object.fromEntries(visits.map((visit) => [visit.visit, visit.version]))));
  } catch (error) {
    // no storage, or one that is full
  }
}

/** Whether a value, folded text or a number, fits. Numbers fit as a whole: 3 is not 30. */
function icfItemFits(atom, item) {
  const { operator, word } = atom;
  const number = typeof item === "number";
  if (operator === "..") return number && icfInRange(atom, item);
  if (["<", "<=", ">", ">="].includes(operator)) return number && icfCompared(operator, item, atom.bound);
  const equal = number ? word !== "" && Number(word) === item : item === word;
  if (operator === "=") return equal;
  if (operator === "!=") return !equal;
  return number ? equal : /^\d+$/.test(word) && atom.field ? icfHasNumber(item, word) : item.includes(word);
}

/** Whether a text has a number that is not a part of a longer one. */
function icfHasNumber(text, digits) {
  for (let at = text.indexOf(digits); at >= 0; at = text.indexOf(digits, at + 1)) {
    const [before, after] = [text[at - 1] || "", text[at + digits.length] || ""];
    if (!/\d/.test(before) && !/\d/.test(after)) return true;
  }
  return false;
}

function icfCompared(operator, value, bound) {
  if (operator === "<") return value < bound;
  if (operator === "<=") return value <= bound;
  return operator === ">" ? value > bound : value >= bound;
}

function icfInRange({ from, to }, value) {
  return (from === null || value >= from) && (to === null || value <= to);
}

function icfNumberFits(atom, value) {
  if (atom.operator === "..") return icfInRange(atom, value);
  if (atom.operator === "" || atom.operator === "=") return value === atom.bound;
  return atom.operator === "!=" ? value !== atom.bound : icfCompared(atom.operator, value, atom.bound);
}

/** Dates compare by as many places as the query has: a range ends with the last day of its last month. */
function icfDateFits(atom, date) {
  const { operator, word, bound, from, to } = atom;
  if (operator === "..") return (!from || date.slice(0, from.length) >= from) && (!to || date.slice(0, to.length) <= to);
  if (operator === "" || operator === "=") return date.startsWith(word);
  if (operator === "!=") return !date.startsWith(word);
  return icfCompared(operator, date.slice(0, bound.length), bound);
}
