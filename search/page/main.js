// The page: puts canvas, server and results together.

import { Api, Latest } from "./api.js";
import { Canvas, drawing } from "./canvas.js";
import { byId, element, onFile, press, svg } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { exportPng, loadScene, mirroredPicture, saveScene } from "./files.js";
import { HEIGHT, WIDTH, extent, mirroredStrokes, moved } from "./geometry.js";
import { CanvasKeys } from "./keys.js";
import { Panel } from "./panel.js";
import { PhotoView } from "./photo.js";
import { Results, titleOf } from "./results.js";
import { Scene, newObject } from "./scene.js";
import { Synthesis } from "./synthesis.js";
import { toJson } from "./scene_json.js";

const WAIT = 250; // ms of rest before a changed scene is searched
const HINT = "Draw what you look for, where you want it in the picture.";
const NEXT = "Draw one object after the other: New object begins the next.";
const STATES = {
  ready: "",
  busy: "The server is busy. Trying again in a moment\u2026",
  gone: "The server does not answer. Trying again until it is back\u2026",
};
const KEYS = {
  d: "draw", s: "select", e: "erase", n: "new", m: "mirror", c: "copy", "]": "forward",
  "[": "backward", Delete: "delete", Backspace: "delete", "?": "help",
};

const scene = new Scene();
const api = new Api(showState);
const labelling = new Latest();
let about = { classes: [], most_objects: 8, weights: {} };
let liked = null; // the hit that others are compared with, instead of the drawing
let timer = null;
let committed = []; // the objects that are, or soon will be, searched
let guessed = null; // the objects whose labels were asked for last

const panel = new Panel(scene);
const canvas = new Canvas(byId("canvas"), scene, (object) => panel.nameOf(object), say);
const keys = new CanvasKeys(byId("canvas"), canvas, scene, say, () => byId("label").focus());
const results = new Results((place) => view.open(results.hits, place, results.question.drawn));
const view = new PhotoView(byId("photo"), { onLike: showLike, onTake: takeObject });

// ---- telling -------------------------------------------------------------------------------------

function say(text) {
  byId("said").textContent = text;
}

function showState(state) {
  if (byId("notice").textContent !== STATES[state]) byId("notice").textContent = STATES[state];
}

// ---- searching -----------------------------------------------------------------------------------

function weights() {
  const sliders = [...byId("sliders").querySelectorAll("input")];
  return Object.fromEntries(sliders.map((slider) => [slider.name, Number(slider.value)]));
}

function search() {
  const { objects } = scene;
  byId("back").hidden = !liked;
  if (liked) {
    const { id, name } = liked;
    const ask = (page, signal) => api.like(id, page, weights(), signal);
    results.show({ title: `More like ${name}`, drawn: null, ask });
  } else if (objects.length) {
    const json = toJson(objects);
    const drawn = objects.map((object) => ({ colour: object.colour, name: panel.nameOf(object) }));
    const ask = (page, signal) => api.search(json, page, weights(), signal);
    results.show({ title: "Photographs", drawn, ask });
  } else {
    results.clear(HINT);
  }
  if (objects !== guessed) guess(objects);
}

/** Search when nothing has changed for a while. hit: more like it; else what is drawn. */
function searchSoon(hit) {
  liked = hit;
  clearTimeout(timer);
  timer = setTimeout(search, WAIT);
}

function showLike(hit) {
  searchSoon(hit);
  byId("found-title").focus();
}

async function guess(objects) {
  guessed = objects;
  labelling.stop();
  if (!objects.length) return;
  const ask = (signal) => api.labels(toJson(objects), signal);
  // What cannot be guessed has no guess; the search says why.
  const answer = await labelling.run(ask).catch(() => null);
  if (!answer) return;
  panel.guesses = new Map(objects.map((object, i) => [object.key, answer.labels[i]]));
  scene.select(scene.selected); // shows them
}

async function takeObject(hit, number) {
  if (isFull()) return;
  try {
    const picture = await api.cutOut(hit.id, number);
    const box = hit.boxes[number].map((value, i) => value * (i % 2 ? HEIGHT : WIDTH));
    const label = about.classes.includes(hit.labels[number]) ? hit.labels[number] : null;
    scene.add(newObject({ picture, isPhoto: true, box, label }, scene.objects));
    setTool("select");
    byId("canvas").focus();
  } catch (error) {
    say(error.message);
  }
}

function isFull() {
  const full = scene.objects.length >= about.most_objects;
  if (full) say(`A scene has at most ${about.most_objects} objects: delete one first.`);
  return full;
}

// ---- actions -------------------------------------------------------------------------------------

