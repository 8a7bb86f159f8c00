"""The lanes of the tests: who may import from whom, and which folder a test belongs into."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from tests import ROOT

MODULES = sorted(path.relative_to(ROOT) for name in ("bench", "tests") for path in (ROOT / name).rglob("*.py"))
TESTS = {path for path in MODULES if path.name.startswith("test_")}


@cache
def imports(module: Path) -> frozenset[str]:
    """The modules that a module imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)


def importing(prefix: str, modules: set[Path]) -> set[tuple[str, str]]:
    """Who of these modules imports what begins like this."""
    return {(str(module), name) for module in modules for name in imports(module) if name.startswith(prefix)}


def within(*folder: str) -> set[Path]:
    return {module for module in MODULES if module.parts[: len(folder)] == folder}


def test_no_test_module_imports_from_another() -> None:
    """What several need stands in ``tests/lib``, or in a module of the lane that holds no tests."""
    assert len(TESTS) > 50
    assert not {(who, name) for who, name in importing("tests.", TESTS) if ".test_" in name}


def test_the_bench_knows_nothing_of_the_tests() -> None:
    """The tests use the bench. The bench runs where there are no tests."""
    assert within("bench")
    assert not importing("tests", within("bench"))


def test_the_library_knows_no_lane() -> None:
    library = within("tests", "lib")
    assert library and not library & TESTS
    assert not {(who, name) for who, name in importing("tests.", library) if name.split(".")[1] not in ("lib", "ROOT")}


def test_a_unit_test_stands_where_its_module_stands() -> None:
    """``tests/unit/redis/test_wire.py`` tests ``wsd/redis/wire.py``. A package has one name, too."""
    for test in TESTS & within("tests", "unit"):
        room = ROOT / Path("wsd", *test.parts[2:-1], test.stem.removeprefix("test_"))
        assert room.is_dir() or room.with_suffix(".py").is_file(), f"{test} is named after no module of wsd/"
