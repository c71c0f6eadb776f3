"""Train a model: `python train.py MODEL --data-loader LOADER -o DIR --id ID ...`; see --help."""

from core import cli

if __name__ == "__main__":
    cli.main(cli.train)
