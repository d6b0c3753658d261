"""Records: grouped, averaged over seeds, written as Markdown and CSV."""

import math
import statistics

import pytest

from recipes.common.tables import as_csv, figure, group, markdown_table, mean_and_sd, mean_over_seeds, means, number


def test_groups_keep_their_order() -> None:
    records = [{"a": i, "b": b} for i, b in enumerate("yxy")]
    assert list(group(records, ("b",))) == [("y",), ("x",)]
    assert group(records, ("b",))["y",] == [records[0], records[2]]


def test_means_leave_out_what_is_not_known() -> None:
    records = [{"a": 1.0, "b": 2.0}, {"a": math.nan, "b": 4.0}, {"a": 3.0}]
    assert means(records, ("a", "b")) == {"a": 2.0, "b": 3.0}
    assert math.isnan(means(records, ("a",), statistics.fmean)["a"])
    assert math.isnan(means(records, ("c",))["c"])


def test_spread_needs_two_finite_values() -> None:
    assert mean_and_sd([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert all(math.isnan(mean_and_sd(values)[1]) for values in ([1.0], [1.0, math.inf], [1.0, math.nan], []))


def test_seeds_count_alike_whatever_their_number_of_rows() -> None:
    rows = [{"arm": "a", "seed": 0, "x": 1.0}, *[{"arm": "a", "seed": 1, "x": 5.0}] * 3, {"arm": "b", "seed": ""}]
    a, b = mean_over_seeds(rows, ("x",))
    assert (a["arm"], a["seeds"], a["x"], a["x sd"]) == ("a", 2, 3.0, pytest.approx(8**0.5))
    assert (b["arm"], b["seeds"]) == ("b", 0)
    assert math.isnan(b["x"])


def test_cells() -> None:
    assert figure(1234.56, 1, 0.25) == "1,234.6 ± 0.2"
    assert [figure(value, 1) for value in (2.0, math.nan, None)] == ["2.0", "-", "-"]
    assert [number(value) for value in (99.94, 1234.5, math.nan)] == ["99.9", "1,234", "-"]
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_csv_has_the_columns_of_all_rows() -> None:
    rows = [{"arm": "a"}, {"arm": "b, c", "x": 1}]
    assert as_csv(rows) == b'arm,x\na,\n"b, c",1\n'
    assert as_csv(rows, ["x"]) == b'x\n""\n1\n'
