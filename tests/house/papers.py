"""The papers: what is in them, and the parts of them that are made from the code.

A part that is made stands between two comments, of which the first names it. ``make papers`` writes all of them anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from tests import ROOT
from tests.faults import table as faults
from tests.handover import table as handover
from tests.house import tables

__all__ = ["MADE", "PAPERS", "Block", "Paper", "made", "paper", "tracked"]

PAPERS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "bench/README.md",
    "bench/locust/README.md",
    "systemd/README.md",
    "tests/faults/README.md",
    "tests/handover/README.md",
    "tests/simulation/README.md",
    "wsd/DESIGN.md",
    "wsd/PROTOCOL.md",
)


class Block(NamedTuple):
    """A fenced block."""

    headings: tuple[str, ...]  # of the sections that it stands in, the innermost last
    kind: str  # what stands behind the fence
    text: str


class Paper:
    """A paper.

    Args:
        path: where it is, from the root of the checkout.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text()
        self.headings: list[str] = []
        self.blocks: list[Block] = []
        prose: list[str] = []
        around: dict[int, str] = {}  # the headings that hold for the present line, by their level
        fence: str | None = None  # what stands behind the fence of the block in progress
        lines: list[str] = []
        for line in self.text.splitlines():
            if line.startswith("```"):
                if fence is None:
                    fence, lines = line.removeprefix("```"), []
                else:
                    self.blocks.append(Block(tuple(around.values()), fence, "".join(f"{line}\n" for line in lines)))
                    fence = None
            elif fence is not None:
                lines.append(line)
            else:
                prose.append(line)
                if found := re.match(r"(#+) (.+)", line):
                    level = len(found[1])
                    around = {above: heading for above, heading in around.items() if above < level}
                    around[level] = found[2]
                    self.headings.append(found[2])
        self.prose = "\n".join(prose)  # all but the blocks

    def section(self, heading: str) -> str:
        """What stands below a heading, until the next one of its level or a higher one."""
        found = re.search(rf"^(#+) {re.escape(heading)}\n", self.text, re.MULTILINE)
        assert found, f"{self.path} has no section {heading!r}"
        return re.split(rf"^#{{1,{len(found[1])}}} ", self.text[found.end() :], maxsplit=1, flags=re.MULTILINE)[0]

    def of(self, heading: str, *kinds: str) -> list[Block]:
        """The blocks in the section of a heading, of some kinds or of all."""
        return [block for block in self.blocks if heading in block.headings and (not kinds or block.kind in kinds)]

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind the ``#``, as GitHub makes it of the headings."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in self.headings}

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose.replace("`", ""))

    @property
    def code(self) -> list[str]:
        """Its words in backticks."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    def rows(self, heading: str) -> list[list[str]]:
        """The cells of the first table in the section of a heading, without its head."""
        table = re.search(r"^\|.*\n\|[- :|]+\|\n((?:\|.*\n)*)", self.section(heading), re.MULTILINE)
        assert table, f"{self.path} has no table in {heading!r}"
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[1].splitlines()]


@cache
def paper(path: str) -> Paper:
    """Read a paper."""
    return Paper(path)


@cache
def tracked() -> set[str]:
    """The files that a clone has, and its folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    if listed.returncode:  # no clone, but what somebody has unpacked
        files = [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    paths = {path.relative_to(ROOT) for path in files}
    return {str(each) for path in paths for each in (path, *path.parents)}


# The parts that are made.


MADE: dict[tuple[str, str], Callable[[], str]] = {
    ("CONTRIBUTING.md", "make targets"): tables.make_targets,
    ("bench/README.md", "rows"): tables.bench_rows,
    ("systemd/README.md", "settings"): tables.settings,
    ("systemd/README.md", "metrics"): tables.metrics,
    ("systemd/README.md", "restarts"): tables.restarts,
    ("systemd/README.md", "moves"): tables.moves,
    ("tests/faults/README.md", "legend"): faults.LEGEND.lstrip,
    ("tests/handover/README.md", "legend"): handover.LEGEND.lstrip,
    ("tests/simulation/README.md", "faults"): tables.simulated_faults,
    ("wsd/DESIGN.md", "rooms"): tables.rooms,
    ("wsd/PROTOCOL.md", "token reasons"): tables.token_reasons,
    ("wsd/PROTOCOL.md", "error codes"): tables.errors,
    ("wsd/PROTOCOL.md", "close codes"): tables.close_codes,
    ("wsd/PROTOCOL.md", "refused handshakes"): tables.handshakes,
}
"""How each part is made, by its paper and its name."""


def made(content: str, path: str) -> str:
    """A paper's text, with its parts as they should be."""
    for (where, name), make in MADE.items():
        if where == path:
            begin, end = f"<!-- Made by `make papers`: {name}. -->\n", "<!-- End. -->\n"
            before, found, rest = content.partition(begin)
            assert found, f"{path} lacks {begin!r}"
            content = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return content


def _write() -> Iterator[str]:
    for path in PAPERS:
        content = (ROOT / path).read_text()
        if (anew := made(content, path)) != content:
            (ROOT / path).write_text(anew)
            yield path


if __name__ == "__main__":
    sys.stdout.write("".join(f"written: {path}\n" for path in _write()) or "The papers say what the code says.\n")
