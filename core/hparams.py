"""Hparams: frozen dataclasses that a user fills with a comma string.

The grammar: clauses `name=value` separated by commas. A value that starts with a quote runs to the
same quote, one that starts with `[` to its `]`; any other value runs to the next comma and may
hold spaces (a shell strips quotes, so `goal=First stage of it` must do). Examples:

    a=1,b=text with spaces,c='x,y',d=[1,2],e=

Types: bool, int, float, str, tuple[T, ...], Optional[T], typing.Literal[...].
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from core.errors import HParamError, UserError
from core.registry import closest

T = TypeVar("T")

# Names of the original program that nothing reads any more. Accepting them in silence would let a
# user believe that they do something.
REMOVED = frozenset(
    [
        "sketch_appearance_arch",
        "image_appearance_arch",
        "pt_obj_id",
        "pt_skt_id",
        "accum_grads_for",
        "use_ttur",
        "use_noise_dis",
        "queue_size",
        "optimizer",
        "use_enc_not_rep",
        "d_obj_arch",
        "use_imagenet_pretrained",
        "use_moco_loss",
        "g_enc_encoding_dim",
        "superbox_reconstruction",
        "include_scoco",
    ]
)


def hp(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    high: float | None = None,
    folder: bool = False,
) -> Any:
    """A dataclass field with what `describe` prints and `parse` checks.

    default: left out, the hparam is required. choices: the values allowed. low, high: inclusive
    limits of a number (or of every number of a list). folder: a path, which `parse` makes absolute,
    so that a saved run finds its data from wherever it is resumed.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "folder": folder}
    return dataclasses.field(default=default, metadata=metadata)


MOST_STEPS = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class BaseHParams:
    """What every training run has; periods are counted in steps."""

    batch_size: int = hp(
        128, "samples (stage 1) or scenes (stage 2) in a batch", low=1, high=65_536
    )
    iterations: int = hp(100_000, "the last step of the run", low=1, high=MOST_STEPS)
    log_every: int = hp(
        100, "steps between lines on the console and in metrics.jsonl", low=1, high=MOST_STEPS
    )
    notify_every: int = hp(1000, "steps between evaluations, with plots", low=1, high=MOST_STEPS)
    save_every: int = hp(20_000, "steps between checkpoints kept for ever", low=1, high=MOST_STEPS)
    safety_save: int = hp(
        10_000, "steps between checkpoints of which the last two stay", low=1, high=MOST_STEPS
    )
    goal: str = hp("No description", "what this run is for, in your words")
    slack_config: str = hp("token.secret", "file with a Slack token and a channel; empty: none")
    autograph: bool = hp(True, "compile the step; False runs it eagerly, to debug")
    distribute: str = hp(
        "none",
        "one device, all of this machine, or those of the machines in TF_CONFIG",
        choices=("none", "mirrored", "multiworker"),
    )
    seed: int = hp(0, "seed of everything random", low=0, high=2**31 - 1)
    mixed_precision: str = hp(
        "none",
        "what networks compute in; variables and losses are float32",
        choices=("none", "bfloat16", "float16"),
    )
    clip_norm: float = hp(0.0, "largest global norm of an optimizer's gradients; 0: any", low=0.0)
    deterministic: bool = hp(False, "repeatable bit for bit on the same machine; slower")

    def __post_init__(self) -> None:
        # config.json keeps hparams and command lines, so a token must not come this way.
        if self.slack_config.startswith("xox"):
            raise HParamError(
                "slack_config is the path of a file that holds the token, never the token itself"
            )


def parse(text: str | None, cls: type[T], /, **saved: Any) -> T:
    """An instance of the dataclass `cls`: its defaults < `saved` values < the comma string `text`.

    Raises HParamError for a clause that is malformed, unknown, removed, repeated, of another type
    or out of range, and for a required hparam that nobody gave.
    """
    specs = _specs(cls)
    for name in saved:
        if name not in specs:
            raise HParamError(_unknown(name, f"saved hparam {name!r}", cls))
    values = dict(saved)
    seen: set[str] = set()
    for clause, name, value in _clauses(text or ""):
        if name not in specs:
            raise HParamError(_unknown(name, f"clause {clause!r}", cls))
        if name in seen:
            raise HParamError(f"clause {clause!r}: {name!r} is given twice; keep one of them")
        seen.add(name)
        field, hint = specs[name]
        try:
            values[name] = _convert(value, hint)
        except ValueError:
            raise HParamError(
                f"clause {clause!r}: {name} must be {_type_name(field, hint)}, found {value!r}"
            ) from None
        _check_limits(field, hint, values[name], f"clause {clause!r}")
        if field.metadata.get("folder") and value:
            values[name] = str(Path.cwd() / value)
    missing = [n for n, (f, _) in specs.items() if n not in values and _required(f)]
    if missing:
        raise HParamError(f"missing hparams without a default: {', '.join(missing)}")
    return cls(**values)


