// Paths of lines: lists of points [x, y], in px of the film.

export const between = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

/** How far a point lies from the segment from a to b. */
export function fromSegment(p, a, b) {
  const length = between(a, b) ** 2;
  const share = length ? Math.max(0, Math.min(1, ((p[0] - a[0]) * (b[0] - a[0]) + (p[1] - a[1]) * (b[1] - a[1])) / length)) : 0;
  return between(p, [a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])]);
}

/** A path with as few points as keep it within a tolerance (Douglas and Peucker). */
export function simplified(points, tolerance) {
  if (points.length < 3) return points;
  let far = 0;
  let most = 0;
  for (let k = 1; k < points.length - 1; k += 1) {
    const away = fromSegment(points[k], points[0], points.at(-1));
    if (away > most) [far, most] = [k, away];
  }
  if (most <= tolerance) return [points[0], points.at(-1)];
  return [...simplified(points.slice(0, far + 1), tolerance).slice(0, -1), ...simplified(points.slice(far), tolerance)];
}

/** Points in tenths of a pixel, as they are saved. */
export const rounded = (points) => points.map(([x, y]) => [Math.round(10 * x) / 10, Math.round(10 * y) / 10]);
