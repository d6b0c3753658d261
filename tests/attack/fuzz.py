"""Mutate valid files and read them: a parser may refuse any file by a ValueError, and do nothing worse.

``tests/attack/test_fuzz.py`` tries a few hundred cases per parser. For hours of it:

    python -m tests.attack.fuzz --hours 2 --output fuzz                 # all parsers in turn
    python -m tests.attack.fuzz --parsers wlc pth --seed 7 --hours 1

A file that is refused otherwise, takes more than 2 s or too much memory is kept in the output folder with a note.
"""

import argparse
import itertools
import json
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.attack.measure import peak_growth
from tests.attack.parsers import PARSERS, Parser, Parts

SECONDS = 2.0  # of processor time: what any hostile file of 1 MB may cost


def mutate(seeds: list[Parts], chance: random.Random) -> Parts:
    """Change one to three places of one of the seeds."""
    parts = dict(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(sorted(parts))
        parts[name] = _edit(parts[name], chance.choice(seeds).get(name, b""), chance)
    return parts


_NUMBERS = (b"0", b"-1", b"1", b"2", b"16", b"255", b"65536", b"2147483648", b"1e308", b"NaN", b"null", b"[]", b'"x"')
_BYTES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff")


def _edit(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change one place of a content: bits, numbers, lengths, or a piece of another file."""
    # Headers are at the start of files: half of the places are among the first hundred bytes.
    place = chance.randrange(1 + min(len(content), chance.choice((100, 2**31))))
    length = chance.choice((1, 1, 2, 4, 8, chance.randrange(1, 64)))
    kind = chance.randrange(8)
    if kind == 0 and content:
        place = min(place, len(content) - 1)
        return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + chance.choice(_BYTES) * length + content[place + length :]
    if kind == 2:
        return content[:place] + chance.choice(_BYTES) * length + content[place:]
    if kind == 3:
        return content[:place] + content[place + length :]
    if kind == 4:
        return content[:place] + content[place : place + length] * chance.choice((2, 3, 1000)) + content[place:]
    if kind == 5:
        return content[:place]
    if kind == 6 and (numbers := list(re.finditer(rb"-?\d+(\.\d+)?", content[:100_000]))):
        found = chance.choice(numbers)
        return content[: found.start()] + chance.choice(_NUMBERS) + content[found.end() :]
    start = chance.randrange(1 + len(other))
    return content[:place] + other[start : start + length] + content[place + length :]


def attack(parser: Parser, parts: Parts, folder: Path, chance: random.Random) -> str:
    """Read one input.

    Args:
        parser: The parser.
        parts: The input.
        folder: An empty folder for it.
        chance: Decides whether checksums are mended.

    Returns:
        ``"read"`` or ``"refused"``.

    Raises:
        AssertionError: The message of the refusal is long or not printable.
        Exception: What the parser should not raise.
    """
    path = parser.write(parts, folder, chance)
    try:
        parser.read(path)
    except parser.errors as error:
        message = str(error).replace(str(folder), "")
        assert len(message) <= 1000 and message.isprintable(), f"message of {len(message)}: {message[:1000]!a}"
        return "refused"
    return "read"


def main() -> None:
    """Attack the parsers in turn, batch by batch, until the time is over."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parsers", nargs="+", choices=sorted(PARSERS), default=sorted(PARSERS))
    options.add_argument("--hours", type=float, default=0.01)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=Path("fuzz"))
    asked = options.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    seeds = {name: PARSERS[name].seeds() for name in asked.parsers}
    for name in asked.parsers:  # what is valid must be read; and what compiles at first does so before it is timed
        for parts in seeds[name]:
            with tempfile.TemporaryDirectory() as folder:
                assert attack(PARSERS[name], parts, Path(folder), random.Random(0)) == "read", f"{name}: refused a seed"
    counts = {name: Counter() for name in asked.parsers}
    end, numbers = time.time() + 3600 * asked.hours, itertools.count(asked.seed * 10**9)
    while time.time() < end:
        for name in asked.parsers:
            for number in itertools.islice(numbers, 100):
                counts[name][_case(name, mutate(seeds[name], random.Random(number)), number, asked.output)] += 1
        total = {name: dict(sorted(count.items())) for name, count in counts.items()}
        (asked.output / f"counts_{asked.seed}.json").write_text(json.dumps(total, indent=1) + "\n")
    for name, count in counts.items():
        print(f"{name:<16}{sum(count.values()):>9,} cases: {dict(sorted(count.items()))}")


def _case(name: str, parts: Parts, number: int, output: Path) -> str:
    """Attack once; keep the input if it did harm, and say which."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    start, note = time.process_time(), ""
    try:
        with peak_growth() as growth:
            outcome = attack(PARSERS[name], parts, folder, random.Random(number))
        seconds = time.process_time() - start
        if seconds > SECONDS or growth[0] > PARSERS[name].megabytes:
            outcome, note = "costly", f"{seconds:.1f} s, {growth[0]:.0f} MB"
    except Exception as error:
        outcome, note = type(error).__name__, f"{type(error).__name__}: {error}"
    if note:
        shutil.copytree(folder, output / f"{name}-{number}", dirs_exist_ok=True)
        (output / f"{name}-{number}" / "note.txt").write_text(note[:2000] + "\n", "utf-8", "backslashreplace")
    shutil.rmtree(folder)
    return outcome


if __name__ == "__main__":
    main()
