// Corrections of a film: lines accepted, rejected, moved or drawn, labels, a comment; saved by the server.

import { corrections, saveCorrections } from "./api.js";
import { capital, h, s, say } from "./dom.js";
import { between, fromSegment, rounded, simplified } from "./paths.js";
import { drawnOf, takeOver } from "./worklist.js";

const REACH = 10; // screen pixels within which a point is taken hold of
const MOST_BACK = 100; // steps that can be undone

const LEAVES = "Incompletely Imaged"; // its last point is where it leaves the film

/** Where a line ends: at its tip, as far as it is seen, or off the film. */
function endOf({ points, state, tip_seen }) {
  const end = state === LEAVES ? null : points.at(-1);
  return tip_seen ? { tip: end, followed_to: null } : { tip: null, followed_to: end };
}

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

/** What a person said so far: that of the project, else the model's lines, none of which is decided. */
function begun(film, saved, devices) {
  const { lines, labels, distances } = film.answer.findings;
  const likely = (line, k) => {
    const byRule = distances.find((distance) => distance.line === k && distance.state)?.state;
    const states = devices.get(line.device).labels;
    const most = states.reduce((best, each) => ((labels?.[each.label] ?? 0) > (labels?.[best.label] ?? 0) ? each : best));
    const state = byRule ?? most.state;
    const tip_seen = state === LEAVES || Boolean(line.tip);
    return { tip_seen, state: tip_seen || states.length === 1 ? state : null };
  };
  const correction = saved.correction;
  const own = (k) => (saved.same ? correction?.lines.find((line) => line.of === k) : null);
  const edited = lines.map((line, k) => {
    const said = own(k);
    const { state, tip_seen } = said && said.mark !== "rejected" ? said : likely(line, k);
    return { device: line.device, points: said && said.mark === "moved" ? said.points : line.path, of: k, mark: said?.mark ?? null, state, tip_seen };
  });
  const kept = (correction?.lines ?? []).filter((line) => line.mark !== "rejected" && (!saved.same || line.of === null));
  for (const line of kept) edited.push({ ...line, of: null, mark: "drawn" });
  return {
    lines: edited, labels: { ...correction?.labels }, landmarks: { ...correction?.landmarks }, comment: correction?.comment ?? "",
    selected: null, point: null, drawing: null, changed: false, note: "", past: [], after: saved.count,
    saved: correction ? `Saved by ${correction.author}, ${new Date(correction.time).toLocaleString()}` : "",
  };
}

export class Corrector {
  constructor(viewer, devices, list, redraw) {
    Object.assign(this, { viewer, devices, list, redraw, current: null });
  }

  get edit() {
    return this.current?.edit ?? null;
  }

  get correcting() {
    return Boolean(this.edit && this.current.correcting);
  }

  /** The film that is shown. */
  film(film) {
    this.current = film?.answer && !film.answer.words.refused ? film : null;
    this.viewer.tool = this.correcting ? this : null;
  }

  async toggle(film) {
    if (!film?.answer || film.answer.words.refused) return;
    if (!film.edit) {
      try {
        film.edit = begun(film, await this.list.kept(film, corrections), this.devices);
        if (film.before) takeOver(film);
      } catch (problem) {
        return say(problem.message);
      }
    }
    film.correcting = !film.correcting;
    this.film(film);
    this.refresh();
    say(film.correcting ? "Correcting" : "No longer correcting");
  }

  select(k) {
    if (this.correcting) Object.assign(this.edit, { selected: k, point: null });
  }

  /** What the overlay shows follows what was said. */
  refresh() {
    const film = this.current;
    if (film?.edit && film.correcting) {
      const words = film.answer.words.lines;
      const found = film.answer.findings.lines;
      const asFound = ({ of, mark, tip_seen }) => of !== null && mark !== "moved" && Boolean(tip_seen ? found[of].tip : found[of].followed_to);
      const own = ({ device, tip_seen }) => ({ tip: tip_seen ? device : `${device} followed to here`, measured: false });
      film.drawn = {
        ...film.drawn,
        carina: film.edit.landmarks.carina ?? film.answer.findings.landmarks.carina?.xy ?? null,
        lines: film.edit.lines.map((line) => ({
          device: line.device, path: line.points, hidden: line.mark === "rejected", ...endOf(line),
        })),
        words: film.edit.lines.map((line) => (asFound(line) ? words[line.of] : own(line))),
      };
      this.viewer.chosen = film.edit.selected;
    } else if (film) {
      film.drawn = drawnOf(film.answer);
      this.viewer.chosen = null;
    }
    this.redraw();
  }

