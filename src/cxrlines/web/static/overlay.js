// Lines, tips, the carina and distances over a film, as SVG in screen pixels.

import { s } from "./dom.js";
import { between } from "./paths.js";

const RING = 7;
const TEXT = 13;
const pen = document.createElement("canvas").getContext("2d");

const colour = (rgb) => `rgb(${rgb.join(" ")})`;

const d = (points) => points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

/** The path without what lies within the ring or square around its end, so that the end itself stays visible. */
function outside(points, tip) {
  if (!tip) return points;
  let end = points.length;
  while (end > 1 && between(points[end - 1], tip) < RING + 1) end -= 1;
  const last = points[end - 1];
  const away = between(last, tip);
  if (away <= RING) return points.slice(0, end);
  const share = RING / away;
  return [...points.slice(0, end), [tip[0] + share * (last[0] - tip[0]), tip[1] + share * (last[1] - tip[1])]];
}

/** Places for texts beside points that cover neither each other nor the tips. */
class Places {
  constructor(width, height) {
    Object.assign(this, { width, height, taken: [] });
  }

  keep([x, y], r) {
    this.taken.push([x - r, y - r, x + r, y + r]);
  }

  /** Left and top for a text of a size beside a point, or as near to it as there is room. */
  find([x, y], wide, tall) {
    const within = Math.max(4, Math.min(x + 15, this.width - wide - 4));
    for (const up of [0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8]) {
      for (const left of [x + 15, x - 15 - wide, within]) {
        const top = y + up * 1.1 * tall - tall / 2;
        const box = [left, top, left + wide, top + tall];
        const inside = left >= 4 && top >= 4 && box[2] <= this.width - 4 && box[3] <= this.height - 4;
        if (inside && !this.taken.some((t) => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) {
          this.taken.push(box);
          return [left, top];
        }
      }
    }
    return [within, y - tall / 2];
  }
}

/** A text of one or two rows beside a point. */
function label(places, at, rows, fill) {
  pen.font = `600 ${TEXT}px system-ui, sans-serif`;
  const wide = Math.max(...rows.map((row) => pen.measureText(row).width)) + 4;
  const [left, top] = places.find(at, wide, rows.length * 17);
  return rows.map((row, k) =>
    s("text", { x: left, y: top + 13 + 16 * k, fill: k ? null : fill, class: k ? "small" : null }, row),
  );
}

/** From the tip along the patient's axis to the height of the carina, then across to it. */
function measure(tip, carina, rotation) {
  const corner = rotation % 180 ? [carina[0], tip[1]] : [tip[0], carina[1]];
  return s("path", { class: "measure", d: d([tip, corner, carina]) });
}

/**
 * The overlay of a film.
 *
 * A ring is a tip; a square is where a line is followed to and its further course is not seen.
 *
 * @param {object} film - {lines: [{device, path, tip, followed_to}], carina, rotation, words: [{tip, measured}], ruler}
 * @param {object} show - {at: film to screen, width, height, devices: shown ones, colours, chosen: a line's index}
 */
export function overlay(film, show) {
  const places = new Places(show.width, show.height);
  const lines = film.lines
    .map((line, k) => {
      const end = line.tip ?? line.followed_to;
      return { ...line, k, path: line.path.map(show.at), tip: line.tip && show.at(line.tip), end: end && show.at(end) };
    })
    .filter((line) => !line.hidden && show.devices.has(line.device));
  const carina = film.carina && show.carina ? show.at(film.carina) : null;
  if (carina) places.keep(carina, 14);
  for (const line of lines) if (line.end) places.keep(line.end, RING + 3);
  const parts = [];
  for (const line of lines) {
    const path = d(outside(line.path, line.end));
    const stroke = colour(show.colours[line.device]);
    const chosen = show.chosen === line.k;
    parts.push(
      s("g", { class: show.chosen === null || chosen ? null : "faint" },
        s("path", { class: "under", d: path, "stroke-width": chosen ? 7 : 5 }),
        s("path", { class: "line", d: path, stroke, "stroke-width": chosen ? 3 : 2 }),
        line.tip && s("circle", { class: "ring", cx: line.tip[0], cy: line.tip[1], r: RING, stroke }),
        !line.tip && line.end && s("rect", { class: "ring", x: line.end[0] - RING, y: line.end[1] - RING, width: 2 * RING, height: 2 * RING, stroke })),
    );
  }
  for (const line of lines) {
    const said = film.words[line.k];
    if (carina && line.tip && said?.measured && (line.device === "ETT" || show.chosen === line.k)) {
      parts.push(measure(line.tip, carina, film.rotation));
    }
  }
  if (carina) {
    const [x, y] = carina;
    const arms = [[0, -1], [-0.8, 0.6], [0.8, 0.6]].map((arm) => turned(arm, film.rotation));
    parts.push(s("path", { class: "carina", d: arms.map(([ax, ay]) => d([[x, y], [x + 12 * ax, y + 12 * ay]])).join("") }));
    parts.push(label(places, carina, ["carina"], "#fff"));
  }
  for (const line of lines) {
    if (!line.end) continue;
    const said = film.words[line.k];
    const rows = [said?.tip ?? line.device, ...(said?.measured ? [film.ruler] : [])];
    parts.push(label(places, line.end, rows, colour(show.colours[line.device])));
  }
  return parts;
}

/** A direction on the upright film, on the film as it is stored. */
function turned([x, y], rotation) {
  return { 0: [x, y], 90: [y, -x], 180: [-x, -y], 270: [-y, x] }[rotation] ?? [x, y];
}
