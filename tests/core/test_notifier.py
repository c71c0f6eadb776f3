"""core.notifier, against a Slack on loopback: one thread a run, and its troubles are not ours."""

import functools
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import cli, notifier
from core.errors import UsageError
from core.notifier import Notifier, SlackConfig, read_config
from core.run_folder import RunFolder
from tests.core import fakes
from tests.core.slack_server import TOKEN, SlackServer

CONFIG = SlackConfig(TOKEN, "#scenes")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slack():
    server = SlackServer()
    yield server
    server.close()


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path, "m", "1")
    run.create()
    return run


@pytest.fixture(autouse=True)
def no_token_in_logs(caplog):
    caplog.set_level(logging.DEBUG)
    yield
    records = caplog.get_records("call")
    assert not [x for x in records if TOKEN in logging.Formatter().format(x)]


def warnings(caplog):
    return [x.getMessage() for x in caplog.records if x.levelno >= logging.WARNING]


# --- what is sent ---


def test_a_run_is_one_thread_with_its_pictures(slack, run, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG bytes")
    with Notifier(CONFIG, run, "to <see>", slack.url) as thread:
        thread.post("step 1 & more", [picture])
        thread.post("step 2")
    opening, first, second = slack.fields("chat.postMessage")
    assert (opening["channel"], opening["text"]) == ("#scenes", "m-1: to &lt;see&gt;")
    assert "thread_ts" not in opening
    for reply, text in ((first, "step 1 &amp; more"), (second, "step 2")):
        assert (reply["channel"], reply["thread_ts"], reply["text"]) == ("C0ID", "1.0", text)
    assert slack.methods()[1:5] == [
        "chat.postMessage", "files.getUploadURLExternal", "upload", "files.completeUploadExternal",
    ]  # fmt: skip
    assert slack.fields("files.getUploadURLExternal")[0]["filename"] == "a.png"
    assert b"\x89PNG bytes" in slack.fields("upload")[0]
    (complete,) = slack.fields("files.completeUploadExternal")
    assert (complete["channel_id"], complete["thread_ts"]) == ("C0ID", "1.0")


def test_a_resumed_run_goes_on_in_its_thread(slack, run):
    for text in ("before", "after"):
        with Notifier(CONFIG, run, "goal", slack.url) as thread:
            thread.post(text)
    texts = [fields["text"] for fields in slack.fields("chat.postMessage")]
    assert texts == ["m-1: goal", "before", "after"]
    assert slack.fields("chat.postMessage")[2]["thread_ts"] == "1.0"
    assert json.loads(run.slack.read_text()) == {"channel": "C0ID", "ts": "1.0"}


def test_a_damaged_memory_of_the_thread_opens_another(slack, run, caplog):
    run.slack.write_text('{"channel": 3}')
    with Notifier(CONFIG, run, "goal", slack.url) as thread:
        thread.post("x")
    assert [f["text"] for f in slack.fields("chat.postMessage")] == ["m-1: goal", "x"]
    assert "opening a new Slack thread" in caplog.text


# --- trouble ---


def test_a_rate_limit_is_waited_for(slack, run, caplog):
    slack.trouble = [(429, 0), (429, 0)]
    with Notifier(CONFIG, run, "goal", slack.url) as thread:
        thread.post("x")
    assert slack.methods() == ["chat.postMessage"] * 4  # two refused, the opening, the message
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "trouble", [500, {"ok": False, "error": "invalid_auth", "echo": f"Bearer {TOKEN}"}]
)
def test_a_failure_is_told_once_and_forgotten(slack, run, caplog, trouble):
    slack.trouble = [trouble, trouble]
    with Notifier(CONFIG, run, "goal", slack.url) as thread:
        for text in "abc":
            thread.post(text)
    assert [f["text"] for f in slack.fields("chat.postMessage")[2:]] == ["m-1: goal", "c"]
    (warning,) = warnings(caplog)
    assert warning.startswith("a message to Slack was lost (SlackApiError: ")


def test_posting_never_waits_and_the_queue_is_bounded(slack, run, caplog):
    slack.trouble = ["hang"]
    thread = Notifier(CONFIG, run, "goal", slack.url)
    began = time.monotonic()
    for number in range(3 * notifier.QUEUE_LENGTH):
        thread.post(str(number))
    assert time.monotonic() - began < 0.5
    assert warnings(caplog) == [
        "a message to Slack was lost (100 messages are waiting); further losses are not reported"
    ]
    began = time.monotonic()
    thread.close(0.3)
    assert time.monotonic() - began < 0.6


