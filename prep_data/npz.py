"""Safe reading of the official Quick, Draw! sketch-rnn .npz files.

A file holds three object arrays, `train`, `valid` and `test`, of int16 (points, 3) drawings. numpy
stores object arrays as pickles, and a pickle is a program: one that may call anything. So the
pickle is not run by an unpickler at all but read here as the small language these files are
written in (both Python 2's and Python 3's dialect). Only three names are understood:
`numpy.core.multiarray._reconstruct`, `numpy.ndarray` and `numpy.dtype`; and even those never reach
numpy: they make placeholders, from which arrays of checked sizes are built over bytes that are
really there.

Why not `pickle.Unpickler` with a restricted `find_class`: it, and `ndarray.__setstate__`, reserve
memory for whatever number the file states (an index of 4 bytes makes the unpickler ask for 64 GiB).
"""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from core.errors import UserError

SPLITS = ("train", "valid", "test")
# The largest official class has some 80 MB a key; what follows bounds memory for forged files.
MAX_BYTES = 256 << 20
MAX_RATIO = 200  # unpacked : packed; drawings reach about 4
MAX_MEMO = 4 << 20  # a drawing has six
_MAX_STACK = 10_000
_MAX_DEPTH = 16
_MAX_TUPLE = 16


class NpzError(UserError):
    """A drawing file cannot be read; the message names file and key."""


class _BadError(Exception):
    """What is wrong, without the file's name."""


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}


class _Global:
    """One of the three admitted names."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class _Dtype:
    """Placeholder of numpy.dtype: `code` "i2" or "O", `order` its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str):
        self.code = code
        self.order = "<"


