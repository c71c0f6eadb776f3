"""Search an index of photographs with a drawn scene.

python -m search.query INDEX SCENE [--k 20] [--learned 1] [--layout 1] [--whole 1] [--html FILE]
"""

from __future__ import annotations

import base64
import io
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import jinja2
from PIL import Image
from tabulate import tabulate

from core.commands import Parser, run
from core.files import write_atomic
from search.index import WEIGHTS, Hit, PhotoIndex
from search.scene import Scene

COLOURS = (  # of drawn objects, and of the boxes that they were assigned to
    "#c2255c", "#1971c2", "#2f9e44", "#e8590c", "#6741d9", "#0c8599", "#a67c00", "#5c4033",
)  # fmt: skip

_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 1rem/1.4 system-ui, sans-serif; margin: 1rem; color: #222; background: #fff }
ol { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
li { width: 20rem; overflow-wrap: anywhere }
svg { max-width: 20rem; height: auto; background: #f4f4f4 }
rect, polyline { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
polyline { stroke-linecap: round; stroke-linejoin: round }
</style>
<h1>{{ title }}</h1>
<svg width="320" viewBox="0 0 {{ scene.width }} {{ scene.height }}" role="img"
     aria-label="The drawing">
  {% for colour, box, strokes, picture in drawn %}
  {% if picture %}
  <image x="{{ box[0] }}" y="{{ box[1] }}" width="{{ box[2] }}" height="{{ box[3] }}"
         preserveAspectRatio="none" href="{{ picture }}"/>
  {% endif %}
  {% for points in strokes %}
  <polyline stroke="{{ colour }}" points="{{ points }}"/>
  {% endfor %}
  {% endfor %}
</svg>
<ol>
  {% for name, hit, size, thumbnail, boxes in hits %}
  <li>
    <svg width="{{ size[0] }}" viewBox="0 0 {{ size[0] }} {{ size[1] }}" role="img"
         aria-label="{{ name }}">
      <image width="{{ size[0] }}" height="{{ size[1] }}" href="{{ thumbnail }}"/>
      {% for colour, box in boxes %}
      <rect stroke="{{ colour }}" x="{{ box[0] }}" y="{{ box[1] }}" width="{{ box[2] }}"
            height="{{ box[3] }}"/>
      {% endfor %}
    </svg><br>
    {{ hit.rank }}. {{ name }}<br>
    score {{ "%.2f" | format(hit.score) }}:
    {% for name, value in hit.parts.items() %}
    {{ name }} {{ "%.3f" | format(value) }}{{ "" if loop.last else ", " }}
    {% endfor %}
  </li>
  {% endfor %}
</ol>
</html>
""")


def render(index: PhotoIndex, scene: Scene, hits: Sequence[Hit], title: str) -> str:
    """Return a page of the drawing and the hits, which needs no other file. Each drawn object has a
    colour, and so has the box that it was assigned to."""
    drawn = [
        (
            colour,
            _rectangle(box, scene.width, scene.height),
            [" ".join(f"{x:.6g},{y:.6g}" for x, y in stroke) for stroke in each.strokes],
            None if each.picture is None else _jpeg_url(each.picture),
        )
        for colour, box, each in zip(COLOURS, scene.boxes, scene.objects)
    ]
    shown = []
    for hit in hits:
        thumbnail = index.thumbnail(hit.row)
        size = Image.open(io.BytesIO(thumbnail)).size
        boxes = [
            (COLOURS[pair.drawn], _rectangle(hit.boxes[pair.photographed], *size))
            for pair in hit.matches
        ]
        name = index.files[hit.row].path
        shown.append((name, hit, size, _data_url(thumbnail), boxes))
    return _PAGE.render(title=title, scene=scene, drawn=drawn, hits=shown)


def _rectangle(box: Sequence[float], width: float, height: float) -> list[str]:
    """Return x, y, width and height of a box in [0, 1] on a picture of that size."""
    x0, y0, x1, y1 = (float(each) for each in box)
    values = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
    return [f"{value:.6g}" for value in values]


def _jpeg_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=85)
    return _data_url(buffer.getvalue())


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def add_weights(parser: ArgumentParser) -> None:
    """Add a flag for the weight of each ranking."""
    for name, weight in WEIGHTS.items():
        text = f"weight of the {name} ranking, where the index has it ({weight:g})"
        parser.add_argument(f"--{name}", type=float, help=text)


def asked_weights(args: Namespace, index: PhotoIndex) -> dict[str, float]:
    """Return the weights that flags ask for; without them, those of the index."""
    asked = {name: getattr(args, name) for name in WEIGHTS}
    return index.weights | {name: each for name, each in asked.items() if each is not None}


def main(argv: Sequence[str] | None = None) -> None:
    """Search, and print a table. UserError for what a user can mend."""
    parser = Parser(prog="python -m search.query", description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path, help="what python -m search.build made")
    parser.add_argument("scene", type=Path, help=".json, .svg or .ndjson (docs/data_formats.md)")
    parser.add_argument("--k", type=int, default=20, help="photographs to find (%(default)s)")
    add_weights(parser)
    parser.add_argument("--html", type=Path, help="also writes a page with the photographs")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if args.k < 1:
        parser.error(f"--k {args.k}: ask for 1 photograph or more")
    scene = Scene.read(args.scene)
    index = PhotoIndex.open(args.index)
    hits = index.search(scene, args.k, asked_weights(args, index))
    rows = [(hit.rank, _printable(hit.path), hit.score, *hit.parts.values()) for hit in hits]
    headers = ("rank", "path", "score", *index.weights)
    print(tabulate(rows, headers, floatfmt=".3f", disable_numparse=[1]))
    if args.html:
        write_atomic(args.html, render(index, scene, hits, args.scene.stem).encode())
        print(f"saved: {args.html}")


def _printable(path: Path) -> str:
    """Return a path for a terminal: control characters in it would be obeyed."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(path))


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
