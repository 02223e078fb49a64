"""`make coverage`: how many branches of the pure code unit tests take, one row a package; one below its minimum fails.

Which code is pure is not listed here: it is what the import rules in pyproject.toml keep from clocks, chance and sockets.  The
minima stand there as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coverage import Coverage
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
IMPURE = {"asyncio", "random", "socket", "structlog", "time"}
"""A contract that forbids all of them is about purity."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was run of some files."""

    statements: int = 0
    statements_run: int = 0
    branches: int = 0
    branches_taken: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.statements + other.statements,
            self.statements_run + other.statements_run,
            self.branches + other.branches,
            self.branches_taken + other.branches_taken,
        )

    @property
    def branch_percent(self) -> float:
        """Share of the branches that were taken; all of none."""
        return 100.0 * self.branches_taken / self.branches if self.branches else 100.0

    @property
    def statement_percent(self) -> float:
        """Share of the statements that were run; all of none."""
        return 100.0 * self.statements_run / self.statements if self.statements else 100.0


def pure_modules(contracts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the modules and packages that an import rule keeps pure."""
    return sorted(
        {module for one in contracts if set(one.get("forbidden_modules", ())) >= IMPURE for module in one["source_modules"]}
    )


def floor_of(module: str, floors: Iterable[str]) -> str:
    """Return the most narrow of *floors* that *module* belongs to. Raises ValueError if there is none."""
    around = [floor for floor in floors if is_within(module, floor)]
    if not around:
        raise ValueError(f"{module} is pure and belongs to no floor of [tool.floors] in pyproject.toml")
    return max(around, key=len)


def is_within(module: str, package: str) -> bool:
    """Return whether *module* is *package* or below it."""
    return module == package or module.startswith(f"{package}.")


def add_up(files: Mapping[str, Counts], pure: Iterable[str], floors: Iterable[str]) -> dict[str, Counts]:
    """Return the sum of each of *floors* over the modules in *files* that are pure. Raises ValueError."""
    found: defaultdict[str, Counts] = defaultdict(Counts)
    for module, counts in files.items():
        if any(is_within(module, one) for one in pure):
            found[floor_of(module, floors)] += counts
    return dict(found)


def _measured() -> dict[str, Counts]:
    """Return what the last run has measured, by the names of modules."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.combine(keep=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(file))
        files = json.loads(file.read_text())["files"]
    return {_module(path): _counts(told["summary"]) for path, told in files.items()}


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _counts(summary: Mapping[str, int]) -> Counts:
    return Counts(summary["num_statements"], summary["covered_lines"], summary["num_branches"], summary["covered_branches"])


def main() -> int:
    """Print the table; return 1 if a floor is below its minimum."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    minima: dict[str, float] = project["floors"]
    sums = add_up(_measured(), pure_modules(project["importlinter"]["contracts"]), minima)
    table = Table("pure part of", "branches", "taken %", "at least %", "statements %")
    for column in table.columns[1:]:
        column.justify = "right"
    fallen = [floor for floor, least in minima.items() if sums.get(floor, Counts()).branch_percent < least]
    for floor, least in minima.items():
        counts = sums.get(floor, Counts())
        taken = f"{counts.branch_percent:.1f}" + (" <" if floor in fallen else "")
        table.add_row(floor, str(counts.branches), taken, f"{least:g}", f"{counts.statement_percent:.1f}")
    Console().print(table)
    if fallen:
        print(f"below what it was: {', '.join(fallen)}", file=sys.stderr)
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