const ACTIONS = {
  draw: () => setTool("draw"),
  select: () => setTool("select"),
  erase: () => setTool("erase"),
  undo: () => scene.undo(),
  redo: () => scene.redo(),
  help: () => byId("help").showModal(),
  save: () => saveScene(scene.objects),
  open: () => byId("file").click(),
  png: () => exportPng(scene.objects),
  back: () => searchSoon(null),
  new() {
    scene.select(null);
    setTool("draw");
    say("The next line begins a new object.");
  },
  clear() {
    if (scene.objects.length) scene.commit([]);
  },
  async mirror() {
    const object = scene.current;
    const picture = object.picture && (await mirroredPicture(object.picture));
    if (scene.objects.includes(object)) {
      scene.replace({ ...object, picture, strokes: mirroredStrokes(object) });
    }
  },
  copy() {
    if (!isFull()) scene.add(moved(newObject(scene.current, scene.objects), 16, 12));
  },
  forward: () => scene.raise(scene.current, 1),
  backward: () => scene.raise(scene.current, -1),
  delete: () => scene.remove(scene.current),
};
const OF_AN_OBJECT = ["mirror", "copy", "forward", "backward", "delete"];

function act(name) {
  if (!OF_AN_OBJECT.includes(name) || scene.current) ACTIONS[name]();
}

function setTool(tool) {
  keys.putPenAway();
  canvas.tool = tool;
  press(document.querySelectorAll("[data-tool]"), ({ dataset }) => dataset.tool === tool);
}

async function open(file) {
  try {
    scene.commit(await loadScene(file, about.most_objects));
    say(`${file.name} is open.`);
  } catch (error) {
    say(error.message);
  }
}

function onKey(event) {
  const { target } = event;
  const types = target.matches("input:not([type=range]), select, dialog *, dialog");
  if (types || event.defaultPrevented || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let name = KEYS[key];
  if (event.ctrlKey || event.metaKey) {
    name = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key];
  }
  if (!name) return;
  event.preventDefault();
  act(name);
}

// ---- showing -------------------------------------------------------------------------------------

function showScene() {
  const { objects, current } = scene;
  const enabled = { undo: scene.canUndo, redo: scene.canRedo };
  for (const name of OF_AN_OBJECT) enabled[name] = Boolean(current);
  for (const name of ["save", "png", "clear"]) enabled[name] = objects.length > 0;
  for (const [name, can] of Object.entries(enabled)) {
    document.querySelector(`[data-action=${name}]`).disabled = !can;
  }
  byId("start").hidden = objects.length > 0;
}

function showExamples() {
  const buttons = EXAMPLES.map(({ name, objects }) => {
    const filled = objects.reduce((all, { label, strokes }) => {
      const known = about.classes.includes(label) ? label : null;
      return [...all, newObject({ strokes, label: known, box: extent(strokes) }, all)];
    }, []);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
    picture.append(...filled.map(drawing));
    const button = element("button", { type: "button", title: name, "aria-label": name }, picture);
    button.addEventListener("click", () => {
      scene.select(null);
      scene.commit(filled);
    });
    return button;
  });
  byId("examples").replaceChildren(...buttons);
}

function showSliders() {
  byId("sliders").replaceChildren(
    ...Object.entries(about.weights).map(([name, value]) => {
      const settings = { type: "range", min: 0, max: 2, step: 0.1, name, id: `weight-${name}`, value };
      const shown = element("output", { for: settings.id }, value.toFixed(1));
      const slider = element("input", settings);
      slider.addEventListener("input", () => {
        shown.textContent = Number(slider.value).toFixed(1);
        searchSoon(liked);
      });
      return element("label", {}, element("span", {}, titleOf(name)), slider, shown);
    }),
  );
}

async function start() {
  setTool("draw");
  results.clear(HINT);
  say(NEXT);
  showExamples();
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action], [data-tool]");
    if (button) act(button.dataset.action ?? button.dataset.tool);
  });
  scene.addEventListener("draw", showScene);
  scene.addEventListener("commit", () => {
    say(scene.objects.length < 2 ? NEXT : ""); // instead of what is over
    if (scene.objects !== committed) searchSoon(null); // else the background alone has changed
    committed = scene.objects;
  });
  onFile(byId("file"), open);
  scene.select(null); // shows the empty scene
  about = await api.about();
  canvas.most = about.most_objects;
  panel.classes = about.classes;
  byId("about").textContent = `${about.photographs.toLocaleString("en")} photographs \u00b7 ${about.run}`;
  showExamples();
  showSliders();
  if (about.synthesis) new Synthesis(scene, api, about.synthesis);
}

start().catch((error) => results.clear(error.message));
