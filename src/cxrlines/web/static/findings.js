// What was found on a film, in words: the server words it, this lays it out.

import { capital, download, h, s, say } from "./dom.js";

const colour = (rgb) => `rgb(${rgb.join(" ")})`;

const swatch = (device) => {
  const mark = h("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = colour(device.colour);
  return mark;
};

/** A probability as a bar with its operating point as a mark. */
function bar(state, device) {
  return s("svg", { class: "bar-of", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "ground", x: 0, y: 3, width: 100, height: 4, rx: 2 }),
    s("rect", { x: 0, y: 3, width: Math.max(0.6, 100 * state.p), height: 4, rx: 2, fill: colour(device.colour) }),
    state.point !== null && s("line", { class: "point", "vector-effect": "non-scaling-stroke", x1: 100 * state.point, x2: 100 * state.point, y1: 0, y2: 10 }));
}

function statesTable(said, device) {
  if (!said.states.length) return null;
  const most = Math.max(...said.states.map((state) => state.p));
  return h("table", { class: "states" },
    h("caption", { class: "unseen" }, `Probability of each state of the ${device.text}, and its operating point`),
    h("tbody", {}, said.states.map((state) => {
      const above = state.point !== null && state.p >= state.point;
      const verdict = state.point === null ? "" : `${above ? "above" : "below"} ${state.point.toFixed(2)}`;
      return h("tr", { class: `${above ? "above" : ""} ${above && state.p === most ? "most" : ""}`, title: state.chosen ? `operating point: ${state.chosen}` : null },
        h("th", { scope: "row" }, capital(state.state.toLowerCase())),
        h("td", { class: "p" }, state.p.toFixed(2)),
        h("td", {}, bar(state, device)),
        h("td", {}, verdict));
    })));
}

function deviceCard(said, device, film, on) {
  const shown = on.isShown(device.device);
  const key = on.keyOf(device.device);
  const lines = said.lines.map((k) => {
    const words = film.answer.words.lines[k];
    return h("button", { type: "button", class: "tip", "aria-pressed": String(on.chosen() === k), "data-line": k, onclick: () => on.line(k) },
      capital(words.words),
      words.rules.map((rule) => h("span", { class: rule.startsWith("by rule abnormal") ? "rule bad" : "rule" }, capital(rule))));
  });
  return h("section", { class: "device" },
    h("div", { class: "head" }, swatch(device), h("h3", {}, capital(device.text)), h("span", { class: "said" }, said.said === "found" ? null : capital(said.said)),
      said.lines.length > 0 && h("button", {
        type: "button", class: "eye quiet", "aria-pressed": String(shown), "data-device": device.device,
        title: `Lines on or off (${key})`, onclick: () => on.toggle(device.device),
      }, shown ? "Shown" : "Hidden", h("span", { class: "unseen" }, ` lines of the ${device.text} `), h("kbd", {}, key))),
    lines,
    statesTable(said, device));
}

function lesserDevices(film, devices) {
  const { words } = film.answer;
  film.unfolded ??= new Set(); // outlasts a panel that is built anew
  const absent = words.devices.filter((said) => said.said === "not found");
  if (!absent.length) return null;
  return h("section", { class: "part" },
    h("h2", {}, "Not found"),
    h("ul", { class: "lesser" }, absent.map((said) => {
      const device = devices.get(said.device);
      const presence = said.presence === null ? "" : `presence ${said.presence.toFixed(2)}`;
      const fold = ({ target }) => film.unfolded[target.open ? "add" : "delete"](said.device);
      return h("li", {}, h("details", { open: film.unfolded.has(said.device), ontoggle: fold },
        h("summary", {}, swatch(device), h("span", {}, capital(device.text)), h("span", { class: "said" }, presence)),
        statesTable(said, device)));
    })),
    h("p", { class: "facts" }, "Not found is not absent: a line may be there and not be seen."));
}

/** The findings of a film under the name of its file: the server gets its bytes alone, and calls every film the same. */
function named({ name: shown, file, answer: { findings } }) {
  const { film, StudyInstanceUID } = findings;
  const name = file.name || shown;
  return { ...findings, film: name, StudyInstanceUID: StudyInstanceUID === film ? name : StudyInstanceUID };
}

