"""Experiments: `python run-experiment.py EXPERIMENT -o DIR --id ID ...`; see --help."""

from core import cli

if __name__ == "__main__":
    cli.main(cli.run_experiment)
