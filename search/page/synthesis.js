// The layout of the drawing over painted background, and the picture that is made of it.

import { Latest, dataUrl, sentenceOf } from "./api.js";
import { byId, dot, element, movesOf, onFile, press } from "./dom.js";
import { download, downloadUrl, loaded } from "./files.js";
import { ARROWS } from "./keys.js";
import { NONE, SIDE, labelsPng, readLabels } from "./labels.js";
import { toJson } from "./scene_json.js";

const WAIT = 120; // ms of rest before a changed scene gets its layout
const CHIPS = 9; // materials that are shown at once; a menu has the others
const WELL_KNOWN = [
  "sky-other", "clouds", "sea", "grass", "sand", "road", "tree", "snow", "mountain", "river", "dirt",
  "floor-wood", "wall-other",
];
const STEP = 8; // pixels of the layout that an arrow key moves; with Shift 1

/** Return the name of a class as people say it. */
function spoken(name) {
  return name.replace(/-other$/, "").replaceAll("-", " ");
}

export class Synthesis {
  #scene;
  #api;
  #layouts = new Latest();
  #context = byId("layout").getContext("2d");
  #stuff; // materials: {name, label, colour}
  #material;
  #brush = "band";
  #image = null; // of the layout that is shown
  #address = null; // its data URL
  #shown = {}; // the {objects, stuff} that it was asked for
  #made = {}; // and those of the picture
  #isMaking = false;
  #gesture = null;
  #point = [SIDE / 2, SIDE / 2]; // of the keyboard's brush
  #timer = null;

  /** about: what the server says of its synthesis. */
  constructor(scene, api, about) {
    this.#scene = scene;
    this.#api = api;
    this.#stuff = about.stuff;
    byId("generated").hidden = !about.picture;
    this.#showMaterials();
    this.#listen();
    this.#render();
    byId("synthesis").hidden = byId("help-synthesis").hidden = false;
  }

