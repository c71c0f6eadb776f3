"""The errors a user can cause or mend. Scripts print them as one sentence, without a traceback."""

import errno
import os
import re
import signal


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


class StoppedError(UserError):
    """A signal ended a command that had saved its work. Exit code 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str) -> None:
        """message: completes 'stopped by SIGINT ...'."""
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {message}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 300 characters, or its type's name.

    The names of operations, which TensorFlow puts around it, are left out.
    """
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", text).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


_REMEDIES = {
    errno.EMFILE: "raise the limit of open files, ulimit -n",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit of a file's size, ulimit -f",
}


def file_error(error: BaseException, otherwise: str = "") -> str:
    """Return the first line of an error of a file, and the remedy of its cause, where that has one.

    error: an OSError, or one of TensorFlow, whose message ends with the same words. otherwise: the
    remedy of other causes.
    """
    reason = first_line(error)
    found = (what for number, what in _REMEDIES.items() if os.strerror(number) in reason)
    remedy = next(found, otherwise)
    return f"{reason}; {remedy}" if remedy and remedy not in reason else reason
