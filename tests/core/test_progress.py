"""Lines of progress where the output is a file."""

import io
import sys

import pytest

from core.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stderr", [io.StringIO(), None])
def test_lines_in_a_log_file(monkeypatch, caplog, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    with caplog.at_level("INFO"):
        assert list(progress(range(3), "valid: crops", every=0.0, unit="batches")) == [
            0,
            1,
            2,
        ]
        assert list(progress(range(3), "short")) == [0, 1, 2]
    lines = [record.message.partition(",")[0] for record in caplog.records]
    assert lines[-3:] == [f"valid: crops: {n} of 3 (batches)" for n in (1, 2, 3)]
    assert "short" not in caplog.text


def test_a_bar_on_a_terminal(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level("INFO"):
        list(progress(range(3), "valid"))
    assert "valid:   0%|" in terminal.getvalue() and not caplog.text
