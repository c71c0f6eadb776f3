"""Which faults strike which commands. Each part gives outcomes; an AssertionError or an error of
the program in one of them is a failure that the page shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.faults import company, damaged, trainings, writers
from tests.faults.world import Outcome, World

PARTS: dict[str, Callable[[World, float], Iterator[Outcome]]] = {
    "checkpoint-kills": trainings.kills_in_checkpoints,
    "step-kills": trainings.kills_in_steps,
    "full": trainings.full_disks_in_training,
    "signals": trainings.signals_in_training,
    "sets": writers.faults_in_sets,
    "features": writers.faults_in_features,
    "two": company.two_on_one_id,
    "slack": company.slack_in_trouble,
    "generator": company.generator_dies,
    "checkpoints": damaged.damaged_checkpoints,
    "records": damaged.damaged_records,
    "unreadable": damaged.unreadable_files,
}


def run(world: World, part: str, share: float) -> Iterator[Outcome]:
    """The outcomes of a part, one by one; that it cannot go on is one with an error. share: of the
    faults; 1 for all."""
    try:
        yield from PARTS[part](world, share)
    except Exception as error:
        yield Outcome(part, part, "", error=f"{type(error).__name__}: {error}"[:900])
