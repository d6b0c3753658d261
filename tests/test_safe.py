import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from walloc_transforms import safe
from walloc_transforms.safe import atomic_file, check_shapes, escaped, remove_leftovers, shown, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_threads_write_one_file_while_others_read_it(tmp_path: Path) -> None:
    file, writing = tmp_path / "file", threading.Event()
    contents = [bytes([letter]) * 50_000 for letter in b"abcd"]
    write_atomically(file, contents[0])
    writing.set()

    def write(content: bytes) -> None:
        for _ in range(50):
            write_atomically(file, content)

    def read() -> set[bytes]:
        found = set()
        while writing.is_set():
            found.add(file.read_bytes())
            remove_leftovers(tmp_path)
        return found

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for writer in [pool.submit(write, content) for content in contents]:
                writer.result()
        finally:
            writing.clear()
        assert set.union(*(reader.result() for reader in readers)) <= set(contents)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_file_appears_when_it_is_whole(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / ("n" * 250)
    with pytest.raises(RuntimeError), atomic_file(file, durable=durable) as opened:
        opened.write(b"half")
        raise RuntimeError
    assert names(tmp_path) == []
    with atomic_file(file, durable=durable) as opened:
        opened.write(b"whole")
        assert not file.exists()
    assert file.read_bytes() == b"whole" and names(tmp_path) == [file.name]


def test_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wanted"):
        write_atomically(tmp_path / "missing" / "wanted", b"")


def begin_to_write(file: Path, sender: Connection) -> None:
    with atomic_file(file) as opened:
        opened.write(b"half")
        sender.send(None)
        time.sleep(60)


def test_leftovers_are_what_dead_processes_wrote(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=begin_to_write, args=(tmp_path / "dead", sender))
    child.start()
    receiver.recv()
    with atomic_file(tmp_path / "alive"):
        remove_leftovers(tmp_path)
        assert len(names(tmp_path)) == 2
        child.kill()
        child.join()
        remove_leftovers(tmp_path)
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["alive"]


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / f".walloc-{0:016x}.partial").symlink_to(tmp_path / "target")
    (tmp_path / f".walloc-{1:016x}.partial").mkdir()
    (tmp_path / ".walloc-notes.partial").write_bytes(b"")
    before = names(tmp_path)
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "missing")
    assert names(tmp_path) == before


def test_age_decides_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe, "fcntl", None)
    old = tmp_path / f".walloc-{0:016x}.partial"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    with atomic_file(tmp_path / "file", durable=True):
        remove_leftovers(tmp_path)
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == ["file"]


def test_a_writer_that_is_taken_for_a_leftover_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def lock(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(names(tmp_path))
            for name in taken:
                (tmp_path / name).unlink()

    assert safe.fcntl
    monkeypatch.setattr(safe.fcntl, "flock", lock)
    write_atomically(tmp_path / "file", b"whole")
    assert len(taken) == 1 and (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("rgb_16x", "'rgb_16x'"),
        ("\x1b[31m\n\u202e\ud800", r"'\x1b[31m\n\u202e\ud800'"),
        ("x" * 10**6, "'" + "x" * 199 + "..."),
        ("\x1b" * 10**6, "'" + r"\x1b" * 49 + r"\x1" + "..."),
        (True, "True"),
        (None, "None"),
        (-1.5e300, "-1.5e+300"),
        (1 << 20_000, "an int"),
        ([[]], "a list"),
        (b"\x1b", "a bytes"),
    ],
    ids=range(10),
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text


def test_escaped_keeps_what_is_printable() -> None:
    assert escaped("C:\\ä 'b'\n\x1b]0;\u2028") == r"C:\ä 'b'\n\x1b]0;\u2028"


def test_messages_show_few_and_short_names() -> None:
    found = {f"\n{i}" + "x" * 100_000: (2,) for i in range(1000)}
    with pytest.raises(ValueError, match=r"missing tensors \['a'\], unexpected \['.n0x.*\.\.\., 996 more\]") as caught:
        check_shapes(found, {"a": (1,)}, "it")
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
    with pytest.raises(ValueError, match="a has shape") as caught:
        check_shapes({"a": (2**40,) * 1000}, {"a": (1,)}, "it")
    assert len(str(caught.value)) < 500