  /** What a person says; that before can be had again by `undo`, of a drag that before it began. */
  _said(change) {
    const { lines, labels, landmarks, past } = this.edit;
    if (!this.held || !this.dragged) past.push(structuredClone({ lines, labels, landmarks }));
    if (past.length > MOST_BACK) past.shift();
    this.dragged = Boolean(this.held);
    Object.assign(this.edit, { changed: true, note: "" });
    change();
    this.refresh();
  }

  undo() {
    const { edit } = this;
    if (edit.drawing) edit.drawing.points.pop();
    else if (!edit.past.length) return say("Nothing to undo");
    else Object.assign(edit, edit.past.pop(), { selected: null, point: null, changed: true });
    this.refresh();
    say("Undone");
  }

  // With the pointer: the viewer asks, in px of the film

  get _handles() {
    const { selected, lines } = this.edit;
    const line = lines[selected];
    if (!line || line.mark === "rejected") return null;
    if (line.mark !== "moved" && line.of !== null) {
      line.handles ??= simplified(line.points, Math.max(...this.viewer.size) / 400);
      return line.handles;
    }
    return line.points;
  }

  _near(p, q) {
    return between(p, q) * this.viewer.view.zoom <= REACH;
  }

  _move(points) {
    const line = this.edit.lines[this.edit.selected];
    this._said(() => Object.assign(line, { points: rounded(points), mark: line.of === null ? "drawn" : "moved" }));
  }

  down(viewer, at) {
    const { edit } = this;
    if (edit.drawing) {
      edit.drawing.points.push(at);
      viewer.changed();
      return true;
    }
    const handles = this._handles;
    const carina = this.current.drawn.carina;
    if (handles) {
      const held = handles.findLastIndex((point) => this._near(point, at));
      if (held >= 0) {
        edit.point = held;
        this.held = "point";
        viewer.changed();
        return true;
      }
      const part = handles.findIndex((point, k) => k && fromSegment(at, handles[k - 1], point) * viewer.view.zoom <= REACH / 2);
      if (part > 0) {
        edit.point = part;
        this.held = "point";
        this._move([...handles.slice(0, part), at, ...handles.slice(part)]);
        return true;
      }
    }
    if (carina && this._near(carina, at)) {
      this.held = "carina";
      return true;
    }
    const line = edit.lines.findIndex((each) => each.mark !== "rejected" && each.points.some((point, k) => k && fromSegment(at, each.points[k - 1], point) * viewer.view.zoom <= REACH / 2));
    if (line >= 0) {
      this.select(line);
      this.refresh();
      return true;
    }
    return false;
  }

  move(viewer, at) {
    const [w, t] = viewer.size;
    const inside = [Math.max(0, Math.min(w - 1, at[0])), Math.max(0, Math.min(t - 1, at[1]))];
    if (this.held === "carina") this._said(() => (this.edit.landmarks.carina = rounded([inside])[0]));
    else if (this.held === "point") this._move(this._handles.map((point, k) => (k === this.edit.point ? inside : point)));
  }

  up() {
    this.held = null;
    this.dragged = false;
  }

  double() {
    if (this.edit.drawing) this._drawn();
    return true;
  }

  /** Handles of the line in hand, and the line that is being drawn. */
  overlay(viewer) {
    const line = this.edit.lines[this.edit.selected];
    const colour = (device) => `rgb(${this.devices.get(device).colour.join(" ")})`;
    const parts = (this._handles ?? []).map((point, k) => {
      const [x, y] = viewer.at(point);
      return s("circle", { class: k === this.edit.point ? "handle chosen" : "handle", cx: x, cy: y, r: 5, stroke: colour(line.device) });
    });
    const { drawing } = this.edit;
    if (drawing) {
      const at = drawing.points.map(viewer.at);
      parts.push(s("polyline", { class: "line", points: at.map((point) => point.join(",")).join(" "), stroke: colour(drawing.device), "stroke-width": 2.5 }));
      for (const [x, y] of at) parts.push(s("circle", { class: "handle", cx: x, cy: y, r: 4, stroke: colour(drawing.device) }));
    }
    return parts;
  }

  // With the keyboard

