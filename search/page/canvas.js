// The canvas: shows the scene as SVG, and turns what a pointer does into changes of it.

import { movesOf, svg } from "./dom.js";
import { HEIGHT, WIDTH, erased, extent, moved, objectAt, resized } from "./geometry.js";
import { newObject } from "./scene.js";

const LEAST_STEP = 0.8; // units between points of a stroke
const LEAST_STROKE = 6; // units of the first of a new object: less is a slip of the hand
const REACH = 9; // CSS pixels round a line, a handle or the eraser
const FRAME = 4; // units between a box and its frame

// Handles: the sides that each of them moves, and where on the frame it is.
const HANDLES = [
  ["nw", 0, 0], ["n", 0.5, 0], ["ne", 1, 0], ["e", 1, 0.5],
  ["se", 1, 1], ["s", 0.5, 1], ["sw", 0, 1], ["w", 0, 0.5],
];

export function pointsOf(stroke) {
  const points = stroke.length > 1 ? stroke : [stroke[0], stroke[0]]; // one point is a dot
  return points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
}

/** Return the picture of an object, as SVG. */
export function drawing(object) {
  const group = svg("g", { stroke: object.colour, class: "strokes" });
  if (object.picture) {
    const [x, y, x1, y1] = object.box;
    const [width, height] = [x1 - x, y1 - y];
    const preserveAspectRatio = "none";
    group.append(svg("image", { href: object.picture, x, y, width, height, preserveAspectRatio }));
  }
  group.append(...object.strokes.map((stroke) => svg("polyline", { points: pointsOf(stroke) })));
  return group;
}

export class Canvas {
  #svg;
  #scene;
  #names;
  #say;
  #objects = svg("g");
  #frame = svg("g");
  #live = svg("polyline", { class: "strokes" });
  #pen = null; // {point, down}: where the keyboard draws
  #gesture = null;
  #tool = "draw";
  most = 8; // objects of a scene

  /** nameOf: names an object. say: tells people something. */
  constructor(canvas, scene, nameOf, say) {
    this.#svg = canvas;
    this.#scene = scene;
    this.#names = nameOf;
    this.#say = say;
    canvas.append(this.#objects, this.#frame, this.#live);
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event, true));
    canvas.addEventListener("pointercancel", (event) => this.#end(event, false));
    scene.addEventListener("draw", () => this.render());
  }

  get tool() {
    return this.#tool;
  }

  set tool(tool) {
    this.#tool = tool;
    this.#svg.dataset.tool = tool;
    this.render();
  }

  // ---- showing -----------------------------------------------------------------------------------

  render() {
    const { objects, current } = this.#scene;
    this.#objects.replaceChildren(...objects.map((object, i) => this.#shown(object, i)));
    this.#frame.replaceChildren(...(current ? this.#framed(current) : []), ...this.#cross());
    this.#svg.toggleAttribute("data-empty", !objects.length && !this.#gesture && !this.#pen);
    if (current) this.#svg.setAttribute("aria-activedescendant", `object-${current.key}`);
    else this.#svg.removeAttribute("aria-activedescendant");
  }

  /** Show where the keyboard draws, {point, down}; null: nowhere. */
  showPen(pen) {
    this.#pen = pen;
    this.render();
  }

