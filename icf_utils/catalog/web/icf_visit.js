// A visit's page: its series, how to get it, and its files.

/** A folder of the file tree: its files are fetched when it is opened, and shown some at a time. */
Vue.component("icf-folder", {
  props: { folder: Object, record: Object, series: Object },
  data() {
    return { open: false, files: null, shown: 200, problem: "" };
  },
  computed: {
    list() { return `icf-files-${this.folder.path.replace(/[^\w-]/g, "_")}`; },
    visible() { return this.files ? this.files.slice(0, this.shown) : []; },
    left() { return this.files ? Math.max(0, this.files.length - this.shown) : 0; },
    about() {
      return this.series ? `${icfCounted(this.series.images, "image", "images")}, ${icfSize(this.series.bytes)}` : "";
    },
  },
  methods: {
    size: icfSize,
    async toggle() {
      this.open = !this.open;
      if (!this.open || this.files) return;
      try {
        const node = await icfRecord(this.record.dataset_id, this.record.dataset_version, this.folder.path);
        this.files = Object.freeze(node.children);
        this.problem = "";
      } catch (error) {
        this.problem = "The list of files could not be loaded.";
      }
    },
    async more() {
      const next = this.shown;
      this.shown += 200;
      await this.$nextTick();
      const row = this.$refs.rows.children[next];
      if (row) row.focus();
    },
    async reveal() {
      if (!this.open) await this.toggle();
      this.$refs.button.focus({ preventScroll: true });
      this.$el.scrollIntoView({ block: "start" });
    },
  },
  template: `
    <li class="icf-folder">
      <button type="button" ref="button" :aria-expanded="String(open)" :aria-controls="list" @click="toggle">
        <i aria-hidden="true" class="far" :class="open ? 'fa-folder-open' : 'fa-folder'"></i>
        <span class="icf-name">{{ folder.name }}</span> <span class="icf-about">{{ about }}</span>
      </button>
      <div :id="list" v-show="open">
        <p v-if="problem" role="alert">{{ problem }}</p>
        <p v-else-if="!files" class="icf-about" role="status">Loading …</p>
        <ul ref="rows">
          <li v-for="file in visible" :key="file.path" class="icf-file" tabindex="-1">
            <i aria-hidden="true" class="far fa-file-alt"></i>
            <span class="icf-name">{{ file.name }}</span> <span class="icf-about">{{ size(file.contentbytesize) }}</span>
          </li>
        </ul>
        <button v-if="left" type="button" class="icf-more" @click="more">Show more ({{ left.toLocaleString('en') }} left)</button>
      </div>
    </li>`,
});

