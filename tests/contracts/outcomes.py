"""What came of every row of the table, on its way from the processes that run tests to docs/families.md."""

from __future__ import annotations

import pytest

PROPERTY = "cell of docs/families.md"
"""The property under which a test's report carries the promise, the row, what came of it, and the table's size."""


class Outcomes:
    """A pytest plugin for the one process that sees the reports of all tests."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], list[str]] = {}
        self.table_size = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the cell of a test that has ended, however it ended."""
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "teardown":
                promise, row, cell, self.table_size = value  # type: ignore[misc]
                self.cells[promise, row] = cell

    def pytest_sessionfinish(self) -> None:
        """Write the page after a run over the whole table."""
        if self.cells and len(self.cells) == self.table_size:
            from tests.contracts import families  # takes seconds, which a run over a part need not wait for

            families.write(families.PAGE, self.cells)
