"""Integers as bytes and back, by constriction's range coder and tables of frequencies.

A table has a frequency for each of a run of integers, and one for the escape, its last. Frequencies are integers that
add up to 2**24, constriction's own precision. It gets them as floats less one, which add up to 2**24 less their number.
Then it scales by exactly 1 and adds the one again, so that it codes with the very frequencies, on every machine.

Both sides know which table serves each symbol. Symbols of one table are coded together: first all of table 0, in their
order, then those of table 1, and so on. Last come the symbols that are in no table, as the bit length of their distance
and its bits. So no loop runs over symbols.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SymbolDecoder", "SymbolEncoder", "Tables"]

_PRECISION = 24
_LEAST_ESCAPE = 64  # 18 bits; costs the other symbols 6e-6 bits
_LENGTHS = 33  # of distances from a table, which are below 2**33
_INT32 = np.iinfo(np.int32)


def _constriction() -> Any:
    try:
        return importlib.import_module("constriction").stream
    except ImportError as error:
        raise ImportError('coding needs constriction: pip install "walloc_transforms[coders]"') from error


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequencies of integers, a table after the other.

    Args:
        frequencies: Integers >= 1 of all tables, end to end. Those of a table add up to 2**24. Its last one is of the
            escape, which stands for all integers outside the table.
        lengths: How many frequencies each table has, at least 2.
        offsets: The integer that each table's first frequency is of.

    Raises:
        ValueError: The frequencies are no such tables.

    Example:
        >>> import numpy as np, walloc_transforms as wt
        >>> tables = wt.weconvene.Tables.from_probabilities([np.array([0.25, 0.5, 0.25, 0.0])], [-1])
        >>> tables.frequencies, int(tables.frequencies.sum()) == 2**24
        (array([4194304, 8388544, 4194304,      64], dtype=int32), True)
    """

    frequencies: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]
    _models: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        frequencies, lengths, offsets = self.frequencies, self.lengths, self.offsets
        arrays = (frequencies, lengths, offsets)
        if any(a.ndim != 1 or a.dtype != np.int32 for a in arrays) or len(lengths) != len(offsets):
            given = ", ".join(f"{a.dtype} {a.shape}" for a in arrays)
            raise ValueError(f"tables are int32 arrays (all frequencies,), (tables,), (tables,), got {given}")
        if (lengths < 2).any() or int(lengths.sum(dtype=np.int64)) != len(frequencies):
            raise ValueError(f"lengths of tables are at least 2 and add up to {len(frequencies)}, got {lengths}")
        sums = np.add.reduceat(frequencies, self._starts, dtype=np.int64) if len(lengths) else frequencies
        if (frequencies < 1).any() or (sums != 1 << _PRECISION).any():
            raise ValueError("frequencies of a table are positive and add up to 2**24; these do not")
        if (offsets.astype(np.int64) + lengths - 2 > _INT32.max).any():
            raise ValueError("tables hold 32-bit integers; one of these ends above them")

    @classmethod
    def from_probabilities(cls, probabilities: Sequence[NDArray[np.float64]], offsets: ArrayLike) -> "Tables":
        """Round the probabilities of each table's integers, and of all others at the end, to frequencies.

        What rounding leaves over goes to the likeliest integer.
        """
        rounded = []
        for row in probabilities:
            if not (np.isfinite(row).all() and (row >= 0).all()):
                raise ValueError("probabilities are finite and at least 0; some of a table are not")
            least = np.ones(len(row), np.int32)
            least[-1] = _LEAST_ESCAPE
            frequencies = np.maximum(np.rint(row * (1 << _PRECISION)).astype(np.int32), least)
            frequencies[frequencies[:-1].argmax()] += (1 << _PRECISION) - int(frequencies.sum(dtype=np.int64))
            rounded.append(frequencies)
        lengths = np.array([len(row) for row in rounded], np.int32)
        return cls(np.concatenate([*rounded, np.empty(0, np.int32)]), lengths, np.asarray(offsets, np.int32))

    def __reduce__(self) -> tuple[Any, ...]:  # constriction's models can be neither copied nor pickled
        return Tables, (self.frequencies, self.lengths, self.offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def _starts(self) -> NDArray[np.int64]:
        return np.subtract(self.lengths.cumsum(dtype=np.int64), self.lengths, dtype=np.int64)

    def __getitem__(self, table: int) -> NDArray[np.int32]:
        start = int(self._starts[table])
        return self.frequencies[start : start + int(self.lengths[table])]

    def model(self, table: int) -> Any:
        """Make what constriction codes with, once."""
        if table not in self._models:
            weights = self[table].astype(np.float64) - 1
            self._models[table] = _constriction().model.Categorical(weights, perfect=False)
        return self._models[table]


class _Groups:
    """Symbols sorted by table: their order, and for each table in use where its symbols are."""

    def __init__(self, indices: ArrayLike, tables: Tables) -> None:
        indices = np.asarray(indices)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"indices of tables are integers, got {indices.dtype}")
        self.shape = indices.shape
        indices = indices.reshape(-1)
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < len(tables):
            found = f"{int(indices.min())} to {int(indices.max())}"
            raise ValueError(f"indices are of {len(tables)} tables, got {found}")
        small = indices.astype(np.uint16 if len(tables) <= 1 << 16 else np.int64)  # 16 bits are sorted by radix
        self.order = small.argsort(kind="stable")
        counts = np.bincount(small, minlength=len(tables))
        stops = counts.cumsum()
        self.spans = [(int(t), int(stops[t] - counts[t]), int(stops[t])) for t in counts.nonzero()[0]]
        self.offsets = np.repeat(tables.offsets.astype(np.int64), counts)
        self.escapes = np.repeat(tables.lengths - 1, counts)


