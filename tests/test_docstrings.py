"""Every public name has an example in its docstring, and the examples run."""

import doctest
from pathlib import Path

import pytest

from tests.test_api import public_objects

NAMES = list(public_objects())


@pytest.mark.parametrize("name", NAMES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thing = public_objects()[name]
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(thing, name)
    own = [test for test in found if test.name == name and test.examples]
    assert own, f"the docstring of {name} has no example (lines that begin with >>>)"
    assert "Example:" in (thing.__doc__ or ""), f"the examples of {name} belong in a section `Example:`"
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