def route(text: str, classes: Mapping[str, type]) -> dict[str, str]:
    """The clauses of a comma string by the group whose class has their name: group -> its comma
    string. classes: group -> dataclass.

    Raises HParamError for a clause that is malformed, and for a name of no or several groups.
    """
    routed: dict[str, list[str]] = {group: [] for group in classes}
    for clause, name, _ in _clauses(text):
        owners = [group for group, cls in classes.items() if name in _specs(cls)]
        if not owners:
            raise HParamError(_unknown(name, f"clause {clause!r}", *classes.values()))
        if len(owners) > 1:
            raise HParamError(
                f"clause {clause!r}: {name!r} is ambiguous, an hparam of {' and of '.join(owners)}."
                f" Valid names: {', '.join(_names(*classes.values()))}"
            )
        routed[owners[0]].append(clause)
    return {group: ",".join(clauses) for group, clauses in routed.items()}


def describe(cls: type) -> str:
    """Help text of a hparams class: one line a field: name, type, default, help."""
    table = []
    for row in rows(cls):
        default = row.default if row.default == REQUIRED else f"= {row.default}"
        table.append((row.name, row.type, default, row.help))
    if not table:
        return "  (none)"
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    return "\n".join(
        "  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]).rstrip()
        for row in table
    )


class Row(NamedTuple):
    """One hparam in words, for help texts and pages."""

    name: str
    type: str  # or its choices, with | between them
    default: str  # or REQUIRED
    limits: str  # 'at least 1', '0 to 1' or ''
    help: str


REQUIRED = "required"


def rows(cls: type) -> list[Row]:
    """The hparams of a class in words, in their order."""
    return [
        Row(
            name,
            _type_name(field, hint),
            REQUIRED if _required(field) else _show(field.default),
            _limits(field),
            field.metadata.get("help", ""),
        )
        for name, (field, hint) in _specs(cls).items()
    ]


def to_dict(instance: Any) -> dict[str, Any]:
    """A JSON-ready dict of a hparams instance (tuples as lists)."""
    return {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(instance)
        for value in [getattr(instance, field.name)]
    }


def to_text(values: Mapping[str, Any]) -> str:
    """The comma string that `parse` reads as these values, which are of `to_dict`. HParamError for
    a text that it cannot carry: one with both kinds of quotes."""
    return ",".join(f"{name}={_written(name, value)}" for name, value in values.items())


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """The inverse of `to_dict`, strict: unknown, missing or ill-typed keys are a UserError.

    where: the file and group the dict comes from, for the message.
    """
    specs = _specs(cls)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected an object of hparams, found {values!r}")
    for name in values:
        if name not in specs:
            raise UserError(
                f"{where}: unknown hparam {name!r}.{closest(name, list(specs))} "
                f"This file belongs to another version of the program, or was edited"
            )
    missing = [name for name in specs if name not in values]
    if missing:
        raise UserError(
            f"{where}: missing hparams: {', '.join(missing)}. "
            "This file belongs to another version of the program, or was edited"
        )
    converted = {}
    for name, value in values.items():
        field, hint = specs[name]
        try:
            converted[name] = _from_json(value, hint)
        except (ValueError, OverflowError):  # an int that no float can be
            raise UserError(
                f"{where}: {name} must be {_type_name(field, hint)}, found {value!r}"
            ) from None
        try:
            _check_limits(field, hint, converted[name], where)
        except HParamError as error:
            raise UserError(str(error)) from None
    try:
        return cls(**converted)
    except HParamError as error:
        raise UserError(f"{where}: {error}") from None


# --- the comma string -----------------------------------------------------------------------------


class _Quoted(str):
    """A value that stood in quotes: never read as a list or as None."""


def _clauses(text: str) -> list[tuple[str, str, str]]:
    """[(clause, name, value)]; a quoted value comes without its quotes, as _Quoted."""
    clauses = []
    position = 0
    while text.strip():
        end = _name_end(text, position)
        name = text[position:end].strip()
        start = end + 1
        while start < len(text) and text[start] == " ":
            start += 1
        opener = text[start : start + 1]
        if opener and opener in "'\"[":
            closer = "]" if opener == "[" else opener
            close = text.find(closer, start + 1)
            if close < 0:
                raise HParamError(
                    f"clause {text[position:].strip()!r}: {opener} is never closed by {closer}"
                )
            stop = text.find(",", close)
            stop = len(text) if stop < 0 else stop
            if text[close + 1 : stop].strip():
                raise HParamError(
                    f"clause {text[position:stop].strip()!r}: expected a comma after {closer}, "
                    f"found {text[close + 1 : stop].strip()!r}"
                )
            inner = text[start + 1 : close]
            value = f"[{inner}]" if opener == "[" else _Quoted(inner)
        else:
            stop = text.find(",", start)
            stop = len(text) if stop < 0 else stop
            value = text[start:stop].strip()
        clauses.append((text[position:stop].strip(), name, value))
        if stop == len(text):
            break
        position = stop + 1
    return clauses


