"""README, its Chinese translation and docs/: short, and of what is really there."""

import re

import pytest
from conftest import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README_zh.md"))
PAGES = [ROOT / "README.md", ROOT / "README_zh.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted(ROOT.glob("model_ckpt/**/README.md"))]  # fmt: skip
NAMES = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.*") if path.is_file()]
WRITTEN = {  # by commands
    *("report.json", "results.json", "sn_50000.json", "log.jsonl", "options.json", "epochs.webp")
}


def blocks(text):
    """Code blocks, without what follows a # on a line: comments are translated."""
    found = re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL)
    return [(kind, re.sub(r"[ \t]*#.*", "", code)) for kind, code in found]


def test_readme_is_short():
    assert len(ENGLISH.split()) <= 2600
    prose = re.sub(r"^\|.*|```.*?```", "", ENGLISH, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 2000


def test_the_translation_has_the_same_commands():
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_the_translation_has_the_same_figures():
    code_and_links = re.compile(r"```.*?```|\]\([^)]*\)", flags=re.DOTALL)
    figures = [re.findall(r"\d+(?:[.,]\d+)*", code_and_links.sub("", text))
               for text in (ENGLISH, CHINESE)]  # fmt: skip
    assert set(figures[0]) == set(figures[1]), set(figures[0]) ^ set(figures[1])


def test_the_translation_has_the_same_files_and_flags():
    english, chinese = (set(re.findall(r"`[^`\n]+`", text)) for text in (ENGLISH, CHINESE))
    assert english == chinese, english ^ chinese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "http://")):
            path, _, heading = target.partition("#")
            place = page.parent / path if path else page
            assert place.is_file(), target
            if heading:
                titles = re.findall(r"^#+ (.*)", place.read_text("utf-8"), flags=re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
                         for title in titles]  # fmt: skip
                assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_and_result_that_is_named_exists(page):
    for name in re.findall(r"[\w./-]+\.(?:py|svg|webp|jsonl?)\b", page.read_text("utf-8")):
        if name.rpartition("/")[2] not in WRITTEN:
            ending = "/" + name.lstrip("./")
            assert any(f"/{known}".endswith(ending) for known in NAMES), name


def test_every_room_stands_on_the_map():
    text = (ROOT / "docs/code.md").read_text("utf-8")
    rooms = {f"{path.parent.name}/" for path in ROOT.glob("*/__init__.py")}
    commands = {path.name for path in ROOT.glob("*.py")}
    missing = {name for name in rooms | commands if f"`{name}`" not in text}
    assert not missing