  #listen() {
    const on = (id, type, action) => byId(id).addEventListener(type, action);
    this.#scene.addEventListener("draw", () => this.#askSoon());
    on("synthesis", "toggle", () => this.#askSoon());
    on("layout-png", "click", () => downloadUrl(this.#address, "layout.png"));
    on("made-png", "click", () => downloadUrl(byId("made").src, "picture.png"));
    on("make", "click", () => this.#make());
    on("stuff-save", "click", async () => download(await labelsPng(this.#scene.stuff), "background.png"));
    on("stuff-clear", "click", () => this.#scene.paint(null));
    on("stuff-open", "click", () => byId("stuff-file").click());
    onFile(byId("stuff-file"), (file) => this.#open(file));
    on("layout", "pointerdown", (event) => this.#down(event));
    on("layout", "pointermove", (event) => this.#move(event));
    on("layout", "pointerup", ({ isPrimary }) => isPrimary && this.#end(true));
    on("layout", "pointercancel", ({ isPrimary }) => isPrimary && this.#end(false));
    on("layout", "keydown", (event) => this.#key(event));
    on("layout", "blur", () => this.#render());
    for (const button of document.querySelectorAll("[data-brush]")) {
      button.addEventListener("click", () => this.#choose(button.dataset.brush));
    }
  }

  // ---- materials and brushes ---------------------------------------------------------------------

  #showMaterials() {
    const place = ({ name }) => (WELL_KNOWN.indexOf(name) + 1 || Infinity);
    const ordered = this.#stuff.toSorted((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
    const chips = ordered.slice(0, CHIPS).map((material) => {
      const settings = { type: "button", class: "chip", "data-label": material.label };
      const chip = element("button", settings, dot(material.colour), spoken(material.name));
      chip.addEventListener("click", () => this.#take(material));
      return chip;
    });
    byId("materials").replaceChildren(...chips);
    const others = ordered.slice(CHIPS);
    const menu = byId("others");
    menu.hidden = !others.length;
    menu.replaceChildren(
      element("option", { value: "" }, "More\u2026"),
      ...others.map(({ name, label }) => element("option", { value: label }, spoken(name))),
    );
    menu.addEventListener("change", () => {
      const material = others.find(({ label }) => String(label) === menu.value);
      if (material) this.#take(material);
    });
    if (ordered.length) this.#take(ordered[0]);
    for (const tools of document.querySelectorAll("#synthesis .tools")) tools.hidden = !ordered.length;
  }

  #take(material) {
    this.#material = material;
    press(byId("materials").children, ({ dataset }) => dataset.label === String(material.label));
    const menu = byId("others");
    menu.value = String(material.label);
    if (menu.selectedIndex < 0) menu.value = "";
    menu.classList.toggle("chosen", menu.value !== "");
  }

  #choose(brush) {
    this.#brush = brush;
    byId("size").hidden = brush !== "brush";
    press(document.querySelectorAll("[data-brush]"), ({ dataset }) => dataset.brush === brush);
  }

  get #radius() {
    return Number(byId("size").querySelector("input").value);
  }

  // ---- painting ----------------------------------------------------------------------------------

  #pointOf({ clientX, clientY }) {
    const { left, top, width, height } = byId("layout").getBoundingClientRect();
    return [((clientX - left) / width) * SIDE, ((clientY - top) / height) * SIDE];
  }

  #down(event) {
    if (!event.isPrimary || event.button !== 0 || !this.#material) return;
    byId("layout").setPointerCapture(event.pointerId);
    this.#begin(this.#pointOf(event));
  }

  #move(event) {
    if (!this.#gesture || !event.isPrimary) return;
    for (const each of movesOf(event)) this.#gesture(this.#pointOf(each));
  }

  #end(kept) {
    if (!this.#gesture) return;
    const painted = this.#gesture(null);
    this.#gesture = null;
    if (kept) this.#scene.paint(painted);
    else this.#render();
  }

  /** Begin to paint: the gesture takes points, and returns the stuff with what is painted. */
  #begin(point) {
    const before = this.#scene.stuff ?? new Uint8Array(SIDE * SIDE).fill(NONE);
    const { label, colour } = this.#material;
    this.#gesture = (this.#brush === "band" ? this.#band : this.#stroke).call(this, before, label, colour);
    this.#gesture(point);
  }

  /** A band: everything from the point down. */
  #band(before, label, colour) {
    let painted = before;
    return (point) => {
      if (!point) return painted;
      const top = Math.min(Math.max(Math.round(point[1]), 0), SIDE - 1);
      painted = before.slice().fill(label, top * SIDE);
      this.#render();
      this.#context.fillStyle = colour;
      this.#context.fillRect(0, top, SIDE, SIDE - top);
      return painted;
    };
  }

  #stroke(before, label, colour) {
    const painted = before.slice();
    // Round on the screen, where the layout is 4 wide and 3 high.
    const [rx, ry] = [this.#radius * 0.75, this.#radius];
    const dab = ([x, y]) => {
      const rows = [Math.max(Math.ceil(y - ry), 0), Math.min(Math.floor(y + ry), SIDE - 1)];
      for (let row = rows[0]; row <= rows[1]; row++) {
        const half = rx * Math.sqrt(1 - ((row - y) / ry) ** 2);
        const from = Math.max(Math.round(x - half), 0);
        const to = Math.min(Math.round(x + half), SIDE);
        if (from < to) painted.fill(label, row * SIDE + from, row * SIDE + to);
      }
      this.#context.fillStyle = colour;
      this.#context.beginPath();
      this.#context.ellipse(x, y, rx, ry, 0, 0, 2 * Math.PI);
      this.#context.fill();
    };
    let last = null;
    return (point) => {
      if (!point) return painted;
      const [x, y] = last ?? point;
      const steps = Math.ceil((2 * Math.hypot(point[0] - x, point[1] - y)) / rx) || 1;
      for (let i = 1; i <= steps; i++) {
        dab([x + ((point[0] - x) * i) / steps, y + ((point[1] - y) * i) / steps]);
      }
      last = point;
      return painted;
    };
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.#material) return;
    if (event.key === " " || event.key === "Enter") {
      this.#begin(this.#point);
      this.#end(true);
    } else if (event.key === "Escape") {
      this.#end(false);
      return;
    } else if (ARROWS[event.key]) {
      const step = event.shiftKey ? 1 : STEP;
      this.#point = this.#point.map((value, axis) =>
        Math.min(Math.max(value + step * ARROWS[event.key][axis], 0), SIDE - 1),
      );
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.#render();
    this.#context.strokeStyle = "#1c2322";
    this.#context.beginPath();
    if (this.#brush === "band") this.#context.rect(0, this.#point[1], SIDE, 0.01);
    else this.#context.ellipse(...this.#point, this.#radius * 0.75, this.#radius, 0, 0, 7);
    this.#context.stroke();
  }

  async #open(file) {
    try {
      const labels = await readLabels(file);
      const known = new Set(this.#stuff.map(({ label }) => label));
      // Of a whole layout the objects are left out: what is around them takes their place.
      const stuff = labels.map((label) => (known.has(label) ? label : NONE));
      if (stuff.every((label) => label === NONE)) {
        throw new Error("This picture has no background material that is known here.");
      }
      this.#scene.paint(stuff);
    } catch (error) {
      this.#tell(error.message);
    }
  }

  // ---- layout and picture ------------------------------------------------------------------------

  /** Whether something was asked for the scene as it is. */
  #isOf({ objects, stuff }) {
    return objects === this.#scene.objects && stuff === this.#scene.stuff;
  }

  /** Ask for the layout when nothing has changed for a while. */
  #askSoon() {
    byId("stuff-save").disabled = byId("stuff-clear").disabled = !this.#scene.stuff;
    if (!byId("synthesis").open || this.#isOf(this.#shown)) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), WAIT);
  }

  async #ask() {
    if (this.#isOf(this.#shown)) return;
    const { objects, stuff } = (this.#shown = { objects: this.#scene.objects, stuff: this.#scene.stuff });
    byId("made").toggleAttribute("data-old", !this.#isOf(this.#made));
    this.#tell("");
    if (!objects.length && !stuff) {
      this.#layouts.stop();
      this.#show({ layout: null, legend: [] });
      return;
    }
    try {
      const answer = await this.#layouts.run(async (signal) => {
        const found = await this.#api.layout(...(await request(objects, stuff)), signal);
        return { ...found, image: await loaded(found.layout) };
      });
      if (answer) this.#show(answer);
    } catch (error) {
      this.#tell(sentenceOf(error));
    }
  }

  #show({ layout, image = null, legend }) {
    this.#address = layout;
    this.#image = image;
    if (!this.#gesture) this.#render();
    byId("legend").replaceChildren(
      ...legend.map(([name, colour]) => element("li", {}, dot(colour), spoken(name))),
    );
  }

  #render() {
    this.#context.clearRect(0, 0, SIDE, SIDE);
    if (this.#image) this.#context.drawImage(this.#image, 0, 0);
    byId("layout").toggleAttribute("data-empty", !this.#image && !this.#gesture);
    byId("layout-png").disabled = !this.#image;
    byId("make").disabled = !this.#image || this.#isMaking;
  }

  #tell(text) {
    byId("layout-said").textContent = text;
  }

  async #make() {
    const { objects, stuff } = this.#scene;
    const said = byId("made-said");
    this.#isMaking = true;
    this.#render();
    said.textContent = "The picture is being made\u2026";
    try {
      const { picture } = await this.#api.picture(...(await request(objects, stuff)));
      await loaded(picture);
      byId("made").src = picture;
      byId("made").hidden = byId("made-png").disabled = false;
      this.#made = { objects, stuff };
      byId("made").toggleAttribute("data-old", !this.#isOf(this.#made));
      said.textContent = "";
    } catch (error) {
      said.textContent = sentenceOf(error);
    }
    this.#isMaking = false;
    this.#render();
  }
}

/** Return what a layout is asked with: the scene as JSON and the stuff as a data URL, or null. */
async function request(objects, stuff) {
  return [objects.length ? toJson(objects) : null, stuff && (await dataUrl(await labelsPng(stuff)))];
}
