"use strict";
// Ask for the data of the page that the address names while the other scripts are still being loaded: they take it over.

window.icfEarly = {};

/** Ask for a file of the catalog. Browsers refuse to ask from a page whose address contains a user and password. */
window.icfFetch = (file) => {
  const address = new URL(file, document.baseURI);
  address.username = "";
  address.password = "";
  return fetch(address.href, { cache: "no-cache" });
};

if (window.location.protocol !== "file:") {
  const path = (window.location.hash.slice(1) || "/").split("?")[0].split("/").filter(Boolean);
  const files = [];
  if (!path.length) files.push("data/study.json", "data/protocols.json", "data/outputs.json");
  if (path[0] === "visit" && path.length === 2) files.push(`data/visits/${path[1]}.json`);
  for (const file of files) {
    window.icfEarly[file] = window.icfFetch(file);
    window.icfEarly[file].catch(() => {}); // the script that uses the file reports this
  }
}
