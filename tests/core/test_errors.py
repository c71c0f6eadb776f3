"""core.errors: what a message says of an error."""

import errno
import os

import pytest

from core.errors import file_error

FILES = "raise the limit of open files, ulimit -n"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EMFILE, f"Too many open files; {FILES}"),
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "Disk quota exceeded; free some space"),
        (errno.EFBIG, "File too large; raise the limit of a file's size, ulimit -f"),
        (errno.EROFS, "Read-only file system; choose another"),
        (errno.EACCES, "Permission denied; choose another"),
        (errno.ENAMETOOLONG, "File name too long; choose another"),
    ],
)
def test_an_error_of_a_file_has_the_remedy_of_its_cause(number, told):
    assert file_error(OSError(number, os.strerror(number), "a.json"), "choose another") == told


def test_an_error_of_tensorflow_has_it_too():
    message = "{{function_node f}} /x/ckpt.data; Too many open files [Op:SaveV2]"
    assert file_error(RuntimeError(message)) == f"/x/ckpt.data; Too many open files; {FILES}"
    assert file_error(RuntimeError(f"No; {FILES}, Too many open files")).count(FILES) == 1
