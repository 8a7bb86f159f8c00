"""The papers are true: tables are complete, links lead somewhere, what is named exists, commands run.

What needs real parts is in ``tests/whole/papers``.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT
from tests.faults.suite import names
from tests.handover.suite import names as scenarios
from tests.house.papers import MADE, PAPERS, made, paper, tracked
from tests.house.tables import explained_metrics
from tests.lib.permissions import ACL, CLUSTER_ACL, SENTINEL_ACL
from wsd import __version__, descriptors, sockets, worker
from wsd.admin import server
from wsd.auth.jwt import MAX_TOKEN
from wsd.cli.commands import MODULES
from wsd.clients import connection, phases, session
from wsd.codes import Close, Reaction
from wsd.config import Settings, text
from wsd.logs import outlet
from wsd.protocol import messages
from wsd.redis import vitals

papers = pytest.mark.parametrize("path", PAPERS)

_GUIDE, _CLIENTS, _PROXIES = (f"tests/whole/papers/test_{name}.py::" for name in ("commands", "clients", "proxies"))
_HOST = "tests/whole/systemd/test_host.py::"

HELD = {
    ("README.md", "Two commands", "sh"): f"{_GUIDE}test_what_make_run_starts_prints_commands_that_work",
    ("README.md", "Testing guide", "sh"): f"{_GUIDE}test_the_testing_guide_step_by_step",
    ("README.md", "Testing guide", "json send"): f"{_GUIDE}test_the_testing_guide_step_by_step",
    ("README.md", "Testing guide", "json receive"): f"{_GUIDE}test_the_testing_guide_step_by_step",
    ("CONTRIBUTING.md", "Make targets", "sh"): "tests/house/test_papers.py::test_the_commands_for_contributors",
    ("CONTRIBUTING.md", "The papers", "sh"): "tests/house/test_papers.py::test_the_commands_for_contributors",
    ("systemd/README.md", "In a virtual environment", "sh"): (
        "tests/house/test_packaging.py::test_the_recipe_for_a_virtual_environment"
    ),
    ("systemd/README.md", "With systemd", "sh"): f"{_HOST}test_the_settings_are_for_root_and_for_wsd_alone",
    ("systemd/README.md", "A new key", "sh"): f"{_HOST}test_a_new_key_is_taken_over_and_nobody_notices",
    ("systemd/README.md", "More workers", "sh"): f"{_HOST}test_another_number_of_workers",
    ("systemd/README.md", "Another version", "sh"): f"{_HOST}test_an_upgrade_and_the_way_back",
    ("systemd/README.md", "Restart", "sh"): f"{_HOST}test_a_restart_refuses_nobody",
    ("systemd/README.md", "Stop", "sh"): f"{_HOST}test_the_end",
    (
        "systemd/README.md",
        "In containers",
        "sh",
    ): f"{_GUIDE}test_the_key_for_containers_is_one_and_their_user_can_read_it",
    ("systemd/README.md", "Behind nginx or HAProxy", "nginx"): f"{_PROXIES}test_nginx",
    ("systemd/README.md", "Behind nginx or HAProxy", "haproxy"): f"{_PROXIES}test_haproxy",
    ("systemd/README.md", "Settings", "sh"): f"{_GUIDE}test_check_prints_what_is_in_force_and_tries_redis",
    (
        "systemd/README.md",
        "Alerts",
        "promql",
    ): "tests/house/test_papers.py::test_the_alerts_are_about_metrics_that_exist",
    ("systemd/README.md", "Tuning", "sh"): f"{_GUIDE}test_the_output_buffer_can_be_raised",
    ("systemd/README.md", "At three in the morning", "sh"): f"{_GUIDE}test_the_first_three_questions",
    ("tests/faults/README.md", "How it is measured", "sh"): f"{_GUIDE}test_the_commands_of_the_fault_suite",
    ("tests/handover/README.md", "How it is tried", "sh"): f"{_GUIDE}test_the_commands_of_the_suite_of_reloads",
    ("tests/simulation/README.md", "How it is played", "sh"): f"{_GUIDE}test_the_commands_of_the_simulation",
    ("wsd/DESIGN.md", "The design, and why", "text"): "tests/house/test_papers.py::test_the_ways_are_those_of_the_code",
    (
        "wsd/PROTOCOL.md",
        "The client protocol",
        "json",
    ): "tests/house/test_papers.py::test_the_messages_are_those_of_the_code",
    ("wsd/PROTOCOL.md", "Two clients to start from", "js"): f"{_CLIENTS}test_the_clients_receive_and_reconnect",
    ("wsd/PROTOCOL.md", "Two clients to start from", "python"): f"{_CLIENTS}test_the_clients_receive_and_reconnect",
}
"""Which test holds which blocks of a paper: those of a kind below a heading."""

PICTURES = {"mermaid"}
"""Kinds of blocks that nothing can be compared with."""


@cache
def trees() -> dict[str, ast.Module]:
    """The modules that a clone has, by their paths."""
    return {path: ast.parse((ROOT / path).read_text()) for path in sorted(tracked()) if path.endswith(".py")}


@cache
def known() -> set[str]:
    """Every name in the code, and every part of a name's text: settings, codes, functions, options."""
    found: set[str] = set()
    for path, tree in trees().items():
        if path == "tests/house/test_papers.py":
            continue
        for node in ast.walk(tree):
            for field in ("id", "attr", "name", "arg"):
                if type(name := getattr(node, field, None)) is str:
                    found.add(name)
            if isinstance(node, ast.Constant) and type(node.value) is str:
                found.update(re.findall(r"\w+", node.value))
    found.update(re.findall(r"\w+", (ROOT / "systemd" / "wsd.service").read_text()))
    return found