  key(event, key) {
    if (!this.correcting) return false;
    const { edit } = this;
    if (edit.drawing) {
      if (key === "Enter") this._drawn();
      else if (key === "Escape") edit.drawing = null;
      else if (key === "Backspace") edit.drawing.points.pop();
      else return false;
      this.refresh();
      return true;
    }
    const handles = this._handles;
    if (!handles) return false;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    if (key === "," || key === ".") {
      const by = key === "." ? 1 : -1;
      edit.point = edit.point === null ? handles.length - 1 : (edit.point + by + handles.length) % handles.length;
      say(`Point ${edit.point + 1} of ${handles.length}`);
      this.viewer.changed();
    } else if (step && edit.point !== null && event.target.closest(".stage, body")) {
      const far = event.shiftKey ? 10 : 1;
      const [x, y] = handles[edit.point];
      this.held = "point";
      this.move(this.viewer, [x + far * step[0], y + far * step[1]]);
      this.up();
    } else if ((key === "Delete" || key === "Backspace") && edit.point !== null && handles.length > 2) {
      const kept = handles.filter((_, k) => k !== edit.point);
      edit.point = null;
      this._move(kept);
    } else return false;
    return true;
  }

  _drawn() {
    const { drawing } = this.edit;
    // A double click gives its place twice.
    const points = drawing.points.filter((point, k, all) => !k || between(point, all[k - 1]) > 1);
    this.edit.drawing = null;
    if (points.length < 2) return this.refresh();
    const { labels } = this.devices.get(drawing.device);
    const state = labels.length === 1 ? labels[0].state : undefined; // undefined: to be chosen
    this._said(() => {
      this.edit.lines.push({ device: drawing.device, points: rounded(points), of: null, mark: "drawn", state, tip_seen: true });
      this.select(this.edit.lines.length - 1);
    });
  }

  // In the panel

  part(film) {
    const button = h("button", { type: "button", "aria-expanded": String(Boolean(film.correcting)), "data-correct": "", onclick: () => this.toggle(film) },
      film.correcting ? "Close" : "Correct", h("kbd", {}, "E"));
    const said = film.before ? "Read again by another model; what you had not saved comes back here." : film.edit?.saved;
    if (!film.correcting) return h("div", { class: "row" }, button, said && h("span", { class: "dim" }, said));
    const { edit } = film;
    const open = edit.lines.filter((line) => line.mark === null).length;
    const stateless = edit.lines.filter((line) => line.state === undefined).length;
    const author = h("input", { type: "text", value: localStorage.getItem("author") ?? "", autocomplete: "name", maxlength: 200,
      onchange: () => localStorage.setItem("author", author.value.trim()) });
    const comment = h("textarea", { rows: 2, maxlength: 10000, onchange: () => Object.assign(edit, { comment: comment.value, changed: true }) });
    comment.value = edit.comment;
    return h("section", { class: "correct", "aria-label": "Corrections" },
      h("div", { class: "head row" }, h("h2", {}, "Corrections"), button),
      h("ul", { class: "lines" }, edit.lines.map((line, k) => this._row(line, k))),
      this._drawingRow(),
      this._labels(),
      h("label", {}, "Comment", comment),
      h("label", {}, "Your name", author),
      h("div", { class: "row" },
        open > 0 && h("button", { type: "button", onclick: () => this._said(() => edit.lines.forEach((line) => (line.mark ??= "accepted"))) }, open === edit.lines.length ? "Accept all" : "Accept the rest"),
        h("button", { type: "button", disabled: !edit.past.length, onclick: () => this.undo() }, "Undo"),
        h("button", { type: "button", class: "main", disabled: open + stateless > 0, onclick: () => this._save(film, author, comment) }, "Save")),
      open > 0 && h("p", { class: "dim" }, `${open} ${open === 1 ? "line is" : "lines are"} to be accepted or rejected.`),
      stateless > 0 && h("p", { class: "dim" }, `${stateless} ${stateless === 1 ? "line needs" : "lines need"} a state.`),
      h("p", { class: edit.failed ? "problem" : "dim", role: "status" }, edit.note || edit.saved));
  }

