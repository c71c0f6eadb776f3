// The photographs found: ranked, page after page, with the boxes that match what was drawn.

import { Latest, sentenceOf, thumbnail } from "./api.js";
import { byId, element, showPicture } from "./dom.js";
import { COLOURS } from "./scene.js";

const PAGE = 24;
const TITLES = { whole: "whole picture" }; // of rankings whose names say too little

/** Return a score as text, with a true minus. */
export function number(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

/** Return what people read of a ranking. */
export function titleOf(ranking) {
  return TITLES[ranking] ?? ranking;
}

/** Return the parts of a hit's score as text. */
export function partsOf(hit) {
  return Object.entries(hit.parts).map(([name, value]) => `${titleOf(name)} ${number(value)}`);
}

/** Return [drawn object, object of the photograph, score] of each match. drawn: {colour, name} of
 * each drawn object; those of a photograph that others are compared with have colours of their
 * own. */
export function matchesOf(hit, drawn) {
  return hit.matches.map(([from, to, score]) => {
    const colour = COLOURS[from % COLOURS.length];
    return [{ number: from + 1, ...(drawn?.[from] ?? { colour, name: "object" }) }, to, score];
  });
}

/** Return the boxes of a photograph's objects, to be laid over it: those matched in the colour of
 * what was drawn, others with `all`. */
export function boxesOver(hit, drawn, all = false) {
  const matched = new Map(matchesOf(hit, drawn).map(([object, to]) => [to, object]));
  const boxes = hit.boxes.flatMap(([x0, y0, x1, y1], i) => {
    const object = matched.get(i);
    if (!object && !all) return [];
    const name = [object?.number, hit.labels[i]].filter(Boolean).join(" ");
    const box = element("span", { class: object ? "box matched" : "box" });
    if (name) box.append(element("b", {}, name));
    const [left, top] = [x0, y0].map((value) => `${100 * value}%`);
    const [width, height] = [x1 - x0, y1 - y0].map((value) => `${100 * value}%`);
    Object.assign(box.style, { left, top, width, height });
    if (object) box.style.setProperty("--colour", object.colour);
    return [box];
  });
  return element("span", { class: "boxes", "aria-hidden": "true" }, ...boxes);
}

export class Results {
  #onOpen;
  #latest = new Latest();
  question = null; // {title, drawn, ask} of what is shown
  hits = [];

  /** onOpen: gets the place of a hit that is chosen. */
  constructor(onOpen) {
    this.#onOpen = onOpen;
    byId("more").addEventListener("click", () => this.#more());
  }

  /** Show the answer to a question, and until it comes what was there. ask: returns a page of hits
   * for ({first, count}, signal). */
  async show(question) {
    this.#busy(true);
    const answer = await this.#ask(question, 0);
    if (!answer) return;
    this.question = question;
    this.hits = [];
    byId("found-title").textContent = question.title;
    byId("hits").replaceChildren();
    this.#add(answer);
  }

  /** Show nothing but a line of text. */
  clear(text) {
    this.#latest.stop();
    this.#busy(false);
    this.question = null;
    this.hits = [];
    byId("hits").replaceChildren();
    byId("found-title").textContent = "Photographs";
    byId("more").hidden = true;
    this.#tell(text);
  }

  async #more() {
    this.#busy(true);
    const first = this.hits.length;
    const answer = await this.#ask(this.question, first);
    if (!answer) return;
    this.#add(answer);
    byId("hits").children[first]?.querySelector("button").focus();
  }

  async #ask(question, first) {
    try {
      const page = { first, count: PAGE };
      const answer = await this.#latest.run((signal) => question.ask(page, signal));
      if (answer) this.#busy(false);
      return answer;
    } catch (error) {
      this.#busy(false);
      this.#tell(sentenceOf(error), true);
      return null;
    }
  }

  #add({ total, hits }) {
    const { drawn } = this.question;
    byId("hits").append(
      ...hits.map((hit, i) => this.#shown(hit, this.hits.length + i, drawn)),
    );
    this.hits.push(...hits);
    byId("more").hidden = this.hits.length >= total || !hits.length;
    const count = this.hits.length.toLocaleString("en");
    this.#tell(
      total
        ? `The best ${count} of ${total.toLocaleString("en")} photographs`
        : "Nothing found: draw something else, or fewer objects.",
    );
  }

  #shown(hit, place, drawn) {
    const image = element("img", { alt: "", loading: "lazy", width: hit.width, height: hit.height });
    showPicture(image, thumbnail(hit.id));
    const matches = matchesOf(hit, drawn).map(
      ([object, to]) => `${object.number} ${object.name}: ${hit.labels[to] ?? "object"}`,
    );
    const label = `${hit.rank}: ${hit.name}, score ${number(hit.score)}, ${partsOf(hit).join(", ")}; `
      + `matches ${matches.join(", ") || "none"}`;
    const button = element(
      "button", { type: "button", class: "photo", "aria-label": label },
      image, boxesOver(hit, drawn),
    );
    button.addEventListener("click", () => this.#onOpen(place));
    const caption = element(
      "p", { class: "scores", "aria-hidden": "true" },
      element("span", { class: "rank" }, String(hit.rank)),
      element("b", {}, number(hit.score)),
      element("span", { class: "parts", title: partsOf(hit).join("\n") }, partsOf(hit).join(" \u00b7 ")),
    );
    const item = element("li", { class: "hit" }, button, caption);
    item.style.setProperty("--ratio", hit.width / hit.height);
    return item;
  }

  #tell(text, isError = false) {
    byId("found-status").textContent = text;
    byId("found-status").classList.toggle("error", isError);
  }

  #busy(busy) {
    byId("hits").setAttribute("aria-busy", String(busy));
    byId("more").disabled = busy;
  }
}
