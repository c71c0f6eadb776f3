"""A Slack of our own on loopback: answers what the notifier asks, and fails when told to."""

import contextlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "xoxb-MARKED-do-not-print"


class SlackServer:
    """calls: (method of the API or 'upload', its fields) of every request, in order. trouble: what
    the next requests meet: a status, (429, seconds) with Retry-After, 'hang', or a JSON answer."""

    def __init__(self):
        self.calls, self.trouble = [], []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                server._answer(self)

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/api/"

    def close(self):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def methods(self):
        return [method for method, _ in self.calls]

    def fields(self, method):
        return [fields for name, fields in self.calls if name == method]

    def _answer(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        method = request.path.rpartition("/")[2]
        if method == "upload":
            self.calls.append((method, body))
        else:
            assert request.headers["Authorization"] == f"Bearer {TOKEN}"
            kind = request.headers["Content-Type"]
            text = body.decode()
            parsed = json.loads(text) if "json" in kind else dict(urllib.parse.parse_qsl(text))
            self.calls.append((method, parsed))
        trouble = self.trouble.pop(0) if self.trouble else None
        status, headers, answer = 200, {}, {"ok": True}
        if trouble == "hang":
            self.released.wait(30)
        elif isinstance(trouble, int):
            status, answer = trouble, None
        elif isinstance(trouble, tuple):
            status, headers = trouble[0], {"Retry-After": str(trouble[1])}
            answer = {"ok": False, "error": "ratelimited"}
        elif trouble:
            answer = trouble
        elif method == "chat.postMessage":
            answer |= {"channel": "C0ID", "ts": f"{len(self.calls)}.0"}
        elif method == "files.getUploadURLExternal":
            answer |= {"upload_url": self.url + "upload", "file_id": f"F{len(self.calls)}"}
        elif method == "files.completeUploadExternal":
            answer |= {"files": []}
        with contextlib.suppress(OSError):  # who asked may have gone
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.send_header("Content-Type", "application/json")
            request.end_headers()
            request.wfile.write(json.dumps(answer).encode() if answer else b"<html>broken</html>")
