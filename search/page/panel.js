// The objects below the canvas: which there are, what they are taken for, and their labels.

import { Combobox } from "./combobox.js";
import { byId, dot, element } from "./dom.js";

const GUESSES = 3; // shown of the selected object; the label menu has all

export class Panel {
  #scene;
  classes = [];
  guesses = new Map(); // key of an object -> [[class, probability], ...]

  constructor(scene) {
    this.#scene = scene;
    const options = (text) => this.#options(text);
    new Combobox(byId("label"), byId("labels"), options, (label) => this.#setLabel(label));
    scene.addEventListener("draw", () => this.show());
  }

  /** Return an object's label, else what it is taken for, with a question mark. */
  nameOf(object) {
    const guess = this.guesses.get(object.key)?.[0];
    return object.label ?? (guess ? `${guess[0]}?` : "object");
  }

  show() {
    const { objects, current } = this.#scene;
    byId("objects").replaceChildren(
      ...objects.map((object, i) => element("li", {}, this.#chip(object, i))),
    );
    const label = byId("label");
    label.disabled = !current;
    if (document.activeElement !== label || !current) label.value = current?.label ?? "";
    const found = (current && this.guesses.get(current.key)) || [];
    byId("guess").hidden = !found.length;
    byId("guesses").replaceChildren(
      ...found.slice(0, GUESSES).map(([name, probability]) => {
        const parts = [name, element("small", {}, percent(probability))];
        const button = element("button", { type: "button", class: "chip" }, ...parts);
        button.addEventListener("click", () => this.#setLabel(name));
        return button;
      }),
    );
  }

  #chip(object, i) {
    const pressed = String(object === this.#scene.current);
    const settings = { type: "button", class: "chip", "aria-pressed": pressed };
    const chip = element("button", settings, dot(object.colour), `${i + 1} ${this.nameOf(object)}`);
    chip.addEventListener("click", () => {
      this.#scene.select(object.key);
      byId("canvas").focus({ preventScroll: true });
    });
    return chip;
  }

  #options(text) {
    const wanted = text.trim().toLowerCase();
    const guessed = this.guesses.get(this.#scene.selected) ?? [];
    const likely = guessed.map(([value, probability]) => ({ value, note: percent(probability) }));
    const others = this.classes.filter((value) => guessed.every(([name]) => name !== value));
    const all = [...likely, ...others.map((value) => ({ value }))];
    const found = all.filter(({ value }) => value.toLowerCase().includes(wanted));
    return wanted ? found : [{ value: null }, ...found];
  }

  #setLabel(label) {
    byId("canvas").focus({ preventScroll: true });
    const { current } = this.#scene;
    if (current && label !== current.label) this.#scene.replace({ ...current, label });
    else this.show();
  }
}

function percent(probability) {
  return `${Math.round(100 * probability)} %`;
}