class _Array:
    """Placeholder of an array: `value` is a list (object array) or an int16 (points, 3) array."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: None | list | np.ndarray = None


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # Python 2 text
        return value.decode("latin1")
    if not isinstance(value, str):
        raise _BadError("text expected where there is none")
    return value


def _find(module: str, name: str) -> _Global:
    if (module, name) not in _GLOBALS:
        raise _BadError(f"it asks for {module}.{name}"[:120] + ", which no drawing needs")
    return _Global(_GLOBALS[module, name])


def _call(function: Any, args: Any) -> _Array | _Dtype:
    if not isinstance(function, _Global) or not isinstance(args, tuple):
        raise _BadError("it calls something that is not an array's maker")
    if function.name == "reconstruct":
        # numpy always writes (ndarray, (0,), b"b"): the sizes come with the state
        if (
            len(args) == 3
            and isinstance(args[0], _Global)
            and args[0].name == "ndarray"
            and args[1] == (0,)
            and args[2] in (b"b", "b")
        ):
            return _Array()
        raise _BadError("an array is made with unusual arguments (a forged size?)")
    if function.name == "dtype" and len(args) == 3:
        code = _text(args[0])
        if code in ("i2", "O", "O4", "O8"):
            return _Dtype(code[:1] if code[0] == "O" else code)
        raise _BadError(f"its numbers are of type {code[:20]!r}, drawings are int16")
    raise _BadError("an array is made with unusual arguments")


def _build(target: Any, state: Any) -> None:
    """Gives a placeholder its state, as numpy writes it."""
    if isinstance(target, _Dtype) and isinstance(state, tuple) and len(state) >= 2:
        target.order = _text(state[1])
        if target.order not in ("<", ">", "|", "="):
            raise _BadError("a byte order is unknown")
        return
    if not isinstance(target, _Array) or not isinstance(state, tuple) or len(state) != 5:
        raise _BadError("a state is given to something that is not an array")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise _BadError("an array's state is not what numpy writes")
    if target.value is not None:
        raise _BadError("an array is given its state twice")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise _BadError("an array's shape is not what numpy writes")
    if dtype.code == "O":
        if not isinstance(content, list) or shape != (len(content),):
            raise _BadError("the shape of the array of drawings does not fit its content")
        target.value = content
        return
    if len(shape) != 2 or shape[1] != 3:
        raise _BadError(f"a drawing has shape {shape}, expected (points, 3)"[:120])
    if not isinstance(content, bytes) or len(content) != shape[0] * 6:
        raise _BadError(f"a drawing states shape {shape} but its content is of another size"[:150])
    flat = np.frombuffer(content, ">i2" if dtype.order == ">" else "<i2")
    drawing = flat.reshape(shape, order="F" if fortran else "C")
    target.value = np.ascontiguousarray(drawing, np.int16)


def _read_pickle(data: bytes, at: int) -> list[_Array]:
    """The pickled object array at data[at:] -> placeholders of drawings."""
    stack: list = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    lists = 0
    u16, i32, u32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")
    push, pop = stack.append, stack.pop

    def take(size: int) -> bytes:
        if size < 0 or at + size > len(data):
            raise _BadError("it ends too early")
        return data[at : at + size]

    def line() -> str:
        end = data.find(b"\n", at, at + 200)
        if end < 0:
            raise _BadError("a name has no end")
        return data[at:end].decode("latin1")

    def first() -> Any:
        # Tuples in tuples without end would take 50 times the bytes that ask for them.
        if type(stack[-1]) is tuple:
            raise _BadError("it holds a tuple that no array has")
        return stack[-1]

    def append(items: list) -> None:
        # Anything else would be refused in the end, when it has taken the memory.
        if any(type(item) is not _Array for item in items):
            raise _BadError("one entry is not a drawing")
        if not isinstance(stack[-1], list):
            raise _BadError("it appends to something that is not a list")
        stack[-1].extend(items)

    def since_mark() -> list:
        items = stack[marks[-1] :]
        del stack[marks.pop() :]
        return items

    while True:
        op = data[at : at + 1]
        at += 1
        # Ordered by how often they occur.
        if op == b"q":  # BINPUT
            memo[data[at]] = stack[-1]
            at += 1
        elif op == b"r":  # LONG_BINPUT
            memo[u32.unpack_from(data, at)[0]] = stack[-1]
            at += 4
            if len(memo) > MAX_MEMO:
                raise _BadError("it has too many parts")
        elif op == b"K":  # BININT1
            push(data[at])
            at += 1
        elif op == b"h":  # BINGET
            push(memo[data[at]])
            at += 1
        elif op == b"j":  # LONG_BINGET
            push(memo[u32.unpack_from(data, at)[0]])
            at += 4
        elif op == b"(":  # MARK
            marks.append(len(stack))
            if len(marks) > _MAX_DEPTH:
                raise _BadError("it is nested too deeply")
        elif op == b"R":  # REDUCE
            args = pop()
            stack[-1] = _call(stack[-1], args)
        elif op == b"b":  # BUILD
            state = pop()
            _build(stack[-1], state)
        elif op == b"\x85":  # TUPLE1
            stack[-1] = (first(),)
        elif op == b"\x86":  # TUPLE2
            last = pop()
            stack[-1] = (first(), last)
        elif op == b"\x87":  # TUPLE3
            last, middle = pop(), pop()
            stack[-1] = (first(), middle, last)
        elif op == b"t":  # TUPLE
            items = since_mark()
            if len(items) > _MAX_TUPLE:
                raise _BadError("it holds a tuple that no array has")
            push(tuple(items))
        elif op == b"\x88" or op == b"\x89":  # NEWTRUE, NEWFALSE
            push(op == b"\x88")
        elif op == b"B" or op == b"T":  # BINBYTES, BINSTRING (bytes of Python 3 and 2)
            size = u32.unpack_from(data, at)[0]
            at += 4
            push(take(size))
            at += size
        elif op == b"C" or op == b"U":  # SHORT_BINBYTES, SHORT_BINSTRING
            size = data[at]
            at += 1
            push(take(size))
            at += size
        elif op == b"M":  # BININT2
            push(u16.unpack_from(data, at)[0])
            at += 2
        elif op == b"J":  # BININT
            push(i32.unpack_from(data, at)[0])
            at += 4
        elif op == b"\x8a":  # LONG1
            size = data[at]
            at += 1
            push(int.from_bytes(take(size), "little", signed=True))
            at += size
        elif op == b"e":  # APPENDS
            append(since_mark())
        elif op == b"a":  # APPEND
            append([pop()])
        elif op == b"]":  # EMPTY_LIST
            push([])
            lists += 1
            if lists > 1:
                raise _BadError("it holds more than the one list of drawings")
        elif op == b"N":  # NONE
            push(None)
        elif op == b")":  # EMPTY_TUPLE
            push(())
        elif op == b"c":  # GLOBAL
            module = line()
            at += len(module) + 1
            name = line()
            at += len(name) + 1
            push(_find(module, name))
        elif op == b"\x93":  # STACK_GLOBAL
            name = _text(pop())
            stack[-1] = _find(_text(stack[-1]), name)
        elif op == b"X":  # BINUNICODE
            size = u32.unpack_from(data, at)[0]
            at += 4
            push(take(size).decode("utf-8"))
            at += size
        elif op == b"\x8c":  # SHORT_BINUNICODE
            size = data[at]
            at += 1
            push(take(size).decode("utf-8"))
            at += size
        elif op == b"\x94":  # MEMOIZE
            memo[len(memo)] = stack[-1]
            if len(memo) > MAX_MEMO:
                raise _BadError("it has too many parts")
        elif op == b"\x95":  # FRAME: its length helps streams only
            at += 8
        elif op == b"\x80":  # PROTO
            if data[at] > 5:
                raise _BadError(f"pickle protocol {data[at]} is unknown")
            at += 1
        elif op == b".":  # STOP
            if at != len(data) or len(stack) != 1 or marks:
                raise _BadError("something is left over at its end")
            array = stack[0]
            if not isinstance(array, _Array) or not isinstance(array.value, list):
                raise _BadError("it is not an array of drawings")
            return array.value
        elif not op:
            raise _BadError("it ends too early")
        else:
            raise _BadError(f"it uses pickle instruction {op!r}, which no drawing needs")
        if len(stack) > _MAX_STACK:
            raise _BadError("it piles up more than any array needs")


class _Bytes:
    """The little of a file that numpy's header reader asks for."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def read(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        self.at += len(part)
        return part


