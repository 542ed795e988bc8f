// Known films that look most like the one shown: their lines as a sketch, their labels, how far they are.

import { h, s, say } from "./dom.js";

const found = new WeakMap(); // film -> what was found, or the problem; null while it is searched

/** The lines of a known film on a square that stands for it: an index has no pictures. */
function sketch(known, devices) {
  return s("svg", { class: "sketch", viewBox: "0 0 100 100", "aria-hidden": "true" },
    known.lines.map((line) => s("polyline", {
      points: line.path.map(([x, y]) => `${(100 * x).toFixed(1)},${(100 * y).toFixed(1)}`).join(" "),
      stroke: `rgb(${devices.get(line.device).colour.join(" ")})`,
    })));
}

function card(known, devices) {
  const labels = known.labels === null ? "No labels known" : known.labels.join(", ") || "No device";
  return h("li", {}, sketch(known, devices), h("div", {},
    h("p", {}, labels),
    h("p", { class: "facts" }, `Distance ${known.distance.toFixed(3)}`),
    h("p", { class: "facts study" }, known.study)));
}

function shown(film, devices) {
  const known = found.get(film);
  if (known === undefined) return null;
  if (known === null) return h("p", { class: "facts" }, "Searching");
  if (known instanceof Error) return h("p", { class: "problem", role: "alert" }, known.message);
  if (!known.length) return h("p", { class: "facts" }, "The index holds no film of another patient.");
  return [
    h("ol", { class: "similar" }, known.map((each) => card(each, devices))),
    h("p", { class: "facts" }, "By look alone, of other patients; a distance of 0 is the same film. They are no findings of this one."),
  ];
}

/** The part of the panel. `get(film, name)` gives something of a film, `changed()` redraws the panel. */
export function similarPart(film, devices, get, changed) {
  const search = async () => {
    found.set(film, null);
    changed();
    try {
      found.set(film, JSON.parse(await (await get(film, "similar")).text()).films);
      say(`${found.get(film).length} similar films`);
    } catch (problem) {
      found.set(film, problem);
    }
    changed();
  };
  return h("section", { class: "part" },
    h("div", { class: "head" }, h("h2", {}, "Similar films"), !found.has(film) && h("button", { type: "button", onclick: search }, "Search")),
    shown(film, devices));
}
