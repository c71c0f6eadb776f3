"""A server of made-up photographs for the page: quick, and slow, busy or gone when told to."""

import base64
import io
import threading
import time
from pathlib import Path

import flask
import numpy as np
import werkzeug.serving
from PIL import Image, ImageColor, ImageDraw

from search.scene import data_url

PAGE = Path(__file__).resolve().parents[2] / "search" / "page"
CSP = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
CLASSES = ["airplane", "boat", "car", "cat", "clouds", "dog", "giraffe", "traffic light", "tree"]
ABOUT = {
    "photographs": 60, "run": "graph-attention-SD01", "classes": CLASSES,
    "weights": {"learned": 1.0, "layout": 1.0}, "most_objects": 8, "synthesis": False,
}  # fmt: skip
MATERIALS = [
    "sky-other",
    "grass",
    "sand",
    "sea",
    "wood",
    "road",
    "tree",
    "snow",
    "river",
    "mud",
    "metal",
]
SYNTHESIS = {
    "stuff": [
        {"name": name, "label": 100 + i, "colour": f"#{40 + 20 * i:02x}a0{230 - 20 * i:02x}"}
        for i, name in enumerate(MATERIALS)
    ],
    "objects": dict.fromkeys(CLASSES, "#c83c28"), "picture": True,
}  # fmt: skip
BOXES = [[0.1, 0.15, 0.45, 0.6], [0.5, 0.4, 0.95, 0.9]]
LABELS = ["cat", "dog"]
SIZES = [(160, 120), (120, 160), (160, 107), (125, 125)]


def photograph(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a landscape of its own colours with an object in each of BOXES."""
    width, height = size
    image = Image.new("HSV", size, (number * 37 % 256, 60, 235))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height * 0.62, width, height), (number * 37 % 256 + 90 & 255, 90, 150))
    for i, (x0, y0, x1, y1) in enumerate(BOXES):
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        draw.ellipse(box, (number * 61 + 120 * i & 255, 150, 200))
    return image.convert("RGB")


class PageServer:
    """Answers the page until closed.

    searches: bodies of the searches asked for. asked: (path, query) of all requests. delays:
    seconds the next searches wait. busy: requests that still meet 503. total: photographs found.
    layouts: scene and stuff (labels, or None) of the layouts asked for, generator_error: answer of
    a generator that fails.
    """

    def __init__(self) -> None:
        self.searches, self.asked, self.delays, self.busy, self.total = [], [], [], 0, 60
        self.refusal = None  # the error of every search
        self.about, self.layouts, self.generator_error = ABOUT, [], None
        self._port = 0
        self.start()

    def start(self) -> None:
        """Listen, again at the port of before."""
        self._http = werkzeug.serving.make_server(
            "127.0.0.1", self._port, self._app(), threaded=True, request_handler=_Quiet
        )
        self._port = self._http.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _app(self) -> flask.Flask:
        app = flask.Flask(__name__, static_folder=PAGE, static_url_path="/static")

        @app.before_request
        def before():
            path = flask.request.path
            self.asked.append((path, flask.request.args.to_dict()))
            if path.startswith("/api/") and self.busy:
                self.busy -= 1
                return {"error": "busy"}, 503, {"Retry-After": "1"}
            return None

        @app.after_request
        def after(response):
            response.headers["Content-Security-Policy"] = CSP
            return response

        for path, answer in {
            "/": lambda: flask.send_file(PAGE / "index.html"),
            "/api/about": lambda: self.about,
            "/api/search": self._search,
            "/api/labels": self._labels,
            "/api/layout": self._layout,
            "/api/picture": lambda: self.generator_error or self._picture(),
            "/api/photographs/<int:i>": self._photograph,
            "/api/photographs/<int:i>/like": lambda i: self._hits(flask.request.args, 1, "like"),
            "/api/photographs/<int:i>/objects/<int:n>": lambda i, n: _jpeg(
                Image.new("RGB", (90, 60), (200, 40 * n, 30))
            ),
        }.items():
            app.add_url_rule(path, path, answer, methods=["GET", "POST"])
        return app

    def _photograph(self, i: int):
        small = flask.request.args.get("size") == "thumbnail"
        image = photograph(i, SIZES[i % len(SIZES)])
        if small:
            image.thumbnail((320, 320))
        return _jpeg(image)

    def _search(self):
        body = flask.request.json
        self.searches.append(body)
        if self.delays:
            time.sleep(self.delays.pop(0))
        if self.refusal:
            return {"error": self.refusal}, 400
        # Hits are named after what was asked, to tell their answers.
        objects = body["scene"]["objects"]
        return self._hits(body, len(objects), f"{len(objects)} drawn")

    def _labels(self):
        guess = [["cat", 0.61], ["dog", 0.2], ["tree", 0.1], ["car", 0.05], ["boat", 0.02]]
        return {"labels": [guess for _ in flask.request.json["scene"]["objects"]]}

    def _layout(self):
        """Objects are red boxes; bare pixels white."""
        scene, stuff = (flask.request.json[key] for key in ("scene", "stuff"))
        labels = np.full((256, 256), 255, np.uint8)
        if stuff:
            image = Image.open(io.BytesIO(base64.b64decode(stuff.partition(",")[2])))
            assert (image.format, image.mode, image.size) == ("PNG", "L", (256, 256))
            labels = np.array(image)
        self.layouts.append((scene, labels if stuff else None))
        colours = np.full((256, 3), 255, np.uint8)
        for each in SYNTHESIS["stuff"]:
            colours[each["label"]] = ImageColor.getrgb(each["colour"])
        pixels = colours[labels]
        for x0, y0, x1, y1 in (each["box"] for each in scene["objects"]) if scene else []:
            rows, columns = (slice(round(256 * a), round(256 * b)) for a, b in ((y0, y1), (x0, x1)))
            pixels[rows, columns] = (200, 60, 40)
        names = {each["label"]: (each["name"], each["colour"]) for each in SYNTHESIS["stuff"]}
        legend = [names[label] for label in np.unique(labels).tolist() if label in names]
        layout = data_url(Image.fromarray(pixels))
        return {"labels": data_url(Image.fromarray(labels)), "layout": layout, "legend": legend}

    def _picture(self):
        image = photograph(3, (256, 256))
        return {"picture": data_url(image)}

    def _hits(self, page, drawn: int, name: str):
        first, count = int(page["first"]), int(page["count"])
        hits = []
        for i in range(first, min(first + count, self.total)):
            width, height = SIZES[i % len(SIZES)]
            matches = [[n, n, 0.8 - 0.1 * n] for n in range(min(drawn, 2))]
            hits.append({
                "id": i, "name": f"{name}/{i}.jpg", "width": width, "height": height,
                "rank": i + 1, "score": 2.5 - 0.1 * i,
                "parts": dict(zip(self.about["weights"], (-0.8 - 0.01 * i, 0.7, -0.4))),
                "boxes": BOXES, "labels": [LABELS[0], LABELS[1] if i % 2 else None],
                "matches": matches,
            })  # fmt: skip
        return {"total": self.total, "hits": hits}


class _Quiet(werkzeug.serving.WSGIRequestHandler):
    def log(self, *arguments):
        pass


def _jpeg(image: Image.Image) -> flask.Response:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return flask.Response(buffer.getvalue(), mimetype="image/jpeg")
