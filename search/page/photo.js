// One photograph in full view: its objects, what of them was drawn, and what can be done with it.

import { photograph } from "./api.js";
import { dot, element, showPicture } from "./dom.js";
import { boxesOver, matchesOf, number, partsOf } from "./results.js";

export class PhotoView {
  #dialog;
  #actions;
  #hits = [];
  #place = 0;
  #drawn = null;

  /** actions: onLike(hit), onTake(hit, number of an object). */
  constructor(dialog, actions) {
    this.#dialog = dialog;
    this.#actions = actions;
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // beside the content
    });
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.#step(step);
    });
  }

  /** Show a hit of a list. drawn: {colour, name} of each drawn object. */
  open(hits, place, drawn) {
    this.#hits = hits;
    this.#drawn = drawn;
    this.#show(place);
    this.#dialog.showModal();
  }

  #step(step) {
    const place = this.#place + step;
    if (!this.#hits[place]) return;
    this.#show(place);
    this.#dialog.focus();
  }

  #show(place) {
    this.#place = place;
    const hit = this.#hits[place];
    const image = element("img", { alt: hit.name, width: hit.width, height: hit.height });
    showPicture(image, photograph(hit.id));
    const boxes = boxesOver(hit, this.#drawn, true);
    const picture = element("div", { class: "picture" }, image, boxes);
    picture.style.setProperty("--ratio", hit.width / hit.height);
    const title = element("h2", { id: "photo-title" }, hit.name);
    const scores = [`Score ${number(hit.score)}`, ...partsOf(hit)].join(" \u00b7 ");
    const side = element(
      "div", { class: "side" },
      title,
      element("p", { class: "quiet" }, `Number ${hit.rank}. ${scores}`),
      element("ul", { class: "objects" }, ...this.#objects(hit, boxes)),
      element(
        "p", { class: "row" },
        this.#button("More like this", "primary", () => this.#actions.onLike(hit)),
        this.#button("Close", "", () => {}),
      ),
      element(
        "p", { class: "row" },
        this.#stepper("Previous", -1),
        this.#stepper("Next", 1),
      ),
    );
    this.#dialog.replaceChildren(element("div", { class: "content" }, picture, side));
  }

  /** List the objects of a hit; pointed at, each shows its box. */
  #objects(hit, boxes) {
    const matched = new Map(matchesOf(hit, this.#drawn).map(([drawn, to, s]) => [to, [drawn, s]]));
    return hit.boxes.map((_, i) => {
      const name = hit.labels[i] ?? "object";
      const [drawn, score] = matched.get(i) ?? [];
      const note = drawn ? `fits ${drawn.number} ${drawn.name}, ${number(score)}` : "not drawn";
      const use = this.#button("Put into drawing", "", () => this.#actions.onTake(hit, i));
      use.setAttribute("aria-label", `Put ${name} ${i + 1} into the drawing`);
      const text = element("span", {}, name, element("small", {}, note));
      const item = element("li", {}, dot(drawn?.colour), text, use);
      for (const type of ["pointerenter", "pointerleave", "focusin", "focusout"]) {
        const pointed = type === "pointerenter" || type === "focusin";
        item.addEventListener(type, () => boxes.children[i].classList.toggle("pointed", pointed));
      }
      return item;
    });
  }

  #button(text, look, action) {
    const button = element("button", { type: "button", class: look || null }, text);
    button.addEventListener("click", () => {
      this.#dialog.close();
      action();
    });
    return button;
  }

  #stepper(text, step) {
    const button = element("button", { type: "button" }, text);
    button.disabled = !this.#hits[this.#place + step];
    button.addEventListener("click", () => this.#step(step));
    return button;
  }
}
