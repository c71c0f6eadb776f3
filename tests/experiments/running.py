"""Run an experiment as core.cli does, without a command line."""

from core.hparams import parse


def run_experiment(experiment_cls, folder, text, trained=None):
    experiment = experiment_cls(parse(text, experiment_cls.HParams), folder)
    experiment.prepare()
    experiment.run(trained)
