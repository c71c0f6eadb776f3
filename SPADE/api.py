"""Serve a SPADE generator over HTTP. Drop this one file into a clone of NVlabs/SPADE and start it:

    pip install flask waitress
    python api.py [--host 127.0.0.1] [--port 5000] [options of the clone's test.py]

Without options of the clone it takes the pretrained COCO-Stuff network (--name coco_pretrained), on
the processor where there is no GPU (--gpu_ids -1). It needs PyTorch 2.6 or later.

    POST /       {"layout": (256, 256), "instances": (256, 256), "real_image": (256, 256, 3)}
                 -> (1, 3, 256, 256): the photograph's red, green and blue, -1..1
    GET /health  {"status": "ok", "generator": its name, "weights": SHA-256 of their file,
                  "queue": requests that wait or are computed, "limit": the most of these}

All arrays are nested lists. layout: COCO-Stuff id - 1 of each pixel (0 person .. 181), 255 where it
is unknown. instances: 0..255, different in each thing and piece of stuff that touch. real_image:
0..255; may be left out, for a network without an encoder does not look at it. What is wrong with a
request is answered as {"error": "a sentence"} with a status of 400 and more; 503 with Retry-After
(seconds) when the queue is full. Requests whose client has left are not computed.
"""

# It runs in the clone's environment: nothing of this project, and no Python or Flask newer than
# SPADE needs.
import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np

try:
    import flask
    from waitress import create_server, utilities
    from werkzeug.exceptions import (
        BadRequest,
        ClientDisconnected,
        HTTPException,
        ServiceUnavailable,
    )
except ImportError as error:
    raise SystemExit(f"error: {error}: pip install flask waitress") from None

SIDE = 256
LABELS = 182  # COCO-Stuff ids 1..182
UNKNOWN = 255
LIMIT = 8  # requests in the queue: a slow processor takes some 10 s for each, clients wait 120 s
POLL_SECONDS = 0.5  # between looks whether a client that waits has left
MOST_BYTES = 8 * 2**20  # of a request; ours have 1.5 MB
IDLE_SECONDS = 60  # after which a client that sends nothing is dropped
MOST_CLIENTS = 1000  # connected at a time; those that send slowly keep their place

log = logging.getLogger("spade")


def read_request(body):
    """Parse a request: layout and instances uint8 (256, 256), image uint8 (256, 256, 3). BadRequest
    with what is wrong."""
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise BadRequest("the body is not a JSON object with the keys layout and instances")
    layout = _array(content, "layout", (SIDE, SIDE))
    wrong = layout[(layout >= LABELS) & (layout != UNKNOWN)]
    if wrong.size:
        raise BadRequest(
            f"layout holds {wrong[0]}: labels are COCO-Stuff ids less one, 0..{LABELS - 1}, or "
            f"{UNKNOWN} for unknown"
        )
    instances = _array(content, "instances", (SIDE, SIDE))
    if content.get("real_image") is None:
        return layout, instances, np.zeros((SIDE, SIDE, 3), np.uint8)
    return layout, instances, _array(content, "real_image", (SIDE, SIDE, 3))


def _array(content, key, shape):
    if key not in content:
        raise BadRequest(f"{key} is missing")
    values = [content[key]]
    for length in shape:
        # Before an array is made of them: among texts numpy makes all as long as the longest.
        if any(type(each) is not list or len(each) != length for each in values):
            break
        values = [each for row in values for each in row]
    else:
        if set(map(type, values)) == {int}:
            wrong = min(values) if min(values) < 0 else max(values)
            if not 0 <= wrong <= 255:
                raise BadRequest(f"{key} holds {str(wrong)[:40]}: its values are 0..255")
            return np.array(values, np.uint8).reshape(shape)
    raise BadRequest(f"{key} must be a nested list of integers of shape {shape}")


class Queue:
    """The request that is worked on and those that wait for it, in their order. limit: of both."""

    def __init__(self, limit=LIMIT):
        self._limit = limit
        self._places, self._changed = [], threading.Condition()
        self._seconds = 1.0  # that the last one took

    def __len__(self):
        return len(self._places)

    @contextlib.contextmanager
    def turn(self, has_left):
        """Wait for a request's turn, which lasts as long as the block. ServiceUnavailable where
        `limit` requests are; ClientDisconnected when its client, by has_left(), is gone."""
        place = object()
        with self._changed:
            if len(self._places) >= self._limit:
                wait = math.ceil(self._limit * self._seconds)
                raise ServiceUnavailable(
                    f"{self._limit} requests wait already: ask again in {wait} s",
                    retry_after=wait,
                )
            self._places.append(place)
        try:
            with self._changed:
                while self._places[0] is not place and not has_left():
                    self._changed.wait(POLL_SECONDS)
            if has_left():
                raise ClientDisconnected
            began = time.monotonic()
            yield
            self._seconds = time.monotonic() - began
        finally:
            with self._changed:
                self._places.remove(place)
                self._changed.notify_all()


