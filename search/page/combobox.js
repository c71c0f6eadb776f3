// A field with a list of names to choose from, by typing, keys or pointer (the ARIA combobox).

import { element } from "./dom.js";

export class Combobox {
  #input;
  #list;
  #options = () => [];
  #onChoose;
  #active = -1;

  /** options: returns [{value, note}] for a text. onChoose: gets the value that is chosen. */
  constructor(input, list, options, onChoose) {
    this.#input = input;
    this.#list = list;
    this.#options = options;
    this.#onChoose = onChoose;
    input.addEventListener("focus", () => input.select());
    input.addEventListener("click", () => this.#open(""));
    input.addEventListener("input", () => this.#open(input.value));
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#key(event));
    // Else the field loses the focus before the click has come.
    list.addEventListener("pointerdown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#choose(option);
    });
  }

  #open(text) {
    const found = this.#options(text);
    this.#list.replaceChildren(
      ...found.map(({ value, note }, i) => {
        const parts = [value ?? "No label", ...(note ? [element("small", {}, note)] : [])];
        const option = element("li", { role: "option", id: `${this.#list.id}-${i}` }, ...parts);
        option.dataset.value = value ?? "";
        return option;
      }),
    );
    this.#list.hidden = !found.length;
    this.#input.setAttribute("aria-expanded", String(found.length > 0));
    this.#mark(text ? 0 : -1);
  }

  #close() {
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#input.removeAttribute("aria-activedescendant");
    this.#active = -1;
  }

  #mark(number) {
    const options = [...this.#list.children];
    this.#active = options.length && number >= 0 ? number % options.length : -1;
    options.forEach((option, i) => option.setAttribute("aria-selected", i === this.#active));
    const option = options[this.#active];
    if (!option) return this.#input.removeAttribute("aria-activedescendant");
    option.scrollIntoView({ block: "nearest" });
    return this.#input.setAttribute("aria-activedescendant", option.id);
  }

  #choose(option) {
    this.#close();
    this.#onChoose(option.dataset.value || null);
  }

  #key(event) {
    const { length } = this.#list.children;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (this.#list.hidden) this.#open("");
      else if (event.key === "ArrowDown") this.#mark(this.#active + 1);
      else this.#mark(Math.max(this.#active, 0) + length - 1);
    } else if (event.key === "Enter" && !this.#list.hidden && this.#active >= 0) {
      this.#choose(this.#list.children[this.#active]);
    } else if (event.key === "Enter" && !this.#input.value) {
      this.#close();
      this.#onChoose(null);
    } else if (event.key === "Escape" && !this.#list.hidden) {
      this.#close();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
