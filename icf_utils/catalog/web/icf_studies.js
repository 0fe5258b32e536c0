"use strict";
// The page of all studies: a search over names, descriptions, keywords and modalities.
(() => {
  const field = document.querySelector("input[type=search]");
  const rows = [...document.querySelectorAll("tbody tr")];
  const count = document.querySelector(".count");
  const plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const texts = rows.map((row) => plain(row.textContent));

  const show = () => {
    const words = plain(field.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !words.every((word) => texts[at].includes(word));
      if (!row.hidden) shown += 1;
    });
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} studies`;
    const query = new URLSearchParams(window.location.search);
    if (field.value) query.set("q", field.value);
    else query.delete("q");
    const text = query.toString();
    // a whole address would lack the user and password of the page's own, and be refused
    window.history.replaceState(null, "", `${window.location.pathname}${text ? `?${text}` : ""}${window.location.hash}`);
  };

  field.value = new URLSearchParams(window.location.search).get("q") || "";
  field.closest("form").hidden = false;
  field.closest("form").addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", show);
  show();
})();
