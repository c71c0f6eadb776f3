"""`train.py` in a process of its own, as tests of several devices need it.

    python -m tests.core.spread_child CPUS ARGV [ARGV ...]

Runs the trainings one after the other, each ARGV a JSON list, on a CPU divided into CPUS logical
ones. Ends with the first exit code that is not 0.
"""

import json
import sys

import tensorflow as tf

from core import cli, commands


def main(cpus: str, *trainings: str) -> int:
    (cpu,) = tf.config.list_physical_devices("CPU")
    if int(cpus) > 1:
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(int(cpus))]
        tf.config.set_logical_device_configuration(cpu, parts)
    for argv in trainings:
        code = commands.run(cli.train, json.loads(argv))
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