@cache
def methods() -> dict[str, set[str]]:
    """The methods of each class of wsd, and its other names: the members of an enum, for example."""
    found: dict[str, set[str]] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if path.startswith("wsd/") and isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                for each in node.body:
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(each.name)
                    elif isinstance(each, ast.Assign):
                        names.update(target.id for target in each.targets if isinstance(target, ast.Name))
    return found


# Whatever a paper is about.


@papers
def test_what_is_made_from_the_code_is_up_to_date(path: str) -> None:
    assert made(paper(path).text, path) == paper(path).text, "run `make papers`"


def test_what_is_made_has_a_place() -> None:
    assert {path for path, _ in MADE} <= set(PAPERS) <= tracked()


@papers
def test_links_lead_somewhere(path: str) -> None:
    for link in paper(path).links:
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = str((ROOT / path).parent.joinpath(place).resolve().relative_to(ROOT)) if place else path
        assert target in tracked(), f"{path} links to {link}, which a clone lacks"
        assert not anchor or anchor in paper(target).anchors, f"{path} links to {link}, which has no such heading"


@papers
def test_the_files_that_are_named_exist(path: str) -> None:
    folder = Path(path).parent
    for words in paper(path).code:
        for word in words.split():
            if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|[\w.-]+\.(py|md|toml|yaml|txt|service|svg|html)", word):
                places = {str(Path(word)), str(folder / word), f"bench/{word}"}
                assert places & tracked() or word in _NOT_FILES, f"{path} names {word}, which a clone lacks"


_NOT_FILES = {"wsd/reference", "N/A", ".venv/bin", "bench/results/", "A.json", "B.json", "before.json", "after.json"}
"""What is made, and stands for what is made."""


@papers
def test_what_is_named_exists(path: str) -> None:
    """Settings, codes, functions and options. A name with an underscore is no word of English."""
    for words in paper(path).code:
        for name in re.findall(r"(?<![\w/])[A-Za-z]\w*_\w+", re.sub(r"_\w*…|\{[^}]*\}", "", words)):
            plain = name.removeprefix("WSD_").lower() if name.startswith("WSD_") else name
            assert {plain, name} & (known() | explained_metrics().keys() | _NAMES_OF_OTHERS), f"{path} names {name}"


_NAMES_OF_OTHERS = {"tcp_wmem"}  # Linux's


@papers
def test_what_is_said_to_be_in_a_module_is_in_it(path: str) -> None:
    for name, module in re.findall(r"`(\w+)[^`]*`\s+(?:\w+\s+)?in\s+`([\w/]+\.py)`", paper(path).prose):
        assert re.search(rf"\b{name}\b", (ROOT / module).read_text()), f"{path} looks for {name} in {module}"


@papers
def test_the_methods_that_are_named_exist(path: str) -> None:
    for words in paper(path).code:
        for kind, method in re.findall(r"\b([A-Z]\w*[a-z]\w*)\.([a-z_]\w*)\(", words):
            assert kind not in methods() or method in methods()[kind], f"{path} names {kind}.{method}()"


@papers
def test_the_metrics_that_are_named_exist(path: str) -> None:
    for name in re.findall(r"\bwsd_[a-z_]+[a-z]", paper(path).text):
        if name != "wsd_daemon":
            assert re.sub(r"_bucket$", "", name) in explained_metrics(), f"{path} names {name}"