def client_has_left():
    """Return the function that says whether the client of this request is gone."""
    return flask.request.environ.get("waitress.client_disconnected", lambda: False)


def answer(content, status=200):
    """Return an answer of JSON."""
    return flask.Response(json.dumps(content), status, mimetype="application/json")


def answer_errors(app):
    """Have an application answer errors as JSON, what nobody foresaw too."""

    @app.errorhandler(HTTPException)
    def explain(error):
        response = error.get_response()  # for its headers: Allow, Retry-After
        response.data = json.dumps({"error": error.description or error.name})
        response.mimetype = "application/json"
        return response

    @app.errorhandler(Exception)
    def fail(error):
        log.error("a request failed", exc_info=error)
        return answer({"error": "the server failed: its console says why"}, 500)


def create_app(generate, name, weights):
    """Return the Flask application. generate: a function of what read_request returns that makes a
    float array (1, 3, 256, 256) in [-1, 1]; it is called by one thread at a time. name, weights: of
    the generator, as /health tells them."""
    app = flask.Flask("spade")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    answer_errors(app)
    queue = Queue()

    @app.route("/", methods=["POST"])
    def post():
        # Reading too is for one at a time: as lists a body takes 25 times its bytes.
        with queue.turn(client_has_left()):
            layout = read_request(flask.request.get_data(cache=False))
            picture = np.asarray(generate(*layout), np.float64)
            if picture.shape != (1, 3, SIDE, SIDE) or not np.isfinite(picture).all():
                log.error("the generator made an array %s, or values not finite", picture.shape)
                return answer({"error": "the generator made no picture: see its weights"}, 500)
            # Five digits are much finer than the 256 levels of a picture, a third of the bytes.
            return answer(np.round(np.clip(picture, -1, 1), 5).tolist())

    @app.route("/health")
    def health():
        return answer({
            "status": "ok", "generator": name, "weights": weights, "queue": len(queue),
            "limit": LIMIT,
        })  # fmt: skip

    return app


def add_flags(parser):
    """Add the flags --host and --port."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=_port, default=5000, help="%(default)s; 0: any that is free")


def _port(text):
    """Parse a port; some systems take 70000 for 4464."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: choose one of 0..65535")
    return int(text)


def bind(host, port):
    """Return a socket at an address where nothing listens yet. OSError when nothing can."""
    try:
        # Of the addresses of a name, one of IPv4 where there is one: clients ask 127.0.0.1.
        family, kind, _, _, address = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        return bound
    except (OSError, ValueError) as error:
        raise _cannot_listen(host, port, error) from None


def _cannot_listen(host, port, error):
    return OSError(f"cannot listen at {host}:{port} ({error}): choose another --host or --port")


