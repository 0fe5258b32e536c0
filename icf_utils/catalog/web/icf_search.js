// The search over the visits of a study: how texts are compared, what a query says, which visits fit and why.

/**
 * A text as it is compared: neither case, nor accents, nor the form that Unicode gives a letter makes a difference.
 * Twice to small letters, by way of capitals, since only that makes "ß" the same as "ss".
 */
function icfFolded(text) {
  const bare = text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
  return bare.toLowerCase().toUpperCase().toLowerCase().replace(/ς/g, "σ").normalize("NFC");
}

/** The parts of a query: words, "several words", and tag:word. All of them must fit. */
function icfQuery(text) {
  const parts = icfFolded(text).match(/(?:[\p{L}\p{N}_]+:)?(?:"[^"]*"?|\S+)/gu) || [];
  return parts
    .map((part) => {
      const [, tag, word] = part.match(/^(?:([\p{L}\p{N}_]+):)?(.*)$/su);
      return { tag: tag || "", word: word.replace(/"/g, "") };
    })
    .filter((part) => part.word);
}

/** A query for a text as it stands. */
function icfQuoted(text) {
  const plain = text.replace(/"/g, "");
  return /[\s:]/.test(plain) ? `"${plain}"` : plain;
}

/** Short names of tags in a query. */
const ICF_TAGS = {
  protocol: "protocolname",
  description: "seriesdescription",
  sequence: "pulsesequencename",
  number: "seriesnumber",
};

/** Values of this tag fit as a whole, and only where it is named: nearly every visit has a series 1, or 11. */
const ICF_NUMBER = "seriesnumber";

/** All visits of a study with everything that they can be found by. Nothing here depends on the network. */
class IcfIndex {
  constructor(record) {
    this.values = record.values || [];
    // folded once, and not at each key
    this.known = this.values.map(([tag, text]) => ({
      tag: tag.toLowerCase(), text: icfFolded(text).replace(/"/g, ""),
    }));
    const visits = (record.subdatasets || []).map((one) => Object.freeze({
      visit: one.dataset_path,
      id: one.dataset_id,
      version: one.dataset_version,
      date: one.date || "",
      series: one.series,
      images: one.images,
      bytes: one.bytes,
      modalities: (one.modalities || []).join(", "),
      values: one.values || [],
      name: icfFolded(one.dataset_path),
      kinds: icfFolded((one.modalities || []).join("/")).split("/"),
    }));
    this.visits = icfSorted(visits, "visit", false);
    this.fields = this.named();
  }

  /** What a query may name, in small letters, and how it is shown. */
  named() {
    const short = new Map(Object.entries(ICF_TAGS).map(([name, tag]) => [tag, name]));
    const fields = new Map([["visit", "visit"]]);
    if (this.visits.some((visit) => visit.date)) fields.set("date", "date");
    fields.set("modality", "modality");
    for (const [tag] of this.values) {
      const key = tag.toLowerCase();
      if (!fields.has(key)) fields.set(key, short.get(key) || tag);
    }
    return fields;
  }

  /** For each part of a query, which of the known values fit. */
  fitting(parts) {
    return parts.map(({ tag, word }) => Uint8Array.from(this.known, (one) => {
      if (one.tag === ICF_NUMBER) return tag === ICF_NUMBER && one.text === word;
      return (!tag || one.tag === tag) && one.text.includes(word);
    }));
  }

  find(text) {
    const parts = icfQuery(text).map(({ tag, word }) => ({ tag: tag === "name" ? "visit" : ICF_TAGS[tag] || tag, word }));
    const unknown = [...new Set(parts.map((part) => part.tag))].filter((tag) => tag && !this.fields.has(tag));
    const fitting = this.fitting(parts);
    const found = parts.length ? this.visits.filter((visit) => parts.every((part, at) => (
      this.fits(visit, part) || visit.values.some((value) => fitting[at][value])
    ))) : this.visits;
    return { found, parts, fitting, unknown };
  }

  fits(visit, { tag, word }) {
    return ((!tag || tag === "visit") && visit.name.includes(word))
      || ((!tag || tag === "date") && visit.date.startsWith(word))
      || ((!tag || tag === "modality") && visit.kinds.includes(word));
  }

  /** Values of a visit that made it fit, those of a tag together. */
  reasons(visit, fitting) {
    const groups = new Map();
    for (const value of visit.values.filter((one) => fitting.some((flags) => flags[one])).slice(0, 6)) {
      const [tag, text] = this.values[value];
      groups.set(tag, [...(groups.get(tag) || []), text]);
    }
    return [...groups].map(([tag, texts]) => ({ tag, text: texts.join(", ") }));
  }

  /** Queries that find something here: words of the values that most visits have. */
  examples() {
    const counts = new Uint32Array(this.values.length);
    for (const visit of this.visits) for (const value of visit.values) counts[value] += 1;
    const best = new Map(); // by tag: how many visits, and the query
    this.values.forEach(([tag, text], at) => {
      const [word] = text.match(/[\p{L}\p{M}\p{N}]+(?:[. ][\p{L}\p{M}\p{N}]+)?/u) || [""];
      const key = tag.toLowerCase();
      if (!word || counts[at] <= (best.get(key) || [0])[0]) return;
      const name = this.fields.get(key);
      best.set(key, [counts[at], `${name.toLowerCase()}:${icfQuoted(word.toLowerCase())}`]);
    });
    const first = ["protocolname", "modality", "seriesdescription"];
    const others = [...best.keys()].filter((key) => !first.includes(key) && key !== ICF_NUMBER);
    const chosen = [...first.filter((key) => best.has(key)), ...others.slice(0, 1), ICF_NUMBER].filter((key) => best.has(key));
    const queries = chosen.slice(0, 4).map((key) => best.get(key)[1]);
    return queries.length ? queries : this.visits.slice(0, 1).map((visit) => `visit:${icfQuoted(visit.visit)}`);
  }
}
