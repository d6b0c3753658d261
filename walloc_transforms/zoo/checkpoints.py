"""PyTorch checkpoints (``.pth``) of strangers: read without running their pickle, tensors only when asked for.

``torch.load(weights_only=True, mmap=True)`` with inert classes for the pickled configurations would take 50 lines. It
runs no code either, but nothing bounds it. Measured with torch 2.14, on files that this reader accepts or refuses in
less than a second and 10 MB:

    20,000 records that share 20,000 fields     349 kB     37 s    8.4 GB
    a dict with 50,000 keys of one hash         650 kB     37 s
    5,000 shapes that share 50,000 axes         705 kB     18 s    4.3 GB
    a deflated pickle                            97 kB              0.3 GB

It checks no CRC, so flipped bits become other weights, and it accepts tensors of 2**31 elements that share one number.
Its allowed classes are a global of the process. The workers of a DataLoader would get every byte of a decoder that has
not been read yet: a mapped tensor is pickled as its bytes, a :class:`LazyTensor` as a path and an offset.
"""

import dataclasses
import io
import os
import pickletools
from collections import OrderedDict
from typing import Any

from ..safe import shown
from .archive import Record, read_directory
from .lazy import DTYPES, LazyTensor, Storage, check, view

__all__ = ["InertRecord", "Limits", "read_checkpoint"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a checkpoint may cost before a tensor is read.

    Attributes:
        pickle: Bytes of the pickle. Training logs are pickled, too: in the published files up to 13 MB, by their sizes.
        work: Opcodes of the pickle, each 16 except literals, which are one: a second for a file of one megabyte. A
            tensor takes some 400, and published codecs have up to 552; a number in a log takes one.
        directory: Bytes of the zip directory, which bound the number of entries: enough for 20,000 tensors.
    """

    pickle: int = 2**25
    work: int = 4_000_000
    directory: int = 2**21


DEFAULT_LIMITS = Limits()

RECORDS = {"__main__.Config", "__main__.Args", "__main__.args", "types.SimpleNamespace"}
# A Counter has the milestones of a learning rate schedule.
FUNCTIONS = {
    "collections.OrderedDict",
    "collections.Counter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}
# The opcodes of protocols 2 to 5 that pickling such values takes; the argument of a literal is the value.
LITERALS = {"BINFLOAT", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"}
OPERATIONS = {
    "PROTO", "FRAME", "MARK", "STOP", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD",
}  # fmt: skip
OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclasses.dataclass
class InertRecord:
    """The fields of an instance of a pickled configuration class, without its behavior."""

    fields: dict[str, Any]


def read_checkpoint(file: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Read the dict that ``torch.save`` wrote, with a :class:`LazyTensor` for each tensor or parameter.

    Beside these it may hold plain containers (a ``Counter`` becomes a dict), strings and numbers, and an
    :class:`InertRecord` for each instance of ``__main__.Config``, ``__main__.Args``, ``__main__.args`` or
    ``types.SimpleNamespace``. As in any pickle, objects may be shared, nested deeply, or contain themselves.

    Args:
        file: The file.
        limits: What it may cost to read it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or not written by ``torch.save`` since PyTorch 1.6, or its pickle needs anything
            other than the above: the message says what.
    """
    file = os.path.abspath(file)
    records = read_directory(file, limits.directory)
    if not {"data.pkl", "version"} <= records.keys():
        raise ValueError(f"{file} is no PyTorch checkpoint: its folder must hold data.pkl and version")
    for name, expected in [("version", b"3"), ("byteorder", b"little")]:
        if name in records:  # the byte order since PyTorch 2.0
            content = bytes(records[name].read(0, min(records[name].length, 16))).strip()
            if content != expected:
                raise ValueError(f"{file}: its {name} is {content!r}; only {expected!r} is read")
    length = records["data.pkl"].length
    if length > limits.pickle:
        raise ValueError(f"{file}: its data.pkl has {length} bytes, more than {limits.pickle}")
    pickle = bytes(records["data.pkl"].read(0, length))
    try:
        return _Interpreter(records).run(pickle, limits.work)
    except (ValueError, LookupError) as error:  # LookupError: the pickle takes what it never put
        raise ValueError(f"{file}: its pickle is refused: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Global:
    """The name of a class or function that a pickle asks for."""

    name: str


class _Interpreter:
    """Follow the opcodes of a pickle on a stack of plain data; import nothing, and call nothing that the pickle names.

    This is no ``pickle.Unpickler``. Even with a strict ``find_class``, that one calls methods of objects it has made,
    takes classes from the registry of ``copyreg`` unasked, and allocates what opcodes claim (lengths, memo slots up to
    2**32). ``pickletools`` gives the opcodes and parses their arguments. A step takes constant time or consumes what it
    reads, so that shared references cannot multiply the work.
    """

    def __init__(self, records: dict[str, Record]) -> None:
        self.records = records
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self, pickle: bytes, limit: int) -> dict[str, Any]:
        stream, work, name = io.BytesIO(pickle), 0, ""
        while name != "STOP":
            code = stream.read(1)
            if code not in OPCODES:
                raise ValueError(f"opcode {code!r} is unknown" if code else "it ends before its STOP")
            opcode = OPCODES[code]
            name, argument = opcode.name, opcode.arg
            if name in LITERALS:
                work += 1
                self.stack.append(argument and argument.reader(stream))
            elif name == "GLOBAL":  # pickletools would undo escapes, with a warning where there is no such escape
                work += 16
                self.step(name, [stream.readline().decode().removesuffix("\n") for _ in range(2)])
            elif name in OPERATIONS:
                work += 16
                self.step(name, argument and argument.reader(stream))
            else:  # unparsed: the arguments of protocol 0 can be slow to parse, or raise warnings
                raise ValueError(f"its opcode {name} has no place in a checkpoint")
            if work > limit:
                raise ValueError("it has too many opcodes")
        result = self.stack.pop()
        if not isinstance(result, dict) or not all(isinstance(key, str) for key in result):
            raise ValueError(f"it holds a {type(result).__name__}, not a dict with names for keys")
        _check_values(result)
        return result

    def step(self, opcode: str, argument: Any) -> None:
        items: list[Any] = []
        if opcode in ("APPENDS", "SETITEMS", "TUPLE"):  # whose items lie above a mark
            items, self.stack = self.stack, self.outer.pop()
        stack, pop = self.stack, self.stack.pop
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(CONSTANTS[opcode])
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE":
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([pop() for _ in range(int(opcode[-1]))][::-1]))
            case "APPEND" | "APPENDS":
                items = items if opcode == "APPENDS" else [pop()]
                check(type(stack[-1]) is list, f"it appends to a {type(stack[-1]).__name__}")
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = items if opcode == "SETITEMS" else [pop(), pop()][::-1]
                check(type(stack[-1]) in (dict, OrderedDict), f"it sets items of a {type(stack[-1]).__name__}")
                # Other keys are a risk to hash: nested tuples overflow the C stack, multiples of 2**61 - 1 collide.
                check(
                    all(type(key) is str or (type(key) is int and abs(key) < 2**60) for key in items[::2]),
                    "the keys of a dict must be strings or integers",
                )
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL" | "STACK_GLOBAL":
                module, name = argument or [pop(), pop()][::-1]
                stack.append(_name(module, name))
            case "BINPERSID":
                stack.append(self.storage(pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = pop(), pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                state, target = pop(), stack[-1]
                check(
                    type(state) is dict and type(target) in (InertRecord, OrderedDict),
                    f"it sets the state of a {type(target).__name__} by a {type(state).__name__}",
                )
                if type(target) is InertRecord:  # a state dict's state tells versions of modules: of no use here
                    target.fields = state

    def storage(self, reference: Any) -> Storage:
        match reference:
            case ("storage", _Global(name), str(key), str(), int(numel)) if name in DTYPES:
                record = self.records.get(f"data/{key}")
                if record is not None and record.length == numel * DTYPES[name].itemsize:
                    return Storage(DTYPES[name], numel, record)
                raise ValueError(f"its storage {shown(key)} with {numel} elements of {name} is not in the file")
        raise ValueError("its persistent id is no storage")


def _name(module: Any, name: Any) -> _Global:
    check(type(module) is type(name) is str, "a name that it asks for is no string")
    name = f"{module}.{name}"
    allowed = name in RECORDS or name in FUNCTIONS or name in DTYPES
    check(allowed, f"it asks for {shown(name)}, which is no part of tensors or plain containers")
    return _Global(name)


def _call(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else f"a {type(function).__name__}"
    if type(arguments) is tuple and len(arguments) <= 7:
        match name, arguments:
            case "collections.OrderedDict", ():
                return OrderedDict()
            case "collections.Counter", (dict() as counts,):
                return counts
            case _, () if name in RECORDS:
                return InertRecord({})
            case "torch._utils._rebuild_parameter", (LazyTensor() as tensor, bool(), OrderedDict() as hooks):
                check(not hooks, "a parameter has hooks")
                return tensor
            case "torch._utils._rebuild_tensor_v2", (Storage() as storage, start, size, stride, bool(), hooks, *more):
                check(type(hooks) is OrderedDict and not hooks and not any(more), "a tensor has hooks or metadata")
                return view(storage, start, size, stride)
    raise ValueError(f"it calls {name} with unexpected arguments")


def _check_values(root: dict[str, Any]) -> None:
    """Refuse bare names, bare storages and fields named like methods. Visit each object once, without recursion."""
    leaves = {type(None), bool, int, float, str, LazyTensor}
    pending: list[Any] = [root]
    seen: set[tuple[type, int]] = set()
    while pending:
        value = pending.pop()
        key = type(value), id(value.fields if isinstance(value, InertRecord) else value)
        if key in seen:
            continue
        seen.add(key)
        if isinstance(value, InertRecord):
            wrong = [name for name in value.fields if not isinstance(name, str) or name.startswith("__")]
            check(not wrong, f"it sets the attribute {shown(wrong[0]) if wrong else ''} of an object")
            value = value.fields
        check(not isinstance(value, Storage), "it holds a storage that belongs to no tensor")
        check(not isinstance(value, _Global), f"it holds {getattr(value, 'name', None)!r} itself, not an instance")
        children = value.values() if isinstance(value, dict) else value
        pending.extend(child for child in children if type(child) not in leaves)
