"""Speed and memory of the parts that matter, each beside a naive version measured in the same run.

`python -m tests.benchmarks` (or `make bench`). Every measurement runs in a process of its own, so
that its peak memory is its own.
"""
