"""Serve the page that searches an index of photographs, and what the page asks for.

python -m search.serve --index DIR [--run RUN] [--generator ADDRESS or FILE] [--port 8000]

For this machine alone, unless --allow-network and --token FILE are given: then every request needs
the secret in that file. docs/data_formats.md lists the requests. Drawings are not kept.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import ipaddress
import logging
import math
import mimetypes
import re
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import flask
import msgspec
import numpy as np
from werkzeug.exceptions import (
    BadGateway,
    BadRequest,
    Forbidden,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)

from core.commands import Parser, run
from core.errors import UsageError, UserError, first_line
from core.run import Run
from core.scene_inputs import MAX_OBJECTS
from search.index import WEIGHTS, Hit, PhotoIndex
from search.index_folder import NAME, PHOTOS
from search.scene import Scene, SceneObject, in_box
from search.stores import StoreUnavailableError
from search.synthesis import Layout, Synthesis
from SPADE import api, generators
from SPADE.generators import UnavailableError

PAGE = Path(__file__).resolve().parent / "page"
PHOTOGRAPH, CUT_OUT = 1600, 256  # pixels a side
DECODERS = 2  # pictures decoded at a time: one of the largest takes 200 MB
PICTURES = 2  # that are made or wait: each keeps a thread of the server
COOKIE = "scene-designer"
RETRY_SECONDS = 10  # after which a database that is gone may be back
LEAST_TOKEN = 16  # characters
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Other pages show none of the photographs.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Some systems say otherwise, and browsers then do not run the page.
mimetypes.add_type("text/javascript", ".js")

log = logging.getLogger(__name__)


# ---- requests --------------------------------------------------------------------------------


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The part of the ranking that is wanted."""

    first: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 24


_Weight = Annotated[float, msgspec.Meta(le=1e6)]  # scores stay numbers that JSON has


class _Search(_Part):
    scene: msgspec.Raw
    weights: dict[str, _Weight] | None = None


# The weight of each ranking beside the part.
_Like = msgspec.defstruct(
    "_Like",
    [(name, _Weight, weight) for name, weight in WEIGHTS.items()],
    bases=(_Part,),
    kw_only=True,
)


class _Layout(msgspec.Struct, forbid_unknown_fields=True):
    scene: msgspec.Raw  # null: stuff alone
    stuff: str | None = None


class _Labels(msgspec.Struct, forbid_unknown_fields=True):
    scene: msgspec.Raw


T = TypeVar("T")


def _body(kind: type[T]) -> T:
    """Parse what was sent with the request."""
    try:
        return msgspec.json.decode(flask.request.get_data(cache=False), type=kind)
    except RecursionError:
        raise BadRequest("no such request: it is nested too deeply") from None


class CurrentIndex:
    """An index, opened anew when it has been built again meanwhile."""

    def __init__(self, home: Path, run: Run | None) -> None:
        self._home = home
        self._built = self._time()
        self.index = PhotoIndex.open(home, run)

    def renew(self) -> PhotoIndex:
        """Return the index as it is now; the one before where that cannot be opened."""
        built = self._time()
        if built not in (None, self._built):
            try:
                self.index = PhotoIndex.open(self._home, self.index.run, self.index.whole)
            except UserError as error:  # the next request tries again
                log.error("the index has changed and cannot be used: %s", error)
            else:
                self._built = built
                log.info("the index has changed: %d photographs", len(self.index))
        return self.index

    def _time(self) -> int | None:
        try:
            return (self._home / PHOTOS / NAME).stat().st_mtime_ns
        except OSError:  # a build is about to put it there
            return None