  #shown(object, i) {
    const name = this.#names(object);
    const [x0, y0, x1, y1] = object.box.map(Math.round);
    const place = `left ${x0}, top ${y0}, ${x1 - x0} wide, ${y1 - y0} high`;
    const label = `Object ${i + 1} of ${this.#scene.objects.length}, ${name}: ${place}`;
    const group = svg(
      "g",
      { id: `object-${object.key}`, role: "img", "aria-label": label },
      drawing(object),
    );
    const tag = svg("text", { class: "tag", fill: object.colour, x: Math.max(x0, 3) });
    tag.setAttribute("y", y0 > 20 ? y0 - 10 : Math.min(y1 + 16, HEIGHT - 4));
    tag.textContent = `${i + 1} ${name}`;
    group.append(tag);
    return group;
  }

  #framed({ box, colour }) {
    const [x, y] = [box[0] - FRAME, box[1] - FRAME];
    const [width, height] = [box[2] - box[0] + 2 * FRAME, box[3] - box[1] + 2 * FRAME];
    const frame = svg("rect", { class: "frame", x, y, width, height, rx: 2, stroke: colour });
    if (this.#tool !== "select") return [frame];
    const handles = this.#handles(box).map(([sides, hx, hy]) =>
      svg("circle", { class: `handle ${sides}`, cx: hx, cy: hy, r: 4.5, stroke: colour }),
    );
    return [frame, ...handles];
  }

  #cross() {
    if (!this.#pen) return [];
    const [x, y] = this.#pen.point;
    const d = `M${x - 7} ${y}h14M${x} ${y - 7}v14`;
    return [svg("path", { class: this.#pen.down ? "pen down" : "pen", d })];
  }

  #handles([x0, y0, x1, y1]) {
    return HANDLES.map(([sides, right, below]) => [
      sides,
      x0 - FRAME + right * (x1 - x0 + 2 * FRAME),
      y0 - FRAME + below * (y1 - y0 + 2 * FRAME),
    ]);
  }

  // ---- pointer -----------------------------------------------------------------------------------

  /** Units of the canvas in so many CSS pixels. */
  #units(pixels) {
    return (pixels * WIDTH) / this.#svg.getBoundingClientRect().width;
  }

  #point(event) {
    const matrix = this.#svg.getScreenCTM().inverse();
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    return [clamp(x, WIDTH), clamp(y, HEIGHT)];
  }

  #down(event) {
    if (!event.isPrimary || event.button !== 0) return;
    this.#svg.setPointerCapture(event.pointerId);
    const point = this.#point(event);
    if (this.#tool === "draw") this.#gesture = this.drawing(point);
    else if (this.#tool === "erase") this.#gesture = this.#erasing(point);
    else this.#gesture = this.#selecting(point, this.#units(event.pointerType === "touch" ? 18 : REACH));
    this.render();
  }

  #move(event) {
    if (!this.#gesture || !event.isPrimary) return;
    for (const each of movesOf(event)) this.#gesture.move(this.#point(each), event.shiftKey);
  }

  #end(event, kept) {
    if (!this.#gesture || !event.isPrimary) return;
    const gesture = this.#gesture;
    this.#gesture = null;
    if (kept) gesture.end();
    else this.cancel();
    this.render();
  }

  /** Leave a gesture that has begun; return whether there was one. */
  cancel() {
    const begun = this.#gesture !== null;
    this.#gesture = null;
    this.#live.removeAttribute("points");
    this.#scene.show(null);
    return begun;
  }

  // A gesture: move(point, shiftKey) while it goes on, end() when it is done.

  drawing(start) {
    const stroke = [start];
    const colour = this.#growing()?.colour ?? newObject({}, this.#scene.objects).colour;
    this.#live.setAttribute("stroke", colour);
    this.#live.setAttribute("points", pointsOf(stroke));
    return {
      move: (point) => {
        const [x, y] = stroke.at(-1);
        if (Math.hypot(point[0] - x, point[1] - y) < LEAST_STEP) return;
        stroke.push(point);
        const added = this.#svg.createSVGPoint();
        [added.x, added.y] = point;
        this.#live.points.appendItem(added);
      },
      end: () => {
        this.#live.removeAttribute("points");
        this.#addStroke(stroke);
      },
    };
  }

  /** Return the object that the next stroke goes to, null for a new one. */
  #growing() {
    const { current } = this.#scene;
    return current?.picture ? null : current;
  }

  #addStroke(stroke) {
    const object = this.#growing();
    const box = extent([stroke]);
    if (object) {
      const low = [0, 1].map((i) => Math.min(object.box[i], box[i]));
      const high = [2, 3].map((i) => Math.max(object.box[i], box[i]));
      const strokes = [...object.strokes, stroke];
      this.#scene.replace({ ...object, strokes, box: [...low, ...high] });
    } else if (this.#scene.objects.length >= this.most) {
      this.#say(`A scene has at most ${this.most} objects: select one to go on with it.`);
    } else if (Math.max(box[2] - box[0], box[3] - box[1]) >= LEAST_STROKE) {
      this.#scene.add(newObject({ strokes: [stroke], box }, this.#scene.objects));
    }
  }

  #erasing(start) {
    const radius = this.#units(REACH);
    let last = start;
    let objects = erased(this.#scene.objects, start, radius);
    this.#scene.show(objects);
    return {
      move: (point) => {
        const steps = Math.ceil(Math.hypot(point[0] - last[0], point[1] - last[1]) / radius);
        for (let i = 1; i <= steps; i++) {
          const between = [0, 1].map((axis) => last[axis] + ((point[axis] - last[axis]) * i) / steps);
          objects = erased(objects, between, radius);
        }
        last = point;
        this.#scene.show(objects);
      },
      end: () => {
        this.#scene.show(null);
        if (objects.some((each, i) => each !== this.#scene.objects[i])
            || objects.length < this.#scene.objects.length) this.#scene.commit(objects);
      },
    };
  }

  #selecting(start, reach) {
    const { current } = this.#scene;
    const handle = current && this.#handleAt(current.box, start, reach);
    const object = handle ? current : objectAt(this.#scene.objects, start, reach / 2);
    this.#scene.select(object?.key ?? null);
    if (!object) return { move() {}, end() {} };
    let changed = object;
    return {
      move: ([x, y], shiftKey) => {
        const [dx, dy] = [x - start[0], y - start[1]];
        changed = handle ? resized(object, sidesOf(handle, dx, dy), shiftKey) : moved(object, dx, dy);
        this.#scene.show(
          this.#scene.objects.map((each) => (each.key === object.key ? changed : each)),
        );
      },
      end: () => {
        this.#scene.show(null);
        if (changed !== object) this.#scene.replace(changed);
      },
    };
  }

  #handleAt(box, [x, y], reach) {
    const distance = ([, hx, hy]) => Math.hypot(x - hx, y - hy);
    const [nearest] = this.#handles(box).sort((a, b) => distance(a) - distance(b));
    // The middle of a small object still moves it.
    const inside = Math.min(box[2] - box[0], box[3] - box[1]) / 3 + FRAME;
    return distance(nearest) <= Math.min(reach, inside) ? nearest[0] : null;
  }
}

/** Return a coordinate within the canvas, not finer than is worth keeping. */
export function clamp(value, side) {
  return Math.round(Math.min(Math.max(value, 0), side) * 10) / 10;
}

function sidesOf(handle, dx, dy) {
  return {
    west: handle.includes("w") ? -dx : 0,
    east: handle.includes("e") ? dx : 0,
    north: handle.includes("n") ? -dy : 0,
    south: handle.includes("s") ? dy : 0,
  };
}
