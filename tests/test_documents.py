"""What the documents name is there: files, headings, commands, options, units, settings, alerts of the table."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hipnode.cli import app
from hipnode.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(text: str) -> set[str]:
    """The anchors a page's headings get: small letters, blanks as "-", no punctuation."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).strip().replace(" ", "-") for h in headings}


def code(text: str) -> list[str]:
    """Lines of shell blocks, and what stands in back quotes."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*(line for block in blocks for line in block.splitlines()), *re.findall(r"`([^`\n]+)`", rest)]


def hipnode_commands(text: str) -> list[list[str]]:
    """Each `hipnode ...` of a page, as words, up to what ends a command in a shell."""
    found = []
    for line in code(text):
        for match in re.finditer(r"(?:^|/bin/|exec [\w-]+ |[;&|] )hipnode ([a-z-][^|;&#>]*)", line):
            found.append(match[1].replace("...", "").split())
    return found


def wrong_in(words: list[str]) -> str:
    """What the command line would not know of these words; "" when it knows them all."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        names = name.split("/")  # `hipnode studies list/show`
        nexts = [command.get_command(None, each) for each in names]
        if None in nexts:
            return f"no command {name!r}"
        command = nexts[0]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    return f"{command.name} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = []
    for target in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        ok = file.exists() and (not anchor or anchor in anchors(file.read_text(encoding="utf-8")))
        if not ok:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist_with_their_options(page: Path) -> None:
    wrong = [
        (" ".join(words), why)
        for words in hipnode_commands(page.read_text(encoding="utf-8"))
        if (why := wrong_in(words))
    ]
    assert wrong == []


def test_the_pages_name_commands_at_all() -> None:
    """So that the test above cannot pass by finding nothing."""
    for page in ("README.md", "deploy/README.md"):
        assert len(hipnode_commands((ROOT / page).read_text(encoding="utf-8"))) > 10
    assert wrong_in(["studies", "list", "--json"]) == ""
    assert "no command" in wrong_in(["studdies"])
    assert "--jsn" in wrong_in(["studies", "list", "--jsn"])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_that_are_named_exist(page: Path) -> None:
    # not settings, but read from the environment before there are any
    others = {
        "HIPNODE_ENV_FILE",
        "HIPNODE_SECRETS_DIR",
        "HIPNODE_DEBUG",
        "HIPNODE_FILMS",
        "HIPNODE_PELVIXNET_CSV",
        "HIPNODE_REQUIRE_PEERS",
    }
    known = {f"HIPNODE_{name.upper()}" for name in Settings.model_fields} | others
    assert set(re.findall(r"\bHIPNODE_[A-Z_]+\b", page.read_text(encoding="utf-8"))) <= known
