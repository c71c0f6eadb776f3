// Boxes and lines of objects. Units of the canvas throughout; objects are those of scene.js.

export const WIDTH = 400;
export const HEIGHT = 300;
const LEAST_EXTENT = 0.01; // of the canvas: a straight line has a box too
const LEAST_SIZE = 8; // of a box that is resized, and of what stays visible of one that is moved

/** Return the box round strokes, nowhere thinner than LEAST_EXTENT of the canvas. */
export function extent(strokes, canvas = [WIDTH, HEIGHT]) {
  const points = strokes.flat();
  const range = (axis) => {
    const values = points.map((point) => point[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const missing = Math.max(LEAST_EXTENT * canvas[axis] - (high - low), 0) / 2;
    return [low - missing, high + missing];
  };
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  return [x0, y0, x1, y1];
}

/** Return an object stretched from its box to another. */
export function fitted(object, box) {
  const [a, b] = [object.box, box];
  const map = (value, axis) =>
    b[axis] + ((value - a[axis]) * (b[axis + 2] - b[axis])) / (a[axis + 2] - a[axis]);
  const strokes = object.strokes.map((stroke) => stroke.map(([x, y]) => [map(x, 0), map(y, 1)]));
  return { ...object, strokes, box };
}

/** Return an object moved; some of it stays on the canvas. */
export function moved(object, dx, dy) {
  const [x0, y0, x1, y1] = object.box;
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  const x = within(dx, LEAST_SIZE - x1, WIDTH - LEAST_SIZE - x0);
  const y = within(dy, LEAST_SIZE - y1, HEIGHT - LEAST_SIZE - y0);
  return fitted(object, [x0 + x, y0 + y, x1 + x, y1 + y]);
}

/** Return an object resized by a handle. west ... south: what is added to each side. */
export function resized(object, { west = 0, north = 0, east = 0, south = 0 }, keepRatio = false) {
  const [x0, y0, x1, y1] = object.box;
  let width = Math.max(x1 - x0 + west + east, LEAST_SIZE);
  let height = Math.max(y1 - y0 + north + south, LEAST_SIZE);
  if (keepRatio) {
    const scale = Math.max(width / (x1 - x0), height / (y1 - y0));
    [width, height] = [(x1 - x0) * scale, (y1 - y0) * scale];
  }
  const left = west ? x1 - width : x0;
  const top = north ? y1 - height : y0;
  return moved(fitted(object, [left, top, left + width, top + height]), 0, 0);
}

/** Return an object made larger or smaller round its centre. */
export function scaled(object, factor) {
  const [x0, y0, x1, y1] = object.box;
  const [x, y] = [((x1 - x0) * (factor - 1)) / 2, ((y1 - y0) * (factor - 1)) / 2];
  const box = [x0 - x, y0 - y, x1 + x, y1 + y];
  const size = Math.min(box[2] - box[0], box[3] - box[1]);
  return moved(factor < 1 && size < LEAST_SIZE ? object : fitted(object, box), 0, 0);
}

/** Return the strokes of an object, left and right exchanged. */
export function mirroredStrokes({ strokes, box }) {
  return strokes.map((stroke) => stroke.map(([x, y]) => [box[0] + box[2] - x, y]));
}

/** Return objects without the strokes that pass within `radius` of a point, and without what is
 * empty then. Pictures stay. */
export function erased(objects, point, radius) {
  return objects.flatMap((object) => {
    const strokes = object.strokes.filter((stroke) => distance(stroke, point) > radius);
    if (strokes.length === object.strokes.length) return [object];
    return strokes.length ? [{ ...object, strokes, box: extent(strokes) }] : [];
  });
}

/** Return the object under a point: the uppermost whose line or picture it meets, else the smallest
 * whose box holds it, else null. */
export function objectAt(objects, point, radius) {
  const [x, y] = point;
  const holds = ({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3];
  const met = objects.findLast((object) =>
    object.picture ? holds(object) : object.strokes.some((s) => distance(s, point) <= radius),
  );
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  return met ?? objects.filter(holds).sort((a, b) => area(a) - area(b))[0] ?? null;
}

function distance(stroke, [x, y]) {
  let least = Infinity;
  stroke.forEach(([x1, y1], i) => {
    const [x0, y0] = stroke[Math.max(i - 1, 0)];
    const [dx, dy] = [x1 - x0, y1 - y0];
    const along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1);
    const t = Math.min(Math.max(along, 0), 1);
    least = Math.min(least, Math.hypot(x - x0 - t * dx, y - y0 - t * dy));
  });
  return least;
}