@papers
def test_the_flags_that_are_named_exist(path: str) -> None:
    code = "\n".join((ROOT / name).read_text() for name in trees() if name != "tests/house/test_papers.py")
    code += "".join(f" --{name.replace('_', '-')} " for name in Settings.model_fields)
    if path.startswith("bench/"):
        return  # it explains the options of other programs too; tests/bench holds it
    for words in paper(path).code:
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", words):
            assert flag in code or flag in _FLAGS_OF_OTHERS, f"{path} names {flag}"


_FLAGS_OF_OTHERS = {"--now", "--ulimit"}  # systemctl's, docker's


@papers
def test_the_make_targets_and_commands_that_are_named_exist(path: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    sheets = [*paper(path).code, *(line for block in paper(path).blocks for line in block.text.splitlines())]
    for words in sheets:
        if found := re.match(r"make ([a-z-]+)", words):
            assert found[1] in targets, f"{path} names {words}"
        if (found := re.match(r"(?:\.venv/bin/)?wsd ([a-z]+)", words)) and "`" not in words:
            assert found[1] in {*MODULES, "help"}, f"{path} names {words}"


def test_every_block_is_held_by_a_test() -> None:
    claimed = set()
    for path in PAPERS:
        if path.startswith("bench/"):
            continue  # tests/bench holds it
        for block in paper(path).blocks:
            keys = [(path, heading, block.kind) for heading in block.headings if (path, heading, block.kind) in HELD]
            assert len(keys) == 1 or block.kind in PICTURES, (path, block)
            claimed.update(keys)
    assert claimed == HELD.keys()
    for test in HELD.values():
        module, _, name = test.partition("::")
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {node.name for node in trees()[module].body if isinstance(node, functions)}, test


def test_papers_and_sections_that_the_code_cites_exist() -> None:
    headings: dict[str, set[str]] = {}
    for each in PAPERS:
        headings.setdefault(Path(each).name, set()).update(paper(each).headings)
    for path in trees():
        for name, section in re.findall(r'\b([A-Z]+\.md)\b(?:, "([^"]+)")?', (ROOT / path).read_text()):
            assert name in headings, f"{path} cites {name}"
            assert not section or section in headings[name], f"{path} cites the section {section!r} of {name}"


def test_each_paper_is_where_the_readme_says() -> None:
    links = {str(Path(link.partition("#")[0])) for link in paper("README.md").links}
    assert set(PAPERS) - {"README.md"} <= links


# README.md


def test_the_readme_is_short() -> None:
    assert len(paper("README.md").text.splitlines()) < 200


# CHANGELOG.md


def test_the_changelog_is_about_this_version() -> None:
    assert next(each for each in paper("CHANGELOG.md").headings if each.startswith("[")).startswith(f"[{__version__}]")


# CONTRIBUTING.md


def test_the_commands_for_contributors() -> None:
    for heading in ("Make targets", "The papers"):
        for block in paper("CONTRIBUTING.md").of(heading, "sh"):
            for command in block.text.splitlines():
                done = subprocess.run(
                    ["sh", "-c", command.replace("make ", "make -n ", 1)],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                line = done.stdout.splitlines()[-1]
                if found := re.search(r"-m pytest .*?(tests/unit/clients -k \w+)", line):
                    folder, word = found[1].split(" -k ")
                    modules = [tree for path, tree in trees().items() if path.startswith(f"{folder}/")]
                    assert any(word in getattr(node, "name", "") for tree in modules for node in ast.walk(tree))
                else:
                    assert re.search(r"-m (pytest .*tests/unit|tests\.house\.papers)", line), line


def test_every_lane_is_explained() -> None:
    lanes = {row[0].strip("`") for row in paper("CONTRIBUTING.md").rows("The lanes of the tests")}
    assert lanes == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").iterdir()
        if str(path.relative_to(ROOT)) in tracked() and path.is_dir()
    }


# systemd/README.md


def test_the_table_of_commands_is_complete() -> None:
    commands = [row[0].strip("`").split()[1] for row in paper("systemd/README.md").rows("Commands")]
    assert commands == list(MODULES)


def test_the_permissions_are_those_that_are_tested() -> None:
    section = paper("systemd/README.md").section("Which Redis").replace("\\|", "|")
    for words in (
        (*ACL, "resetchannels &PREFIX*"),
        CLUSTER_ACL,
        (*ACL, *SENTINEL_ACL, "resetchannels &+switch-master"),
    ):
        assert " ".join(words) in section


def test_what_is_promised_of_a_dead_redis_is_what_the_code_says() -> None:
    found = re.findall(r"(\d\.\d to \d\.\d)\D+(\d)$", vitals.__doc__ or "", re.MULTILINE)
    rows = paper("systemd/README.md").rows("How soon a dead Redis is noticed")
    shown = [(row[1].removesuffix(" heartbeats"), row[2].split()[0]) for row in rows if row[1] != "at once"]
    assert shown == found


def test_the_numbers_for_operators_are_those_of_the_code() -> None:
    shown = paper("systemd/README.md").prose.replace("\n", " ")
    for words in (
        f"At most {server.MAX_CONNECTIONS} connections are open at a time",
        f"At most {outlet.MAX_LINES:,} lines or {outlet.MAX_BYTES >> 20} MiB wait to be read",
        f"keeps {worker.RESERVED_DESCRIPTORS} for itself",
        f"asks for {sockets.BACKLOG:,} connections that wait to be accepted",
        f"up to {vitals.PAUSED_HEARTBEATS} heartbeats",
        f"fewer than {descriptors.SPARE} of the limit of open files are free",
    ):
        assert words in shown, words


def test_the_alerts_are_about_metrics_that_exist() -> None:
    (block,) = paper("systemd/README.md").of("Alerts", "promql")
    shown = paper("systemd/README.md").section("A metric or an alert")
    for line in block.text.splitlines():
        names = [re.sub(r"_bucket$", "", name) for name in re.findall(r"wsd_[a-z_]+[a-z]", line)]
        assert set(names) <= explained_metrics().keys()
        assert names[0] in shown, f"{names[0]} has no row"


def placeholders(node: ast.AST) -> str:
    """A text of the code, with … for what differs; "" if it is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(placeholders(value) for value in node.values)
    if isinstance(node, ast.Constant) and type(node.value) is str:
        return re.sub(r"%[-+.\d]*[sdagfr]", "…", node.value)
    return "…"


def said() -> Iterator[tuple[str, str]]:
    """The lines that the daemon may log at the level warning and above, each with its module."""
    levels = {"warning", "error", "exception", "critical", "_warn"}
    for path, tree in trees().items():
        if not path.startswith("wsd/") or path.startswith("wsd/cli/"):
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels):
                continue
            if "log" not in (holder := ast.unparse(node.func.value)) and holder not in _LOGGERS:
                continue
            given: list[ast.expr] = []
            for each in node.args:
                given += (
                    each.value.elts if isinstance(each, ast.Starred) and isinstance(each.value, ast.Tuple) else [each]
                )
            texts = [placeholders(each) for each in given[:2]]
            # The first argument of a BoundedLogger is a kind of line.
            bounded = len(given) > 1 and isinstance(given[1], ast.Constant | ast.JoinedStr)
            line = texts[1] if bounded else texts[0]
            if line.strip("…: "):
                yield line, path


_LOGGERS = {"self", "self._bugs", "bugs", "refusals", "self._notes", "self._shared.refusals"}


def quoted(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row)


def test_every_warning_of_the_log_is_explained() -> None:
    rows = [line for row in paper("systemd/README.md").rows("A line in the log") for line in quoted(row[0])]
    lines = list(said())
    assert len(lines) > 25
    for line, path in lines:
        assert any(fits(row, line) for row in rows), f"{path} logs {line!r}, which no row explains"
    every = texts_of_the_code()
    for row in rows:
        assert any(fits(row, line) for line in every), f"nobody logs {row!r}"


def fits(row: str, line: str) -> bool:
    """Whether a row of a table is about a line; … is whatever differs, in both."""
    pattern = ".*".join(re.escape(part) for part in row.split("…"))
    return re.match(rf"…?{pattern}(?!\w)", line) is not None


@cache
def texts_of_the_code() -> list[str]:
    """All texts in wsd, with … for what differs."""
    nodes = (node for path, tree in trees().items() if path.startswith("wsd/") for node in ast.walk(tree))
    return [placeholders(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]


def test_every_reason_of_readyz_is_explained() -> None:
    rows = [line for row in paper("systemd/README.md").rows("/readyz says 503") for line in quoted(row[0])]
    for row in rows:
        assert any(fits(row, line) for line in texts_of_the_code()), f"nobody says {row!r}"
    reasons = [*_returned("wsd/status.py", "unready"), *_returned("wsd/admin/service.py", "_problem")]
    assert len(reasons) == 5 + 6
    for reason in reasons:
        assert reason == "…" or any(fits(row, reason) for row in rows), reason


def _returned(path: str, name: str) -> list[str]:
    """The texts that a function returns."""
    (function,) = (node for node in ast.walk(trees()[path]) if isinstance(node, ast.FunctionDef) and node.name == name)
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    return [placeholders(value.body if isinstance(value, ast.IfExp) else value) for value in values]


# tests/faults/README.md


def test_the_table_of_faults_is_complete_and_all_went_well() -> None:
    rows = paper("tests/faults/README.md").rows("The table")
    assert [row[0] for row in rows] == names()
    assert not [row for row in rows if "FAILED" in row[-1] or "skipped" in row[-1]]


# tests/handover/README.md


def test_the_table_of_reloads_names_what_can_be_played_and_all_went_well() -> None:
    rows = paper("tests/handover/README.md").rows("The table")
    known = [name for name in scenarios() if name in {row[0] for row in rows}]
    assert [row[0] for row in rows] == known and len(rows) >= 20
    assert not [row for row in rows if "FAILED" in row[-1] or "skipped" in row[-1]]


# wsd/DESIGN.md


def test_the_ways_are_those_of_the_code() -> None:
    """The modules and methods in the drawings exist, each method in its class."""
    nodes = (node for path, tree in trees().items() if path.startswith("wsd/") for node in ast.walk(tree))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    drawings = [block.text for block in paper("wsd/DESIGN.md").blocks if block.kind == "text" and " -> " in block.text]
    assert len(drawings) == 2
    for drawing in drawings:
        for kind, method in re.findall(r"\b([A-Z]\w+)\.(\w+)", drawing):
            assert method in methods()[kind], f"{kind}.{method}"
        for path in re.findall(r"\b\w+/\w+\.py", drawing):
            assert f"wsd/{path}" in tracked(), path
        for name in re.findall(r"^ +([a-z]\w+) +\w+/\w+\.py", drawing, re.MULTILINE):
            assert name in functions, name


# wsd/PROTOCOL.md


def test_the_messages_are_those_of_the_code() -> None:
    shown = "".join(block.text for block in paper("wsd/PROTOCOL.md").of("The client protocol", "json"))
    shown += paper("wsd/PROTOCOL.md").prose
    for message in (
        messages.CONNECTED,
        messages.SESSION_AUTHENTICATED,
        messages.SESSION_UNAUTHORIZED,
        messages.SUBSCRIBED,
        messages.UNSUBSCRIBED,
        messages.PONG,
        messages.session_created("SESSION"),
        messages.message_head("TOPIC") + b"PAYLOAD}",
        messages.gap("TOPIC"),
    ):
        assert message.decode() in shown, message
    assert '{"action":"error","code":"CODE","message":"TEXT"}' in shown
    for line in shown.splitlines():
        if line.startswith('{"action":') and '"SESSION","context"' in line:
            assert messages.parse_request(line).session == "SESSION"


def test_the_clients_stop_at_the_close_codes_that_tell_of_a_bug() -> None:
    stop = sorted(code for code in Close if code.reaction is Reaction.STOP)
    for block in paper("wsd/PROTOCOL.md").of("Two clients to start from"):
        (shown,) = re.findall(r"[\[(](1\d{3}(?:, \d{4})+)[\])]", block.text)
        assert [int(code) for code in shown.split(", ")] == stop


def test_the_limits_are_those_of_the_code() -> None:
    limits = {row[0]: row[1] for row in paper("wsd/PROTOCOL.md").rows("Limits")}
    units = {"auth_timeout": " seconds", "max_backlog_age": " seconds"}
    for words, value in limits.items():
        if words.startswith("`"):
            name = quoted(words)[0]
            assert value.replace(" KiB", "KiB").replace(" MiB", "MiB") == text(
                Settings.model_fields[name].default
            ) + units.get(name, "")
    assert limits["a token"] == f"{MAX_TOKEN >> 10} KiB"
    assert limits["a message before authorization"] == f"{connection.MAX_UNAUTHORIZED >> 10} KiB"
    assert limits["refused tokens in a row"] == f"{session.MAX_BAD_TOKENS}"
    assert limits["time for Redis to confirm a subscription"] == f"{session.SUBSCRIBE_TIMEOUT:g} seconds"
    assert limits["replies that wait for a subscription"] == f"{session.MAX_HELD >> 10} KiB"
    assert (
        limits["time from connecting to the whole request of the handshake"] == f"{phases.HANDSHAKE_TIMEOUT:g} seconds"
    )
    assert f"; {session.BURST_SECONDS:g} seconds' worth" in next(each for each in limits if "max_request_rate" in each)
    assert f"1 to {messages.MAX_TOPIC_BYTES} bytes" in paper("wsd/PROTOCOL.md").section("Topics and channels")
