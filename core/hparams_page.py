"""Make docs/hparams.md from the code: python -m core.hparams_page > docs/hparams.md"""

import pkgutil
import sys
from collections.abc import Iterator

from core import hparams
from core.commands import run
from core.registry import EXPERIMENTS, LOADERS, MODELS, Registry

COMMAND = "python -m core.hparams_page > docs/hparams.md"

# Preparation has no registry: its commands are modules. They are looked up by name, as a registry
# looks up its packages, because core imports nothing of the other rooms.
PREPARATION = {
    "quickdraw_to_tfrecord, index_quickdrawtf": "prep_data.quickdraw_drawings:HParams",
    "coco_to_tfrecord, sketchycoco_to_tfrecord": "prep_data.coco_classes:CocoHParams",
    "cococrops_to_tfrecord": "prep_data.coco_classes:CropHParams",
}

_HEAD = f"""# Hparams

<!-- Made by `{COMMAND}`: change the code, not this page. -->

A flag takes one comma string: `--hparams learning_rate=1e-4,use_giou_loss=False`. A value with a
comma needs quotes that the shell leaves in place (`"goal='a, b'"`), a list stands in brackets
(`[1,2]`), an empty value is allowed (`slack_config=`). Folders become absolute. A name that is
unknown, given twice, of another type or out of its range is an error that says which. What a run
was given is in its `config.json`; `python train.py --help-hps` prints this page's tables of models
and loaders.
"""

_TAIL = """## Names that are refused

Hparams of the original program that nothing reads any more; giving one is an error that says so:
{}.
"""


def page() -> str:
    """Return the whole page, Markdown."""
    parts = [_HEAD, _table("`--base-hparams`: every training", hparams.BaseHParams)]
    parts += _tables("`--hparams` of", MODELS)
    parts += _tables("`--data-hparams` of", LOADERS)
    parts += _tables("`--exp-hparams` of", EXPERIMENTS)
    for commands, place in PREPARATION.items():
        names = ", ".join(f"`prep_data.{name}`" for name in commands.split(", "))
        parts.append(_table(f"`--hparams` of {names}", pkgutil.resolve_name(place)))
    parts.append(_TAIL.format(", ".join(f"`{name}`" for name in sorted(hparams.REMOVED))))
    return "\n".join(parts)


def _tables(flag: str, registry: Registry) -> Iterator[str]:
    """Yield a table for each class of hparams, with the names of all that share it."""
    names: dict[type, list[str]] = {}
    for name in registry:
        names.setdefault(registry[name].HParams, []).append(f"`{name}`")
    for cls, sharing in names.items():
        yield _table(f"{flag} {', '.join(sharing)}", cls)


def _table(title: str, cls: type) -> str:
    lines = [f"## {title}", ""]
    table = [
        (f"`{row.name}`", row.type, _code(row.default), row.limits, row.help)
        for row in hparams.rows(cls)
    ]
    if not table:
        return "\n".join([*lines, "None.", ""])
    head = [("name", "type", "default", "range", "meaning"), ("---",) * 5]
    for row in [*head, *table]:
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join([*lines, ""])


def _code(default: str) -> str:
    return default if default == hparams.REQUIRED else f"`{default}`"


if __name__ == "__main__":
    sys.exit(run(lambda argv: print(page(), end=""), sys.argv[1:]))
