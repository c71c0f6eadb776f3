"""Metrics of a trained run: `python evaluate-metrics.py MODEL -o DIR --id ID ...`; see --help."""

from core import cli

if __name__ == "__main__":
    cli.main(cli.evaluate)