def serve(app, bound):
    """Listen at a bound socket, print the address, and serve until the process ends. OSError when
    another process listens there by now."""
    utilities.Error.to_response = _to_response
    logging.getLogger("waitress").setLevel(logging.WARNING)  # clients may leave as they like
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # ours tells who comes too soon
    host, port = bound.getsockname()[:2]
    try:
        server = create_server(
            app, sockets=[bound], threads=LIMIT + 4, ident="", channel_timeout=IDLE_SECONDS,
            max_request_body_size=MOST_BYTES, asyncore_use_poll=True, log_socket_errors=False,
            # Clients that send slowly wait in its loop and take no thread.
            connection_limit=MOST_CLIENTS,
            # It reads on while a request waits, and so sees that the client has left.
            channel_request_lookahead=1,
        )  # fmt: skip
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    print(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    server.run()


def _to_response(error, ident=None):
    """Return waitress' own answers, to what is no request or too large, as JSON."""
    body = json.dumps({"error": f"{error.reason}: {error.body}"[:200]}).encode()
    return f"{error.code} {error.reason}", [("Content-Type", "application/json")], body


# ---- in a clone of NVlabs/SPADE ------------------------------------------------------------------


FOLDER = Path(__file__).resolve().parent
OF_CLONE = ("models", "models.pix2pix_model", "options", "options.test_options")
# Options whose network takes what a request holds: labels, unknown, and the instances' edges.
FITTING = {
    "label_nc": LABELS, "contain_dontcare_label": True, "no_instance": False, "crop_size": SIDE,
    "aspect_ratio": 1.0,
}  # fmt: skip


def _line(error):
    """Return an error's message on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_options(own, others):
    """Return the clone's class of networks, and the options that its parser makes of the command
    line. SystemExit unless the clone is whole and the network fits what requests hold."""
    try:
        import torch

        sys.path.insert(0, str(FOLDER))
        from models.pix2pix_model import Pix2PixModel
        from options.test_options import TestOptions
    except ImportError as error:
        if error.name not in OF_CLONE:
            raise SystemExit(f"error: {error}: finish the installation of SPADE") from None
        raise SystemExit(
            f"error: {FOLDER} is no clone of NVlabs/SPADE: drop api.py beside its test.py"
        ) from None
    if [int(each) for each in torch.__version__.split(".")[:2]] < [2, 6]:
        raise SystemExit(
            f"error: PyTorch {torch.__version__} may run what a weights file holds: install 2.6 or "
            "later"
        )
    has_gpu = torch.cuda.is_available()
    gpus = own.gpu_ids or ("0" if has_gpu else "-1")
    if not has_gpu and not gpus.startswith("-"):
        raise SystemExit(
            f"error: --gpu_ids {gpus}: PyTorch finds no GPU; leave it out to take the processor"
        )
    sys.argv[1:] = ["--name", own.name, "--checkpoints_dir", own.checkpoints_dir]
    sys.argv += ["--gpu_ids", gpus, *others]
    try:
        options = TestOptions().parse()
    except Exception as error:  # argparse ends the process itself
        raise SystemExit(f"error: SPADE does not take these options ({_line(error)})") from None
    for name, value in FITTING.items():
        found = getattr(options, name)
        if found != value:
            raise SystemExit(
                f"error: the network {options.name} does not fit: its {name} is {found}, not "
                f"{value} as that of one trained on COCO-Stuff at {SIDE} pixels"
            )
    return Pix2PixModel, options


def check_weights(options):
    """Return the path of the generator's weights. SystemExit unless they are tensors alone."""
    import torch

    paths = [
        Path(options.checkpoints_dir, options.name, f"{options.which_epoch}_net_{net}.pth")
        for net in ("GE" if options.use_vae else "G")
    ]
    for path in paths:
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files show as many types
            reason = (
                "is no file of tensors alone: damaged, or of another kind; nothing in it was run"
            )
            if isinstance(error, OSError):
                reason = f"cannot be read ({error.strerror or error})"
            raise SystemExit(
                f"error: {path} {reason}. Unpack SPADE's pretrained weights into checkpoints"
            ) from None
    return paths[0]


def sha256(path):
    """Return the SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def load_network(network, options):
    """Load a network of the clone; return it as a function for create_app. SystemExit when it does
    not take its weights."""
    import torch

    try:
        model = network(options)
    except Exception as error:  # other networks' weights show as many types
        raise SystemExit(
            f"error: the network {options.name} cannot be loaded ({_line(error)}): are these the "
            "weights of the network that the options describe?"
        ) from None
    model.eval()

    def generate(layout, instances, image):
        label = np.where(layout == UNKNOWN, LABELS, layout)  # the channel after the classes
        data = {
            "label": torch.from_numpy(label.astype(np.float32))[None, None],
            "instance": torch.from_numpy(instances.astype(np.int64))[None, None],
            "image": torch.from_numpy(image.transpose(2, 0, 1) / np.float32(127.5) - 1)[None],
        }
        with torch.no_grad():
            return model(data, mode="inference").float().cpu().numpy()

    return generate


def main():
    """Run `python api.py`."""
    # Not by KeyboardInterrupt: it would wait for the network and tell where each thread stood.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(
        usage="python api.py [--host HOST] [--port PORT] [options of the clone's test.py]",
        description="Serve the generator of a SPADE clone over HTTP.",
        add_help=False, allow_abbrev=False,
    )  # fmt: skip
    add_flags(parser)
    parser.add_argument("--name", default="coco_pretrained", help="the network (%(default)s)")
    folder = str(FOLDER / "checkpoints")
    parser.add_argument("--checkpoints_dir", default=folder, help="of all networks (%(default)s)")
    parser.add_argument("--gpu_ids", help="-1: the processor, which is taken where no GPU is")
    own, others = parser.parse_known_args()
    if {"-h", "--help"} & set(others):
        parser.print_help()  # and the clone's parser the rest
    network, options = read_options(own, others)
    weights = check_weights(options)
    try:
        bound = bind(own.host, own.port)
        generate = load_network(network, options)
        serve(create_app(generate, options.name, sha256(weights)), bound)
    except OSError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
