// The panel of corrections: lines with their marks and states, labels, a comment; and saving them.

import { corrections, saveCorrections } from "./api.js";
import { capital, h, say } from "./dom.js";
import { rounded } from "./paths.js";

export const LEAVES = "Incompletely Imaged"; // its last point is where it leaves the film

/** By whom and when a correction was saved, if there is one. */
export const savedBy = (correction) => (correction ? `Saved by ${correction.author}, ${new Date(correction.time).toLocaleString()}` : "");

/** What may be said of a line of a device: its state where its tip is seen, and where it is not its state or nothing. */
function endings(device) {
  const states = device.labels.map(({ state }) => state);
  const unseen = states.filter((state) => state !== LEAVES).map((state) => ({ state, tip_seen: false, text: `Tip not seen, ${state.toLowerCase()}` }));
  return [
    ...states.map((state) => ({ state, tip_seen: true, text: capital(state.toLowerCase()) })),
    ...(states.length > 1 ? [{ state: null, tip_seen: false, text: "Tip not seen" }] : []),
    ...unseen,
  ];
}

/** The part of the panel that is about corrections of a film, by a `Corrector`. */
export function correctionPanel(by, film) {
  const button = h("button", { type: "button", "aria-expanded": String(Boolean(film.correcting)), "data-correct": "", onclick: () => by.toggle(film) },
    film.correcting ? "Close" : "Correct", h("kbd", {}, "E"));
  const said = film.before ? "Read again by another model; what you had not saved comes back here." : film.edit?.saved ?? film.saved;
  if (!film.correcting) {
    return h("div", { class: "row" }, button, said && h("span", { class: "dim" }, said),
      film.notCorrected && h("p", { class: "problem" }, film.notCorrected));
  }
  const { edit } = film;
  const open = edit.lines.filter((line) => line.mark === null).length;
  const stateless = edit.lines.filter((line) => line.state === undefined).length;
  const author = h("input", { type: "text", name: "author", value: localStorage.getItem("author") ?? "", autocomplete: "name", maxlength: 200,
    oninput: () => localStorage.setItem("author", author.value) });
  const comment = h("textarea", { name: "comment", rows: 2, maxlength: 10000, oninput: () => Object.assign(edit, { comment: comment.value, changed: true }) });
  comment.value = edit.comment;
  return h("section", { class: "correct", "aria-label": "Corrections" },
    h("div", { class: "head row" }, h("h2", {}, "Corrections"), button),
    h("ul", { class: "lines" }, edit.lines.map((line, k) => row(by, line, k))),
    drawingRow(by),
    labelsPart(by),
    h("label", {}, "Comment", comment),
    h("label", {}, "Your name", author),
    h("div", { class: "row" },
      open > 0 && h("button", { type: "button", onclick: () => by.said(() => edit.lines.forEach((line) => (line.mark ??= "accepted"))) }, open === edit.lines.length ? "Accept all" : "Accept the rest"),
      h("button", { type: "button", disabled: !edit.past.length, onclick: () => by.undo() }, "Undo"),
      h("button", { type: "button", class: "main", disabled: open + stateless > 0 || Boolean(edit.drawing), "aria-disabled": edit.saving ? "true" : null, onclick: () => save(by, film, author) }, "Save")),
    open > 0 && h("p", { class: "dim" }, `${open} ${open === 1 ? "line is" : "lines are"} to be accepted or rejected.`),
    edit.drawing && h("p", { class: "dim" }, "A line is being drawn: end it (Done) or cancel it, then save."),
    stateless > 0 && h("p", { class: "dim" }, `${stateless} ${stateless === 1 ? "line needs" : "lines need"} a state.`),
    h("p", { class: edit.failed ? "problem" : "dim", role: "status" }, edit.note || edit.saved));
}

function row(by, line, k) {
  const device = by.devices.get(line.device);
  const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = `rgb(${device.colour.join(" ")})`;
  const mark = (value) => () => by.said(() => {
    if (value === "accepted") Object.assign(line, { points: by.current.answer.findings.lines[line.of].path, handles: null });
    line.mark = value;
  });
  const nth = by.edit.lines.slice(0, k + 1).filter((each) => each.device === line.device).length;
  const moved = line.mark === "moved";
  const accept = moved ? "Back to the model's line" : "Accept"; // which undoes the move
  const part = (what) => `${what} ${k}`; // the focus is given back by it, as names change with marks
  const name = `${line.device}${nth > 1 ? ` ${nth}` : ""}${line.of === null ? ", drawn" : moved ? ", moved" : ""}`;
  const all = endings(device);
  const isSaid = ({ state, tip_seen }) => state === line.state && tip_seen === line.tip_seen;
  const states = h("select", { "data-part": part("state"), "aria-label": `State of ${name}`, title: all.find(isSaid)?.text, onchange: () => by.said(() => {
    const { state, tip_seen } = all[states.value];
    Object.assign(line, { state, tip_seen });
  }) }, line.state === undefined && h("option", { value: "", selected: true, disabled: true }, "State?"),
    all.map((each, k) => h("option", { value: k, selected: isSaid(each) }, each.text)));
  return h("li", { class: line.mark === "rejected" ? "gone" : null },
    swatch,
    h("button", { type: "button", class: "name", "data-part": part("name"), "aria-pressed": String(by.edit.selected === k), onclick: () => { by.select(by.edit.selected === k ? null : k); by.refresh(); } }, name),
    line.of !== null && h("button", { type: "button", "data-part": part("accept"), "aria-label": `${accept}${moved ? "," : ""} ${name}`, title: accept, "aria-pressed": moved ? null : String(line.mark === "accepted"), onclick: mark("accepted") }, moved ? "↺" : "✓"),
    line.of !== null
      ? h("button", { type: "button", "data-part": part("reject"), "aria-label": `Reject ${name}`, title: "Reject", "aria-pressed": String(line.mark === "rejected"), onclick: mark("rejected") }, "✕")
      : h("button", { type: "button", "data-part": part("remove"), "aria-label": `Remove ${name}`, onclick: () => by.said(() => { by.edit.lines.splice(k, 1); by.select(null); }), title: "Remove" }, "✕"),
    line.mark !== "rejected" && states);
}