function icfTitled(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Where to get the visit: the archive as a file, and commands. */
Vue.component("icf-getting", {
  props: { record: Object },
  computed: {
    archive() { return icfTab(this.record, "Archive"); },
    commands() { return icfTab(this.record, "Clone"); },
    download() { return icfLink(this.archive.Download); },
    checksum() { return icfLink(this.archive["Checksum file"]); },
    address() { return typeof this.archive.Download === "string" ? this.archive.Download : ""; },
    size() { return icfSize(this.archive["Size in bytes"] || 0); },
    exactly() { return `${icfNumber(this.archive["Size in bytes"] || 0)} bytes`; },
    groups() {
      const of = (tool) => Object.entries(this.commands)
        .filter(([name]) => name === tool || name.startsWith(`${tool}: `))
        .map(([name, command]) => ({ name: icfTitled(name.slice(tool.length + 2)) || "Clone the dataset", command }));
      return { datalad: of("datalad"), annex: of("git-annex"), icf: of("icf-utils") };
    },
  },
  template: `
    <section class="icf-card icf-getting" aria-labelledby="icf-get">
      <h2 id="icf-get">Get the images</h2>
      <h3>One archive</h3>
      <p v-if="download"><a class="icf-download" :href="download"><i class="fas fa-download" aria-hidden="true"></i>
        Download {{ size }}</a></p>
      <p v-else class="icf-wrap">{{ address }}</p>
      <dl class="icf-archive">
        <div><dt>File</dt><dd>{{ archive.File }}</dd></div>
        <div><dt>Size</dt><dd>{{ exactly }}</dd></div>
        <div><dt>MD5</dt><dd><code>{{ archive.MD5 }}</code>
          <a v-if="checksum" :href="checksum">checksum file</a></dd></div>
      </dl>
      <icf-command title="Download" :command="archive['Download command']"></icf-command>
      <icf-command title="Check, beside the checksum file" :command="archive['Check command']"></icf-command>
      <h3>With DataLad</h3>
      <icf-command v-for="one in groups.datalad" :key="one.name" :title="one.name" :command="one.command"></icf-command>
      <h3>With git-annex alone</h3>
      <icf-command v-for="one in groups.annex" :key="one.name" :title="one.name" :command="one.command"></icf-command>
      <p v-if="!groups.annex.length" class="icf-about">This store has no deposit for git-annex alone. Clone with DataLad,
        or download the archive.</p>
      <h3>With icf-utils</h3>
      <icf-command v-for="one in groups.icf" :key="one.name" title="Images without a clone"
                   :command="one.command"></icf-command>
    </section>`,
});

Vue.component("icf-visit", {
  props: { record: Object, home: Object, study: String, day: { type: String, default: "" } },
  created() {
    const rows = Object.entries(icfTab(this.record, "Series")).map(([name, row], at) => Object.freeze({
      key: name,
      at,
      number: this.order(name.slice("Series ".length)),
      label: name.slice("Series ".length),
      description: row.Description,
      protocol: row.Protocol,
      modality: row.Modality,
      images: row.Images,
      bytes: row.Bytes,
      preview: row.Preview || "",
    }));
    this.rows = Object.freeze(rows);
    this.folders = Object.freeze((this.record.children || []).filter((child) => child.type === "directory"));
    this.files = Object.freeze((this.record.children || []).filter((child) => child.type === "file"));
    this.columns = [
      { key: "preview", label: "Preview", fixed: true },
      { key: "number", label: "No.", numeric: true },
      { key: "description", label: "Description" },
      { key: "protocol", label: "Protocol" },
      { key: "modality", label: "Modality" },
      { key: "images", label: "Images", numeric: true },
      { key: "bytes", label: "Size", numeric: true, text: (row) => icfSize(row.bytes) },
    ].filter((column) => column.key !== "preview" || rows.some((row) => row.preview));
  },
  data() {
    return { start: 0, size: ICF_ROWS * 4, allWords: false };
  },
  computed: {
    facts() { return this.day ? [...this.record.top_display, { name: "Date", value: this.day }] : this.record.top_display; },
    words() { return this.allWords ? this.record.keywords : this.record.keywords.slice(0, 24); },
    total() { return `${icfCounted(this.rows.length, "series", "series")}, ${icfCounted(this.images, "image", "images")}, ${icfSize(this.bytes)}`; },
    images() { return this.rows.reduce((sum, row) => sum + row.images, 0); },
    bytes() { return this.rows.reduce((sum, row) => sum + row.bytes, 0); },
    visible() { return this.folders.slice(this.start, this.start + this.size); },
  },
  methods: {
    /** Numbers as numbers, so that 10 comes after 9; what has none comes last. */
    order(label) {
      const number = label.match(/^[+-]?\d+/);
      return number ? Number(number[0]) : "";
    },
    size_(bytes) { return icfSize(bytes); },
    number_(value) { return icfNumber(value); },
    link(file) { return icfLink((file.url || [])[0]); },
    search(word) {
      return { name: "dataset", params: this.home, query: { q: icfQuoted(word) } };
    },
    async show(at) {
      this.start = Math.floor(at / this.size) * this.size;
      await this.$nextTick();
      this.$refs.folders[at - this.start].reveal();
    },
  },
  template: `
    <div>
      <h1 class="dataset-title">{{ record.name }}</h1>
      <p class="icf-lead">{{ record.description }}</p>
      <icf-facts :facts="facts"></icf-facts>
      <div class="icf-columns">
        <div class="icf-main-column">
          <section class="icf-card" aria-labelledby="icf-series">
            <h2 id="icf-series">Series</h2>
            <icf-table v-if="rows.length" :columns="columns" :rows="rows" caption="Series of the visit" row-key="key">
              <template #preview="{ row }">
                <img v-if="row.preview" :src="row.preview" loading="lazy" :alt="'Preview of series ' + row.label">
                <span v-else class="icf-about">none</span>
              </template>
              <template #number="{ row }">{{ row.label }}</template>
              <template #description="{ row }"><icf-text :text="row.description"></icf-text></template>
              <template #protocol="{ row }"><icf-text :text="row.protocol"></icf-text></template>
              <template #images="{ row }">
                <button type="button" class="icf-as-link" :aria-label="number_(row.images) + ' images of series ' + row.label + ': show the files'"
                        @click="show(row.at)">{{ number_(row.images) }}</button>
              </template>
            </icf-table>
            <p v-if="rows.length" class="icf-total">Together: {{ total }}</p>
            <p v-else class="icf-nothing">There is no DICOM image in this visit.</p>
          </section>
        </div>
        <icf-getting :record="record"></icf-getting>
        <div class="icf-main-column">
          <section class="icf-card" aria-labelledby="icf-files">
            <h2 id="icf-files">Files</h2>
            <ul class="icf-tree">
              <li v-for="file in files" :key="file.path" class="icf-file">
                <i aria-hidden="true" class="far fa-file-archive"></i>
                <a v-if="link(file)" :href="link(file)" class="icf-name">{{ file.name }}</a>
                <span v-else class="icf-name">{{ file.name }}</span>
                <span class="icf-about">{{ size_(file.contentbytesize) }}</span>
              </li>
              <icf-folder v-for="(folder, at) in visible" ref="folders" :key="folder.path" :folder="folder"
                          :record="record" :series="rows[start + at]"></icf-folder>
            </ul>
            <icf-pager :start="start" :size="size" :total="folders.length" what="folders" @go="start = $event"></icf-pager>
          </section>
          <section v-if="words.length && home" class="icf-card" aria-labelledby="icf-words">
            <h2 id="icf-words">Visits like this one</h2>
            <ul class="icf-words">
              <li v-for="word in words" :key="word"><router-link :to="search(word)">{{ word }}</router-link></li>
            </ul>
            <button v-if="words.length < record.keywords.length" type="button" class="icf-more"
                    @click="allWords = true">Show all {{ record.keywords.length }}</button>
          </section>
        </div>
      </div>
    </div>`,
});
