// The films of the page: read one after the other, the urgent first in the list.

import { forget, part, Problem, readFilm } from "./api.js";
import { $, capital, h, say } from "./dom.js";
import { pictures } from "./viewer.js";

const AT_ONCE = 2; // films that the server is asked for together
const IN_MEMORY = 4; // films whose pictures are kept; the server gives the others again

const RANK = { urgent: 0, done: 1, reading: 2, waiting: 2, refused: 3, failed: 4 };

/** What the overlay draws of a film's findings. */
export function drawnOf({ findings, words }) {
  return {
    lines: findings.lines,
    carina: findings.landmarks.carina?.xy ?? null,
    rotation: findings.quality.rotation,
    words: words.lines ?? [],
    ruler: words.ruler,
  };
}

export class Worklist extends EventTarget {
  constructor() {
    super();
    this.films = [];
    this.current = null;
    this.recent = []; // films whose pictures are in memory
    this.count = 0;
  }

  add(files) {
    for (const file of files) {
      this.count += 1;
      this.films.push({ key: this.count, name: this._uniqueName(file.name || `film ${this.count}`), file, status: "waiting", answer: null });
    }
    this._next();
    this.render();
  }

  /** A name that no film of the list has: films of several folders are often called alike. */
  _uniqueName(name) {
    const taken = new Set(this.films.map((film) => film.name));
    const [, stem, suffix = ""] = name.match(/^(.*?)(\.[a-z]{3,5})?$/is);
    let unique = name;
    for (let nth = 2; taken.has(unique); nth += 1) unique = `${stem} (${nth})${suffix}`;
    return unique;
  }

  clear() {
    for (const film of this.films) this._forget(film);
    [this.films, this.recent] = [[], []];
    this.choose(null);
    this.dispatchEvent(new Event("changed"));
    document.querySelector(".welcome button").focus();
  }

  /** Nothing of the film is kept, here or by the server, nor asked for again. */
  _forget(film) {
    if (film.answer) forget(film.answer.id);
    film.levels = null;
    film.gone = true;
  }

  remove(film) {
    const place = this.films.indexOf(film);
    const focused = document.activeElement?.parentElement?.querySelector("[data-film]")?.dataset.film === String(film.key);
    this._forget(film);
    this.films = this.films.filter((each) => each !== film);
    this.recent = this.recent.filter((each) => each !== film);
    const next = this.films[Math.min(place, this.films.length - 1)] ?? null;
    if (this.current === film) this.choose(next);
    this.render();
    this.dispatchEvent(new Event("changed"));
    if (focused) (document.querySelector(`[data-film="${next?.key}"]`) ?? document.querySelector(".welcome button"))?.focus();
  }

  choose(film) {
    this.current = film;
    this.render();
    this.dispatchEvent(new Event("choose"));
  }

  /** The film so many places after the current one, which is shown. */
  step(by) {
    const place = this.films.indexOf(this.current) + by;
    if (!this.films[place]) return;
    this.choose(this.films[place]);
    $("films").querySelector("[aria-current]").scrollIntoView({ block: "nearest" });
  }

  /** A film's pictures, of the server where they are no longer here. */
  async levels(film) {
    this.recent = [film, ...this.recent.filter((each) => each !== film)];
    for (const old of this.recent.splice(IN_MEMORY)) old.levels = null;
    film.levels ??= this.part(film, "pixels.png").then(pictures);
    try {
      return await film.levels;
    } catch (problem) {
      film.levels = null;
      throw problem;
    }
  }

  /** What is asked of a film by its id; where the server has forgotten the film it is read again. */
  async kept(film, asking) {
    try {
      return await asking(film.answer.id);
    } catch (problem) {
      if (problem.code !== "film-not-kept" || film.gone) throw problem;
      const answer = await readFilm(film.file);
      if (film.gone) {
        forget(answer.id);
        throw problem;
      }
      const { bundle } = film.answer.findings;
      if (answer.findings.bundle === bundle) film.answer.id = answer.id;
      else throw this._readByAnother(film, answer);
      return asking(film.answer.id);
    }
  }

  /** Another model reads here since: its answer replaces the film's, as the two do not go together. */
  _readByAnother(film, answer) {
    const before = film.edit?.changed ? film.edit : film.before;
    Object.assign(film, { before, edit: null, correcting: false, levels: null });
    this._answered(film, answer);
    if (this.current === film) this.dispatchEvent(new Event("choose"));
    this.render();
    const unsaved = before ? " What you corrected and did not save comes back with Correct, as lines drawn." : "";
    say(`${film.name} was read again by another model.`);
    return new Problem({
      code: "another-model", detail: "another model reads here now, and the film was read again",
      way_out: `look at its findings, and ask once more.${unsaved}`,
    });
  }

