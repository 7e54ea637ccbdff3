"""README.md and its Chinese translation say the same commands, in the same sections."""

import re

from conftest import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README_zh.md"))


def blocks(text):
    """Code blocks, without what follows a # on a line: comments are translated."""
    found = re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL)
    return [(kind, re.sub(r"\s*#.*", "", code)) for kind, code in found]


def test_both_have_the_same_commands_and_code():
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_both_have_as_many_sections_and_tables_of_as_many_rows():
    for pattern in (r"^## ", r"^\|", r"^- ", r"^!\["):
        counts = [len(re.findall(pattern, text, flags=re.MULTILINE)) for text in (ENGLISH, CHINESE)]
        assert counts[0] == counts[1], pattern


def test_both_name_the_same_files_flags_figures_and_links():
    for pattern in (r"`[^`\n]*`", r"\]\(([^)]*)\)", r"\d+\.\d+"):
        found = [set(re.findall(pattern, text)) for text in (ENGLISH, CHINESE)]
        assert found[0] == found[1], found[0] ^ found[1]


def test_every_script_and_file_that_it_names_exists():
    for name in set(re.findall(r"([\w-]+\.(?:py|txt))\b", ENGLISH)):
        ours = list(ROOT.glob(name)) + list(ROOT.glob(f"*/{name}"))
        assert ours or "list_" in name, name