def create_app(
    current: CurrentIndex,
    hosts: Collection[str] | None = None,
    token: str | None = None,
    synthesis: Synthesis | None = None,
) -> flask.Flask:
    """Return the Flask application. hosts: names that requests may call this server by, None = any.
    token: secret without which nothing is answered. synthesis: None = no layouts and pictures."""
    app = flask.Flask("search", static_folder=PAGE, static_url_path="/static")
    app.config["MAX_CONTENT_LENGTH"] = api.MOST_BYTES
    api.answer_errors(app)
    queue, decoders = api.Queue(), threading.BoundedSemaphore(DECODERS)
    pictures = api.Queue(PICTURES)  # which take long: searches go on meanwhile

    @app.errorhandler(UserError)
    def explain(error: UserError) -> flask.Response:
        return api.answer({"error": str(error)}, 400)

    @app.errorhandler(StoreUnavailableError)
    def explain_outage(error: StoreUnavailableError) -> flask.Response:
        answer = api.answer({"error": str(error)}, 503)
        answer.headers["Retry-After"] = RETRY_SECONDS
        return answer

    @app.errorhandler(msgspec.DecodeError)
    def explain_json(error: msgspec.DecodeError) -> flask.Response:
        return api.answer({"error": f"no such request: {first_line(error)}"}, 400)

    @app.before_request
    def admit() -> flask.Response | None:
        host, origin = (flask.request.headers.get(name) for name in ("Host", "Origin"))
        # A page of others could reach us under a name of its own (DNS rebinding).
        if hosts is not None and re.sub(r":\d*$", "", host or "") not in hosts:
            raise Forbidden(f"this server is reached as {' or '.join(sorted(hosts))} alone")
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden("this server answers its own page alone")
        return None if token is None else _check_token(token)

    @app.after_request
    def protect(response: flask.Response) -> flask.Response:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.get("/")
    def page() -> flask.Response:
        return flask.send_from_directory(PAGE, "index.html")

    @app.get("/api/about")
    def about() -> flask.Response:
        index = current.index
        vocabulary = index.run.vocabulary
        return api.answer({
            "photographs": len(index), "run": index.run.folder.name,
            "classes": [vocabulary.names[label] for label in vocabulary.objects],
            "weights": index.weights, "most_objects": MAX_OBJECTS,
            "synthesis": synthesis is not None and synthesis.about(),
        })  # fmt: skip

    @app.post("/api/search")
    def search() -> flask.Response:
        with queue.turn(api.client_has_left()):
            index = current.renew()
            asked = _body(_Search)
            scene = Scene.from_json(bytes(asked.scene))
            hits = index.search(scene, asked.count, asked.weights, asked.first)
        return _answer_hits(index, index.ranked, hits)

    @app.post("/api/labels")
    def labels() -> flask.Response:
        with queue.turn(api.client_has_left()):
            asked = _body(_Labels)
            found = current.renew().labels(Scene.from_json(bytes(asked.scene)))
        return api.answer({"labels": found})

    @app.post("/api/layout")
    def layout() -> flask.Response:
        made = asked_layout()
        return api.answer(synthesis.describe(made))

    @app.post("/api/picture")
    def picture() -> flask.Response:
        if synthesis is not None and synthesis.generator is None:
            raise NotFound("this server makes no pictures: start it with --generator")
        made = asked_layout()
        with pictures.turn(api.client_has_left()):
            try:
                return api.answer(synthesis.picture(made))
            except UnavailableError as error:
                seconds = math.ceil(error.trouble.retry_after) or None
                raise ServiceUnavailable(error.trouble.sentence, retry_after=seconds) from None
            except UserError as error:
                raise BadGateway(str(error)) from None

    def asked_layout() -> Layout:
        if synthesis is None:
            raise NotFound("this run makes no layouts: its classes have no COCO-Stuff ids")
        with queue.turn(api.client_has_left()):
            asked = _body(_Layout)
            drawn, stuff = bytes(asked.scene), asked.stuff
            return synthesis.layout(
                None if drawn == b"null" else Scene.from_json(drawn),
                None if stuff is None else synthesis.read_stuff(stuff),
            )

    @app.get("/api/photographs/<int:row>/like")
    def like(row: int) -> flask.Response:
        asked = msgspec.convert(flask.request.args.to_dict(), _Like, strict=False)
        with queue.turn(api.client_has_left()):
            index = current.renew()
            weights = {name: getattr(asked, name) for name in index.weights}
            path = index.files[_checked(row, index)].path
            hits = index.more_like(path, asked.count, weights, asked.first)
        return _answer_hits(index, index.ranked - 1, hits)

    @app.get("/api/photographs/<int:row>")
    def photograph(row: int) -> flask.Response:
        size = flask.request.args.get("size")
        if size not in (None, "thumbnail"):
            raise BadRequest("size may be thumbnail, or is left out")
        index = current.index
        _checked(row, index)
        if size:
            return send(index, row, size, lambda: index.thumbnail(row))
        return send(index, row, "photograph", lambda: decode(index, row))

    @app.get("/api/photographs/<int:row>/objects/<int:number>")
    def cut_out(row: int, number: int) -> flask.Response:
        index = current.index
        boxes = index.photographed(_checked(row, index)).boxes
        if number >= len(boxes):
            raise NotFound(f"photograph {row} has {len(boxes)} objects, from 0 on")
        return send(
            index, row, f"{boxes[number].tolist()}", lambda: decode(index, row, boxes[number])
        )

    def decode(index: PhotoIndex, row: int, box: np.ndarray | None = None) -> bytes:
        """Return the JPEG of a photograph, or of what is in a box of it."""
        with decoders:
            image = index.picture(row, PHOTOGRAPH)
            if box is not None:
                image = in_box(image, box)
                image.thumbnail((CUT_OUT, CUT_OUT))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def send(index: PhotoIndex, row: int, part: str, jpeg: Callable[[], bytes]) -> flask.Response:
        """Return a part of a photograph as an answer that a browser may keep but asks about: rows
        are others when the index has changed."""
        response = flask.Response(mimetype="image/jpeg")
        response.headers["Cache-Control"] = "private, no-cache"
        name = f"{index.files[row]} {part}"
        response.set_etag(hashlib.sha256(name.encode()).hexdigest())
        if response.get_etag()[0] in flask.request.if_none_match:
            return response.make_conditional(flask.request)
        try:
            response.data = jpeg()
        except UserError as error:
            raise NotFound(str(error)) from None
        return response

    return app


