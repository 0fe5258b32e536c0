"use strict";
// What a query says: words, tags with operators, NOT, OR, AND, parentheses. Nothing here depends on a page.

/**
 * A text as it is compared: neither case, nor accents, nor the form that Unicode gives a letter makes a difference.
 * Twice to small letters, by way of capitals, since only that makes "ß" the same as "ss".
 */
function icfFolded(text) {
  const bare = String(text).normalize("NFKD").replace(/[\u0300-\u036f]/g, "");
  return bare.toLowerCase().toUpperCase().toLowerCase().replace(/ς/g, "σ").normalize("NFC");
}

/** A value in a query, quoted where it needs to be. */
function icfQuoted(text) {
  const plain = String(text).replace(/"/g, "");
  return /[\s:()]|^-|\.\.|^(OR|AND|NOT)$|^[<>=!~]/.test(plain) || plain === "" ? `"${plain}"` : plain;
}

/** What is wrong with a query, as a sentence for the reader. */
class IcfQueryError extends Error {}

/** Other names of tags in a query, in small letters. */
const ICF_NAMES = { name: "visit", year: "date", fa: "flipangle", seriesnumber: "number" };
for (const [tag, { name }] of Object.entries(ICF_TAGS)) if (name) ICF_NAMES[name] = tag.toLowerCase();

/** Names in a query that mean a property of the visit or series instead of a recorded tag. */
const ICF_VISIT_NAMES = ["visit", "date", "size", "series"];
const ICF_SERIES_NAMES = ["number", "images"];

const ICF_OPERATORS = /^(>=|<=|!=|>|<|=)/;
const ICF_WRONG_OPERATORS = /^(=>|=<|<>|==|!(?!=)|~|>>|<<|\*|\^|%|≤|≥|≠)/;

/** Cut a query into pieces: parentheses, OR, AND, NOT, and words with the minus before them. */
function icfPieces(text) {
  const pieces = [];
  let depth = 0;
  let at = 0;
  while (at < text.length) {
    const space = /^\s+/.exec(text.slice(at));
    if (space) { at += space[0].length; continue; }
    if (text[at] === "(" || text.startsWith("-(", at)) {
      pieces.push({ kind: "(", negated: text[at] === "-" });
      at += text[at] === "-" ? 2 : 1;
      depth += 1;
      continue;
    }
    if (text[at] === ")" && depth) {
      pieces.push({ kind: ")" });
      at += 1;
      depth -= 1;
      continue;
    }
    const word = icfWord(text, at, depth > 0);
    at += word.length;
    if (["OR", "AND", "NOT"].includes(word)) pieces.push({ kind: word });
    else pieces.push({ kind: "word", text: word });
  }
  return pieces;
}

/** The word at a place: up to a space, where a quoted part may hold spaces, and up to the parenthesis that closes it. */
function icfWord(text, begin, inside) {
  let at = begin;
  let quoted = false;
  while (at < text.length) {
    const char = text[at];
    if (char === '"') quoted = !quoted;
    else if (!quoted && (/\s/.test(char) || (inside && char === ")"))) break;
    at += 1;
  }
  return text.slice(begin, at);
}

/**
 * Parse a query into a tree: {kind: "all", parts} (in the same series), {kind: "and", parts} (in the same visit),
 * {kind: "or", parts}, {kind: "not", part}, {kind: "atom", …}; null if it says nothing. Raises IcfQueryError.
 */
function icfParse(text, fields) {
  const pieces = icfPieces(text);
  let at = 0;
  const peek = () => (at < pieces.length ? pieces[at].kind : "");
  const joined = (kind, parts) => {
    const found = parts.filter(Boolean);
    return found.length > 1 ? { kind, parts: found } : found[0] || null;
  };
  const listed = (kind, word, next) => {
    const parts = [next()];
    while (peek() === word) {
      at += 1;
      if (!["word", "(", "NOT"].includes(peek())) throw new IcfQueryError(`${word} needs something to search for on both sides.`);
      parts.push(next());
    }
    return joined(kind, parts);
  };
  const any = () => listed("or", "OR", both);
  const both = () => listed("and", "AND", group);
  const group = () => {
    const parts = [];
    if (["OR", "AND"].includes(peek())) throw new IcfQueryError(`${peek()} needs something to search for on both sides. Put the word in quotes to search for it.`);
    while (["word", "(", "NOT"].includes(peek())) parts.push(term());
    return joined("all", parts);
  };
  const term = () => {
    const piece = pieces[at];
    at += 1;
    if (piece.kind === "NOT") {
      if (!["word", "("].includes(peek())) throw new IcfQueryError("NOT needs something to search for after it.");
      const part = term();
      return part && { kind: "not", part };
    }
    if (piece.kind === "(") {
      const part = any();
      if (peek() === ")") at += 1;
      else throw new IcfQueryError("A parenthesis “(” is not closed.");
      return part && piece.negated ? { kind: "not", part } : part;
    }
    const negated = piece.text.length > 1 && piece.text.startsWith("-");
    const atom = icfAtom(negated ? piece.text.slice(1) : piece.text, fields);
    return atom && negated ? { kind: "not", part: atom } : atom;
  };
  const found = any();
  if (at < pieces.length) throw new IcfQueryError("A parenthesis “)” has none that it closes.");
  return found;
}

/** A word, or a tag with an operator and a value. Null if it is not complete yet. */
function icfAtom(text, fields) {
  const [, name, rest] = /^(?:([\p{L}\p{N}_]+):)?([^]*)$/u.exec(text);
  const field = name === undefined ? "" : icfFieldName(name, fields);
  if (!field) return rest.replace(/"/g, "") ? { kind: "atom", field: "", operator: "", word: icfFolded(rest.replace(/"/g, "")) } : null;
  const wrong = ICF_WRONG_OPERATORS.exec(rest);
  if (wrong) {
    throw new IcfQueryError(`“${wrong[0]}” after “${name}:” is not an operator. There are =, !=, <, <=, >, >= and ranges, as in ${name}:10..20. Put a text that begins with such a character in quotes.`);
  }
  const [operator] = ICF_OPERATORS.exec(rest) || [""];
  const raw = rest.slice(operator.length);
  const value = raw.replace(/"/g, "");
  if (!value) return null;
  const range = !operator && !raw.startsWith('"') ? /^(.*?)\.\.(.*)$/.exec(value) : null;
  const atom = { kind: "atom", field, name, operator: range ? ".." : operator, word: icfFolded(value) };
  if (range) {
    if (!range[1] && !range[2]) return null;
    return { ...atom, from: icfBound(atom, range[1]), to: icfBound(atom, range[2]) };
  }
  if (["<", "<=", ">", ">="].includes(operator)) return { ...atom, bound: icfBound(atom, value) };
  if (field === "date") icfCheckDate(name, value);
  if (["size", "series", "images"].includes(field)) return { ...atom, bound: icfBound(atom, value) };
  return atom;
}