def _name_end(text: str, position: int) -> int:
    """Where the name that starts at `position` ends: the index of its '='."""
    equals = text.find("=", position)
    comma = text.find(",", position)
    clause = text[position : comma if comma >= 0 else len(text)].strip()
    if equals < 0 or 0 <= comma < equals:
        what = f"clause {clause!r} has no '='" if clause else "there is an empty clause"
        raise HParamError(
            f"{what} in {text!r}; write name=value,name=value. A value with a comma needs quotes "
            "that the shell leaves in place: \"goal='a, b'\""
        )
    if not text[position:equals].strip():
        raise HParamError(f"clause {clause!r}: no name before '='")
    return equals


def _convert(value: str, hint: Any) -> Any:
    """`value` as the type `hint`; ValueError when it is not one."""
    optional = _optional_of(hint)
    if optional is not None:
        if not isinstance(value, _Quoted) and value.lower() in ("", "none"):
            return None
        return _convert(value, optional)
    if typing.get_origin(hint) is typing.Literal:
        for choice in typing.get_args(hint):
            if str(choice) == value:
                return choice
        raise ValueError
    if typing.get_origin(hint) is tuple:
        if not value.strip():
            return ()
        bracketed = value.startswith("[") and value.endswith("]")
        inner = value[1:-1] if bracketed else value
        if not inner.strip():
            return ()
        element = typing.get_args(hint)[0]
        return tuple(_convert(part.strip().strip("'\""), element) for part in inner.split(","))
    if hint is bool:
        if value.lower() in ("true", "1"):
            return True
        if value.lower() in ("false", "0"):
            return False
        raise ValueError
    if hint is int:
        return int(value)
    if hint is float:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    return str(value)


def _from_json(value: Any, hint: Any) -> Any:
    """A JSON value as the type `hint`; ValueError when it is not one."""
    optional = _optional_of(hint)
    if optional is not None:
        return None if value is None else _from_json(value, optional)
    if typing.get_origin(hint) is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise ValueError
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError
        return tuple(_from_json(part, typing.get_args(hint)[0]) for part in value)
    if hint is float and type(value) is int:
        return float(value)
    # No command line can have given a NUL, and no path takes one.
    if type(value) is not hint or (hint is str and "\0" in value):
        raise ValueError
    if hint is float and not math.isfinite(value):
        raise ValueError
    return value


def _written(name: str, value: Any) -> str:
    if isinstance(value, list):
        parts = [str(part) for part in value]
        if any(part != part.strip(" ") or not part or set(part) & set(",'\"]") for part in parts):
            raise HParamError(f"{name}: {value!r} cannot be written as a list of a comma string")
        return f"[{','.join(parts)}]"
    if not isinstance(value, str):
        return str(value)
    quote = '"' if "'" in value else "'"
    if quote in value:
        raise HParamError(
            f"{name}: {value!r} has both kinds of quotes, which no comma string takes"
        )
    return f"{quote}{value}{quote}"


# --- fields ---------------------------------------------------------------------------------------


def _specs(cls: type) -> dict[str, tuple[dataclasses.Field, Any]]:
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _optional_of(hint: Any) -> Any:
    """T for Optional[T], else None."""
    union = getattr(types, "UnionType", None)
    if typing.get_origin(hint) is typing.Union or (union and isinstance(hint, union)):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(rest) == 1:
            return rest[0]
        raise TypeError(f"hparams cannot be {hint}")
    return None


def _type_name(field: dataclasses.Field, hint: Any) -> str:
    choices = field.metadata.get("choices") or ()
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
    if choices:
        return "|".join(str(choice) for choice in choices)
    optional = _optional_of(hint)
    if optional is not None:
        return f"{_type_name(field, optional)} or none"
    if typing.get_origin(hint) is tuple:
        return f"list of {typing.get_args(hint)[0].__name__}"
    return {bool: "bool (True or False)"}.get(hint, hint.__name__)


def _limits(field: dataclasses.Field) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _check_limits(field: dataclasses.Field, hint: Any, value: Any, where: str) -> None:
    if value is None:
        return
    choices = field.metadata.get("choices") or ()
    low, high = field.metadata.get("low"), field.metadata.get("high")
    for part in value if isinstance(value, tuple) else (value,):
        if choices and part not in choices:
            near = closest(str(part), [str(choice) for choice in choices])
            listed = ", ".join(str(choice) for choice in choices)
            raise HParamError(
                f"{where}: {field.name} must be one of {listed}, found {part!r}.{near}"
            )
        if low is not None and part < low:
            raise HParamError(f"{where}: {field.name} must be at least {low}, found {part}")
        if high is not None and part > high:
            raise HParamError(f"{where}: {field.name} must be at most {high}, found {part}")


def _names(*classes: type) -> list[str]:
    return [field.name for cls in classes for field in dataclasses.fields(cls)]


def _unknown(name: str, what: str, *classes: type) -> str:
    if name in REMOVED:
        return (
            f"{what}: {name!r} is a name of the original program that was never used or is "
            "deprecated there; nothing reads it, so remove it"
        )
    valid = _names(*classes)
    listed = ", ".join(valid) if valid else "none"
    return f"{what}: unknown hparam {name!r}.{closest(name, valid)} Valid names: {listed}"


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(str(part) for part in value) + "]"
    return repr(value)
