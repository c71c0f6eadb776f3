// Three drawn scenes to start from.

/** Return points on an ellipse, between two angles in turns (0 = right, clockwise). */
function arc(x, y, rx, ry = rx, from = 0, to = 1) {
  const steps = Math.max(8, Math.round(40 * Math.abs(to - from)));
  return Array.from({ length: steps + 1 }, (_, i) => {
    const angle = 2 * Math.PI * (from + ((to - from) * i) / steps);
    return [x + rx * Math.cos(angle), y + ry * Math.sin(angle)];
  });
}

// Each drawn round its middle.
const CLOUD = [
  [
    ...arc(-26, 0, 14, 12, 0.25, 0.7), ...arc(-8, -11, 16, 14, 0.55, 0.9),
    ...arc(16, -6, 15, 13, 0.6, 1), ...arc(28, 3, 11, 9, 0.8, 1.25), [-26, 12],
  ],
];
const AIRPLANE = [
  [
    [-70, -6], [-60, -8], [40, -10], [58, -7], [70, 0], [62, 6], [40, 9], [-40, 8], [-66, 2], [-70, -6],
  ],
  [[-68, -6], [-84, -32], [-72, -32], [-50, -8]],
  [[8, 0], [-22, 34], [-8, 34], [32, 1]],
  [[6, -10], [-14, -30], [-4, -30], [24, -10]],
  [[52, -7], [50, -2], [64, -2]],
  ...[-30, -16, -2, 12, 26].map((x) => arc(x, -4, 2)),
];
const BOAT = [
  [[-46, 20], [-34, 38], [32, 38], [46, 20], [-46, 20]],
  [[0, 20], [0, -62]],
  [[2, -60], [12, -34], [24, -10], [38, 12], [2, 12]],
  [[-2, -50], [-10, -24], [-18, -6], [-30, 12], [-2, 12]],
];
const CAR = [
  [
    [-36, 18], ...arc(-24, 18, 12, 12, 0.5, 1), [22, 18], ...arc(34, 18, 12, 12, 0.5, 1), [66, 18],
    [68, 2], [60, -5], [36, -9], [20, -28], [-26, -28], [-46, -8], [-62, -4], [-64, 18], [-36, 18],
  ],
  arc(-24, 19, 9),
  arc(34, 19, 9),
  [[-38, -8], [-24, -22], [-6, -22], [-6, -8], [-38, -8]],
  [[0, -8], [0, -22], [17, -22], [28, -8], [0, -8]],
];
const TRAFFIC_LIGHT = [
  [[-14, -42], [14, -42], [14, 38], [-14, 38], [-14, -42]],
  ...[-26, -2, 22].map((y) => arc(0, y, 9)),
  [[-3, 38], [-3, 92]],
  [[3, 38], [3, 92]],
];

function placed(label, strokes, x, y, size) {
  const place = ([px, py]) => [x + px * size, y + py * size];
  return { label, strokes: strokes.map((stroke) => stroke.map(place)) };
}

/** Scenes: {name, objects: [{label, strokes}]}, strokes in units of the canvas. */
export const EXAMPLES = [
  {
    name: "Airplane over clouds",
    objects: [
      placed("airplane", AIRPLANE, 205, 105, 1.5),
      placed("clouds", CLOUD, 95, 220, 1.5),
      placed("clouds", CLOUD, 300, 240, 1.7),
    ],
  },
  {
    name: "Sailing boats",
    objects: [placed("boat", BOAT, 140, 165, 2), placed("boat", BOAT, 320, 165, 0.8)],
  },
  {
    name: "Car at a traffic light",
    objects: [
      placed("car", CAR, 150, 205, 1.8),
      placed("traffic light", TRAFFIC_LIGHT, 345, 120, 1.3),
    ],
  },
];
