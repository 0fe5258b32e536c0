// The study's page: its visits, the field to search them, and two small plots.

/** Visits per month, quarter or year: whichever gives bars that can be told apart. */
function icfPeriods(dates) {
  const days = dates.filter((date) => /^\d{4}-\d\d-\d\d$/.test(date)).sort();
  if (!days.length) return { unit: "", bars: [] };
  const month = (date) => Number(date.slice(0, 4)) * 12 + Number(date.slice(5, 7)) - 1;
  const span = month(days[days.length - 1]) - month(days[0]) + 1;
  const step = span <= 24 ? 1 : span <= 96 ? 3 : 12;
  const unit = { 1: "month", 3: "quarter", 12: "year" }[step];
  const first = Math.floor(month(days[0]) / step);
  const count = Math.floor(month(days[days.length - 1]) / step) - first + 1;
  const bars = Array.from({ length: count }, (_, at) => ({ label: icfPeriod((first + at) * step, step), value: 0 }));
  days.forEach((day) => { bars[Math.floor(month(day) / step) - first].value += 1; });
  return { unit, bars };
}

function icfPeriod(month, step) {
  const year = Math.floor(month / 12);
  if (step === 12) return String(year);
  if (step === 3) return `${year} Q${Math.floor((month % 12) / 3) + 1}`;
  return `${year}-${String((month % 12) + 1).padStart(2, "0")}`;
}

/** Upright bars over time. */
Vue.component("icf-timeline", {
  props: { dates: Array },
  computed: {
    periods() { return icfPeriods(this.dates); },
    highest() { return Math.max(...this.periods.bars.map((bar) => bar.value)); },
    bars() {
      const all = this.periods.bars;
      const width = 304 / all.length;
      return all.map((bar, at) => {
        const height = bar.value ? Math.max(2, (bar.value / this.highest) * 92) : 0;
        const wide = Math.min(width * 0.8, 36);
        return { ...bar, x: 52 + at * width + (width - wide) / 2, y: 108 - height, width: wide, height };
      });
    },
    first() { return this.bars[0].label; },
    last() { return this.bars.length > 1 ? this.bars[this.bars.length - 1].label : ""; },
    words() {
      return this.periods.bars.filter((bar) => bar.value).map((bar) => `${bar.label}: ${icfNumber(bar.value)}`).join("; ");
    },
  },
  methods: { number: icfNumber },
  template: `
    <figure v-if="bars.length" class="icf-plot">
      <figcaption>Visits per {{ periods.unit }}</figcaption>
      <svg viewBox="0 0 360 132" role="img" :aria-label="'Visits per ' + periods.unit + ': ' + words">
        <line x1="52" y1="108.5" x2="356" y2="108.5" class="icf-axis"></line>
        <text x="46" y="24" text-anchor="end">{{ number(highest) }}</text>
        <text x="46" y="112" text-anchor="end">0</text>
        <rect v-for="bar in bars" :x="bar.x" :y="bar.y" :width="bar.width" :height="bar.height" rx="1.5">
          <title>{{ bar.label }}: {{ number(bar.value) }}</title>
        </rect>
        <text :x="last ? 52 : 204" y="127" :text-anchor="last ? 'start' : 'middle'">{{ first }}</text>
        <text x="356" y="127" text-anchor="end">{{ last }}</text>
      </svg>
    </figure>`,
});

/** How many visits have a modality. */
Vue.component("icf-modalities", {
  props: { visits: Array },
  computed: {
    all() {
      const counts = new Map();
      for (const visit of this.visits) {
        for (const one of new Set(visit.modalities.split(", ").filter(Boolean))) counts.set(one, (counts.get(one) || 0) + 1);
      }
      return [...counts].sort((a, b) => b[1] - a[1] || icfCollator.compare(a[0], b[0]));
    },
    bars() {
      const highest = Math.max(...this.all.map((one) => one[1]));
      return this.all.slice(0, 5).map(([label, value], at) => ({
        label, value, y: 8 + at * 24, width: Math.max(2, (value / highest) * 230),
      }));
    },
    words() { return this.all.map(([label, value]) => `${label}: ${icfNumber(value)}`).join("; "); },
    height() { return 8 + this.bars.length * 24; },
  },
  methods: {
    number: icfNumber,
    short(label) { return label.length > 6 ? label.slice(0, 5) + "…" : label; },
  },
  template: `
    <figure v-if="bars.length" class="icf-plot">
      <figcaption>Visits with a modality</figcaption>
      <svg :viewBox="'0 0 360 ' + height" role="img" :aria-label="'Visits with a modality: ' + words">
        <g v-for="bar in bars">
          <title>{{ bar.label }}: {{ number(bar.value) }}</title>
          <text x="50" :y="bar.y + 13" text-anchor="end">{{ short(bar.label) }}</text>
          <rect x="58" :y="bar.y" :width="bar.width" height="17" rx="1.5"></rect>
          <text :x="bar.width + 65" :y="bar.y + 13">{{ number(bar.value) }}</text>
        </g>
      </svg>
    </figure>`,
});

