"""Hparams: frozen dataclasses that a user fills with a comma string.

The grammar: clauses `name=value` separated by commas. A value that starts with a quote runs to the
same quote, one that starts with `[` to its `]`; any other value runs to the next comma and may
hold spaces (a shell strips quotes, so `goal=First stage of it` must do). Examples:

    a=1,b=text with spaces,c='x,y',d=[1,2],e=

Types: bool, int, float, str, tuple[T, ...] and T | None.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from tabulate import tabulate

from core.errors import HParamError, UserError
from core.registry import closest

log = logging.getLogger(__name__)

T = TypeVar("T")

# Names of the original program that nothing reads any more. Accepting them in silence would let a
# user believe that they do something.
REMOVED = frozenset([
    "sketch_appearance_arch", "image_appearance_arch", "pt_obj_id", "pt_skt_id", "accum_grads_for",
    "use_ttur", "use_noise_dis", "queue_size", "optimizer", "use_enc_not_rep", "d_obj_arch",
    "use_imagenet_pretrained", "use_moco_loss", "g_enc_encoding_dim", "superbox_reconstruction",
    "include_scoco",
])  # fmt: skip


def hp(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: tuple[Any, ...] = (),
    low: float | None = None,
    high: float | None = None,
    folder: bool | tuple[str, ...] = False,
) -> Any:
    """Return a dataclass field with what `describe` prints and `parse` checks.

    default: left out, the hparam is required. choices: the values allowed. low, high: inclusive
    limits of a number (or of every number of a list). folder: a path, which `parse` makes absolute,
    so that a saved run finds its data from wherever it is resumed; patterns say which of its files
    are the data, True means all (see `core.provenance.data_files`).
    """
    folder = ("**",) if folder is True else folder
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "folder": folder}
    return dataclasses.field(default=default, metadata=metadata)


MOST_STEPS = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class BaseHParams:
    """Hparams of every training run; periods are counted in steps."""

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
        "what networks compute in; variables and losses are float32; auto: bfloat16 if fast here",
        choices=("none", "bfloat16", "float16", "auto"),
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
    """Return an instance of `cls`: its defaults < `saved` values < the comma string `text`.

    Raises HParamError for a clause that is malformed, unknown, removed, repeated, of another type
    or out of range, and for a required hparam that nobody gave.
    """
    fields = fields_of(cls)
    values: dict[str, Any] = {}
    for clause in _clauses(text or ""):
        name = clause.name
        with located(f"clause {clause.text!r}"):
            _check_known(name, cls)
            if name in values:
                raise HParamError(f"{name!r} is given twice; keep one of them")
            field, hint = fields[name]
            values[name] = _checked(_split(clause, hint), field, hint, strict=False)
        if field.metadata.get("folder") and values[name]:
            values[name] = str(Path.cwd() / values[name])
    return _construct(cls, {**saved, **values})


def route(text: str, classes: Mapping[str, type]) -> dict[str, str]:
    """Return a comma string for each group: the clauses of `text` whose names its class has.

    Raises HParamError for a clause that is malformed, and for a name of no or several groups.
    """
    routed: dict[str, list[str]] = {group: [] for group in classes}
    for clause in _clauses(text):
        with located(f"clause {clause.text!r}"):
            _check_known(clause.name, *classes.values())
            owners = [group for group, cls in classes.items() if clause.name in _names(cls)]
            if len(owners) > 1:
                raise HParamError(
                    f"{clause.name!r} is ambiguous, an hparam of {' and of '.join(owners)}. "
                    f"Valid names: {', '.join(_names(*classes.values()))}"
                )
        routed[owners[0]].append(clause.text)
    return {group: ",".join(clauses) for group, clauses in routed.items()}


def to_dict(instance: Any) -> dict[str, Any]:
    """Return the values of a hparams instance by name, ready for JSON (tuples as lists)."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(instance).items()
    }


