// The page: what its parts do together, and its keys.

import { about, example, Problem, useToken, whenRefused } from "./api.js";
import { correctionPanel } from "./correction_panel.js";
import { Corrector } from "./corrections.js";
import { $, h, say } from "./dom.js";
import { findingsPanel } from "./findings.js";
import { similarPart } from "./similar.js";
import { Viewer } from "./viewer.js";
import { Worklist, isUnsaved, mayGo, stateOf } from "./worklist.js";

const list = new Worklist();
const main = new Viewer("Film; arrow keys pan, plus and minus zoom");
const beside = new Viewer("Prior film; arrow keys pan, plus and minus zoom");
const state = { about: null, devices: new Map(), shown: new Set(), active: main, prior: null, comparing: false };

let corrector = null; // with a project folder alone

const choice = h("select", { "aria-label": "Prior film", onchange: () => showPrior(list.films.find((film) => String(film.key) === choice.value)) });

async function begin() {
  try {
    state.about = await about();
  } catch (problem) {
    $("welcome").querySelector("p").textContent = problem.message;
    return;
  }
  for (const device of state.about.devices) state.devices.set(device.device, device);
  const colours = Object.fromEntries(state.about.devices.map((device) => [device.device, device.colour]));
  for (const viewer of [main, beside]) viewer.shown = { devices: state.shown, colours, carina: true };
  showDevices(true);
  if (state.about.project) corrector = new Corrector(main, state.devices, list, redraw);
  if (state.about.project) $("stored").textContent = "They are read by this server and kept in its memory; what you correct and save is stored.";
  sayWhatReads();
}

function sayWhatReads() {
  $("what-reads").textContent = `cxrlines ${state.about.version} · weights ${state.about.bundle}`;
  $("what-reads").title = state.about.notice;
}

/** Ask for a token; what waits for it goes on. */
function askToken(problem) {
  const dialog = $("token");
  $("token-problem").textContent = problem.code === "token-missing" ? "" : problem.message;
  dialog.showModal();
  return new Promise((given) => {
    dialog.onclose = () => {
      const token = $("token-value").value.trim();
      $("token-value").value = "";
      if (!/^[!-~]+$/.test(token)) { // a header takes nothing else
        $("token-problem").textContent = "A token has letters without accents, digits and signs, and no spaces.";
        return dialog.showModal();
      }
      useToken(token);
      given();
    };
  });
}

// What is shown

async function show(viewer, film) {
  viewer.show(null, null);
  viewer.title.textContent = film?.name ?? "";
  viewer.describe(film ? `${film.name}: ${stateOf(film)}` : "No film");
  viewer.say(film?.problem ?? (film && !film.answer ? "Reading" : null));
  if (!film?.answer) return;
  viewer.say("Loading");
  const another = () => film !== (viewer === main ? list.current : state.prior); // shown since
  try {
    const levels = await list.levels(film);
    if (another()) return;
    viewer.show(film, levels);
    viewer.describe(`${film.name}. ${film.answer.words.sentence}`);
    viewer.say(null);
  } catch (problem) {
    if (!another()) viewer.say(problem.message);
  }
}

function chosen() {
  const film = list.current;
  const some = list.films.length > 0;
  $("welcome").hidden = some;
  $("tools").hidden = !some;
  main.element.hidden = !some;
  if (film !== state.last) {
    state.last = film;
    $("findings").scrollTop = 0;
  }
  corrector?.film(film);
  show(main, film);
  panel();
  if (state.comparing) compare(some && list.films.length > 1);
  buttons();
}