function downloads(film, on) {
  const stem = film.name.replace(/\.(dcm|dicom|jpe?g|png|tiff?)$/i, "");
  const note = h("p", { class: "problem", role: "alert" }, film.downloadProblem);
  const give = (label, get, name) => h("button", {
    type: "button",
    onclick: async () => {
      film.downloadProblem = note.textContent = "";
      try {
        download(await get(), name);
        say(`${label} downloaded`);
      } catch (problem) {
        film.downloadProblem = problem.message;
        on.panel(); // which may have been built anew meanwhile
      }
    },
  }, label);
  const dicom = (headers) => [
    give("DICOM SR", () => on.part(film, "report.dcm", headers?.()), `${stem}.sr.dcm`),
    film.answer.findings.quality.usable && give("DICOM capture", () => on.part(film, "capture.dcm", headers?.()), `${stem}.sc.dcm`),
    headers && give("Film as DICOM", () => on.part(film, "film.dcm", headers()), `${stem}.dcm`),
  ];
  const json = async () => new Blob([JSON.stringify([named(film)], null, 1)], { type: "application/json" });
  return h("section", { class: "part" },
    h("h2", {}, "Download"),
    h("div", { class: "row" },
      give("JSON", json, `${stem}.json`),
      film.answer.words.identified && dicom(),
      give("Picture", () => on.part(film, "drawing.png"), `${stem}.lines.png`)),
    !film.answer.words.identified && identifiersForm(film, dicom),
    note);
}

const IDENTIFIERS = [
  ["Patient-ID", "Patient ID", "[ -\\[\\]-~]+", "1 to 64 characters of ASCII, no backslash"],
  ["Study-Instance-UID", "Study Instance UID", "[0-9]+([.][0-9]+)*", "Digits and points, as 1.2.840.1"],
];

/** A film that is no DICOM file gets DICOM objects once a person says of which patient and study it is. */
function identifiersForm(film, dicom) {
  film.identifiers ??= { open: false, given: {} };
  const { given } = film.identifiers;
  const fields = IDENTIFIERS.map(([name, text, pattern, title]) => {
    const input = h("input", { type: "text", name, value: given[name] ?? "", required: true, maxlength: 64, pattern, title, autocomplete: "off", spellcheck: "false",
      oninput: () => (given[name] = input.value.trim()), onchange: () => (input.value = input.value.trim()) });
    return h("label", {}, text, input);
  });
  const headers = () => {
    const wrong = fields.find((field) => !field.querySelector("input").checkValidity());
    if (!wrong) return { ...given };
    wrong.querySelector("input").focus();
    throw new Error(`${wrong.textContent}: ${wrong.querySelector("input").title}`);
  };
  return h("details", { class: "identifiers", open: film.identifiers.open, ontoggle: (event) => (film.identifiers.open = event.target.open) },
    h("summary", {}, "DICOM: give patient and study"),
    h("p", { class: "facts" }, "This film names no patient. What you give here goes into the objects, and is not kept by the server."),
    fields,
    h("div", { class: "row" }, dicom(headers)));
}

function sentencePart(film) {
  const button = h("button", { type: "button", class: "copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(film.answer.words.sentence);
      button.firstChild.textContent = "Copied";
      say("Sentence copied");
    } catch { // without TLS browsers have no clipboard but for this computer's own pages
      button.firstChild.textContent = "Select and copy it";
    }
  } }, "Copy", h("kbd", {}, "C"));
  return h("section", { class: "part" },
    h("div", { class: "head" }, h("h2", {}, "In one paragraph"), button),
    h("p", { class: "sentence" }, film.answer.words.sentence));
}

/** The panel of a film; `on` has what its buttons do. */
export function findingsPanel(film, devices, on) {
  if (!film) return [h("p", { class: "empty" }, "Findings appear here.")];
  if (film.status === "failed") {
    return [h("section", { class: "refusal" }, h("h2", {}, "This file cannot be read"), h("p", {}, film.problem))];
  }
  if (!film.answer) return [h("p", { class: "empty" }, "This film is being read.")];
  const { words } = film.answer;
  const notes = words.notes.length > 0 && h("section", { class: "part" },
    h("h2", {}, "Notes"), h("ul", { class: "facts" }, words.notes.map((note) => h("li", {}, capital(note)))));
  if (words.refused) {
    return [
      h("section", { class: "refusal" }, h("h2", {}, "Refused"), h("p", {}, `${capital(words.refused.replace(/^Not read: /, ""))}.`)),
      notes, sentencePart(film), downloads(film, on),
    ];
  }
  const present = words.devices.filter((said) => said.said !== "not found");
  return [
    on.correcting(film),
    words.urgent && h("p", { class: "banner" }, `See first: ${words.urgent}`),
    present.length ? present.map((said) => deviceCard(said, devices.get(said.device), film, on))
      : h("p", { class: "dim" }, "No line was found on this film."),
    lesserDevices(film, devices),
    h("section", { class: "part" }, h("h2", {}, "Measured"), h("div", { class: "facts" },
      film.drawn.carina ? h("button", { type: "button", onclick: on.carina }, words.carina) : h("p", {}, words.carina),
      words.spacing && h("p", {}, words.spacing),
      words.points && h("p", {}, words.points))),
    notes,
    sentencePart(film),
    on.similar(film),
    downloads(film, on),
  ];
}
