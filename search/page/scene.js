// The drawn scene: objects that are replaced, never changed, so that its history is a list of lists.

// Of the drawn objects and of the boxes over photographs that match them.
export const COLOURS = [
  "#2563eb", "#ea580c", "#15803d", "#c026d3", "#b91c1c", "#0891b2", "#a16207", "#6d28d9",
];
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

/**
 * The scene as it is, as it was, and which object is selected.
 *
 * Behind the objects lies stuff: the label of each pixel of the layout, null where none is painted.
 *
 * Events: "draw" whenever it looks different, "commit" when it has become another for good.
 */
export class Scene extends EventTarget {
  #past = [{ objects: [], stuff: null }];
  #at = 0;
  #shown = null; // while something is dragged
  #last = { name: null, time: 0 };
  selected = null; // key of an object

  get objects() {
    return this.#shown ?? this.#past[this.#at].objects;
  }

  get stuff() {
    return this.#past[this.#at].stuff;
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
  commit(objects, name = null, stuff = this.stuff) {
    const now = performance.now();
    const goesOn = name && name === this.#last.name && now - this.#last.time < TOGETHER;
    this.#past.length = goesOn ? this.#at : this.#at + 1;
    this.#past.push({ objects, stuff });
    this.#last = { name, time: now };
    this.#go(this.#past.length - 1);
  }

  /** Make this the stuff behind the objects. */
  paint(stuff) {
    this.commit(this.#past[this.#at].objects, null, stuff);
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
