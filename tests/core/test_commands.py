"""Ends of commands: exit codes and last words."""

import errno
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import commands
from core.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parents[2]


def _raising(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such thing"), 1, "error: no such thing"),
        (UsageError("no such flag"), 2, "error: no such flag"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 1, "error: /x/y: No space left"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(error, code, said, capsys):
    assert commands.run(_raising(error), []) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", said + "\n")


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(KeyError):
        commands.run(_raising(KeyError("fault")), [])


def test_a_wrong_flag_is_a_usage_error():
    parser = commands.Parser(prog="it")
    parser.add_argument("--count", type=int)
    for argv in (["--count", "x"], ["--coun", "1"], ["more"]):
        with pytest.raises(UsageError, match="See it --help"):
            parser.parse_args(argv)


def test_words_that_are_no_text():
    """A folder named in Latin-1, as it comes from the shell."""
    word = os.fsdecode(b"/home/caf\xe9")
    with pytest.raises(UsageError, match=r"the argument /home/caf\\xe9 is not UTF-8: rename"):
        commands.Parser(prog="it").parse_args(["--folder", word])
    parser = commands.Parser(prog="it")
    parser.add_argument("--folder")
    assert parser.parse_args(["--folder", "/home/café"]).folder == "/home/café"


def test_a_name_that_is_no_text_is_printed_with_escapes(capsys):
    assert commands.run(lambda argv: print(os.fsdecode(b"caf\xe9")), []) == 0
    assert capsys.readouterr().out == "caf\\udce9\n"


def test_a_reader_that_has_gone_is_no_error():
    code = (
        "import sys; from core import commands\n"
        "sys.exit(commands.run(lambda argv: [print('line') for _ in range(100_000)], []))"
    )
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        os.close(reading)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize(
    ("options", "code", "said"), [("", 130, "stopped by SIGINT\n"), (", clean_up=True", 3, "")]
)
def test_an_interrupt_cannot_be_swallowed(options, code, said):
    program = f"""
import sys, time
from core import commands
def command(argv):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:  # as some libraries do
        sys.exit(3)
sys.exit(commands.run(command, []{options}))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, said)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (61, "1 min 1 s"), (659, "10 min"), (3 * 3600 + 59, "3 h 0 min"),
     (86_400 * 2 + 3601, "2 d 1 h"), (float("inf"), "-")],
)  # fmt: skip
def test_a_duration_is_told_in_its_two_largest_units(seconds, text):
    assert commands.duration_text(seconds) == text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_a_large_block_is_given_again_without_new_pages():
    program = """
import resource, sys, threading
from core import commands
def command(argv):
    def fill():
        for _ in range(4):
            blocks = [b"x" * (n << 23) for n in (10, 2, 20)]  # of n * 2,048 pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for target in (fill, fill):
        thread = threading.Thread(target=target)  # TensorFlow's tensors come from threads
        thread.start()
        thread.join()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (32 * 2048))
sys.exit(commands.run(command, []))
"""
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 1.9 < float(out) < 2.5  # two lists are alive at a time; without it, 8 times
