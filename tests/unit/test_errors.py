"""The exceptions are held to the tree that their module draws, and carry what they promise."""

from __future__ import annotations

import re

import pytest

from wsd import errors
from wsd.codes import ErrorCode
from wsd.errors import RequestError, SettingsError, WsdError


def drawn_tree() -> dict[str, str]:
    """Read the tree in the docstring: the parent of every class."""
    parents: dict[str, str] = {}
    branch: list[str] = []  # the classes from the root to the line above
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r" {4}([ │]*(?:[├└]── )?)([A-Z]\w+)(?: {2,}\S|$)", line):
            depth = len(found[1]) // 4
            parents[found[2]] = branch[depth - 1] if depth else "Exception"
            branch[depth:] = [found[2]]
    return parents


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    classes = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    assert drawn_tree() == {cls.__name__: cls.__base__.__name__ for cls in classes if cls.__base__}


def test_all_of_them_are_exported_and_documented() -> None:
    assert sorted(errors.__all__) == sorted(drawn_tree())
    assert all(getattr(errors, name).__doc__ for name in errors.__all__)


def test_one_except_clause_catches_all_of_them() -> None:
    assert all(issubclass(getattr(errors, name), WsdError) for name in errors.__all__)
    assert not issubclass(WsdError, OSError | ValueError)


def test_wrong_settings_are_said_one_a_line() -> None:
    error = SettingsError(["port: 0 to 65535", "auth: jwt or none"])
    assert str(error) == "port: 0 to 65535\nauth: jwt or none"
    assert error.mistakes == ["port: 0 to 65535", "auth: jwt or none"]


@pytest.mark.parametrize("id", [None, 0, "", "a", -5])
def test_a_refused_request_carries_what_its_error_message_needs(id: str | int | None) -> None:
    error = RequestError(ErrorCode.MALFORMED, "not an object", id)
    assert (error.code, error.message, error.request_id, str(error)) == (
        ErrorCode.MALFORMED,
        "not an object",
        id,
        "not an object",
    )
