"use strict";
// Which page an address shows, and the frame around it.

const icfApp = document.getElementById("icf-app");
const icfDescription = document.getElementById("icf-description");
const icfMain = document.getElementById("icf-main");
const icfShown = { page: null, key: "", study: null, moved: false };

/** A page may not fetch its data from a file: the sentence of `index.html` says what to do. */
function icfStart() {
  if (window.location.protocol === "file:") {
    const sentence = document.getElementById("icf-local");
    const folder = icfDecoded(window.location.pathname).replace(/\/[^/]*$/, "") || "/";
    sentence.querySelector("code").textContent = `icf-utils catalog serve ${icfShell(folder)}`;
    sentence.hidden = false;
    return;
  }
  document.querySelector(".icf-skip").addEventListener("click", (event) => {
    event.preventDefault();
    icfMain.focus();
  });
  window.addEventListener("hashchange", icfFollow);
  setTimeout(() => { const loading = icfApp.querySelector(".icf-loading"); if (loading) loading.hidden = false; }, 200);
  icfFollow();
}

/** Show the page of the address. Only the last address counts if several follow each other. */
async function icfFollow() {
  const { path, params } = icfAddress();
  const turn = {};
  icfShown.turn = turn;
  const current = () => icfShown.turn === turn;
  try {
    if (!path.length) await icfShowStudy(params, current);
    else if (path[0] === "visit" && path.length === 2) await icfShowVisit(path[1], params, current);
    else if (path[0] === "dataset") await icfFollowOld(path, params);
    else throw new IcfProblem("The catalog has no such page.");
  } catch (error) {
    if (!(error instanceof IcfProblem)) console.error(error);
    if (current()) icfShowPage("", icfAlert(error), { described: true, title: icfSite.name });
  }
}

async function icfShowStudy(params, current) {
  if (!icfShown.study) {
    const missing = `The list of the study's visits, data/study.json, is missing. ${icfRebuild()}`;
    const [data, protocols, outputs] = await Promise.all([
      icfJson("data/study.json", missing), icfJson("data/protocols.json").catch(() => []), icfJson("data/outputs.json").catch(() => []),
    ]);
    icfShown.study = new IcfStudyPage(data, protocols, outputs);
  }
  if (!current()) return;
  const { study } = icfShown;
  const wasShown = icfShown.key === "study";
  study.follow(params);
  icfShowPage("study", study.element, { described: true, title: icfSite.name, record: study.index.record });
  if (wasShown && params.has("page") && icfShown.paged) document.querySelector(".icf-tools").scrollIntoView({ block: "start" });
  icfShown.paged = false;
}

async function icfShowVisit(name, params, current) {
  const key = `visit ${name}`;
  if (icfShown.key === key) {
    icfShown.page.follow(params);
    return;
  }
  const visit = await icfJson(`data/visits/${encodeURIComponent(name)}.json`, `The catalog has no visit ${name}. It may have been removed, or the address may be misspelled.`);
  if (!current()) return;
  const page = new IcfVisitPage(visit);
  icfShowPage(key, page.element, { described: false, title: `${visit.study} / ${visit.visit} – ${icfSite.name}`, record: visit.record, visit: visit.visit });
  icfShown.page = page;
  page.follow(params);
  const [others, protocols, outputs] = await Promise.all(["visits", "protocols", "outputs"].map((one) => icfJson(`data/${one}.json`).catch(() => null)));
  page.complete(others, protocols, outputs);
}

/** Addresses of earlier catalogs name a page by its id and version; a visit keeps its id in all its versions. */
async function icfFollowOld(path, params) {
  if (path[1] === icfSite.catalog) {
    window.location.replace(icfHref([], [...params]));
    return;
  }
  const { record } = await icfJson("data/study.json");
  const study = await icfJson(record);
  const entry = study.subdatasets.find((one) => one.dataset_id === path[1]);
  if (!entry) throw new IcfProblem("The catalog has no such page. The visit may have been removed.");
  window.location.replace(icfVisitHref(entry.dataset_path));
}

/** Put a page into the frame. */
function icfShowPage(key, element, { described, title, record, visit }) {
  const moved = icfShown.key !== key && icfShown.started;
  icfShown.key = key;
  icfShown.started = true;
  document.title = title;
  icfDescription.hidden = !described;
  if (icfApp.firstChild !== element || icfApp.childNodes.length > 1) icfApp.replaceChildren(element);
  const crumbs = document.getElementById("icf-crumbs");
  crumbs.hidden = !visit;
  if (visit) icfReplace(crumbs, icfEl("a", { href: "#/" }, icfSite.name), icfEl("span", { "aria-hidden": "true" }, "/"), icfEl("span", { "aria-current": "page" }, visit));
  icfReplace(document.getElementById("icf-record"), record ? icfEl("a", { href: record, download: record.split("/").pop() }, "Metadata of this page (JSON)") : null);
  if (!moved) return;
  window.scrollTo(0, 0);
  const heading = icfMain.querySelector(described ? "#icf-description h1" : "#icf-app h1"); // a screen reader continues here
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}

icfMain.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest("a[data-page]");
  if (link) icfShown.paged = true;
});

icfStart();
