"""Write docs/reliability.md from the outcomes of `python -m tests.faults`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.faults.commands import SAFETY

_HEAD = """# Reliability: faults that were survived

<!-- Made by `make faults` (python -m tests.faults): change tests/faults, not this page. -->

Each line below counts processes that ran a command of this project (`train.py`, `prep_data.*`,
`run-experiment.py`) until a fault struck them. Networks and sets are tiny; the code that writes,
trains and loads is that of any run. The faults were drawn with seed {seed}.

* A kill is `kill -9`. It strikes at a byte (the kernel stops the write that would go past that byte
  of a file, whether Python, NumPy or TensorFlow writes it, and the process is killed there), before
  a line of this project's code in the function that writes, or some milliseconds into a step.
* On a full disk no file can grow past some byte: writes fail.
* After each fault, all that reads as complete is complete: every checkpoint, set, `config.json` and
  features file is read and its checksums are compared. A training has lost at most the {interval}
  steps since its last checkpoint. After a full disk nothing unfinished is left.
* Then the same command is started again, until it ends. Its result must be **equal, bit for bit, to
  that of a command that nothing disturbed**: all losses of all steps, all variables and optimizer
  states, all files of a set, all features.

**{kills} kills** struck, {faults} faults in all; {failed} of the checks failed. ({minutes:.0f}
minutes.)

"""

_TAIL = """## What this does not show

A power cut may lose what a kill does not: files of checkpoints and their folder are written to the
disk before they count (`fsync`), other files are not. Losses are equal bit for bit with
`deterministic=True` on the same CPU and the same libraries.
"""


def page(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page, Markdown. contents: part -> seed, seconds and outcomes."""
    outcomes = [outcome for content in contents.values() for outcome in content["outcomes"]]
    failed = [outcome for outcome in outcomes if outcome["error"]]
    text = _HEAD.format(
        seed=", ".join(sorted({str(content["seed"]) for content in contents.values()})),
        interval=SAFETY,
        kills=sum(x["struck"] for x in outcomes if x["part"] == "kill -9"),
        faults=sum(x["part"] != "the end" for x in outcomes),
        failed=len(failed),
        minutes=sum(content["seconds"] for content in contents.values()) / 60,
    )
    for part, title in (
        ("kill -9", "kill -9"), ("disk full", "Full disks"), ("signals", "SIGTERM and Ctrl-C"),
    ):  # fmt: skip
        text += f"## {title}\n\n" + _table(x for x in outcomes if x["part"] == part)
    ends = [x for x in outcomes if x["part"] == "the end"]
    equal = sum(not x["error"] for x in ends)
    text += f"## The ends\n\n{equal} of {len(ends)} results are equal to the undisturbed ones.\n\n"
    for part, title in (("damage", "Damaged files"), ("company", "Other processes")):
        text += f"## {title}\n\n" + _list(x for x in outcomes if x["part"] == part)
    if failed:
        text += "## What did not hold\n\n" + "".join(
            f"* {x['window']}, {x['fault']}: {x['error'].splitlines()[0]}\n" for x in failed
        ) + "\n"  # fmt: skip
    return text + _TAIL


def _table(outcomes: Iterable[Mapping[str, Any]]) -> str:
    rows: dict[tuple[str, str], Counter] = {}
    for x in outcomes:
        left = x["left"] if x["struck"] else "(the fault did not strike)"
        row = rows.setdefault((x["window"], left), Counter())
        row["faults"] += 1
        row["held"] += not x["error"]
        row["lost"] = max(row["lost"], x["lost"])
    text = "| while writing, or in | found afterwards | faults | held | most steps lost |\n"
    text += "|---|---|---|---|---|\n"
    for (window, left), row in sorted(rows.items()):
        text += f"| {window} | {left} | {row['faults']} | {row['held']} | {row['lost']} |\n"
    return text + "\n"


def _list(outcomes: Iterable[Mapping[str, Any]]) -> str:
    rows = (f"| {x['window']} | {x['fault']} | {'no' if x['error'] else 'yes'} |" for x in outcomes)
    return "\n".join(["| of | fault | held |", "|---|---|---|", *rows, "", ""])