  _answered(film, answer) {
    film.answer = answer;
    film.drawn = drawnOf(answer);
    film.status = answer.words.refused ? "refused" : answer.words.urgent ? "urgent" : "done";
    this.dispatchEvent(new Event("answered"));
  }

  part = (film, name, headers) => this.kept(film, (id) => part(id, name, headers));

  _next() {
    const reading = this.films.filter((film) => film.status === "reading").length;
    for (const film of this.films.filter((each) => each.status === "waiting").slice(0, AT_ONCE - reading)) this._read(film);
  }

  async _read(film) {
    film.status = "reading";
    try {
      const answer = await readFilm(film.file);
      if (film.gone) forget(answer.id);
      else this._answered(film, answer);
    } catch (problem) {
      film.problem = problem.message;
      film.status = "failed";
    }
    this._next();
    if (film.gone) return;
    this.films.sort((a, b) => RANK[a.status] - RANK[b.status] || a.key - b.key);
    say(`${film.name}: ${stateOf(film)}`);
    const more = this.films.some((each) => each.status === "reading" || each.status === "waiting");
    if (!this.current && (film.answer || !more)) this.choose(film);
    else if (this.current === film) this.dispatchEvent(new Event("choose"));
    this.render();
    this.dispatchEvent(new Event("changed"));
  }

  render() {
    const row = $("films").contains(document.activeElement) && document.activeElement;
    const focused = row && `[data-film="${row.parentElement.querySelector("[data-film]").dataset.film}"]${row.className === "remove" ? " + .remove" : ""}`;
    $("films").replaceChildren(...this.films.map((film) => this._row(film)));
    $("count").textContent = countOf(this.films);
    $("clear").hidden = this.films.length < 2;
    if (focused) document.querySelector(focused)?.focus();
  }

  _row(film) {
    const main = h("button", {
      type: "button", class: `film ${film.status}`, "data-film": film.key, title: film.name,
      "aria-current": film === this.current ? "true" : null, onclick: () => this.choose(film),
    }, h("span", { class: "name" }, film.name), h("span", { class: "state" }, stateOf(film)));
    const away = h("button", {
      type: "button", class: "remove", "aria-label": `Remove ${film.name}`, title: "Remove", onclick: () => mayGo([film]) && this.remove(film),
    }, "×");
    return h("li", {}, main, away);
  }
}

/** What was said of a film and not saved before another model read it: its lines, as drawn, labels and the rest. */
export function takeOver(film) {
  const { lines, labels, landmarks, comment } = film.before;
  const kept = lines.filter((line) => line.mark && line.mark !== "rejected").map((line) => ({ ...line, of: null, mark: "drawn", handles: null }));
  Object.assign(film.edit, { lines: [...film.edit.lines, ...kept], labels, landmarks, comment, changed: true });
  film.before = null;
}

/** Whether a film has corrections that are not saved, also a line that is being drawn. */
export const isUnsaved = (film) => Boolean(film.edit?.changed || film.edit?.drawing || film.before);

/** Whether films may be removed: a person is asked where corrections of them are not saved. */
export function mayGo(films) {
  const unsaved = films.filter(isUnsaved);
  const names = unsaved.map((film) => film.name).join(", ");
  return !unsaved.length || window.confirm(`Corrections of ${names} are not saved. Remove all the same?`);
}

/** How many films were read, and how many were not and why; the others are still to come. */
function countOf(films) {
  const count = (...states) => films.filter((film) => states.includes(film.status)).length;
  const [refused, failed] = [count("refused"), count("failed")];
  const parts = [`${count("done", "urgent")} of ${films.length} read`, refused && `${refused} refused`, failed && `${failed} cannot be read`];
  return films.length ? parts.filter(Boolean).join(", ") : "";
}

/** What the list says of a film. */
export function stateOf(film) {
  const words = film.answer?.words;
  if (film.status === "waiting") return "waiting";
  if (film.status === "reading") return "reading";
  if (film.status === "failed") return "cannot be read";
  if (words.refused) return "not read: refused";
  const found = words.devices.filter((device) => device.lines.length).map((device) => device.text);
  return words.urgent ?? (found.length ? capital(found.join(", ")) : "no line found");
}
