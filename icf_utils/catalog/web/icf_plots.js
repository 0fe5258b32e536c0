"use strict";
// Small plots of a selection. Each bar is a link that narrows the selection.

/** Visits per month, quarter or year: whichever gives bars that can be told apart. */
function icfPeriods(dates) {
  const days = dates.filter((date) => /^\d{4}-\d\d-\d\d$/.test(date)).sort();
  if (!days.length) return { unit: "", bars: [] };
  const month = (date) => Number(date.slice(0, 4)) * 12 + Number(date.slice(5, 7)) - 1;
  const span = month(days[days.length - 1]) - month(days[0]) + 1;
  const step = span <= 24 ? 1 : span <= 72 ? 3 : 12;
  const first = Math.floor(month(days[0]) / step);
  const count = Math.floor(month(days[days.length - 1]) / step) - first + 1;
  const bars = Array.from({ length: count }, (_, at) => icfPeriod((first + at) * step, step));
  for (const day of days) bars[Math.floor(month(day) / step) - first].value += 1;
  return { unit: { 1: "month", 3: "quarter", 12: "year" }[step], bars };
}

function icfPeriod(month, step) {
  const name = (one) => `${Math.floor(one / 12)}-${String((one % 12) + 1).padStart(2, "0")}`;
  const year = String(Math.floor(month / 12));
  const quarter = Math.floor((month % 12) / 3) + 1;
  const label = step === 12 ? year : step === 3 ? `${year} Q${quarter}` : name(month);
  const range = step === 12 ? year : step === 3 ? `${name(month)}..${name(month + 2)}` : name(month);
  return { label, range, value: 0 };
}

/** Upright bars over time; `href(range)` is the link of a bar. */
function icfTimeline(dates, href) {
  const { unit, bars } = icfPeriods(dates);
  if (!bars.length) return null;
  const highest = Math.max(...bars.map((bar) => bar.value));
  const column = (bar) => {
    const height = `${bar.value ? Math.max(2, (bar.value / highest) * 100) : 0}%`;
    const said = `${bar.label}: ${icfCounted(bar.value, "visit", "visits")}`;
    const inner = icfEl("span", { class: "icf-bar", style: { height } });
    return icfEl("li", null, bar.value
      ? icfEl("a", { href: href(bar.range), "aria-label": said, title: said, "data-focus": `bar ${bar.range}` }, inner)
      : icfEl("span", { title: said }, inner));
  };
  return icfEl("figure", { class: "icf-plot" },
    icfEl("figcaption", null, `Visits per ${unit}`),
    icfEl("div", { class: "icf-timeline" },
      icfEl("span", { class: "icf-highest", "aria-hidden": "true" }, icfNumber(highest)),
      icfEl("ol", null, bars.map(column)),
      icfEl("span", { class: "icf-first" }, bars[0].label),
      bars.length > 1 ? icfEl("span", { class: "icf-last" }, bars[bars.length - 1].label) : null));
}

/** Bars of the most frequent values; `href(text)` is the link of a bar. */
function icfBars(title, counts, href) {
  if (!counts.length) return null;
  const highest = counts[0][1];
  const row = ([text, value]) => icfEl("li", null,
    icfEl("a", { href: href(text), "data-focus": `bar ${title} ${text}` }, text),
    icfEl("span", { class: "icf-track" }, icfEl("span", { class: "icf-bar", style: { width: `${Math.max(1, (value / highest) * 100)}%` } })),
    icfEl("span", { class: "icf-number" }, icfNumber(value)));
  return icfEl("figure", { class: "icf-plot" }, icfEl("figcaption", null, title), icfEl("ol", { class: "icf-bars" }, counts.slice(0, 5).map(row)));
}
