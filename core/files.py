"""Small files, written whole or not at all."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from core.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write so that a reader sees the old file or the whole new one: under another name in the
    same folder, then a rename. UserError when it cannot be written."""
    # Preparation sweeps up *.partial after a kill.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, sort_keys: bool = False) -> None:
    """`content` as JSON, atomically. sort_keys: equal contents give equal bytes.

    UserError when it cannot be written, ValueError or TypeError when it is no JSON.
    """
    text = json.dumps(content, indent=1, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError when it is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
