"""The errors a user can cause or mend. Scripts print them as one sentence, without a traceback."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a folder, a checkpoint. Exit code 1."""

    exit_code = 1


class EmptySplitError(UserError):
    """A split of the data has nothing to evaluate: there may be others."""


class UsageError(UserError):
    """The command line is wrong: an unknown name, a flag that does not fit. Exit code 2."""

    exit_code = 2


class HParamError(UsageError):
    """A clause of an hparams string is unknown, repeated, badly typed or out of range."""