function drawingRow(by) {
  const { drawing } = by.edit;
  if (drawing) {
    return h("div", { class: "row" }, h("span", { class: "dim" }, `Click from the entry of the ${by.devices.get(drawing.device).text} to its tip, or as far as it is seen; then Enter. By keyboard: arrows and Space.`),
      h("button", { type: "button", onclick: () => { by.drawn(); } }, "Done"),
      h("button", { type: "button", onclick: () => { by.edit.drawing = null; by.refresh(); } }, "Cancel"));
  }
  const which = h("select", { "aria-label": "Device to draw", onchange: () => (by.edit.toDraw = which.value) }, [...by.devices.values()].map((device) => h("option", { value: device.device, selected: device.device === by.edit.toDraw }, capital(device.text))));
  return h("div", { class: "draw" }, which, h("button", {
    type: "button",
    onclick: () => {
      Object.assign(by.edit, { drawing: { device: which.value, points: [] }, selected: null, point: null });
      by.refresh();
      by.viewer.stage.focus();
    },
  }, "Draw a line"), !by.current.drawn.carina && h("button", { type: "button", onclick: () => by.placeCarina() }, "Place the carina"));
}

function labelsPart(by) {
  const set = by.edit.labels;
  const rows = [...by.devices.values()].flatMap((device) => [h("li", {}, capital(device.text)), ...device.labels.map(({ label, state }) => {
    const choice = h("select", { "aria-label": `${device.text}, ${state.toLowerCase()}`, onchange: () => by.said(() => {
      if (choice.value === "") delete set[label];
      else set[label] = Number(choice.value);
    }) }, [["", "by the lines"], ["1", "yes"], ["0", "no"]].map(([value, text]) => h("option", { value, selected: String(set[label] ?? "") === value }, text)));
    return h("li", { class: "state" }, h("span", {}, capital(state.toLowerCase())), choice);
  })]);
  const details = h("details", { open: by.edit.labelsOpen, ontoggle: () => (by.edit.labelsOpen = details.open) },
    h("summary", {}, "Labels"), h("ul", { class: "labels" }, rows));
  return details;
}

/** What is saved of what a person said. */
function content({ lines, labels, landmarks, comment }) {
  const said = ({ mark, state, tip_seen }) => (mark === "rejected" ? { mark } : { mark, state, tip_seen });
  return { lines: lines.map((line) => ({ device: line.device, points: rounded(line.points), of: line.of, ...said(line) })), labels, landmarks, comment };
}

async function save(by, film, author) {
  const { edit } = film;
  const who = author.value.trim();
  if (edit.saving) return;
  if (!who) {
    author.focus();
    return note(by, film, "Give your name: it is saved with the correction.", true);
  }
  if (edit.placed && String(edit.placed) === String(edit.landmarks.carina)) {
    return note(by, film, "The carina is still in the middle: drag it to its place, or undo.", true);
  }
  const saved = structuredClone(content(edit));
  edit.saving = true;
  note(by, film, "", false);
  try {
    const { correction } = await by.list.kept(film, (id) => saveCorrections(id, { name: film.file.name || film.name, author: who, after: edit.after, ...saved }));
    const changed = JSON.stringify(content(edit)) !== JSON.stringify(saved); // while it was saved
    Object.assign(edit, { changed, after: edit.after + 1, saving: false });
    film.saved = edit.saved = savedBy(correction);
    note(by, film, "", false);
    say("Saved");
  } catch (problem) {
    edit.saving = false;
    if (problem.code !== "corrected-meanwhile") return note(by, film, `Not saved: ${problem.message}`, true);
    try {
      const { count, correction } = await by.list.kept(film, corrections);
      edit.after = count;
      note(by, film, `Not saved: ${correction.author} corrected this film meanwhile. Save again to replace that; the project keeps both.`, true);
    } catch (another) {
      note(by, film, `Not saved: ${another.message}`, true);
    }
  }
}

function note(by, film, note, failed) {
  Object.assign(film.edit ?? {}, { note, failed }); // there is none once another model has read the film
  by.redraw();
}