def _encode(
    coder: Any, groups: _Groups, tables: Tables, codes: NDArray[np.int32], distances: NDArray[np.int64]
) -> None:
    """Encode sorted codes, then the positive numbers of those that are escapes."""
    for table, start, stop in groups.spans:
        coder.encode(codes[start:stop], tables.model(table))
    if distances.size:
        uniform = _constriction().model.Uniform
        bits = np.frexp(distances.astype(np.float64))[1].astype(np.int32) - 1
        coder.encode(bits, uniform(_LENGTHS))
        for shift, width in _parts(bits):
            some = width > 0
            part = distances[some] >> shift & (1 << width[some].astype(np.int64)) - 1
            coder.encode(part.astype(np.int32), uniform(), 1 << width[some])


def _decode(coder: Any, groups: _Groups, tables: Tables) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    codes = np.empty(len(groups.order), np.int32)
    for table, start, stop in groups.spans:
        codes[start:stop] = coder.decode(tables.model(table), stop - start)
    count = int((codes == groups.escapes).sum())
    distances = np.zeros(count, np.int64)
    if count:
        uniform = _constriction().model.Uniform
        bits = coder.decode(uniform(_LENGTHS), count)
        for shift, width in _parts(bits):
            some = width > 0
            distances[some] += coder.decode(uniform(), 1 << width[some]).astype(np.int64) << shift
        distances += 1 << bits.astype(np.int64)
    return codes, distances


def _parts(bits: NDArray[np.int32]) -> list[tuple[int, NDArray[np.int32]]]:
    """Cut numbers into two parts of at most 2**24 values: by where a part begins, and its bits in each number."""
    return [(0, bits.clip(max=16)), (16, (bits - 16).clip(min=0))]


