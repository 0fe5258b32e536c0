// What all pages of the catalog share: sizes, records, copying, and tables that can be sorted and leafed through.

const ICF_ROWS = 50; // rows of a table, and visits of a list, that are shown at a time

/** A page may not fetch its data from a file: the sentence of ``index.html`` says what to do, and nothing else begins. */
if (window.location.protocol === "file:") {
  const sentence = document.getElementById("icf-local");
  sentence.classList.remove("icf-local");
  const folder = decodeURIComponent(window.location.pathname).replace(/\/[^/]*$/, "") || "/";
  const quoted = /^[\w/.+-]+$/.test(folder) ? folder : `'${folder.replace(/'/g, "'\\''")}'`;
  sentence.querySelector("code").textContent = `icf-utils catalog serve ${quoted}`;
  window.stop();
}

const icfCollator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

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
  return value.toLocaleString("en");
}

function icfCounted(number, one, more) {
  return `${icfNumber(number)} ${number === 1 ? one : more}`;
}

/** Fetch a file; the browser asks whether its copy is still the server's, as not every server says how long it is. */
function icfFetch(address) {
  return fetch(address, { cache: "no-cache" });
}

/** A record of the catalog. Fails with a sentence for the reader. */
async function icfRecord(id, version, path) {
  const response = await icfFetch(getFilePath(id, version, path));
  if (response.ok) return Object.freeze(await response.json());
  const denied = response.status === 401 || response.status === 403;
  throw new Error(denied ? "The server asks for permission to read this page." : "The catalog has no such page.");
}

/** The content of a tab of a record, by the tab's name. */
function icfTab(record, name) {
  const tab = (record.additional_display || []).find((one) => one.name === name);
  return tab ? tab.content : {};
}

/** Addresses that a browser can follow; anything else stays text. */
function icfLink(value) {
  const address = value && typeof value === "object" ? value["@value"] : value;
  return /^https?:\/\//.test(address || "") ? address : "";
}

/** Put text on the clipboard; where a page may not (plain http), by way of a selection. */
async function icfCopy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}

/** Rows in another order; empty values come last whatever the direction. */
function icfSorted(rows, key, descending) {
  if (!key) return rows;
  const sign = descending ? -1 : 1;
  const empty = (value) => value === "" || value === undefined || value === null;
  return [...rows].sort((a, b) => {
    const [x, y] = [a[key], b[key]];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : icfCollator.compare(x, y));
  });
}

/** A text that may be broken after an underscore and the like; what is copied is the text as it is. */
Vue.component("icf-text", {
  functional: true,
  props: { text: String },
  render(h, { props }) {
    return (props.text.match(/[^_\-./]*[_\-./]|[^_\-./]+/g) || []).map((part, at) => (at ? [h("wbr"), part] : part));
  },
});

/** Steps through something long; says where it is. */
Vue.component("icf-pager", {
  props: { start: Number, size: Number, total: Number, what: String },
  template: `
    <nav v-if="total > size" class="icf-pager" :aria-label="'Pages of ' + what">
      <button type="button" :disabled="start === 0" @click="$emit('go', 0)">First</button>
      <button type="button" :disabled="start === 0" @click="$emit('go', start - size)">Previous</button>
      <span>{{ from }}–{{ to }} of {{ all }}</span>
      <button type="button" :disabled="start >= last" @click="$emit('go', start + size)">Next</button>
      <button type="button" :disabled="start >= last" @click="$emit('go', last)">Last</button>
    </nav>`,
  computed: {
    last() { return Math.floor((this.total - 1) / this.size) * this.size; },
    from() { return icfNumber(this.start + 1); },
    to() { return icfNumber(Math.min(this.start + this.size, this.total)); },
    all() { return icfNumber(this.total); },
  },
});

/**
 * A table. A column is {key, label, numeric, text: row => text}; a slot named by the key shows a cell in another way.
 * Rows come in the order of the column that `order` names, if it does.
 * On narrow screens each row becomes a block with labels, and the order is chosen from a list; the headings, which only
 * a reader's program finds there, have no buttons then: nobody would see where the keyboard is.
 */
