// Scenes as the JSON of search/scene.py: what is sent to the server, and saved.

import { HEIGHT, WIDTH, extent, fitted } from "./geometry.js";
import { newObject } from "./scene.js";

const FORMAT = "scene-designer scene";
const VERSION = 1;

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
