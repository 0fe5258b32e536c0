// What scripts add to the receiver's pages: times of this computer's time zone with their age, and updates that leave
// alone what is being typed, chosen or read.
"use strict";

(() => {
  const pad = (number) => String(number).padStart(2, "0");

  const localTime = (when) =>
    `${when.getFullYear()}-${pad(when.getMonth() + 1)}-${pad(when.getDate())} ` +
    `${pad(when.getHours())}:${pad(when.getMinutes())}:${pad(when.getSeconds())}`;

  const ageText = (seconds) => {
    const units = [["d", 86400], ["h", 3600], ["min", 60]];
    const found = units.find(([, size]) => seconds >= size);
    return found ? `${Math.floor(seconds / found[1])} ${found[0]} ago` : `${Math.max(0, Math.floor(seconds))} s ago`;
  };

  const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const showTimes = (root) => {
    root.querySelectorAll("time[datetime]").forEach((item) => setText(item, localTime(new Date(item.dateTime))));
    root.querySelectorAll("[data-since]").forEach((item) =>
      setText(item, ageText(Date.now() / 1000 - Number(item.dataset.since))));
  };

  // What a person did to a part of the page: chosen boxes, open details, scrolled texts, the element with the focus.
  const keyOf = (item) => [item.tagName, item.name, item.value, item.getAttribute("href"), item.id].join(" ");

  const remember = (part) => {
    const focused = part.contains(document.activeElement) ? keyOf(document.activeElement) : "";
    const chosen = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
    const scrolled = [...part.querySelectorAll("pre")].map((item) => item.scrollTop);
    return (next) => {
      next.querySelectorAll("input[type=checkbox]").forEach((box) => { box.checked = chosen.has(box.value); });
      next.querySelectorAll("pre").forEach((item, at) => { item.scrollTop = scrolled[at] || 0; });
      if (focused) {
        const found = [...next.querySelectorAll("a, input, button, pre")].find((item) => keyOf(item) === focused);
        if (found) found.focus({ preventScroll: true });
      }
    };
  };

  const isSelecting = (part) => {
    const selection = getSelection();
    return !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const replacePart = (part, next) => {
    if (!next || isSelecting(part)) return;
    const again = remember(part);
    const copy = document.importNode(next, true);
    showTimes(copy);
    part.replaceWith(copy);
    again(copy);
  };

  const update = async () => {
    if (document.hidden) return;
    const address = new URL(location.href);
    address.username = address.password = address.hash = "";
    const answer = await fetch(address, { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelectorAll("[data-live], #clock").forEach((part) => replacePart(part, page.getElementById(part.id)));
    // a session that has ended has other buttons: they come with a new page, unless somebody is using this one
    const state = page.body.dataset.state;
    if (state !== document.body.dataset.state && !document.querySelector("form :focus")) location.reload();
    else if (!page.body.dataset.reload) clearInterval(timer);
  };

  const seconds = Number(document.body.dataset.reload);
  const timer = seconds ? setInterval(() => { update().catch(() => {}); }, seconds * 1000) : 0;
  document.addEventListener("visibilitychange", () => { if (seconds) update().catch(() => {}); });

  showTimes(document);
  setInterval(() => showTimes(document), 15000);

  document.querySelectorAll(".script-only").forEach((item) => { item.hidden = false; });
  const all = document.querySelector(".choose-all");
  if (all) {
    all.addEventListener("change", () => {
      document.querySelectorAll("input[name=session]").forEach((box) => { box.checked = all.checked; });
    });
  }
})();
