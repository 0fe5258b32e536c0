"use strict";
// A visit's page: its series with their parameters, how to get them, and its files.

const ICF_FOLDERS = 200; // folders, and files in one, that are shown at a time

class IcfVisitPage {
  /** `visit` is data/visits/NAME.json; `usual` and `others` come later, and the page is complete without them. */
  constructor(visit, wanted) {
    this.visit = visit;
    this.usual = null;
    this.wanted = wanted;
    this.folders = [];
    this.parts = { facts: icfEl("div"), series: icfEl("div"), details: icfEl("div"), outputs: icfEl("div"), neighbours: icfEl("div") };
    this.rows = visit.series.map((series, at) => ({
      ...series, at, order: /^[+-]?\d+/.test(series.number) ? Number(/^[+-]?\d+/.exec(series.number)[0]) : "",
      description: icfValueText(series.values.SeriesDescription), protocol: icfValueText(series.values.ProtocolName),
    }));
    this.sort = { key: "", descending: false, page: 1 };
    this.element = this.build();
  }

  build() {
    const { visit, parts } = this;
    this.showFacts("");
    this.showSeries(false);
    window.addEventListener("beforeprint", () => this.showSeries(true));
    window.addEventListener("afterprint", () => this.showSeries(false));
    icfReplace(parts.details, this.rows.map((row) => this.details(row)));
    return icfEl("div", null,
      icfEl("h1", null, `${visit.study} / ${visit.visit}`),
      parts.facts,
      icfEl("div", { class: "icf-columns" },
        icfEl("div", { class: "icf-main-column" },
          icfEl("section", { class: "icf-card", "aria-labelledby": "icf-series" }, icfEl("h2", { id: "icf-series" }, "Series"),
            this.rows.length ? [parts.series, icfEl("p", { class: "icf-total" }, `Together: ${this.total()}`)] : icfEl("p", { class: "icf-nothing" }, "This visit has no DICOM image.")),
          this.rows.length ? icfEl("section", { class: "icf-card", "aria-labelledby": "icf-details" }, icfEl("h2", { id: "icf-details" }, "Each series: parameters, commands, files"), parts.details) : null,
          parts.outputs),
        this.getting(),
        icfEl("div", { class: "icf-main-column" }, this.similar(), parts.neighbours)));
  }

  total() {
    const sum = (key) => this.rows.reduce((all, row) => all + row[key], 0);
    return `${icfCounted(this.rows.length, "series", "series")}, ${icfCounted(sum("images"), "image", "images")}, ${icfSize(sum("bytes"))}`;
  }

  showFacts(date) {
    const { visit } = this;
    icfReplace(this.parts.facts, icfFacts([["Series", visit.series.length], ["Images", visit.images], ["Size", icfSize(visit.archive.bytes)],
      ["Modalities", visit.modalities.join(", ")], ...(visit.version ? [["Version", visit.version]] : []), ["Date", date || "\u2007"]].filter(([name, value]) => name !== "Date" || value !== "\u2007" || !this.settled)));
  }

  // ---- the table of series

  showSeries(all) {
    const { sort } = this;
    const tag = (name) => ({
      key: name, label: icfTagLabel(name) + (icfTagUnit(name) ? ` (${icfTagUnit(name)})` : ""), numeric: true, value: (row) => row.values[name],
      text: (row) => icfValueText(row.values[name]), cell: (row) => this.marked(row, name, icfValueText(row.values[name])),
    });
    const has = (name) => this.rows.some((row) => name in row.values);
    const columns = [
      ...(this.rows.some((row) => row.preview) ? [{ key: "preview", label: "Preview", fixed: true, text: (row) => row.preview || "none", cell: (row) => this.preview(row) }] : []),
      { key: "number", label: "No.", numeric: true, value: (row) => row.order, text: (row) => row.number, cell: (row) => this.opener(row, row.number || "–") },
      { key: "description", label: "Description", cell: (row) => icfBreakable(row.description) },
      { key: "protocol", label: "Protocol", cell: (row) => icfBreakable(row.protocol) },
      ...(new Set(this.rows.map((row) => row.modality)).size > 1 ? [{ key: "modality", label: "Modality" }] : []),
      { key: "images", label: "Images", numeric: true, text: (row) => icfNumber(row.images), value: (row) => row.images, cell: (row) => this.images(row) },
      { key: "bytes", label: "Size", numeric: true, text: (row) => icfSize(row.bytes), value: (row) => row.bytes },
      ...["RepetitionTime", "EchoTime"].filter(has).map(tag),
      ...(this.rows.some((row) => this.seriesCommand(row)) ? [{ key: "command", label: "Get", fixed: true, text: (row) => this.seriesCommand(row), cell: (row) => this.copier(row) }] : []),
    ];
    const rows = icfSortRows(this.rows, columns.find((column) => column.key === sort.key), sort.descending);
    const table = icfTable({
      columns, rows, caption: "Series of the visit", sort, page: sort.page, all, name: "icf-series",
      onsort: (key, descending) => icfHref(["visit", this.visit.visit], [["sort", (descending ? "-" : "") + key]]),
      onpage: (page) => icfHref(["visit", this.visit.visit], [["sort", (sort.descending ? "-" : "") + sort.key], ["page", page]]),
    });
    icfReplace(this.parts.series, table);
  }

