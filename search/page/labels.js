// Pictures of labels, read and written to the byte: a canvas cannot write grey PNGs.

export const SIDE = 256;
export const NONE = 255; // the label of a pixel where nothing is painted

/** Return labels as an 8-bit grey PNG. labels: Uint8Array of SIDE * SIDE. */
export async function labelsPng(labels) {
  const rows = new Uint8Array(SIDE * (SIDE + 1)); // each begins with its filter: 0, none
  for (let y = 0; y < SIDE; y++) {
    rows.set(labels.subarray(y * SIDE, (y + 1) * SIDE), y * (SIDE + 1) + 1);
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const header = new Uint8Array([...bytesOf(SIDE), ...bytesOf(SIDE), 8, 0, 0, 0, 0]);
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  const chunks = [chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", new Uint8Array())];
  return new Blob([signature, ...chunks], { type: "image/png" });
}

/** Return the labels of a grey picture's file. Error for what is none, in a sentence. */
export async function readLabels(file) {
  const image = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => null);
  if (image?.width !== SIDE || image.height !== SIDE) {
    throw new Error(`A background is a grey PNG of ${SIDE} x ${SIDE} pixels.`);
  }
  const context = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return Uint8Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i]);
}

function chunk(type, data) {
  const body = new Uint8Array([...new TextEncoder().encode(type), ...data]);
  return new Blob([new Uint8Array(bytesOf(data.length)), body, new Uint8Array(bytesOf(crc32(body)))]);
}

function bytesOf(number) {
  return [24, 16, 8, 0].map((shift) => (number >>> shift) & 255);
}

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}