  _row(line, k) {
    const device = this.devices.get(line.device);
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = `rgb(${device.colour.join(" ")})`;
    const mark = (value) => () => this._said(() => {
      if (value === "accepted") Object.assign(line, { points: this.current.answer.findings.lines[line.of].path, handles: null });
      line.mark = value;
    });
    const name = `${line.device}${line.of === null ? ", drawn" : line.mark === "moved" ? ", moved" : ""}`;
    const all = endings(device);
    const isSaid = ({ state, tip_seen }) => state === line.state && tip_seen === line.tip_seen;
    const states = h("select", { "aria-label": `State of ${name}`, title: all.find(isSaid)?.text, onchange: () => this._said(() => {
      const { state, tip_seen } = all[states.value];
      Object.assign(line, { state, tip_seen });
    }) }, line.state === undefined && h("option", { value: "", selected: true, disabled: true }, "State?"),
      all.map((each, k) => h("option", { value: k, selected: isSaid(each) }, each.text)));
    return h("li", { class: line.mark === "rejected" ? "gone" : null },
      swatch,
      h("button", { type: "button", class: "name", "aria-pressed": String(this.edit.selected === k), onclick: () => { this.select(this.edit.selected === k ? null : k); this.refresh(); } }, name),
      line.of !== null && h("button", { type: "button", "aria-label": `Accept ${name}`, title: "Accept", "aria-pressed": String(line.mark === "accepted"), onclick: mark("accepted") }, "✓"),
      line.of !== null
        ? h("button", { type: "button", "aria-label": `Reject ${name}`, title: "Reject", "aria-pressed": String(line.mark === "rejected"), onclick: mark("rejected") }, "✕")
        : h("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => this._said(() => { this.edit.lines.splice(k, 1); this.select(null); }), title: "Remove" }, "✕"),
      line.mark !== "rejected" && states);
  }

  _drawingRow() {
    const { drawing } = this.edit;
    if (drawing) {
      return h("div", { class: "row" }, h("span", { class: "dim" }, `Click from the entry of the ${this.devices.get(drawing.device).text} to its tip, or as far as it is seen; then Enter.`),
        h("button", { type: "button", onclick: () => { this._drawn(); } }, "Done"),
        h("button", { type: "button", onclick: () => { this.edit.drawing = null; this.refresh(); } }, "Cancel"));
    }
    const which = h("select", { "aria-label": "Device to draw" }, [...this.devices.values()].map((device) => h("option", { value: device.device }, capital(device.text))));
    return h("div", { class: "draw" }, which, h("button", {
      type: "button",
      onclick: () => {
        Object.assign(this.edit, { drawing: { device: which.value, points: [] }, selected: null, point: null });
        this.refresh();
        this.viewer.stage.focus();
      },
    }, "Draw a line"));
  }

  _labels() {
    const set = this.edit.labels;
    const rows = [...this.devices.values()].flatMap((device) => [h("li", {}, capital(device.text)), ...device.labels.map(({ label, state }) => {
      const choice = h("select", { "aria-label": `${device.text}, ${state.toLowerCase()}`, onchange: () => this._said(() => {
        if (choice.value === "") delete set[label];
        else set[label] = Number(choice.value);
      }) }, [["", "by the lines"], ["1", "yes"], ["0", "no"]].map(([value, text]) => h("option", { value, selected: String(set[label] ?? "") === value }, text)));
      return h("li", { class: "state" }, h("span", {}, capital(state.toLowerCase())), choice);
    })]);
    const details = h("details", { open: this.edit.labelsOpen, ontoggle: () => (this.edit.labelsOpen = details.open) },
      h("summary", {}, "Labels"), h("ul", { class: "labels" }, rows));
    return details;
  }

  async _save(film, author, comment) {
    const { edit } = film;
    const who = author.value.trim();
    if (!who) {
      author.focus();
      return this._note(film, "Give your name: it is saved with the correction.", true);
    }
    localStorage.setItem("author", who);
    edit.comment = comment.value;
    const said = ({ mark, state, tip_seen }) => (mark === "rejected" ? { mark } : { mark, state, tip_seen });
    const lines = edit.lines.map((line) => ({ device: line.device, points: rounded(line.points), of: line.of, ...said(line) }));
    const value = { name: film.name, author: who, lines, labels: edit.labels, landmarks: edit.landmarks, comment: edit.comment, after: edit.after };
    try {
      const { correction } = await this.list.kept(film, (id) => saveCorrections(id, value));
      Object.assign(edit, { changed: false, after: edit.after + 1 });
      edit.saved = `Saved by ${correction.author}, ${new Date(correction.time).toLocaleString()}`;
      this._note(film, "", false);
      say("Saved");
    } catch (problem) {
      if (problem.code !== "corrected-meanwhile") return this._note(film, `Not saved: ${problem.message}`, true);
      const { count, correction } = await this.list.kept(film, corrections);
      edit.after = count;
      this._note(film, `Not saved: ${correction.author} corrected this film meanwhile. Save again to replace that; the project keeps both.`, true);
    }
  }

  _note(film, note, failed) {
    Object.assign(film.edit ?? {}, { note, failed }); // there is none once another model has read the film
    this.redraw();
  }
}
