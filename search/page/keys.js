// What keys do on the canvas: choose, move and resize objects, and draw.

import { clamp } from "./canvas.js";
import { HEIGHT, WIDTH, moved, scaled } from "./geometry.js";

const STEP = 6; // units that an arrow key moves; with Shift 1
const GROWTH = 1.1; // of + and -
/** The step of each arrow key, to the right and down. */
export const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class CanvasKeys {
  #element;
  #canvas;
  #scene;
  #say;
  #onLabel;
  #point = null; // of the pen
  #stroke = null; // the gesture while it is down

  /** element: of the canvas. say: tells people something. onLabel: is called to label. */
  constructor(element, canvas, scene, say, onLabel) {
    this.#element = element;
    this.#canvas = canvas;
    this.#scene = scene;
    this.#say = say;
    this.#onLabel = onLabel;
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.#handle(event)) event.preventDefault();
    });
    element.addEventListener("pointerdown", () => this.putPenAway(), { capture: true });
    element.addEventListener("blur", () => this.putPenAway());
  }

  /** End what the pen draws, and hide it. */
  putPenAway() {
    this.#lift();
    this.#point = null;
    this.#canvas.showPen(null);
  }

  /** Return whether the key means something here. */
  #handle({ key, shiftKey }) {
    const { objects, current } = this.#scene;
    const [dx, dy] = (ARROWS[key] ?? [0, 0]).map((value) => value * (shiftKey ? 1 : STEP));
    if (key === "PageDown" || key === "PageUp") {
      this.#choose(key === "PageDown" ? 1 : -1);
    } else if (key === "Escape") {
      if (this.#point) this.putPenAway();
      else if (!this.#canvas.cancel()) this.#scene.select(null);
    } else if (this.#canvas.tool === "draw" && (dx || dy || key === " ")) {
      this.#movePen(dx, dy, key === " ");
    } else if (current && (dx || dy)) {
      this.#scene.replace(moved(current, dx, dy), `move ${current.key}`);
    } else if (current && "+=-_".includes(key)) {
      const factor = "+=".includes(key) ? GROWTH : 1 / GROWTH;
      this.#scene.replace(scaled(current, factor), `scale ${current.key}`);
    } else if (key === "Enter" && current) {
      this.putPenAway();
      this.#onLabel();
    } else {
      return key === "Enter" && objects.length > 0 && this.#choose(1);
    }
    return true;
  }

  #choose(step) {
    const { objects, current } = this.#scene;
    if (!objects.length) return true;
    this.putPenAway();
    const at = current ? objects.indexOf(current) + step : Math.min(step, 0);
    const { key } = objects.at(at % objects.length);
    this.#scene.select(key);
    this.#say(this.#element.querySelector(`#object-${key}`).getAttribute("aria-label"));
    return true;
  }

  #movePen(dx, dy, press) {
    const [x, y] = this.#point ?? [WIDTH / 2, HEIGHT / 2];
    this.#point = [clamp(x + dx, WIDTH), clamp(y + dy, HEIGHT)];
    if (press && this.#stroke) {
      this.#lift();
      this.#say("Pen up.");
    } else if (press) {
      this.#stroke = this.#canvas.drawing(this.#point);
      this.#say("Pen down: arrow keys draw, Space lifts it.");
    } else {
      this.#stroke?.move(this.#point);
    }
    this.#canvas.showPen({ point: this.#point, down: this.#stroke !== null });
  }

  #lift() {
    this.#stroke?.end();
    this.#stroke = null;
  }
}
