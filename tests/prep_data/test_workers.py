"""Worker processes: a dead one, order, and how far tasks are read ahead."""

import pytest
import slow_set

from core.errors import UserError
from prep_data.workers import ordered_map, worker_pool


def test_a_dead_worker_is_an_error(tmp_path):
    with pytest.raises(UserError, match="a worker process died"):
        slow_set.prepare(tmp_path / "set", workers=1, work=slow_set.die)
    assert not list((tmp_path / "set").rglob("*.partial"))


def test_ordered_map_reads_only_so_far_ahead():
    taken = []

    def tasks():
        for i in range(50):
            taken.append(i)
            yield i

    with worker_pool(2) as pool:
        for i, result in enumerate(ordered_map(pool, float, tasks(), 4)):
            assert result == i
            assert len(taken) <= i + 4
