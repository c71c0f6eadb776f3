// The drawn scene: objects that are replaced, never changed, so that its history is a list of lists.

export const WIDTH = 400;
export const HEIGHT = 300;
// Of the drawn objects and of the boxes over photographs that match them.
export const COLOURS = [
  "#2563eb", "#ea580c", "#15803d", "#c026d3", "#b91c1c", "#0891b2", "#a16207", "#6d28d9",
];
const FORMAT = "scene-designer scene";
const VERSION = 1;
const LEAST_EXTENT = 0.01; // of the canvas: a straight line has a box too
const LEAST_SIZE = 8; // of a box that is resized, and of what stays visible of one that is moved
const TOGETHER = 800; // ms: within them the same step of keys is one step of undo

let lastKey = 0;

/**
 * Return a new object: {key, colour, strokes, picture, isPhoto, box, label}.
 *
 * strokes: each a list of [x, y], in units of the canvas. picture: a data URL, instead of strokes.
 * box: [x0, y0, x1, y1], in units too. key: tells it from others as long as the page is open.
 */
export function newObject(parts, others) {
  const colour = COLOURS.find((each) => others.every((other) => other.colour !== each));
  return {
    strokes: [], picture: null, isPhoto: false, label: null, ...parts,
    key: ++lastKey, colour: colour ?? COLOURS[others.length % COLOURS.length],
  };
}

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

/** Return objects as the JSON of search/scene.py. */
export function toJson(objects) {
  return {
    format: FORMAT,
    version: VERSION,
    canvas: [WIDTH, HEIGHT],
    objects: objects.map(({ strokes, picture, isPhoto, box, label }) => ({
      ...(picture ? { picture, is_photo: isPhoto } : { strokes }),
      box: box.map((value, i) => value / (i % 2 ? HEIGHT : WIDTH)),
      label,
    })),
  };
}

/** Return the objects of such JSON. Error for anything else, in a sentence. */
export function fromJson(text, most) {
  let saved;
  try {
    saved = JSON.parse(text);
  } catch {
    throw new Error("This file is no scene: it is not JSON.");
  }
  if (saved?.format !== FORMAT || saved.version !== VERSION) {
    throw new Error(`This file is no scene: it does not say "${FORMAT}", version ${VERSION}.`);
  }
  const { canvas, objects } = saved;
  if (!isNumbers(canvas, 2) || Math.min(...canvas) <= 0 || !Array.isArray(objects)) {
    throw new Error("This scene is damaged: it has no canvas or no objects.");
  }
  if (!objects.length || objects.length > most) {
    throw new Error(`This scene has ${objects.length} objects; 1 to ${most} can be searched.`);
  }
  return objects.reduce((read, each, i) => [...read, readObject(each, i, canvas, read)], []);
}

function readObject(saved, number, canvas, others) {
  const { strokes = [], picture = null, label = null, is_photo: isPhoto = false } = saved ?? {};
  const shown = picture === null
    ? Array.isArray(strokes) && strokes.length
      && strokes.every((s) => Array.isArray(s) && s.length && s.every((p) => isNumbers(p, 2)))
    : /^data:image\/(png|jpeg);base64,/.test(picture) && saved.box;
  const goodBox = !saved?.box || (isNumbers(saved.box, 4) && isInside(saved.box));
  if (!shown || !goodBox || !(label === null || typeof label === "string")) {
    throw new Error(`Object ${number + 1} of this scene is damaged.`);
  }
  const units = [WIDTH / canvas[0], HEIGHT / canvas[1]];
  const given = saved.box?.map((value, i) => value * (i % 2 ? HEIGHT : WIDTH));
  if (picture) return newObject({ picture, isPhoto: isPhoto === true, label, box: given }, others);
  const onCanvas = strokes.map((s) => s.map(([x, y]) => [x * units[0], y * units[1]]));
  const box = given ?? extent(onCanvas);
  // The drawing keeps its proportions, in the middle of its box: they say what it is.
  const drawn = extent(strokes, canvas);
  const [w, h] = [drawn[2] - drawn[0], drawn[3] - drawn[1]];
  const scale = Math.min((box[2] - box[0]) / w, (box[3] - box[1]) / h);
  const [x, y] = [(box[0] + box[2] - w * scale) / 2, (box[1] + box[3] - h * scale) / 2];
  const inBox = fitted({ strokes, box: drawn }, [x, y, x + w * scale, y + h * scale]);
  return newObject({ strokes: inBox.strokes, label, box }, others);
}

function isNumbers(values, count) {
  return Array.isArray(values) && values.length === count && values.every(Number.isFinite);
}

function isInside([x0, y0, x1, y1]) {
  return x0 < x1 && y0 < y1 && x0 < 1 && y0 < 1 && x1 > 0 && y1 > 0;
}

/**
 * The scene as it is, as it was, and which object is selected.
 *
 * Events: "draw" whenever it looks different, "commit" when it has become another for good.
 */
export class Scene extends EventTarget {
  #past = [[]];
  #at = 0;
  #shown = null; // while something is dragged
  #last = { name: null, time: 0 };
  selected = null; // key of an object

  get objects() {
    return this.#shown ?? this.#past[this.#at];
  }

  get current() {
    return this.objects.find((object) => object.key === this.selected) ?? null;
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#past.length - 1;
  }

  select(key) {
    this.selected = key;
    this.dispatchEvent(new Event("draw"));
  }

  /** Show objects that are being dragged; null: those of before. */
  show(objects) {
    this.#shown = objects;
    this.dispatchEvent(new Event("draw"));
  }

  /** Make these the objects. name: of a step that is one with the one before if that is the same
   * and was just now. */
  commit(objects, name = null) {
    const now = performance.now();
    const goesOn = name && name === this.#last.name && now - this.#last.time < TOGETHER;
    this.#past.length = goesOn ? this.#at : this.#at + 1;
    this.#past.push(objects);
    this.#last = { name, time: now };
    this.#go(this.#past.length - 1);
  }

  undo() {
    if (this.canUndo) this.#go(this.#at - 1);
    this.#last = { name: null, time: 0 };
  }

  redo() {
    if (this.canRedo) this.#go(this.#at + 1);
  }

  add(object) {
    this.selected = object.key;
    this.commit([...this.objects, object]);
  }

  replace(object, name = null) {
    this.commit(this.objects.map((each) => (each.key === object.key ? object : each)), name);
  }

  remove(object) {
    this.commit(this.objects.filter((each) => each.key !== object.key));
  }

  /** Move an object to the front by so many places, backwards if negative. */
  raise(object, places) {
    const others = this.objects.filter((each) => each.key !== object.key);
    const place = this.objects.indexOf(object) + places;
    if (place < 0 || place > others.length) return;
    this.commit(others.toSpliced(place, 0, object));
  }

  #go(at) {
    this.#at = at;
    this.#shown = null;
    if (!this.current) this.selected = null;
    this.dispatchEvent(new Event("draw"));
    this.dispatchEvent(new Event("commit"));
  }
}
