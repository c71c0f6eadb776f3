"""The report of what a preparation left out, and why."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from dataloaders.images import Problem

_MAX_NAMES = 5  # of each reason


def short_name(path: Path) -> str:
    """Return a file's name in a report, with its two folders: 'train/cat/123.png'."""
    return "/".join(path.parts[-3:])


class Report:
    """Counts what was left out by reason and keeps the first few names of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, *names: str, count: int | None = None) -> None:
        """Count `names` as left out for `reason`, or `count` things of which they are the first."""
        count = len(names) if count is None else count
        if not count:
            return
        self._counts[reason] += count
        known = self._names.setdefault(reason, [])
        known.extend(names[: _MAX_NAMES - len(known)])

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add each of `problems`."""
        for problem in problems:
            self.add(problem.reason, problem.name)

    def merge(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what another report's `to_dict` gave."""
        for reason, entry in entries.items():
            self.add(reason, *entry["first"], count=entry["count"])

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return {reason: {"count": int, "first": [names]}}, sorted by reason."""
        return {
            reason: {"count": self._counts[reason], "first": self._names[reason]}
            for reason in sorted(self._counts)
        }

    def lines(self, n_names: int = _MAX_NAMES) -> list[str]:
        """Return one line a reason for people, most frequent first, with the first names."""
        ordered = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return [
            f"{self._counts[reason]:>8}  {reason}: {', '.join(self._names[reason][:n_names])}"
            + (", ..." if self._counts[reason] > len(self._names[reason][:n_names]) else "")
            for reason in ordered
        ]

    @contextlib.contextmanager
    def explaining_errors(self) -> Iterator[None]:
        """Add what was left out so far to the message of a UserError of the block."""
        try:
            yield
        except UserError as error:
            if self._counts:
                left_out = "; ".join(" ".join(line.split()) for line in self.lines(1))
                error.args = (f"{error}. Left out: {left_out}",)
            raise

    def print_summary(self, folder: Path, records: Mapping[str, int]) -> None:
        """Print the number of records of each split of a set, and what was left out."""
        print(f"{folder}: {', '.join(f'{split} {n}' for split, n in records.items())} records")
        if self._counts:
            print(f"Left out (also in {folder / 'report.json'}):", *self.lines(), sep="\n")
        else:
            print("Nothing was left out.")
