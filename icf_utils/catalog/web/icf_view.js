// The frame around every page, and which page it is. The router of datalad-catalog knows these by their names.

/** Links of the settings that a visitor may follow. */
const ICF_LINKS = [
  ["about", "About", "fas fa-info-circle"],
  ["documentation", "Documentation", "fas fa-file-alt"],
  ["github", "GitHub", "fab fa-github"],
  ["mastodon", "Mastodon", "fab fa-mastodon"],
  ["x", "X", "fab fa-x-twitter"],
];

Vue.component("icf-frame", {
  props: { study: String, visit: String, home: Object, file: String },
  computed: {
    root() { return this.$root; },
    links() {
      const given = (this.root.config_ready && this.root.social_links) || {};
      return ICF_LINKS.filter(([key]) => icfLink(given[key])).map(([key, label, icon]) => ({
        label, icon, address: given[key],
      }));
    },
  },
  methods: {
    skip() { this.$refs.main.focus(); },
  },
  template: `
    <div class="icf-frame">
      <a class="icf-skip" href="#icf-main" @click.prevent="skip">Skip to the content</a>
      <header class="icf-header">
        <router-link v-if="home" :to="{ name: 'dataset', params: home }" class="icf-logo">
          <img v-if="root.logo_path" :src="root.logo_path" alt="All visits"></router-link>
        <nav v-if="links.length" aria-label="About this catalog">
          <a v-for="link in links" :key="link.label" :href="link.address" rel="noopener">
            <i :class="link.icon" aria-hidden="true"></i> {{ link.label }}</a>
        </nav>
      </header>
      <nav v-if="visit && home" class="icf-crumbs" aria-label="Where you are">
        <router-link :to="{ name: 'dataset', params: home }">{{ study }}</router-link>
        <span aria-hidden="true">/</span> <span aria-current="page">{{ visit }}</span>
      </nav>
      <main id="icf-main" ref="main" tabindex="-1"><slot></slot></main>
      <footer class="icf-footer">
        <a v-if="file" :href="file" :download="file.split('/').pop()">Metadata of this page (JSON)</a>
        <span>Made by icf-utils with DataLad Catalog</span>
      </footer>
    </div>`,
});

const icfTitle = document.title;

const datasetView = {
  data() {
    return { record: null, home: null, overview: null, problem: "", study: icfTitle, moved: false };
  },
  computed: {
    isStudy() {
      const { home, record } = this;
      return home && record.dataset_id === home.dataset_id && record.dataset_version === home.dataset_version;
    },
    visit() { return this.record && !this.isStudy ? this.record.name.split(" / ").pop() : ""; },
    file() {
      const wanted = this.record && ((this.$root.dataset_options || {}).include_metadata_export ?? true);
      return wanted ? getFilePath(this.record.dataset_id, this.record.dataset_version, null) : "";
    },
    /** The visit's day as the study's page shows it: what is hidden there is nowhere. */
    day() {
      const { overview, record } = this;
      const wanted = record && overview ? (overview.subdatasets || []) : [];
      const entry = wanted.find((one) => one.dataset_id === record.dataset_id && one.dataset_version === record.dataset_version);
      return (entry && entry.date) || "";
    },
    address() { return [this.$route.params.dataset_id, this.$route.params.dataset_version].join("/"); },
  },
  watch: {
    address() {
      this.moved = true;
      this.load();
    },
  },
  created() { this.load(); },
  methods: {
    async load() {
      const { dataset_id: id, dataset_version: version } = this.$route.params;
      try {
        if (!this.home) this.home = Object.freeze(await (await icfFetch(`${metadata_dir}/super.json`)).json());
        const record = await icfRecord(id, version, null);
        if (this.$route.params.dataset_id !== id) return; // the visitor has gone on meanwhile
        this.record = record;
        this.problem = "";
        this.loadOverview();
        document.title = this.isStudy ? icfTitle : `${record.name} – ${icfTitle}`;
      } catch (error) {
        this.record = null;
        this.problem = error instanceof TypeError ? "The server does not answer." : error.message;
      }
      if (this.moved) {
        await this.$nextTick();
        const heading = this.$el.querySelector("h1"); // a reader's program reads on from here
        if (heading) {
          heading.tabIndex = -1;
          heading.focus({ preventScroll: true });
        }
      }
    },
    /** The study's page, which the visitor comes from or goes to; a visit can be read without it. */
    async loadOverview() {
      if (this.isStudy) this.overview = this.record;
      if (this.overview) return;
      try {
        this.overview = await icfRecord(this.home.dataset_id, this.home.dataset_version, null);
      } catch (error) {
        this.overview = null;
      }
    },
  },
  template: `
    <icf-frame :study="study" :visit="visit" :home="home" :file="file">
      <div v-if="problem" class="icf-card" role="alert">
        <h1>Nothing to show</h1>
        <p>{{ problem }}</p>
        <p v-if="home"><router-link :to="{ name: 'dataset', params: home }">All visits</router-link></p>
      </div>
      <p v-else-if="!record" class="icf-loading" role="status">Loading …</p>
      <icf-study v-else-if="isStudy" :key="record.dataset_id" :record="record"></icf-study>
      <icf-visit v-else :key="record.dataset_id + record.dataset_version" :record="record" :home="home"
                 :study="study" :day="day"></icf-visit>
    </icf-frame>`,
};

const notFound = {
  template: `
    <icf-frame study="" visit="" :home="null" file="">
      <div class="icf-card" role="alert">
        <h1>Nothing to show</h1>
        <p>The catalog has no such page.</p>
        <p><a href="./">All visits</a></p>
      </div>
    </icf-frame>`,
};
const aboutPage = notFound;