function panel() {
  // The panel is rebuilt; the focus stays where it was.
  const called = (element) => Object.entries(element.dataset).join() || (element.getAttribute("aria-label") ?? element.textContent);
  const named = (element) => `${element.tagName} ${element.name ?? ""} ${called(element)}`;
  const before = $("findings").contains(document.activeElement) ? document.activeElement : null;
  $("findings").replaceChildren(...findingsPanel(list.current, state.devices, on).flat(2).filter(Boolean));
  if (!before) return;
  const same = [...$("findings").querySelectorAll("button, select, summary, input, textarea")].find((each) => named(each) === named(before));
  same?.focus({ preventScroll: true });
  if (same?.setSelectionRange) same.setSelectionRange(before.selectionStart, before.selectionEnd);
  if (document.activeElement === document.body) $("findings").focus({ preventScroll: true }); // what had it is gone, or disabled
}

const on = {
  isShown: (device) => state.shown.has(device),
  keyOf: (device) => String([...state.devices.keys()].indexOf(device) + 1),
  chosen: () => main.chosen,
  toggle(device) {
    if (!state.shown.delete(device)) state.shown.add(device);
    redraw();
  },
  line(k) {
    const again = main.chosen === k;
    main.chosen = again ? null : k;
    const line = list.current.answer.findings.lines[k];
    if (again) main.fit();
    else {
      state.shown.add(line.device);
      const { carina } = list.current.drawn;
      main.zoomOn(line.tip ? [line.tip, ...(carina ? [carina] : [])] : line.path);
    }
    corrector?.select(main.chosen);
    redraw();
  },
  carina: () => main.zoomOn([list.current.drawn.carina]),
  part: list.part,
  panel,
  correcting: (film) => (corrector ? correctionPanel(corrector, film) : null),
  similar: (film) => (state.about.similar ? similarPart(film, state.devices, on.part, panel) : null),
};

function showDevices(all) {
  state.shown.clear();
  if (all) for (const device of state.devices.keys()) state.shown.add(device);
  for (const viewer of [main, beside]) viewer.shown.carina = all;
}

function redraw() {
  main.changed();
  beside.changed();
  panel();
  buttons();
}

function buttons() {
  const press = (name, pressed) => document.querySelector(`[data-do="${name}"]`).setAttribute("aria-pressed", String(pressed));
  press("invert", state.active.gray.inverted);
  press("lines", state.shown.size > 0);
  press("prior", state.comparing);
  document.querySelector('[data-do="prior"]').disabled = list.films.filter((film) => film.answer).length < 2;
}

// Prior beside current

function compare(wanted) {
  state.comparing = wanted;
  beside.element.hidden = !wanted;
  if (!wanted) {
    state.active = main;
    state.prior = null;
    return buttons();
  }
  const others = list.films.filter((film) => film !== list.current && film.answer);
  choice.replaceChildren(...others.map((film) => h("option", { value: film.key }, film.name)));
  const prior = others.includes(state.prior) ? state.prior : others[0];
  if (!prior || beside.film !== prior) return showPrior(prior);
  state.prior = prior;
  choice.value = String(prior.key); // it is shown already, at the zoom that a person chose
  buttons();
}

function showPrior(film) {
  if (!film) return compare(false);
  state.prior = film;
  choice.value = String(film.key);
  show(beside, film);
  buttons();
}

// What a person does

const actions = {
  fit: () => state.active.fit(),
  actual: () => state.active.actual(),
  invert: () => state.active.invert(),
  window: () => state.active.resetWindow(),
  lines() {
    showDevices(state.shown.size === 0);
    redraw();
  },
  prior: () => compare(!state.comparing && list.films.filter((film) => film.answer).length > 1),
  help: () => ($("help").open ? $("help").close() : $("help").showModal()),
  choose: () => $("file").click(),
  clear() {
    if (mayGo(list.films)) list.clear();
  },
  async example() {
    $("example-problem").textContent = "";
    try {
      list.add([new File([await example()], "example.jpg", { type: "image/jpeg" })]);
    } catch (problem) {
      $("example-problem").textContent = problem.message;
    }
  },
  correct() {
    corrector?.toggle(list.current);
  },
  copy: () => $("findings").querySelector(".copy")?.click(),
};