def _read_array(data: bytes) -> list[np.ndarray]:
    """One .npy member with an object array -> its drawings."""
    file = _Bytes(data)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise _BadError(f"its .npy version {version} is unknown")
    shape, _, dtype = read_header(file)
    if dtype != np.dtype(object) or len(shape) != 1:
        raise _BadError(
            f"it is an array of {dtype} of shape {shape}, expected a list of drawings"[:150]
        )
    entries = _read_pickle(data, file.at)
    if len(entries) != shape[0]:
        raise _BadError(f"its header states {shape[0]} drawings, {len(entries)} are there"[:120])
    drawings = []
    for entry in entries:
        if not isinstance(entry.value, np.ndarray):
            raise _BadError("one entry is not a drawing (or the same one twice)")
        drawings.append(entry.value)
        entry.value = None  # a second mention of the same drawing is then seen above
    return drawings


def _fail(path: Path, key: str | None, reason: str | Exception) -> NoReturn:
    where = f"{path}, key {key!r}" if key else str(path)
    if not isinstance(reason, str):
        reason = str(reason) if isinstance(reason, _BadError) else f"it is damaged ({reason})"
    raise NpzError(
        f"{where}: cannot be read as Quick, Draw! drawings: {reason}; "
        "download the official file again"
    ) from None


# numpy reads the header as Python text, hence the errors of Python's parser.
_DAMAGED = (
    _BadError, ValueError, IndexError, KeyError, struct.error, TypeError, SyntaxError,
    tokenize.TokenError, MemoryError, RecursionError,
)  # fmt: skip


def read_drawings(path: str | Path, key: str) -> list[np.ndarray]:
    """The drawings of one split of one class.

    path: an official Quick, Draw! sketch-rnn .npz file. key: "train", "valid" or "test".
    Returns a list of int16 (points, 3) arrays, rows (dx, dy, pen_lift), in file order. A drawing
    may be empty or degenerate: see `dataloaders.sketches.why_not_drawable`.
    Raises NpzError (a UserError) naming file and key: file missing or damaged, key missing, other
    types or shapes, sizes beyond any official file, or a pickle that asks for anything else than
    arrays.
    """
    path = Path(path)
    if not path.is_file():
        _fail(path, None, "there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if f"{key}.npy" not in names:
                keys = ", ".join(sorted(names)[:8])
                _fail(path, key, f"the key is missing (the file has: {keys or 'nothing'})")
            info = archive.getinfo(f"{key}.npy")
            packed = max(info.compress_size, 1)
            if info.file_size > MAX_BYTES or info.file_size > MAX_RATIO * packed + 65536:
                _fail(path, key, f"it unpacks to {info.file_size} bytes, more than drawings can")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                _fail(path, key, "its compression is not that of numpy's files")
            data = archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        _fail(path, key, error)
    try:
        return _read_array(data)
    except _DAMAGED as error:
        _fail(path, key, error)