class SymbolEncoder:
    """Encode integers of known tables into one stream.

    Example:
        >>> import numpy as np, walloc_transforms as wt
        >>> tables = wt.weconvene.GaussianConditional().tables()
        >>> encoder = wt.weconvene.SymbolEncoder()
        >>> encoder.put(np.array([0, -1, 70000]), np.array([3, 12, 12]), tables)
        >>> data = encoder.finish()
        >>> decoder = wt.weconvene.SymbolDecoder(data)
        >>> decoder.take(np.array([3, 12, 12]), tables)
        array([    0,    -1, 70000], dtype=int32)
        >>> decoder.finish()
    """

    def __init__(self) -> None:
        self._coder = _constriction().queue.RangeEncoder()

    def put(self, symbols: ArrayLike, indices: ArrayLike, tables: Tables) -> None:
        """Encode symbols.

        Args:
            symbols: Integers of 32 bits, of any shape. Those outside their table cost 23 bits or more.
            indices: The table of each, of the same shape.
            tables: The tables.

        Raises:
            ValueError: Shapes differ, an index is of no table, or a symbol needs more than 32 bits.
            TypeError: Symbols or indices are no integers.
        """
        symbols, groups = np.asarray(symbols), _Groups(indices, tables)
        if symbols.dtype.kind not in "iu":
            raise TypeError(f"symbols are integers, got {symbols.dtype}")
        if symbols.shape != groups.shape:
            raise ValueError(f"each symbol has an index, got symbols {symbols.shape} and indices {groups.shape}")
        if symbols.size and not _INT32.min <= int(symbols.min()) <= int(symbols.max()) <= _INT32.max:
            raise ValueError(f"symbols are of 32 bits, got {int(symbols.min())} to {int(symbols.max())}")
        codes = symbols.reshape(-1)[groups.order].astype(np.int64) - groups.offsets
        below, above = codes < 0, codes >= groups.escapes
        outside = below | above
        distances = np.where(below, -2 * codes, 2 * (codes - groups.escapes) + 1)[outside]
        codes[outside] = groups.escapes[outside]
        _encode(self._coder, groups, tables, codes.astype(np.int32), distances)

    def finish(self) -> bytes:
        """Return the stream: 32-bit words, little endian; no symbols are no bytes."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class SymbolDecoder:
    """Decode a stream of :class:`SymbolEncoder`.

    All that is decoded is encoded again, and :meth:`finish` compares. So a stream is accepted only if it is what the
    encoder makes of the symbols. Damage may still turn it into the stream of other symbols, which a checksum must tell.

    Raises:
        ValueError: The data are no 32-bit words.

    Example:
        >>> import walloc_transforms as wt
        >>> decoder = wt.weconvene.SymbolDecoder(bytes(4))
        >>> decoder.finish()
        Traceback (most recent call last):
        ...
        ValueError: damaged: a stream is not what its symbols encode to
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise ValueError(f"damaged: a stream has whole words of 4 bytes, got {len(data)} bytes")
        queue = _constriction().queue
        self._data = data
        self._coder = queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._again = queue.RangeEncoder()

    def take(self, indices: ArrayLike, tables: Tables) -> NDArray[np.int32]:
        """Decode the next symbols.

        Args:
            indices: The table of each, of any shape.
            tables: The tables.

        Returns:
            The symbols, in the shape of the indices.

        Raises:
            ValueError: The stream is damaged, or an index is of no table.
            TypeError: Indices are no integers.
        """
        groups = _Groups(indices, tables)
        try:
            codes, distances = _decode(self._coder, groups, tables)
        except AssertionError as error:  # constriction's, for what no symbol has
            raise ValueError("damaged: a stream has a code of no symbol") from error
        _encode(self._again, groups, tables, codes, distances)
        values = codes + groups.offsets
        outside = codes == groups.escapes
        half = distances >> 1
        values[outside] = groups.offsets[outside] + np.where(distances & 1, groups.escapes[outside] + half, -half)
        if values.size and not _INT32.min <= int(values.min()) <= int(values.max()) <= _INT32.max:
            raise ValueError("damaged: a symbol has more than 32 bits")
        symbols = np.empty(len(values), np.int32)
        symbols[groups.order] = values
        return symbols.reshape(groups.shape)

    def finish(self) -> None:
        """Check that the stream ends here.

        Raises:
            ValueError: It holds more, lacks something or is damaged.
        """
        if self._again.get_compressed().astype("<u4").tobytes() != self._data:
            raise ValueError("damaged: a stream is not what its symbols encode to")