def test_a_hanging_slack_does_not_keep_the_process(slack, tmp_path):
    slack.trouble = ["hang"]
    code = (
        "from core.notifier import *\n"
        f"run = RunFolder({str(tmp_path)!r}, 'm', '1'); run.create()\n"
        f"thread = Notifier(SlackConfig({TOKEN!r}, 'c'), run, 'goal', {slack.url!r})\n"
        "thread.post('x'); thread.close(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 0
    assert slack.methods() == ["chat.postMessage"]
    assert "not all messages were taken within 3 s" in done.stderr
    assert TOKEN not in done.stderr


# --- the file ---


def test_the_file_holds_token_and_channel(tmp_path, caplog):
    path = tmp_path / "token.secret"
    path.write_bytes(f"\ufeff{TOKEN}\r\nscenes \r\n# of our bot\r\n".encode())
    config = read_config(str(path))
    assert config == SlackConfig(TOKEN, "scenes")
    assert TOKEN not in repr(config)


def test_a_missing_file_is_one_notice_and_an_empty_path_none(tmp_path, caplog):
    assert read_config(str(tmp_path / "token.secret")) is None
    assert len(caplog.records) == 1
    assert read_config("") is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n\n", TOKEN.encode(), f"{TOKEN}\n\n".encode(), f"#c\n{TOKEN}".encode(),
        f"{TOKEN} #c\n#d".encode(), TOKEN.encode() + b"\n\xff",
    ],
)  # fmt: skip
def test_a_malformed_file_is_a_usage_error_that_does_not_repeat_it(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"slack_config={path}") as caught:
        read_config(str(path))
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_config(str(tmp_path))


# --- the scripts ---


def test_training_and_evaluation_tell_one_thread_and_keep_the_secret(
    slack, tmp_path, monkeypatch, caplog
):
    fakes.install(monkeypatch.setitem, monkeypatch.setattr)
    monkeypatch.setattr(notifier, "Notifier", functools.partial(Notifier, base_url=slack.url))
    secret = tmp_path / "token.secret"
    secret.write_text(f"{TOKEN}\n#scenes\n")
    base = f"batch_size=4,iterations=6,log_every=1,notify_every=4,goal=to see,slack_config={secret}"
    where = ["-o", str(tmp_path / "out"), "--id", "01"]
    cli.train(["fake-model", "--data-loader", "fake-loader", *where, "--base-hparams", base])
    cli.evaluate(["fake-model", *where])
    opening, start, figures, done, evaluated = slack.fields("chat.postMessage")
    assert opening["text"] == "fake-model-01: to see"
    assert start["text"] == "training from step 0 to 6"
    assert figures["text"].startswith("step 4/6  fit_loss ")
    assert "\nfake-metric: " in figures["text"]
    assert done["text"].startswith("done\nstep 6/6  ")
    assert evaluated["text"].startswith("evaluation at step 6\nfake-metric: ")
    assert {x["thread_ts"] for x in (start, figures, done, evaluated)} == {"1.0"}
    names = [fields["filename"] for fields in slack.fields("files.getUploadURLExternal")]
    assert names == [
        "losses.png", "figures.png", "fake-metric-step-4.png", "losses.png",
        "fake-metric-step-6.png",
    ]  # fmt: skip
    assert len(slack.fields("upload")) == 5
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_a_malformed_file_ends_a_command_before_it_does_anything(tmp_path, monkeypatch):
    fakes.install(monkeypatch.setitem, monkeypatch.setattr)
    (tmp_path / "token.secret").write_text(TOKEN)
    argv = ["fake-model", "--data-loader", "fake-loader", "-o", str(tmp_path / "out"), "--id", "1"]
    base = f"slack_config={tmp_path / 'token.secret'}"
    with pytest.raises(UsageError, match="must begin with two lines"):
        cli.train([*argv, "--base-hparams", base])
    with pytest.raises(UsageError, match="must begin with two lines"):
        cli.evaluate([*argv, "--resume", "none", "--base-hparams", base])
    assert not (tmp_path / "out").exists()
