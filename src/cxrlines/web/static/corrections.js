// Corrections of a film: lines accepted, rejected, moved or drawn, labels, a comment; saved by the server.

import { corrections } from "./api.js";
import { LEAVES, savedBy } from "./correction_panel.js";
import { s, say } from "./dom.js";
import { between, fromSegment, rounded, simplified } from "./paths.js";
import { drawnOf, takeOver } from "./worklist.js";

const REACH = 10; // screen pixels within which a point is taken hold of
const STILL = 3; // screen pixels that a click on a line may move
const MOST_BACK = 100; // steps that can be undone
const STEP = 8; // screen pixels that a cursor is moved by an arrow key: the nearer the film, the finer
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Where a line ends: at its tip, as far as it is seen, or off the film. */
function endOf({ points, state, tip_seen }) {
  const end = state === LEAVES ? null : points.at(-1);
  return tip_seen ? { tip: end, followed_to: null } : { tip: null, followed_to: end };
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
    saved: savedBy(correction),
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
    this.up();
    if (this.current && film.saved === undefined) this._askSaved(film);
  }

  /** Whether the project has a correction of the film already is asked once; the panel says it. */
  async _askSaved(film) {
    film.saved = "";
    try {
      film.saved = savedBy((await corrections(film.answer.id)).correction);
    } catch {
      return; // `toggle` asks again, and says what is wrong
    }
    if (film.saved && film === this.current) this.redraw();
  }

  async toggle(film) {
    if (!film?.answer || film.answer.words.refused || film.opening) return;
    if (!film.edit) {
      film.opening = true; // asked again meanwhile, it would begin anew and lose what was said
      try {
        film.edit = begun(film, await this.list.kept(film, corrections), this.devices);
        if (film.before) takeOver(film);
        film.notCorrected = null;
      } catch (problem) {
        film.notCorrected = problem.message;
        this.redraw();
        return say(problem.message);
      } finally {
        film.opening = false;
      }
      if (film !== this.list.current) return; // another one is shown since
    }
    film.correcting = !film.correcting;
    this.film(film);
    this.refresh();
    say(film.correcting ? "Correcting" : "No longer correcting");
  }

  /** Take a line in hand; what is in hand is seen. */
  select(k) {
    if (!this.correcting) return;
    Object.assign(this.edit, { selected: k, point: null });
    if (this.edit.lines[k]) this.viewer.shown.devices.add(this.edit.lines[k].device);
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
  said(change) {
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
    if (!line || !this._isSeen(line) || !this.viewer.levels) return null;
    if (line.mark !== "moved" && line.of !== null) {
      line.handles ??= simplified(line.points, Math.max(...this.viewer.size) / 400);
      return line.handles;
    }
    return line.points;
  }

  _isSeen = (line) => line.mark !== "rejected" && this.viewer.shown.devices.has(line.device);

  get _carina() {
    return this.viewer.shown.carina ? this.current.drawn.carina : null;
  }

  _near(p, q) {
    return between(p, q) * this.viewer.view.zoom <= REACH;
  }

  _move(points) {
    const line = this.edit.lines[this.edit.selected];
    this.said(() => Object.assign(line, { points: rounded(points), mark: line.of === null ? "drawn" : "moved" }));
  }

  down(viewer, at) {
    const { edit } = this;
    if (edit.drawing) {
      edit.drawing.points.push(viewer.inside(at));
      viewer.changed();
      return true;
    }
    const handles = this._handles;
    const carina = this._carina;
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
        Object.assign(this, { held: "part", part, from: at });
        return true;
      }
    }
    if (carina && this._near(carina, at)) {
      edit.point = this.held = "carina";
      viewer.changed();
      return true;
    }
    const line = edit.lines.findIndex((each) => this._isSeen(each) && each.points.some((point, k) => k && fromSegment(at, each.points[k - 1], point) * viewer.view.zoom <= REACH / 2));
    if (line >= 0) {
      this.select(line);
      this.refresh();
      return true;
    }
    return false;
  }

  move(viewer, at) {
    const inside = viewer.inside(at);
    if (this.held === "carina") this.said(() => (this.edit.landmarks.carina = rounded([inside])[0]));
    else if (this.held === "part") {
      // A click alone, of a hand that is not quite still, changes nothing.
      if (between(this.from, at) * viewer.view.zoom <= STILL) return;
      const handles = this._handles;
      this.held = "point";
      this.edit.point = this.part;
      this._move([...handles.slice(0, this.part), inside, ...handles.slice(this.part)]);
    } else if (this.held === "point") this._move(this._handles.map((point, k) => (k === this.edit.point ? inside : point)));
  }

  /** A carina that the model did not find, to be moved to its place. */
  placeCarina() {
    const { edit, viewer } = this;
    if (!viewer.levels) return say("The film is not shown yet");
    viewer.shown.carina = true;
    this.said(() => {
      edit.placed = edit.landmarks.carina = rounded([viewer.middle])[0];
      Object.assign(edit, { selected: null, point: "carina" });
    });
    viewer.stage.focus();
    say("The carina is in the middle: drag it to its place, or use the arrow keys");
  }

  up() {
    this.held = null;
    this.dragged = false;
  }

  double() {
    if (this.edit.drawing) this.drawn();
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
    const { drawing, point } = this.edit;
    if (point === "carina" && this._carina) {
      const [x, y] = viewer.at(this._carina);
      parts.push(s("circle", { class: "handle chosen", cx: x, cy: y, r: 5, stroke: "#fff" }));
    }
    if (drawing?.cursor) {
      const [x, y] = viewer.at(drawing.cursor);
      parts.push(s("path", { class: "line cursor", d: `M${x - 9} ${y}H${x + 9}M${x} ${y - 9}V${y + 9}`, stroke: "#fff", "stroke-width": 1.5 }));
    }
    if (drawing) {
      const at = drawing.points.map(viewer.at);
      parts.push(s("polyline", { class: "line", points: at.map((point) => point.join(",")).join(" "), stroke: colour(drawing.device), "stroke-width": 2.5 }));
      for (const [x, y] of at) parts.push(s("circle", { class: "handle", cx: x, cy: y, r: 4, stroke: colour(drawing.device) }));
    }
    return parts;
  }

  // With the keyboard

  key(event, key) {
    if (!this.correcting || !this.viewer.levels) return false; // without its picture a film has no size
    const { edit } = this;
    const { drawing } = edit;
    const onFilm = this.viewer.stage.contains(event.target) || event.target === document.body;
    if (drawing) {
      if (ARROWS[key] && onFilm) this._moveCursor(ARROWS[key], event.shiftKey ? 5 * STEP : STEP);
      else if (key === " " && onFilm && drawing.cursor) {
        drawing.points.push(drawing.cursor);
        say(`Point ${drawing.points.length}`);
      } else if (key === "Enter" && onFilm) this.drawn();
      else if (key === "Escape") edit.drawing = null;
      else if (key === "Backspace" && onFilm) drawing.points.pop();
      else return false;
      this.refresh();
      return true;
    }
    const handles = this._handles ?? [];
    const carina = this._carina;
    const stops = [...handles.keys(), ...(carina ? ["carina"] : [])];
    if ((key === "," || key === ".") && stops.length) {
      const last = Math.max(0, handles.length - 1);
      const place = edit.point === null ? last : stops.indexOf(edit.point) + (key === "." ? 1 : -1);
      edit.point = stops.at(place % stops.length);
      say(edit.point === "carina" ? "Carina" : `Point ${edit.point + 1} of ${handles.length}`);
      this.viewer.changed();
    } else if (ARROWS[key] && onFilm && stops.includes(edit.point)) {
      const far = event.shiftKey ? 10 : 1;
      const [x, y] = edit.point === "carina" ? carina : handles[edit.point];
      this.held = edit.point === "carina" ? "carina" : "point";
      this.move(this.viewer, [x + far * ARROWS[key][0], y + far * ARROWS[key][1]]);
      this.up();
    } else if (key === "a" && edit.point in handles && handles.length > 1) {
      const next = Math.min(edit.point + 1, handles.length - 1);
      const halfway = handles[next].map((place, k) => (place + handles[next - 1][k]) / 2);
      edit.point = next;
      this._move([...handles.slice(0, next), halfway, ...handles.slice(next)]);
      say(`New point, ${next + 1} of ${handles.length + 1}`);
    } else if ((key === "Delete" || key === "Backspace") && onFilm && edit.point in handles && handles.length > 2) {
      const kept = handles.filter((_, k) => k !== edit.point);
      edit.point = null;
      this._move(kept);
    } else return false;
    return true;
  }

  /** The cursor of who draws by keyboard; it begins in the middle of what is seen of the film, and stays in sight. */
  _moveCursor([dx, dy], far) {
    const { viewer, edit: { drawing } } = this;
    const [x, y] = drawing.cursor ?? viewer.middle;
    const step = drawing.cursor ? far / viewer.view.zoom : 0;
    drawing.cursor = viewer.inside([x + step * dx, y + step * dy]);
    viewer.reveal(drawing.cursor);
  }

  drawn() {
    const { drawing } = this.edit;
    // A double click gives its place twice.
    const points = drawing.points.filter((point, k, all) => !k || between(point, all[k - 1]) > 1);
    this.edit.drawing = null;
    if (points.length < 2) return this.refresh();
    const { labels } = this.devices.get(drawing.device);
    const state = labels.length === 1 ? labels[0].state : undefined; // undefined: to be chosen
    this.said(() => {
      this.edit.lines.push({ device: drawing.device, points: rounded(points), of: null, mark: "drawn", state, tip_seen: true });
      this.select(this.edit.lines.length - 1);
    });
  }
}