def _check_token(token: str) -> flask.Response | None:
    """Let a request pass that has the token or the cookie it was given for it. A token in the
    address becomes that cookie, and the address is asked for again without it."""
    request, cookie = flask.request, hashlib.sha256(token.encode()).hexdigest()
    if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), cookie.encode()):
        return None
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if hmac.compare_digest(bearer.encode(), token.encode()):
        return None
    given = request.args.get("token", "") if request.path == "/" else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Unauthorized(
            "this server needs its token: open /?token=..., or send the header Authorization: "
            "Bearer ..."
        )
    response = flask.redirect("/", 303)
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="Strict")
    return response


def _checked(row: int, index: PhotoIndex) -> int:
    if row >= len(index):
        raise NotFound(f"there is no photograph {row}: the index may have changed, search again")
    return row


def _answer_hits(index: PhotoIndex, total: int, hits: Sequence[Hit]) -> flask.Response:
    found = [_hit(index, hit) for hit in hits]
    return api.answer({"total": total, "hits": found})


def _hit(index: PhotoIndex, hit: Hit) -> dict[str, Any]:
    width, height = hit.size
    return {
        "id": hit.row, "name": index.files[hit.row].path, "width": width, "height": height,
        "rank": hit.rank, "score": hit.score, "parts": hit.parts, "boxes": hit.boxes.tolist(),
        "labels": hit.labels, "matches": hit.matches,
    }  # fmt: skip


# ---- the command -----------------------------------------------------------------------------


def read_token(path: Path) -> str:
    """Return the secret in a file. UserError for one that is missing or too short to be secret."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the token {path}: {first_line(error)}") from None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise UserError(
            f"the token in {path} must be {LEAST_TOKEN} or more letters, digits and signs: make "
            f"one with python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until the process is stopped. UserError and OSError for what a user can mend."""
    parser = Parser(prog="python -m search.serve", description=__doc__.partition("\n")[0])
    parser.add_argument("--index", type=Path, required=True, help="what search.build has made")
    parser.add_argument("--run", type=Path, help="the run it was built with, where that has moved")
    api.add_flags(parser)
    parser.set_defaults(port=8000)
    parser.add_argument(
        "--allow-network", action="store_true", help="--host may be reached by other machines"
    )
    parser.add_argument("--token", type=Path, help="a file with a secret that requests need")
    parser.add_argument(
        "--generator",
        default=generators.NONE,
        help="makes pictures of layouts: address of a server, or weights (python -m SPADE.convert)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    # A person waits before the page: one attempt.
    generator = generators.find(args.generator, retries=0, start_seconds=0, busy_seconds=0)
    token = None if args.token is None else read_token(args.token)
    bound = api.bind(args.host, args.port)
    address = bound.getsockname()[0]
    hosts = {"localhost", "127.0.0.1", "[::1]", args.host}
    if not ipaddress.ip_address(address).is_loopback:
        if not args.allow_network or token is None:
            raise UsageError(
                f"--host {args.host} can be reached from other machines: give --allow-network and "
                "--token FILE, a file with a secret"
            )
        hosts = None  # the token guards it: no other page has it
    current = CurrentIndex(args.index, None if args.run is None else Run.open(args.run))
    if generator:
        generator.open()
    own = current.index.run
    synthesis = Synthesis(own, generator) if own.vocabulary.ids else None
    if generator and not synthesis:
        raise UserError("the run's classes have no COCO-Stuff ids: leave out --generator")
    # TensorFlow prepares at the first drawing what all others use.
    current.index.query(Scene([SceneObject([np.array([[0.2, 0.2], [0.8, 0.8]])])]))
    if token is not None:
        print(f"open it once with /?token=... , the secret in {args.token}", flush=True)
    api.serve(create_app(current, hosts, token, synthesis), bound)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