Vue.component("icf-study", {
  props: { record: Object },
  data() {
    return { query: this.$route.query.q || "", later: 0 };
  },
  created() {
    this.index = Object.freeze(new IcfIndex(this.record)); // large, and never changed: not observed
    this.examples = this.index.examples();
    this.columns = [
      { key: "visit", label: "Visit" },
      { key: "date", label: "Date" },
      { key: "modalities", label: "Modalities" },
      { key: "series", label: "Series", numeric: true, text: (row) => icfNumber(row.series) },
      { key: "images", label: "Images", numeric: true, text: (row) => icfNumber(row.images) },
      { key: "bytes", label: "Size", numeric: true, text: (row) => icfSize(row.bytes) },
    ].filter((column) => column.key !== "date" || this.index.visits.some((visit) => visit.date));
  },
  computed: {
    result() { return this.index.find(this.query); },
    dates() { return this.index.visits.map((visit) => visit.date); },
    said() {
      const all = icfCounted(this.index.visits.length, "visit", "visits");
      return this.result.parts.length ? `${icfNumber(this.result.found.length)} of ${all}` : all;
    },
    /** Why nothing fits, where a query names what the catalog does not have. */
    unknown() {
      const tags = this.result.unknown;
      if (!tags.length) return "";
      const named = tags.map((tag) => `“${tag}”`).join(" and ");
      return `${named} ${tags.length === 1 ? "is" : "are"} not recorded in this catalog, which has: `
        + `${[...this.index.fields.values()].join(", ")}. Put a text with a colon in quotes.`;
    },
    empty() { return !this.index.visits.length; },
  },
  watch: {
    query(text) {
      clearTimeout(this.later);
      this.later = setTimeout(() => {
        const query = text.trim() ? { q: text } : {};
        this.$router.replace({ ...this.$route, query }).catch(() => {});
      }, 300);
    },
    "$route.query.q"(text) {
      if ((text || "") !== this.query.trim() && (text || "") !== this.query) this.query = text || "";
    },
  },
  beforeDestroy() { clearTimeout(this.later); },
  methods: {
    target(row) { return { name: "dataset", params: { dataset_id: row.id, dataset_version: row.version } }; },
    reasons(row) { return this.result.parts.length ? this.index.reasons(row, this.result.fitting) : []; },
    clear() {
      this.query = "";
      this.$refs.search.focus();
    },
  },
  template: `
    <div>
      <h1 class="dataset-title">{{ record.name }}</h1>
      <p class="icf-lead">{{ record.description }}</p>
      <icf-facts :facts="record.top_display"></icf-facts>
      <section v-if="!empty" class="icf-card icf-plots" aria-label="Overview">
        <icf-timeline :dates="dates"></icf-timeline>
        <icf-modalities :visits="index.visits"></icf-modalities>
      </section>
      <section class="icf-card" aria-labelledby="icf-visits">
        <h2 id="icf-visits">Visits</h2>
        <form class="icf-search" role="search" @submit.prevent>
          <label for="icf-q">Search visits</label>
          <div class="icf-field">
            <input id="icf-q" ref="search" type="search" v-model="query" autocomplete="off" spellcheck="false"
                   aria-describedby="icf-q-help" placeholder="protocol, modality, description, visit …">
            <button v-if="query" type="button" @click="clear">Clear</button>
          </div>
          <p id="icf-q-help">All words must fit; case and accents do not matter. To look at one tag only:
            <template v-for="(example, at) in examples">{{ at ? ", " : "" }}<code>{{ example }}</code></template>.</p>
        </form>
        <p class="icf-count" role="status">{{ said }}<span v-if="unknown" class="icf-unknown">{{ unknown }}</span></p>
        <icf-table v-if="result.found.length" :columns="columns" :rows="result.found" caption="Visits of the study"
                   row-key="visit" order="visit">
          <template #visit="{ row }">
            <router-link :to="target(row)">{{ row.visit }}</router-link>
            <span v-if="reasons(row).length" class="icf-reasons">
              <span v-for="reason in reasons(row)"><b>{{ reason.tag }}</b> {{ reason.text }}</span>
            </span>
          </template>
        </icf-table>
        <p v-else-if="!unknown" class="icf-nothing">No visit fits. Try fewer words, or another spelling.</p>
      </section>
    </div>`,
});
