// Scenes and pictures as files, and pictures that are turned into others.

import { HEIGHT, WIDTH } from "./geometry.js";
import { fromJson, toJson } from "./scene_json.js";

const MOST_BYTES = 16 * 2 ** 20; // of a scene's file
const SCALE = 4; // pixels of an exported picture in a unit

export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  downloadUrl(address, name);
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

export function downloadUrl(href, download) {
  Object.assign(document.createElement("a"), { href, download }).click();
}

/** Save a scene as a JSON file. */
export function saveScene(objects) {
  const text = JSON.stringify(toJson(objects));
  download(new Blob([text], { type: "application/json" }), "scene.json");
}

/** Return the objects of a scene's file. Error for what is none, in a sentence. */
export async function loadScene(file, most) {
  if (file.size > MOST_BYTES) throw new Error("This file is too large to be a scene.");
  const objects = fromJson(await file.text(), most);
  for (const { picture } of objects) if (picture) await loaded(picture);
  return objects;
}

/** Return the picture of a data URL, ready to be shown. */
export async function loaded(address) {
  const image = new Image();
  image.src = address;
  await image.decode().catch(() => {
    throw new Error("A picture of this scene is damaged.");
  });
  return image;
}

/** Return a picture, left and right exchanged. Both are data URLs. */
export async function mirroredPicture(picture) {
  const image = await loaded(picture);
  const [canvas, context] = paper(image.naturalWidth, image.naturalHeight);
  context.setTransform(-1, 0, 0, 1, canvas.width, 0);
  context.drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

/** Save a scene as a PNG of white paper. */
export async function exportPng(objects) {
  const [canvas, context] = paper(WIDTH * SCALE, HEIGHT * SCALE);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(SCALE, SCALE);
  Object.assign(context, { lineWidth: 2.5, lineCap: "round", lineJoin: "round" });
  for (const { picture, strokes, box, colour } of objects) {
    const [x0, y0, x1, y1] = box;
    if (picture) context.drawImage(await loaded(picture), x0, y0, x1 - x0, y1 - y0);
    context.strokeStyle = colour;
    for (const stroke of strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      stroke.forEach((point) => context.lineTo(...point));
      context.stroke();
    }
  }
  download(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), "scene.png");
}

function paper(width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  return [canvas, canvas.getContext("2d")];
}