def folders(instance: Any) -> dict[str, Path]:
    """Return the folders that a hparams instance names, by hparam; those that exist."""
    named = {
        field.name: Path(getattr(instance, field.name))
        for field in dataclasses.fields(instance)
        if field.metadata.get("folder") and getattr(instance, field.name)
    }
    return {name: folder for name, folder in named.items() if folder.is_dir()}


def from_dict(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return an instance of `cls` with the values of `to_dict`; the inverse of that.

    A missing name with a default was added after the values were written: the default is used,
    with a notice. where: the file and group of the values, for messages. UserError for names that
    are unknown, required and missing, or whose values have another type or are out of range.
    """
    fields = fields_of(cls)
    for name in values:
        if name not in fields:
            raise UserError(
                f"{where}: unknown hparam {name!r}.{closest(name, list(fields))} "
                "This file belongs to another version of the program, or was edited"
            )
    with located(where, UserError):
        instance = _construct(
            cls,
            {name: _checked(value, *fields[name], strict=True) for name, value in values.items()},
        )
    added = [f"{name}={getattr(instance, name)}" for name in fields if name not in values]
    if added:
        log.info("%s is of an older version: %s by default", where, ", ".join(added))
    return instance


def to_text(values: Mapping[str, Any]) -> str:
    """Return the comma string that `parse` reads as these values of `to_dict`; HParamError for a
    text that none can carry, as one with both kinds of quotes."""
    return ",".join(f"{name}={_quoted(name, value)}" for name, value in values.items())


def _quoted(name: str, value: Any) -> str:
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


# --- in words -------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One hparam in words, for help texts and pages."""

    name: str
    type: str  # or its choices, with | between them
    default: str  # or REQUIRED
    limits: str  # 'at least 1', '0 to 1' or ''
    help: str


REQUIRED = "required"


def rows(cls: type) -> list[Row]:
    """Return the hparams of a class in words, in their order."""
    return [
        Row(
            name,
            _type_name(field, hint),
            REQUIRED if field.default is dataclasses.MISSING else _default_text(field.default),
            _limits_text(field),
            field.metadata.get("help", ""),
        )
        for name, (field, hint) in fields_of(cls).items()
    ]


def describe(cls: type) -> str:
    """Return the help text of a hparams class, a line for each: name, type, default, help."""
    table = [(row.name, row.type, row.default, row.help) for row in rows(cls)]
    text = tabulate(table, tablefmt="plain", disable_numparse=True)
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines()) or "  (none)"


def _default_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(str(part) for part in value) + "]"
    return repr(value)


def _limits_text(field: dataclasses.Field) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _type_name(field: dataclasses.Field, hint: Any) -> str:
    choices = field.metadata.get("choices")
    if choices:
        return "|".join(str(choice) for choice in choices)
    if _is_optional(hint):
        return f"{typing.get_args(hint)[0].__name__} or none"
    if typing.get_origin(hint) is tuple:
        return f"list of {typing.get_args(hint)[0].__name__}"
    return "bool (True or False)" if hint is bool else hint.__name__


# --- the comma string -----------------------------------------------------------------------------


class _Clause(NamedTuple):
    text: str
    name: str
    value: str  # without its quotes
    quoted: bool


# name=value and the comma after it, if any. A value that starts with a quote or [ must be closed.
_CLAUSE = re.compile(
    r"""(?P<clause> (?P<name>[^=,]*)=\ *
    (?: (?P<quote>['"]) (?P<quoted>((?!(?P=quote)).)*) (?P=quote)
      | (?P<plain>\[[^]]*\] | (?![\ '"[])[^,]*) )
    \s*) (?:,|\Z)""",
    re.VERBOSE | re.DOTALL,
)


def _clauses(text: str) -> Iterator[_Clause]:
    position = 0
    while text.strip():
        match = _CLAUSE.match(text, position)
        if not match:
            raise HParamError(_what_is_wrong(text, position))
        clause, name = match["clause"].strip(), match["name"].strip()
        if not name:
            raise HParamError(f"clause {clause!r}: no name before '='")
        quoted = match["quote"] is not None
        yield _Clause(clause, name, match["quoted"] if quoted else match["plain"].strip(), quoted)
        position = match.end()
        if position == len(text) and not match.group().endswith(","):
            break