  preview(row) {
    if (!row.preview) return icfEl("span", { class: "icf-about" }, "none");
    return icfEl("a", { href: row.slices ? this.seriesHref(row) : row.preview, title: row.slices ? "Larger pictures" : "Show the picture alone" }, icfEl("img", { src: row.preview, loading: "lazy", width: "100", height: "100", alt: `Preview of series ${row.number}` }));
  }

  /** One click: the command that gets this series is copied. */
  copier(row) {
    const command = this.seriesCommand(row);
    if (!command) return "";
    const [said, button] = icfCopyButton("Copy", () => command, { title: command, "aria-label": `Copy the command that gets series ${row.number}` });
    return [button, said];
  }

  opener(row, text) {
    return icfEl("a", { href: this.seriesHref(row), "data-focus": `open ${row.at}`, "aria-label": `Series ${text}: parameters, commands, files` }, text);
  }

  seriesHref(row) {
    return icfHref(["visit", this.visit.visit], [["series", row.number || row.folder]]);
  }

  images(row) {
    const text = icfNumber(row.images);
    const usual = this.usualOf(row);
    if (usual && usual.visits > 1 && row.images < usual.images) {
      return icfEl("span", { class: "icf-marked icf-incomplete", title: `usually ${usual.images}` }, text, " ", icfEl("span", { "aria-hidden": "true" }, "◔"), icfEl("span", { class: "icf-unseen" }, ` fewer than the usual ${usual.images}`));
    }
    return text;
  }

  usualOf(row) {
    return this.usual && this.usual.get(icfFirst(row.values.ProtocolName), icfFirst(row.values.SeriesDescription));
  }

  /** A value, marked where it differs from what is usual in the study. */
  marked(row, tag, text) {
    const usual = this.usualOf(row);
    const found = usual && this.usual.deviations(usual, (name) => row.values[name]).find(([name]) => name === tag);
    if (!found) return text;
    const said = `usually ${icfWithUnit(tag, found[2])}`;
    return icfEl("span", { class: "icf-marked icf-deviating", title: said }, text, " ", icfEl("span", { "aria-hidden": "true" }, "≠"), icfEl("span", { class: "icf-unseen" }, ` ${said}`));
  }

  // ---- one series

  details(row) {
    const body = icfEl("div", { class: "icf-series-body" });
    const label = [row.number && `Series ${row.number}`, row.description || row.protocol].filter(Boolean).join(": ") || row.folder;
    const box = icfEl("details", { class: "icf-folder", "data-series": row.number, ontoggle: () => { if (box.open && !body.firstChild) this.fill(body, row); } },
      icfEl("summary", null, icfEl("span", { class: "icf-name" }, icfBreakable(label)), " ",
        icfEl("span", { class: "icf-about" }, `${icfCounted(row.images, "image", "images")}, ${icfSize(row.bytes)}`)), body);
    this.folders.push({ row, box, body });
    return box;
  }

  fill(body, row) {
    const files = icfEl("div");
    icfReplace(body, this.slices(row), icfEl("div", { class: "icf-recorded" }, this.parameters(row)), icfEl("h3", null, "Get this series"), this.seriesCommands(row), icfEl("h3", null, "Files"), files);
    this.loadFiles(files, row);
  }

