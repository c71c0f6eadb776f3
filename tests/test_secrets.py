"""A marked token goes through everything that meets it, before a Slack that repeats it in all it
says: the mark is in no file of the run, on no console and in no log record."""

import base64
import functools
import logging

import pytest
import slack_sdk

from core import cli, notifier
from core.commands import run as run_command
from core.notifier import Notifier
from tests.core import fakes
from tests.core.slack_server import TOKEN, SlackServer

MARKS = (b"MARKED", base64.b64encode(TOKEN.encode())[:-4])
ECHO = f"Authorization: Bearer {TOKEN}"
ANSWERS = [
    {"ok": False, "error": ECHO, "needed": TOKEN}, (503, TOKEN), (302, TOKEN), 500,
    {"ok": False, TOKEN: [TOKEN]}, ["ok", TOKEN], TOKEN,
    # An answer that would be remembered in the run's folder, of the right and of other types.
    {"ok": True, "channel": TOKEN, "ts": TOKEN}, {"ok": True, "channel": [TOKEN], "ts": {TOKEN: 1}},
]  # fmt: skip
UPLOADS = [
    {"ok": True, "channel": "C", "ts": "1"}, {"ok": True},
    {"ok": True, "upload_url": f"http://127.0.0.1:1/{TOKEN}", "file_id": TOKEN},
]  # fmt: skip


def everything(folder, capfd, caplog):
    """(where, bytes) of all that is left behind."""
    out = capfd.readouterr()
    yield "stdout", out.out.encode()
    yield "stderr", out.err.encode()
    formatter = logging.Formatter("%(name)s %(message)s")
    yield "logs", "\n".join(map(formatter.format, caplog.records)).encode()
    for path in folder.rglob("*"):
        yield str(path), path.name.encode() + (path.read_bytes() if path.is_file() else b"")


@pytest.fixture
def commands(tmp_path, monkeypatch, caplog):
    """A function that trains, goes on and evaluates; the folder of the run; and a Slack."""
    caplog.set_level(logging.DEBUG)
    fakes.install(monkeypatch.setitem, monkeypatch.setattr)
    server = SlackServer()
    patched = functools.partial(Notifier, base_url=server.url)
    monkeypatch.setattr(notifier, "Notifier", patched)
    monkeypatch.setattr(notifier, "FLUSH", 3)
    secret, out = tmp_path / "token.secret", tmp_path / "out"
    secret.write_text(f"{TOKEN}\n#scenes\n")
    monkeypatch.setenv("SLACK_BOT_TOKEN", TOKEN)  # which others' programs read
    base = f"batch_size=4,log_every=1,notify_every=1,slack_config={secret}"
    where = ["-o", str(out), "--id", "01"]

    def work():
        train = ["fake-model", "--data-loader", "fake-loader", *where, "--resume", "latest"]
        for iterations in (3, 6):
            argv = [*train, "--base-hparams", f"{base},iterations={iterations}"]
            assert run_command(cli.train, argv) == 0
        assert run_command(cli.evaluate, ["fake-model", *where]) == 0

    yield work, out, server
    server.close()


def test_a_slack_that_repeats_the_token(commands, capfd, caplog):
    work, out, server = commands
    server.trouble = [*ANSWERS[7:], *UPLOADS, *ANSWERS]
    work()
    assert not server.trouble
    left = dict(everything(out, capfd, caplog))
    assert len(left) > 15
    assert [where for where, data in left.items() for mark in MARKS if mark in data] == []


def test_a_client_that_raises_with_the_token(commands, capfd, caplog, monkeypatch):
    def fail(*arguments, **more):
        try:
            raise OSError(ECHO)
        except OSError as error:
            raise RuntimeError(repr({"headers": ECHO}), error, "x" * 280 + TOKEN) from error

    monkeypatch.setattr(slack_sdk.WebClient, "api_call", fail)
    commands[0]()
    left = dict(everything(commands[1], capfd, caplog))
    assert b"a message to Slack was lost (RuntimeError: " in left["logs"]
    assert [where for where, data in left.items() for mark in MARKS if mark in data] == []
