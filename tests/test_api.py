"""The public names and their signatures, as tests/api.txt has them.

A change of the public API is a decision, not an accident. After a change that is meant, write the file anew and
describe the change in CHANGELOG.md:

    python -m tests.test_api --write
"""

import ast
import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import walloc_transforms as wt

FILE = Path(__file__).with_name("api.txt")
SUBMODULES = ["data", "functional", "transforms", "wavelets", "weconvene"]
DATA = ["BucketSampler", "from_parquet", "to_parquet"]  # the other names of the folder serve the package itself
WAVELETS = ["WaveletPacketAnalysis", "WaveletPacketSynthesis", "join_bands", "split_bands"]  # as for data
WECONVENE = [  # as for data
    "Attention",
    "Compressed",
    "Downsample",
    "FactorizedPrior",
    "GDN",
    "GaussianConditional",
    "ParallelConv2d",
    "ResidualBlock",
    "SymbolDecoder",
    "SymbolEncoder",
    "Tables",
    "Upsample",
    "WeChARM",
    "WeConv2d",
    "WeConvene",
    "fingerprint",
    "load_checkpoint",
    "read_compressed",
    "save",
    "subpixel",
    "swap_conv",
    "write_compressed",
]


def public_objects() -> dict[str, Any]:
    """Every public function, class and constant by its name after ``wt.``."""
    found = {name: getattr(wt, name) for name in wt.__all__ if name not in SUBMODULES}
    found.update({f"functional.{name}": getattr(wt.functional, name) for name in wt.functional.__all__})
    found.update({f"data.{name}": getattr(wt.data, name) for name in DATA})
    found.update(
        {f"transforms.{name}": getattr(wt.transforms, name) for name in wt.transforms.__all__ if name not in found}
    )
    found.update({f"wavelets.{name}": getattr(wt.wavelets, name) for name in WAVELETS})
    found.update({f"weconvene.{name}": getattr(wt.weconvene, name) for name in WECONVENE})
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def definition(thing: Any) -> ast.ClassDef | ast.FunctionDef:
    """Read the source, since what ``inspect.signature`` prints depends on the version of Python."""
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return node


def function_line(node: ast.FunctionDef, name: str, *, bound: bool = False) -> str:
    arguments = node.args
    if bound and "staticmethod" not in map(ast.unparse, node.decorator_list):
        arguments.args = arguments.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({ast.unparse(arguments)}){returns}"


def class_lines(thing: type, name: str) -> Iterator[str]:
    """The class and its public members; what a base that is not public brings along is the class's own."""
    merged = {base for base in thing.__mro__[1:] if base.__module__.startswith("walloc_transforms.")}
    merged -= set(public_objects().values())
    hidden = {base.__name__ for base in merged}
    shown = [text for base in class_definition(thing).bases if (text := ast.unparse(base)) not in hidden]
    yield f"class {name}({', '.join(shown)})" if shown else f"class {name}"
    members: dict[str, str] = {}
    for base in thing.__mro__:
        if base is thing or base in merged:
            for part in class_definition(base).body:
                members.update((name, line) for name, line in member_lines(part) if name not in members)
    yield from members.values()


def class_definition(thing: type) -> ast.ClassDef:
    node = definition(thing)
    assert isinstance(node, ast.ClassDef)
    return node


def member_lines(part: ast.stmt) -> Iterator[tuple[str, str]]:
    """The name of an attribute or a method, and its line."""
    if isinstance(part, ast.AnnAssign) and is_public(name := ast.unparse(part.target)):
        yield name, f"    {ast.unparse(part)}"
    elif isinstance(part, ast.FunctionDef) and (is_public(part.name) or part.name in ("__init__", "__call__")):
        kinds = [ast.unparse(decorator) for decorator in part.decorator_list]
        kind = next((f"{k} " for k in kinds if k in ("property", "classmethod", "staticmethod")), "")
        if not any(k.endswith(".setter") or k == "overload" for k in kinds):
            yield part.name, f"    {kind}{function_line(part, part.name, bound=True)}"


def is_public(name: str) -> bool:
    return not name.startswith("_")


def surface() -> str:
    lines = []
    for name, thing in public_objects().items():
        if isinstance(thing, type):
            lines += class_lines(thing, name)
        else:
            node = definition(thing)
            assert isinstance(node, ast.FunctionDef)
            lines.append(function_line(node, name))
    return "\n".join(lines) + "\n"


def test_surface() -> None:
    known, now = FILE.read_text("utf-8"), surface()
    difference = "\n".join(
        difflib.unified_diff(known.splitlines(), now.splitlines(), "tests/api.txt", "now", lineterm="")
    )
    hint = "if this is meant, run `python -m tests.test_api --write` and say it in CHANGELOG.md"
    assert known == now, f"the public API has changed; {hint}\n{difference}"


def test_every_name_can_be_had() -> None:
    for name in wt.__all__:
        assert getattr(wt, name) is not None
        assert name in dir(wt)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wt.nonsense


def options(function: Callable[..., Any]) -> dict[str, tuple[str, str]]:
    """Default and type of every keyword-only parameter."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (repr(p.default), str(p.annotation)) for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_encode_has_the_options_of_its_functions() -> None:
    f = wt.functional
    functions = options(f.encode_image) | options(f.encode_waveform) | options(f.encode_volume)
    extra = {"targets": options(wt.WallocEncode)["targets"]}  # boxes and masks: only a transform sees a whole sample
    assert options(wt.WallocEncode) == functions | extra


def test_decode_has_the_options_of_its_functions() -> None:
    f = wt.functional
    functions = options(f.decode_image) | options(f.decode_waveform) | options(f.decode_volume)
    functions.pop("progress")  # a transform is called in loops that have a bar of their own
    assert set(options(wt.WallocDecode)) == set(functions)


def test_functions_agree_on_their_common_options() -> None:
    for image, waveform in (("encode_image", "encode_waveform"), ("decode_image", "decode_waveform")):
        one, other = (options(getattr(wt.functional, name)) for name in (image, waveform))
        assert all(one[name] == other[name] for name in one.keys() & other.keys() - {"size"})


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python -m tests.test_api --write")
    FILE.write_text(surface(), "utf-8")
    print(f"{FILE}: {len(public_objects())} names")