Vue.component("icf-table", {
  props: { columns: Array, rows: Array, caption: String, rowKey: String, order: { type: String, default: "" } },
  data() {
    return { key: this.order, descending: false, start: 0, size: ICF_ROWS };
  },
  computed: {
    sorted() {
      if (!this.order || this.key !== this.order) return icfSorted(this.rows, this.key, this.descending);
      return this.descending ? [...this.rows].reverse() : this.rows;
    },
    shown() { return this.sorted.slice(this.start, this.start + this.size); },
    sortable() { return this.columns.filter((column) => !column.fixed); },
  },
  watch: {
    rows() { this.start = 0; },
  },
  methods: {
    text(column, row) { return column.text ? column.text(row) : row[column.key]; },
    sortBy(key) {
      this.descending = this.key === key && !this.descending;
      this.key = key;
      this.start = 0;
    },
    direction(column) {
      if (column.fixed) return null;
      return this.key !== column.key ? "none" : this.descending ? "descending" : "ascending";
    },
    go(start) {
      this.start = Math.max(0, start);
      this.$el.scrollIntoView({ block: "start" });
    },
  },
  template: `
    <div class="icf-table">
      <div class="icf-sorting">
        <label>Sort by
          <select :value="key" @change="descending = false; key = $event.target.value; start = 0">
            <option v-if="!order" value="">as listed</option>
            <option v-for="column in sortable" :value="column.key">{{ column.label }}</option>
          </select>
        </label>
        <select v-if="key" aria-label="Order" :value="String(descending)"
                @change="descending = $event.target.value === 'true'; start = 0">
          <option value="false">ascending</option>
          <option value="true">descending</option>
        </select>
      </div>
      <table role="table">
        <caption class="icf-unseen">{{ caption }}</caption>
        <thead role="rowgroup">
          <tr role="row">
            <th v-for="column in columns" role="columnheader" scope="col" :key="column.key"
                :class="{ 'icf-number': column.numeric }" :aria-sort="direction(column)">
              <button v-if="!column.fixed" type="button" @click="sortBy(column.key)">
                {{ column.label }}<i aria-hidden="true" class="fas" :class="{
                  'fa-sort': key !== column.key, 'fa-sort-up': key === column.key && !descending,
                  'fa-sort-down': key === column.key && descending }"></i>
              </button>
              <span :class="{ 'icf-plain-heading': !column.fixed }">{{ column.label }}</span>
            </th>
          </tr>
        </thead>
        <tbody role="rowgroup">
          <tr v-for="row in shown" role="row" :key="row[rowKey]">
            <td v-for="column in columns" role="cell" :key="column.key" :data-label="column.label"
                :class="['icf-cell-' + column.key, { 'icf-number': column.numeric, 'icf-empty': text(column, row) === '' }]">
              <slot :name="column.key" :row="row">{{ text(column, row) }}</slot>
            </td>
          </tr>
        </tbody>
      </table>
      <icf-pager :start="start" :size="size" :total="rows.length" :what="caption" @go="go"></icf-pager>
    </div>`,
});

/** A command to copy. */
Vue.component("icf-command", {
  props: { title: String, command: String },
  data() { return { said: "" }; },
  methods: {
    async copy() {
      this.said = (await icfCopy(this.command, this.$refs.code)) ? "Copied" : "Select and copy by hand";
      setTimeout(() => { this.said = ""; }, 2500);
    },
  },
  template: `
    <div class="icf-command">
      <div class="icf-command-head">
        <span>{{ title }}</span>
        <span class="icf-said" role="status">{{ said }}</span>
        <button type="button" :aria-label="'Copy the command: ' + title" @click="copy">
          <i class="far fa-copy" aria-hidden="true"></i> Copy</button>
      </div>
      <pre tabindex="0" :aria-label="title"><code ref="code">{{ command }}</code></pre>
    </div>`,
});

/** Numbers that say how much there is. */
Vue.component("icf-facts", {
  props: { facts: Array },
  template: `
    <dl class="icf-facts">
      <div v-for="fact in facts" :key="fact.name"><dt>{{ fact.name }}</dt><dd>{{ shown(fact.value) }}</dd></div>
    </dl>`,
  methods: {
    shown(value) { return typeof value === "number" ? icfNumber(value) : value; },
  },
});