def _what_is_wrong(text: str, position: int) -> str:
    """Return the message for the clause at `position`, which is none."""
    rest = text[position:].strip()
    clause, _, _ = rest.partition(",")
    _, equals, value = clause.partition("=")
    if not equals:
        what = f"clause {clause!r} has no '='" if clause else "there is an empty clause"
        return (
            f"{what} in {text!r}; write name=value,name=value. A value with a comma needs quotes "
            "that the shell leaves in place: \"goal='a, b'\""
        )
    opener = value.strip()[0]
    closer = "]" if opener == "[" else opener
    _, closed, after = rest.partition(opener)[2].partition(closer)
    if not closed:
        return f"clause {rest!r}: {opener} is never closed by {closer}"
    found = after.partition(",")[0].strip()
    return f"clause {clause!r}: expected a comma after {closer}, found {found!r}"


def _split(clause: _Clause, hint: Any) -> Any:
    """Return the value of a clause as what msgspec converts: a text, a list of texts, or None."""
    value = clause.value
    if _is_optional(hint) and not clause.quoted and value.lower() in ("", "none"):
        return None
    read = _read_float if float in (hint, *typing.get_args(hint)) else str
    if typing.get_origin(hint) is not tuple:
        return read(value)
    inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    return [read(part.strip().strip("'\"")) for part in inner.split(",")] if inner.strip() else []


def _read_float(text: str) -> float | str:
    """Return the number of a text; msgspec would refuse '.5' and '1.', which JSON has not."""
    try:
        return float(text)
    except ValueError:
        return text


# --- fields ---------------------------------------------------------------------------------------


def fields_of(cls: type) -> dict[str, tuple[dataclasses.Field, Any]]:
    """Return (field, type) of each hparam of a class, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in dataclasses.fields(cls)}


def _names(*classes: type) -> list[str]:
    return [field.name for cls in classes for field in dataclasses.fields(cls)]


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _checked(value: Any, field: dataclasses.Field, hint: Any, strict: bool) -> Any:
    """Return `value` as the type `hint` and within the field's limits, or raise HParamError.

    strict: numbers and booleans may not be written as texts.
    """
    try:
        converted = msgspec.convert(value, hint, strict=strict)
        parts = converted if isinstance(converted, tuple) else (converted,)
        if not all(math.isfinite(part) for part in parts if isinstance(part, float)):
            raise ValueError
    except ValueError:
        kind = _type_name(field, hint)
        raise HParamError(f"{field.name} must be {kind}, found {value!r}") from None
    for part in parts:
        if part is not None:
            _check_limits(part, field)
    return converted


def _check_limits(value: Any, field: dataclasses.Field) -> None:
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        texts = [str(choice) for choice in choices]
        near = closest(str(value), texts)
        raise HParamError(f"{field.name} must be one of {', '.join(texts)}, found {value!r}.{near}")
    if low is not None and value < low:
        raise HParamError(f"{field.name} must be at least {low}, found {value}")
    if high is not None and value > high:
        raise HParamError(f"{field.name} must be at most {high}, found {value}")


def _construct(cls: type[T], values: Mapping[str, Any]) -> T:
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise HParamError(f"missing hparams without a default: {', '.join(missing)}")
    return cls(**values)


def _check_known(name: str, *classes: type) -> None:
    valid = _names(*classes)
    if name in REMOVED:
        raise HParamError(
            f"{name!r} is a name of the original program that was never used or is deprecated "
            "there; nothing reads it, so remove it"
        )
    if name not in valid:
        listed = ", ".join(valid) if valid else "none"
        raise HParamError(f"unknown hparam {name!r}.{closest(name, valid)} Valid names: {listed}")


@contextlib.contextmanager
def located(where: str, kind: type[UserError] = HParamError) -> Iterator[None]:
    """Raise HParamErrors of the block as `kind`, beginning with `where`."""
    try:
        yield
    except HParamError as error:
        raise kind(f"{where}: {error}") from None
