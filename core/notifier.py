"""Slack: messages and pictures of a run, in one thread, sent in the background.

Slack never stops or delays a run: posting is putting into a bounded queue, a worker thread sends,
a failure is logged once and forgotten, and the end of a run waits a bounded time for what is left.
The token stays in memory: it is in no file, log line or exception of ours.
"""

from __future__ import annotations

import contextlib
import html
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from core.errors import UsageError, UserError
from core.files import read_json, read_utf8, write_json
from core.run_folder import RunFolder

log = logging.getLogger(__name__)

QUEUE_LENGTH = 100  # messages at most; more are dropped
TIMEOUT = 20  # seconds that Slack may be silent within one request
FLUSH = 30  # seconds at most that the end of a run waits for messages still to be sent


@dataclass(frozen=True)
class SlackConfig:
    """token: of a bot that may chat:write and files:write. channel: its name or ID."""

    token: str = field(repr=False)
    channel: str


class SlackThread(msgspec.Struct):
    """A run's thread: the channel's ID and the time stamp of the first message."""

    channel: str
    ts: str


def read_config(path: str) -> SlackConfig | None:
    """Return the token (first line) and channel (second line) of the file that slack_config names.

    None for an empty path, and, with a notice, for a file that is missing. UsageError, which never
    repeats the content, for a file that does not begin with two such lines.
    """
    if not path:
        return None
    try:
        lines = [line.decode().strip() for line in read_utf8(Path(path)).strip().splitlines()[:2]]
    except FileNotFoundError:
        log.info("no Slack messages: slack_config=%s is not there (slack_config= is silent)", path)
        return None
    except OSError as error:
        raise UsageError(f"slack_config={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"slack_config={path} is no text file") from None
    if len(lines) < 2 or not all(map(_is_word, lines)) or lines[1].startswith("xox"):
        raise UsageError(
            f"slack_config={path} must begin with two lines: a Slack bot token, then a channel; "
            "slack_config= does without Slack"
        )
    return SlackConfig(*lines)


def _is_word(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


class Notifier:
    """Posts into the Slack thread of a run; without a config it does nothing. A context manager."""

    def __init__(
        self, config: SlackConfig | None, run: RunFolder, goal: str, base_url: str | None = None
    ) -> None:
        """The thread begins with the run's name and `goal`; the run's folder remembers it
        (run.slack), so that later commands go on in it. base_url: another server than Slack's."""
        self._config, self._file, self._base_url = config, run.slack, base_url
        self._first_message = f"{run.root.name}: {goal}"
        self._queue: queue.Queue = queue.Queue(QUEUE_LENGTH)
        self._worker: threading.Thread | None = None
        self._thread: SlackThread | None = None
        self._failed = False

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def post(self, text: str, pictures: Sequence[Path] = ()) -> None:
        """Queue a message and the pictures (PNG files) that belong to it; never waits."""
        if self._config is None:
            return
        if self._worker is None:
            # A daemon: a server that hangs cannot keep the process.
            self._worker = threading.Thread(target=self._work, name="slack", daemon=True)
            self._worker.start()
        try:
            self._queue.put_nowait((text, tuple(pictures)))
        except queue.Full:
            self._warn(f"{QUEUE_LENGTH} messages are waiting")

    def close(self, seconds: float = FLUSH) -> None:
        """Wait until all is sent, `seconds` at most."""
        if self._worker is None:
            return
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=seconds)
        self._worker.join(max(0.0, deadline - time.monotonic()))
        if self._worker.is_alive():
            self._warn(f"not all messages were taken within {seconds:g} s")
        self._worker = None

    # ------------------------------------------------------------ in the worker thread

    def _work(self) -> None:
        client = None
        while (message := self._queue.get()) is not None:
            try:
                client = client or self._connect()
                self._send(client, *message)
            except Exception as error:  # whatever it is, it is not worth a training
                self._warn(f"{type(error).__name__}: {error}")

    def _connect(self) -> Any:
        # Imported here, in the background: half a second that no run should wait for.
        from slack_sdk import WebClient
        from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

        silent = logging.getLogger("core.notifier.silent")  # failures are logged once, by us
        silent.propagate, silent.disabled = False, True
        server = {"base_url": self._base_url} if self._base_url else {}
        client = WebClient(self._config.token, timeout=TIMEOUT, logger=silent, **server)
        client.retry_handlers.append(RateLimitErrorRetryHandler(max_retry_count=3))
        return client

    def _send(self, client: Any, text: str, pictures: tuple[Path, ...]) -> None:
        self._thread = self._thread or self._read_thread() or self._open_thread(client)
        address = {"channel": self._thread.channel, "thread_ts": self._thread.ts}
        _post_message(client, text, **address)
        if pictures:
            files = [{"file": str(p), "filename": p.name, "title": p.stem} for p in pictures]
            client.files_upload_v2(file_uploads=files, **address)

    def _read_thread(self) -> SlackThread | None:
        if not self._file.exists():
            return None
        try:
            return read_json(self._file, SlackThread)
        except UserError as error:
            log.warning("%s: opening a new Slack thread", error)
            return None

    def _open_thread(self, client: Any) -> SlackThread:
        answer = _post_message(client, self._first_message, channel=self._config.channel)
        # The ID of the channel, which uploads need, where the user may have given its name.
        thread = {"channel": answer["channel"], "ts": answer["ts"]}
        if self._config.token in str(thread):  # it would be saved
            raise ValueError("Slack answered with the token")
        opened = msgspec.convert(thread, SlackThread)
        try:
            write_json(self._file, thread)
        except UserError as error:
            log.warning("%s: a resumed run will open a new Slack thread", error)
        return opened

    def _warn(self, reason: str) -> None:
        """Log the first failure as a warning; the others would say the same."""
        # The token first: no cut may leave a part of it.
        reason = " ".join(reason.replace(self._config.token, "***").split())[:300]
        level = logging.DEBUG if self._failed else logging.WARNING
        log.log(level, "a message to Slack was lost (%s); further losses are not reported", reason)
        self._failed = True


def _post_message(client: Any, text: str, **address: str) -> Any:
    return client.chat_postMessage(text=html.escape(text, quote=False), mrkdwn=False, **address)
