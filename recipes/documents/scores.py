"""How well the lines of a page were read.

Lines are compared without regard to case and spaces: readers and annotators disagree about both. Every annotated line
is matched with the line read that is nearest to it, so the order of lines does not matter, one line read may serve
several annotated ones, and lines read beyond the annotated ones cost nothing.

``anls`` is the average normalized Levenshtein similarity of Biten et al., "Scene Text Visual Question Answering" (ICCV
2019, https://arxiv.org/abs/1905.13648), as DocVQA (https://arxiv.org/abs/2007.00398) uses it: 1 minus the edit distance
over the length of the longer text, and 0 unless that is above one half; here averaged over annotated lines instead of
questions.
"""

from collections.abc import Sequence

from recipes.common.tables import Record

THRESHOLD = 0.5
"""A similarity that is not above it counts as 0: that is another text, not one that was read badly."""


def edit_distance(a: str, b: str) -> int:
    """Count the characters to insert, delete or replace to make one text of another (Levenshtein)."""
    row = list(range(len(b) + 1))  # from the first characters of a to every beginning of b
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def comparable(line: str) -> str:
    """Leave out what is not compared: case and spaces."""
    return "".join(line.casefold().split())


def score_page(annotated: Sequence[str], read: Sequence[str]) -> Record:
    """Score the lines read on a page.

    Args:
        annotated: The page's lines, at least one, none of them blank.
        read: What was read, in any order.

    Returns:
        In percent: ``anls``; ``exact``, the annotated lines that were read without a mistake; ``cer``, the character
        error rate: the edits that take every annotated line to the nearest line read, or to nothing if that takes
    fewer, over the characters of all annotated lines.
    """
    lines = [comparable(line) for line in annotated]
    found = {comparable(line) for line in read}
    similarities, edits = 0.0, 0
    for line in lines:
        if line in found:
            similarities += 1
            continue
        distances = [(edit_distance(line, other), max(len(line), len(other))) for other in found]
        best = max((1 - distance / longer for distance, longer in distances), default=0.0)
        similarities += best if best > THRESHOLD else 0
        edits += min([len(line), *(distance for distance, _ in distances)])
    return {
        "anls": 100 * similarities / len(lines),
        "exact": 100 * sum(line in found for line in lines) / len(lines),
        "cer": 100 * edits / sum(map(len, lines)),
    }
