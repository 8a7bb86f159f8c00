"""The rooms of DESIGN.md: imports point down, only the command line prints, nobody reaches into another's drawers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import wsd

ROOT = Path(wsd.__file__).parent

# A room is a module or a package, whose modules are its own affair.
LAYERS = (
    {"codes", "backoff", "headcount", "pipe", "process", "report", "slices", "source", "tls"},
    {"errors"},
    {"logs", "descriptors", "sockets", "systemd", "protocol", "deployment"},
    {"auth", "deadlines", "metrics"},
    {"config", "delivery", "redis"},
    {"admin", "authenticator", "clients"},
    {"handover", "status"},
    {"worker"},
    {"supervisor"},
    {"cli", "__main__"},
)
TO_COME: set[str] = set()

# Who may import from a room of the same layer.
NEIGHBOURS = {("__main__", "cli")}


def module_name(path: Path) -> str:
    """``wsd/redis/link.py`` is ``redis.link``; ``wsd/__init__.py`` is ``""``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
modules = pytest.mark.parametrize("module", [name for name in MODULES if name])


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[tuple[str, str]]:
    """What a module imports from ours, wherever it does: the other module, and the name ("" for the module itself)."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("wsd.")
                if node.module == "wsd" and whole not in MODULES:
                    yield "", alias.name
                elif whole in MODULES:
                    yield whole, ""
                elif (node.module or "").startswith("wsd."):
                    yield (node.module or "").removeprefix("wsd."), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "wsd":
                    yield alias.name.removeprefix("wsd").removeprefix("."), ""


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def layer(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def test_every_module_belongs_to_a_layer() -> None:
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms | TO_COME == set().union(*LAYERS)
    assert sum(map(len, LAYERS)) == len(set().union(*LAYERS)), "a room is in two layers"


@modules
def test_imports_point_down(module: str) -> None:
    mine = room(module)
    for other in {room(other) for other, _ in imports(module)} - {"", mine}:
        assert layer(other) < layer(mine) or (mine, other) in NEIGHBOURS, f"{module} imports from {other}"


def test_the_neighbours_are_still_those_who_need_each_other() -> None:
    pairs = {(room(module), room(other)) for module in MODULES for other, _ in imports(module)}
    assert pairs >= NEIGHBOURS
    assert all(layer(mine) == layer(other) for mine, other in NEIGHBOURS)


def test_there_are_no_cycles() -> None:
    TopologicalSorter({module: {other for other, _ in imports(module)} for module in MODULES}).prepare()


@modules
def test_nobody_imports_what_is_private_or_not_exported(module: str) -> None:
    for other, name in imports(module):
        if other and name:
            assert not name.startswith("_"), f"{module} imports {name} from {other}"
            assert name in exports(other), f"{module} imports {name} from {other}, which does not export it"


@modules
def test_nobody_uses_the_private_names_of_an_imported_module(module: str) -> None:
    imported = {other.rpartition(".")[2] for other, name in imports(module) if not name}
    private = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id in imported and node.attr.startswith("_")
    ]
    assert private == []


def exports(module: str) -> list[str]:
    names: list[str] = getattr(import_module(f"wsd.{module}"), "__all__", [])
    return names


@modules
def test_what_is_exported_exists(module: str) -> None:
    if module != "__main__":
        names = exports(module)
        assert [name for name in names if not hasattr(import_module(f"wsd.{module}"), name)] == []
        assert len(set(names)) == len(names)


@modules
def test_only_the_command_line_prints_and_exits(module: str) -> None:
    if room(module) in {"cli", "__main__"}:
        return
    names = {node.id for node in ast.walk(tree(module)) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    assert not names & {"print", "input", "exit", "quit", "SystemExit"}
    assert not attributes & {"stdout", "exit", "_exit"}


@modules
def test_every_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(tree(module))
