"""Where figures and weights come from: the command, the program, what it ran on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import contents

ROOT = Path(__file__).resolve().parents[1]
_ROOMS = (".", "core", "models", "dataloaders", "prep_data", "experiments", "SPADE")


def circumstances(script: str, argv: Sequence[str]) -> dict[str, Any]:
    """The entries command, versions, git and time of a record."""
    return {
        "command": [script, *argv],
        "versions": versions(),
        "git": git(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Of Python and of what computes; of this program the first half of a SHA-256 over its source
    files, which says what ran also where there is no git."""
    import numpy as np
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "program": program()[:32],
    }


def program() -> str:
    """`core.contents.digest` of the program's source files."""
    files = (
        path for room in _ROOMS for path in (ROOT / room).glob("*.py" if room == "." else "**/*.py")
    )
    return contents.digest({p.relative_to(ROOT).as_posix(): contents.sha256(p) for p in files})


def git() -> dict[str, Any] | None:
    """commit (hex) and dirty (whether a tracked file differs from it) of the program's checkout;
    None when it is none, or git does not answer."""
    if not (ROOT / ".git").exists():  # git would answer for a repository around it
        return None
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    # Of this folder, whatever git is told elsewhere; and not in the way of the user's own command.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        answer = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.decode(errors="replace").splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "(initial)")
    if oid == "(initial)":  # no commit yet
        return None
    return {"commit": oid, "dirty": any(not line.startswith("#") for line in lines)}
