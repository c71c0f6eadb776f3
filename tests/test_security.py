"""Arrays and weights are loaded without programs in them (the linter sees to the rest)."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAFE = {"np.load": "allow_pickle=False", "torch.load": "weights_only=True"}


def test_arrays_and_weights_are_loaded_without_pickles():
    calls = []
    for folder in ("core", "models", "dataloaders", "experiments", "prep_data", "SPADE", "search"):
        for path in (ROOT / folder).rglob("*.py"):
            for name, arguments in re.findall(
                r"(np\.load|torch\.load)\((.*)\)", path.read_text(encoding="utf-8")
            ):
                calls.append(name)
                assert SAFE[name] in arguments, f"{path}: {name}({arguments})"
    assert {"np.load", "torch.load"} <= set(calls)
