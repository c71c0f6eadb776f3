"""Train a model: `python train.py MODEL --data-loader LOADER -o DIR --id ID ...`; see --help."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from core import cli

if __name__ == "__main__":
    cli.main(cli.train)
