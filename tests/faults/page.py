"""docs/reliability.md, made of the outcomes of `python -m tests.faults` and its soak."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HEAD = """# Reliability: faults that were survived

<!-- Made by `make faults` (python -m tests.faults): change tests/faults, not this page. -->

Each line below is a command of this project (`train.py`, `prep_data.*`, `run-experiment.py`) as a
process of its own that a fault has struck, and what was found afterwards. Networks and sets are
tiny; the writers, loops and loaders are those of any run. Faults are drawn by a seed ({seed}).

* A kill is `kill -9`. *At a byte*: the kernel stops the write that would go past that byte of a
  file (`RLIMIT_FSIZE`), be it Python's, NumPy's or TensorFlow's, and a signal handler kills the
  process there. *Before a line*: of this project's code, counted within the function that writes.
  *After milliseconds*: while a step computes.
* A full disk is a limit on the size of files (`EFBIG` in the place of `ENOSPC`; the same code
  handles both).
* **Struck** counts faults whose window is shown by what they left behind (a file that ends at that
  very byte, a folder not yet renamed), not by what was intended.
* After each: every checkpoint, set, `config.json` and features file that reads as complete is
  complete (all checksums), and a training has lost at most one safety interval ({interval} steps
  here). The same command then goes on; in the end all losses of all steps and all variables and
  optimizer states of the last checkpoint, all files of a set and all features are **those of an
  undisturbed run, bit for bit**.

"""

_TAIL = """## What this does not show

A kill loses nothing that the kernel had taken over already, a power cut may: files of checkpoints
and their folder are flushed to the disk before they count (`fsync`), other files are not. Losses
are equal bit for bit with `deterministic=True` on the same CPU and the same libraries. An
evaluation under way when a run is killed is made again when it goes on.
"""


def read(folder: Path) -> dict[str, Any]:
    """part -> its outcomes, of all parts that were run."""
    files = sorted((folder / "outcomes").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files if path.stem != "soak"}


def make(every: Mapping[str, Any], folder: Path) -> str:
    """The whole page, Markdown."""
    from tests.faults.harness import SAFETY

    outcomes = [outcome for content in every.values() for outcome in content["outcomes"]]
    seeds = {str(content["seed"]) for content in every.values()}
    text = _HEAD.format(seed=", ".join(sorted(seeds)), interval=SAFETY)
    failed = [outcome for outcome in outcomes if outcome["error"]]
    kills = [x for x in outcomes if x["part"] == "kill -9" and x["window"] != "the end"]
    struck = sum(bool(outcome["where"]) for outcome in kills)
    seconds = sum(content["seconds"] for content in every.values())
    text += (
        f"**{struck} kills** of {len(kills)} meant struck, {len(outcomes)} faults and ends in all; "
        f"{len(failed)} did not hold. ({seconds / 60:.0f} minutes.)\n\n"
    )
    text += "## kill -9\n\n" + _table(kills, by_place=True)
    for part, title in (("disk full", "Full disks"), ("signals", "SIGTERM and Ctrl-C")):
        mine = [x for x in outcomes if x["part"] == part and x["window"] != "the end"]
        text += f"## {title}\n\n" + _table(mine, by_place=False)
    ends = [x for x in outcomes if x["window"] == "the end"]
    bad = sum(bool(outcome["error"]) for outcome in ends)
    text += (
        f"## The ends\n\n{len(ends)} struck runs, sets and extractions were brought to their end: "
        f"{len(ends) - bad} are bit for bit what they are undisturbed, {bad} are not.\n\n"
    )
    for part, title in (("company", "Bad company"), ("damage", "Damaged and unreadable files")):
        text += f"## {title}\n\n" + _list(x for x in outcomes if x["part"] == part)
    if failed:
        text += "## What did not hold\n\n" + "".join(
            f"* {x['window']}, {x['fault']}: {x['error'].splitlines()[0]}\n" for x in failed
        ) + "\n"  # fmt: skip
    soak = folder / "outcomes" / "soak.json"
    if soak.exists():
        text += "## A soak\n\n" + soak_sentence(json.loads(soak.read_text()))
    return text + _TAIL


def _table(outcomes: Iterable[Mapping[str, Any]], by_place: bool) -> str:
    """Windows, what was meant, struck, and held."""
    rows: dict[tuple[str, str], Counter] = {}
    for x in outcomes:
        how = "in the middle of it"
        if by_place:
            how = x["where"] or "not struck"
        row = rows.setdefault((x["window"], how), Counter())
        row["meant"] += 1
        row["struck"] += bool(x["where"])
        row["held"] += not x["error"]
        row["lost"] = max(row["lost"], x["lost"])
    text = (
        "| in, or writing | where, by what was left | faults | struck | held | most steps lost |\n"
    )
    text += "|---|---|---|---|---|---|\n"
    for (window, how), row in sorted(rows.items()):
        lost = row["lost"] if window in ("a step", "a checkpoint", "config.json") else "-"
        text += (
            f"| {window} | {how} | {row['meant']} | {row['struck']} | {row['held']} | {lost} |\n"
        )
    return text + "\n"


def _list(outcomes: Iterable[Mapping[str, Any]]) -> str:
    text = "| what | how | held | measured |\n|---|---|---|---|\n"
    for x in outcomes:
        text += f"| {x['window']} | {x['fault'] or '-'} | {'no' if x['error'] else 'yes'} | "
        text += f"{x['note'] or '-'} |\n"
    return text + "\n"


def soak_sentence(soak: Mapping[str, Any]) -> str:
    verdict = "equal bit for bit" if not soak["error"] else f"NOT equal ({soak['error']})"
    return (
        f"`python -m tests.faults.soak --minutes {soak['minutes']:g} --seed {soak['seed']}`: "
        f"{soak['model']} on a drawn sample of {soak['images']} photographs, {soak['steps']} steps "
        f"of batch {soak['batch_size']}, a checkpoint every {soak['safety_save']}. It was killed "
        f"{soak['kills']} times (every {soak['every']:g} s or so, from outside), lost "
        f"{soak['lost']} steps in all and {soak['most_lost']} at most at once, and took "
        f"{soak['seconds'] / 60:.1f} minutes; undisturbed {soak['undisturbed_seconds'] / 60:.1f}. "
        f"Losses of all {soak['steps']} steps and the last checkpoint: {verdict}.\n\n"
    )
