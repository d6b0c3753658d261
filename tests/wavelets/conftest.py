"""The tests of compiled loops are left out where numba is missing or told not to compile."""

from tests.helpers import numba_is_missing

collect_ignore = ["test_kernels.py", "test_lifting.py", "test_strips.py", "test_tiles.py"] if numba_is_missing() else []
