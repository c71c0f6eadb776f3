"""Serve a SPADE generator over HTTP. Drop this one file into a clone of NVlabs/SPADE and start it:

    pip install flask waitress
    python api.py [--host 127.0.0.1] [--port 5000] [options of the clone's test.py]

Without options of the clone it takes the pretrained COCO-Stuff network (--name coco_pretrained), on
the processor where there is no GPU (--gpu_ids -1).

    POST /       {"layout": (256, 256), "instances": (256, 256), "real_image": (256, 256, 3)}
                 -> (1, 3, 256, 256): the photograph's red, green and blue, -1..1
    GET /health  {"status": "ok"}

All arrays are nested lists. layout: COCO-Stuff id - 1 of each pixel (0 person .. 181), 255 where it
is unknown. instances: 0..255, different in each thing and piece of stuff that touch. real_image:
0..255; may be left out, for a network without an encoder does not look at it. What is wrong with a
request is answered as {"error": "a sentence"} with a status of 400 and more.
"""

# It runs in the clone's environment: nothing of this project, and no Python or Flask newer than
# SPADE needs.
import argparse
import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np

try:
    import flask
    from waitress import create_server
    from werkzeug.exceptions import HTTPException
except ImportError as error:
    raise SystemExit(f"error: {error}: pip install flask waitress") from None

SIDE = 256
LABELS = 182  # COCO-Stuff ids 1..182
UNKNOWN = 255
OF_CLONE = ("models", "models.pix2pix_model", "options", "options.test_options")
MOST_BYTES = 8 * 2**20  # of a request; ours have 1.5 MB
IDLE_SECONDS = 60  # after which a client that sends nothing is dropped
MOST_CLIENTS = 1000  # connected at a time; those that send slowly keep their place

log = logging.getLogger("spade")


class BadRequestError(ValueError):
    """A request that cannot be answered; the message is sent back."""


def read_request(body):
    """Parse a request: layout and instances uint8 (256, 256), image uint8 (256, 256, 3)."""
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise BadRequestError("the body is not a JSON object with the keys layout and instances")
    layout = _array(content, "layout", (SIDE, SIDE))
    wrong = layout[(layout >= LABELS) & (layout != UNKNOWN)]
    if wrong.size:
        raise BadRequestError(
            f"layout holds {wrong[0]}: labels are COCO-Stuff ids less one, 0..{LABELS - 1}, or "
            f"{UNKNOWN} for unknown"
        )
    instances = _array(content, "instances", (SIDE, SIDE))
    if content.get("real_image") is None:
        return layout, instances, np.zeros((SIDE, SIDE, 3), np.uint8)
    return layout, instances, _array(content, "real_image", (SIDE, SIDE, 3))


def _array(content, key, shape):
    if key not in content:
        raise BadRequestError(f"{key} is missing")
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
                raise BadRequestError(f"{key} holds {str(wrong)[:40]}: its values are 0..255")
            return np.array(values, np.uint8).reshape(shape)
    raise BadRequestError(f"{key} must be a nested list of integers of shape {shape}")


def create_app(generate):
    """Return the Flask application. generate: a function of what read_request returns that makes a
    float array (1, 3, 256, 256) in [-1, 1]; it is called by one thread at a time."""
    app = flask.Flask("spade")
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    # Reading too is for one at a time: as lists a body takes 25 times its bytes.
    reading, lock = threading.Lock(), threading.Lock()

    def answer(content, status=200):
        return flask.Response(json.dumps(content), status, mimetype="application/json")

    @app.route("/", methods=["POST"])
    def post():
        body = flask.request.get_data(cache=False)
        with reading:
            layout = read_request(body)
        with lock:
            picture = np.asarray(generate(*layout), np.float64)
        if picture.shape != (1, 3, SIDE, SIDE) or not np.isfinite(picture).all():
            log.error("the generator made an array %s, or values not finite", picture.shape)
            return answer({"error": "the generator made no picture of it: see its weights"}, 500)
        # Five digits are much finer than the 256 levels of a picture, and a third of the bytes.
        return answer(np.round(np.clip(picture, -1, 1), 5).tolist())

    @app.route("/health")
    def health():
        return answer({"status": "ok"})

    @app.errorhandler(BadRequestError)
    def refuse(error):
        return answer({"error": str(error)}, 400)

    @app.errorhandler(HTTPException)
    def explain(error):
        return answer({"error": error.description or error.name}, error.code or 500)

    @app.errorhandler(Exception)
    def fail(error):
        log.error("a request failed", exc_info=error)
        return answer({"error": "the generator failed: its console says why"}, 500)

    return app


def add_flags(parser):
    """Add the flags --host and --port."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=_port, default=5000, help="0: any that is free")


def _port(text):
    """Parse a port; some systems take 70000 for 4464."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: choose one of 0..65535")
    return int(text)


def serve(app, host, port):
    """Print the address and serve until the process ends. OSError when nothing can listen there."""
    try:
        # Clients that send slowly wait in its loop and take no thread.
        server = create_server(
            app, host=host, port=port, threads=8, ident="", channel_timeout=IDLE_SECONDS,
            max_request_body_size=MOST_BYTES, connection_limit=MOST_CLIENTS, asyncore_use_poll=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise OSError(f"cannot listen at {host}:{port} ({error}): choose another --port") from None
    # A name of several addresses has no port of its own.
    print(f"listening at http://{host}:{getattr(server, 'effective_port', port)}", flush=True)
    server.run()


# ---- in a clone of NVlabs/SPADE ------------------------------------------------------------------


def clone_arguments(arguments, has_gpu):
    """Add the defaults of `python api.py` to the arguments of the clone's own parser."""

    def given(flag):
        return any(each == flag or each.startswith(flag + "=") for each in arguments)

    added = [] if given("--name") else ["--name", "coco_pretrained"]
    if not has_gpu and not given("--gpu_ids"):
        added += ["--gpu_ids", "-1"]
    return added + list(arguments)


def _line(error):
    """Return an error's message on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def load_clone(arguments):
    """Load the clone's network; return it as a function for create_app."""
    try:
        import torch

        sys.argv[1:] = clone_arguments(arguments, torch.cuda.is_available())
        from models.pix2pix_model import Pix2PixModel
        from options.test_options import TestOptions
    except ImportError as error:
        if error.name not in OF_CLONE:
            raise SystemExit(f"error: {error}: finish the installation of SPADE") from None
        folder = Path(__file__).resolve().parent
        raise SystemExit(
            f"error: {folder} is no clone of NVlabs/SPADE: drop api.py beside its test.py"
        ) from None
    try:
        options = TestOptions().parse()
    except Exception as error:  # argparse ends the process itself
        raise SystemExit(f"error: SPADE does not take these options ({_line(error)})") from None
    try:
        model = Pix2PixModel(options)
    except Exception as error:  # damaged and other networks' weights show as many types
        raise SystemExit(
            f"error: the network {options.name} cannot be loaded ({_line(error)}): unpack SPADE's "
            "pretrained weights into its folder checkpoints"
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
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    own, others = parser.parse_known_args()
    app = create_app(load_clone(others))
    try:
        serve(app, own.host, own.port)
    except OSError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