  /** The first, middle and last image of a series, one at a time. */
  slices(row) {
    const places = Object.keys(row.slices || {});
    if (!places.length) return null;
    const names = { 1: "first image", 2: "middle image", 3: "last image" };
    let at = Math.max(0, places.indexOf("2"));
    const picture = icfEl("img", { class: "icf-slice", width: "256", height: "256" });
    const said = icfEl("span", { role: "status" });
    const show = (step) => {
      at = Math.min(places.length - 1, Math.max(0, at + step));
      icfSet(picture, { src: row.slices[places[at]], alt: `Series ${row.number}, ${names[places[at]]}` });
      said.textContent = `${names[places[at]]} (${at + 1} of ${places.length})`;
      before.disabled = at === 0;
      after.disabled = at === places.length - 1;
    };
    const before = icfButton("‹", () => show(-1), { "aria-label": "Previous picture" });
    const after = icfButton("›", () => show(1), { "aria-label": "Next picture" });
    const stepper = icfEl("div", { class: "icf-stepper", onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); show(step); }
    } }, places.length > 1 ? [before, said, after] : null);
    show(0);
    return icfEl("figure", { class: "icf-slices" }, picture, stepper);
  }

  parameters(row) {
    const groups = ICF_GROUPS.map((group) => [group, Object.keys(row.values).filter((tag) => !["SeriesDescription", "ProtocolName", "Modality"].includes(tag) && ((ICF_TAGS[tag] || {}).group || "Other") === group)])
      .filter(([, tags]) => tags.length);
    if (!groups.length) {
      return icfEl("p", { class: "icf-about" }, "No parameters are recorded of this series. ", icfEl("code", null, `icf-utils visit refresh`), " adds them to a visit that was archived without them.");
    }
    const item = (tag) => icfEl("div", null, icfEl("dt", null, icfTagLabel(tag)), icfEl("dd", null, this.marked(row, tag, icfWithUnit(tag, row.values[tag]))));
    const order = (tags) => [...tags].sort((a, b) => icfTagRank(a) - icfTagRank(b) || icfCollator.compare(a, b));
    return icfEl("div", { class: "icf-parameters" }, groups.map(([group, tags]) => icfEl("section", null, icfEl("h3", null, group), icfEl("dl", null, order(tags).map(item)))));
  }

  /** The command that gets one series without a clone; empty where the series has no SeriesNumber. */
  seriesCommand(row) {
    const retrieve = this.visit.clone["icf-utils"];
    return row.number && retrieve ? `${retrieve.replace(/ -d [^ ]+$/, "")} --series ${icfShell(row.number)} -d ${this.visit.visit}-images` : "";
  }

  seriesCommands(row) {
    const { visit } = this;
    const { folders, alone } = row.paths || { folders: [], alone: false };
    const found = [];
    if (this.seriesCommand(row)) found.push(icfCommand("With icf-utils, without a clone", this.seriesCommand(row)));
    if (visit.clone.datalad && alone && folders.length) found.push(icfCommand("In a clone, by folder", `git -C ${visit.visit} annex get ${folders.map(icfShell).join(" ")}`));
    if (visit.clone.datalad && row.number) found.push(icfCommand("In a clone, by SeriesNumber", `git -C ${visit.visit} annex get --metadata seriesnumber=${icfShell(row.number)}`));
    const same = this.rows.filter((one) => one.number === row.number).length;
    return [
      row.number && same > 1 ? icfEl("p", { class: "icf-about" }, `${same} series of this visit have the number ${row.number}: commands with this number get all of them.`) : null,
      found.length ? found : icfEl("p", { class: "icf-about" }, "This series has no SeriesNumber to select it by: get the whole visit."),
    ];
  }

  /** Where the files of a series are in the archive and in a clone. */
  realPaths(row) {
    const { folders, names } = row.paths || { folders: [], names: false };
    const list = folders.map((folder, at) => [at ? ", " : "", icfEl("code", null, `${folder}/`)]);
    const where = folders.length ? ["In the archive and in a clone, these files are in ", list, "."] : ["The folders of these files are not shown, because their names may identify somebody."];
    const hidden = names ? "" : " Files whose names may do so have numbers here.";
    const listed = row.number && this.visit.clone.datalad && !(names && folders.length);
    return icfEl("p", { class: "icf-about icf-paths" }, where, hidden,
      listed ? [" In a clone, ", icfEl("code", null, `git annex find --anything --metadata seriesnumber=${icfShell(row.number)}`), " lists the real ones."] : null);
  }

  async loadFiles(container, row) {
    icfReplace(container, icfEl("p", { class: "icf-about", role: "status" }, "Loading …"));
    try {
      const node = await icfJson(row.files);
      this.showFiles(container, row, node.children, ICF_FOLDERS);
    } catch (error) {
      icfReplace(container, icfAlert(error));
    }
  }

  showFiles(container, row, files, most) {
    const item = (file) => icfEl("li", { class: "icf-file" }, icfEl("span", { class: "icf-name" }, file.name), " ", icfEl("span", { class: "icf-about" }, icfSize(file.contentbytesize)));
    icfReplace(container, this.realPaths(row),
      icfEl("ul", null, files.slice(0, most).map(item)),
      files.length > most ? icfButton(`Show more (${icfNumber(files.length - most)} left)`, () => this.showFiles(container, row, files, most + 1000), { class: "icf-more", "data-focus": "more" }) : null);
  }

  /** Open the series that the address names, and go there. */
  open(number) {
    const found = this.folders.find(({ row }) => row.number === number || row.folder === number);
    if (!found) return;
    found.box.open = true;
    if (!found.body.firstChild) this.fill(found.body, found.row);
    found.box.querySelector("summary").focus({ preventScroll: true });
    found.box.scrollIntoView({ block: "start" });
  }

  // ---- getting the visit

  /** The address of a file of the study: relative where the page lies in its store on a web server. */
  addressOf(name, stored) {
    const { visit } = this;
    const { hostname, pathname } = window.location;
    const local = ["127.0.0.1", "localhost", "[::1]"].includes(hostname);
    const inStore = new RegExp(`/${visit.study}/catalog/(index\\.html)?$`).test(icfDecoded(pathname));
    return !local && inStore ? `../${name}` : stored;
  }

  getting() {
    const { visit } = this;
    const { archive, commands, clone } = visit;
    const address = this.addressOf(archive.file, archive.url);
    const link = icfIsLink(address) || address.startsWith("../");
    const of = (tool) => Object.entries(clone).filter(([name]) => name === tool || name.startsWith(`${tool}: `))
      .map(([name, command]) => icfCommand(name.length > tool.length ? name.charAt(tool.length + 2).toUpperCase() + name.slice(tool.length + 3) : "Clone the dataset", command));
    const annex = of("git-annex");
    const entry = (name, ...value) => icfEl("div", null, icfEl("dt", null, name), icfEl("dd", null, value));
    return icfEl("section", { class: "icf-card icf-getting", "aria-labelledby": "icf-get" },
      icfEl("h2", { id: "icf-get" }, "Get the images"),
      icfEl("h3", null, "One archive"),
      link ? icfEl("p", null, icfEl("a", { class: "icf-download", href: address }, `Download ${icfSize(archive.bytes)}`)) : icfEl("p", { class: "icf-wrap" }, address),
      icfEl("dl", { class: "icf-archive" }, entry("File", archive.file), entry("Size", `${icfNumber(archive.bytes)} bytes`),
        entry("MD5", icfEl("code", null, archive.md5), link ? icfEl("a", { href: `${address}.md5sum` }, "checksum file") : null)),
      icfCommand("Download, with the checksum file", commands.download),
      icfCommand("Check", commands.check),
      icfEl("h3", null, "With icf-utils"),
      icfCommand("Images without a clone", clone["icf-utils"]),
      clone.datalad ? [icfEl("h3", null, "With DataLad"), of("datalad")] : icfEl("p", { class: "icf-about" }, "This visit has no DataLad dataset; download its archive, or use icf-utils."),
      annex.length ? [icfEl("h3", null, "With git-annex alone"), annex] : null,
      icfEl("h3", null, "If the store requires a password"),
      icfEl("p", { class: "icf-about" }, "Add ", icfEl("code", null, "--user NAME"), " to the commands of icf-utils, and ", icfEl("code", null, "-u NAME"), " to curl; both ask for the password. DataLad asks for both."));
  }

  // ---- other visits

  similar() {
    const values = (tag) => [...new Set(this.rows.flatMap((row) => [row.values[tag]].flat()).filter((one) => one !== undefined && one !== ""))];
    const links = [...values("ProtocolName").map((text) => ["ProtocolName", text]), ...values("Modality").map((text) => ["Modality", text])];
    if (!links.length) return null;
    const item = ([tag, text]) => icfEl("li", null, icfEl("a", { href: icfHref([], [["f", `${tag}=${text}`]]) }, String(text)));
    const list = icfEl("ul", { class: "icf-words" }, links.slice(0, 24).map(item));
    const more = links.length > 24 ? icfButton(`Show all ${links.length}`, () => { icfReplace(list, links.map(item)); more.remove(); }, { class: "icf-more" }) : null;
    return icfEl("section", { class: "icf-card", "aria-labelledby": "icf-words" }, icfEl("h2", { id: "icf-words" }, "Visits like this one"), list, more);
  }

  // ---- what processings made of the visit

  output([, processing, state, version, files, bytes, size, md5]) {
    const { visit } = this;
    const name = `${visit.visit}_${processing}_output.tar`;
    const stored = `${visit.store}/${visit.study}/${name}`;
    const address = this.addressOf(name, stored);
    const entry = (label, ...value) => icfEl("div", null, icfEl("dt", null, label), icfEl("dd", null, value));
    return icfEl("section", { "data-processing": processing },
      icfEl("h3", null, processing),
      icfEl("dl", { class: "icf-archive" },
        entry("State", state), entry("Version", version), entry("Content", `${icfCounted(files, "file", "files")}, ${icfSize(bytes)}`),
        entry("Archive", icfIsLink(address) || address.startsWith("../") ? icfEl("a", { href: address }, name) : name, ` (${icfSize(size)})`),
        entry("MD5", icfEl("code", null, md5))),
      icfCommand("Output and provenance, checked, with icf-utils", `${visit.clone["icf-utils"].replace(/ -d [^ ]+$/, "")} --processing ${processing} -d ${visit.visit}-output`),
      icfIsLink(stored) ? icfCommand("Download", `curl --netrc-optional -fLO ${icfShell(stored)} -fLO ${icfShell(`${visit.store}/${visit.study}/${visit.visit}_${processing}_provenance.json`)}`) : null);
  }

  showOutputs(outputs) {
    const own = (outputs || []).filter(([name]) => name === this.visit.visit);
    if (!own.length) return;
    icfReplace(this.parts.outputs, icfEl("section", { class: "icf-card", "aria-labelledby": "icf-outputs" }, icfEl("h2", { id: "icf-outputs" }, "Outputs of processings"), own.map((line) => this.output(line))));
  }

  /** What other files say: the date that the study shows, the visits before and after, and what is usual. */
  complete(others, protocols, outputs) {
    this.settled = true;
    this.showOutputs(outputs);
    this.usual = protocols && new IcfUsual(protocols);
    const names = (others || []).slice().sort((a, b) => icfCollator.compare(a[0], b[0]));
    const at = names.findIndex(([name]) => name === this.visit.visit);
    this.showFacts(at < 0 ? "" : names[at][1]);
    this.showSeries(false);
    for (const { box, body, row } of this.folders) if (box.open && body.firstChild) body.querySelector(".icf-recorded").replaceChildren(this.parameters(row));
    const link = (label, place) => (names[place] ? icfEl("a", { href: icfVisitHref(names[place][0]) }, `${label}: ${names[place][0]}`) : null);
    if (at >= 0) icfReplace(this.parts.neighbours, icfEl("nav", { class: "icf-neighbours", "aria-label": "Other visits" }, link("Previous visit", at - 1), link("Next visit", at + 1)));
  }

  follow(params) {
    const sort = params.get("sort") || "";
    this.sort = { descending: sort.startsWith("-"), key: sort.replace(/^-/, ""), page: Math.max(1, Math.floor(Number(params.get("page"))) || 1) };
    this.showSeries(false);
    if (params.has("series")) this.open(params.get("series"));
  }
}
