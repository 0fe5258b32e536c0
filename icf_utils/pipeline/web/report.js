"use strict";
// The text field of the filter: shows the visits whose row, stages or messages contain all words.
(() => {
  const field = document.querySelector(".words input");
  const visits = [...document.querySelectorAll(".visit")];
  const texts = visits.map((visit) => visit.textContent.toLowerCase());
  const count = document.querySelector(".count");
  const shown = () => visits.filter((visit) => visit.offsetParent !== null).length;
  const update = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    visits.forEach((visit, at) => { visit.hidden = !words.every((word) => texts[at].includes(word)); });
    const number = shown();
    count.textContent = number === visits.length ? "" : `${number} of ${visits.length} visits shown`;
  };
  field.parentElement.hidden = false;
  field.addEventListener("input", update);
  document.querySelectorAll("input[name=show]").forEach((choice) => choice.addEventListener("change", update));
  update();
})();