function icfFieldName(name, fields) {
  const folded = icfFolded(name);
  const field = ICF_NAMES[folded] || folded;
  if (fields.has(field)) return field;
  const known = [...fields.values()].join(", ");
  throw new IcfQueryError(`“${name}” is not recorded in this catalog, which has: ${known}. Put a text with a colon in quotes.`);
}

const ICF_UNITS = { "": 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12 };

/** What a value is compared with: a date, or a number, perhaps with its unit. */
function icfBound(atom, text) {
  if (!text) return null;
  if (atom.field === "date") return icfCheckDate(atom.name, text);
  const [, number, unit] = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zµ°]*)$/i.exec(text) || [];
  if (number === undefined) {
    throw new IcfQueryError(`“${text}” after “${atom.name}:” is not a number. Comparisons and ranges need numbers, as in ${atom.name}:10..20.`);
  }
  if (atom.field !== "size") return Number(number);
  const factor = ICF_UNITS[unit.toLowerCase()];
  if (!factor) throw new IcfQueryError(`“${unit}” is not a unit of size. There are B, kB, MB, GB and TB, as in size:>1GB.`);
  return Number(number) * factor;
}

function icfCheckDate(name, text) {
  if (/^\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$/.test(text) || /^\d{1,3}$|^\d{4}-[01]?$|^\d{4}-\d\d-[0-3]?$/.test(text)) return text;
  throw new IcfQueryError(`“${text}” after “${name}:” is not a date. Write a year, a month or a day, as in date:2023, date:2023-05 or date:2023-01..2023-06.`);
}