document.addEventListener("click", (event) => {
  const name = event.target.closest("[data-do]")?.dataset.do;
  if (!name) return;
  actions[name]?.();
  buttons();
});
$("file").addEventListener("change", (event) => {
  list.add(event.target.files);
  event.target.value = "";
});

const KEYS = {
  f: "fit", z: "actual", i: "invert", r: "window", l: "lines", p: "prior", c: "copy", "?": "help", e: "correct",
};
const WINDOW = { w: [16, 0], n: [-16, 0], d: [0, 8], b: [0, -8] };
const ARROWS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input, textarea, select");
  if (event.altKey || document.querySelector("dialog[open]")) return;
  if (event.ctrlKey || event.metaKey) {
    if (field && field.tagName !== "SELECT") return; // it has an undo of its own
    if (event.key.toLowerCase() !== "z" || event.shiftKey || !corrector?.correcting) return;
    corrector.undo();
    return void event.preventDefault();
  }
  if (field) return;
  const onStage = event.target.closest(".stage");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!list.films.length && key !== "?") return;
  if (key.length === 1 && key !== " " && !onStage && !$("keys-anywhere").checked) return;
  if (corrector?.key(event, key)) return void event.preventDefault();
  if (ARROWS[key] && (onStage || event.target === document.body)) state.active.pan(...ARROWS[key].map((step) => 60 * step));
  else if (WINDOW[key]) state.active.window(...WINDOW[key]);
  else if (key === "+" || key === "=") state.active.zoomTo(state.active.view.zoom * 1.25);
  else if (key === "-") state.active.zoomTo(state.active.view.zoom / 1.25);
  else if (key === "j") list.step(1);
  else if (key === "k") list.step(-1);
  else if (key === " " && (onStage || event.target === document.body)) main.space = beside.space = true;
  else if (/^[1-9]$/.test(key) && [...state.devices.keys()][key - 1]) on.toggle([...state.devices.keys()][key - 1]);
  else if (KEYS[key] && actions[KEYS[key]]) {
    actions[KEYS[key]]();
    buttons();
  } else return;
  event.preventDefault();
});
document.addEventListener("keyup", (event) => {
  if (event.key === " ") main.space = beside.space = false;
});

$("keys-anywhere").checked = localStorage.getItem("keys") !== "on the film";
$("keys-anywhere").addEventListener("change", () => localStorage.setItem("keys", $("keys-anywhere").checked ? "anywhere" : "on the film"));

let dragged = 0;
const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragenter", (event) => {
  if (!files(event)) return;
  dragged += 1;
  $("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!files(event)) return;
  dragged -= 1;
  $("drop").hidden = dragged <= 0;
});
document.addEventListener("dragover", (event) => files(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  $("drop").hidden = true;
  if (event.dataTransfer.files.length) list.add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) list.add(event.clipboardData.files);
});
window.addEventListener("beforeunload", (event) => {
  if (list.films.some(isUnsaved)) event.preventDefault();
});
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Problem) say(event.reason.message);
});

list.addEventListener("choose", chosen);
list.addEventListener("changed", () => { // another film can be chosen as the prior, or one no longer
  if (state.comparing) compare(true);
  else buttons();
});
list.addEventListener("answered", async () => {
  const asked = list.films.filter((film) => film.answer).map((film) => film.answer.findings.bundle);
  if (asked.every((bundle) => bundle === state.about.bundle)) return;
  state.about = await about(); // the server was started again with another model
  sayWhatReads();
});
for (const viewer of [main, beside]) {
  viewer.addEventListener("touched", () => {
    state.active = viewer;
    buttons();
  });
  viewer.element.hidden = true;
}
beside.bar.replaceChildren(h("span", {}, "Prior"), choice, beside.readout);
$("panes").append(main.element, beside.element);
panel();
whenRefused(askToken);
begin();
