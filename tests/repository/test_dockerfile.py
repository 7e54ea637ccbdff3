"""The Dockerfile's lines, checked without Docker: what it copies is all that its commands need."""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from conftest import ROOT

KNOWN = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


def instructions():
    """(name, words) of each instruction, continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def words_of(name):
    return [words for known, words in instructions() if known == name]


def is_ignored(path):
    """Whether .dockerignore leaves out a path: the last of its lines that fits it decides."""
    names = path.split("/")
    ignored = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if pattern.startswith("**/"):  # at any depth
            heads = names
        else:
            heads = ["/".join(names[: pattern.count("/") + 1])]
        if pattern and any(fnmatch.fnmatchcase(h, pattern.removeprefix("**/")) for h in heads):
            ignored = not line.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """What COPY . . would copy, of the files that the repository has."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    folder = tmp_path_factory.mktemp("image")
    for name in listed.stdout.splitlines():
        if not is_ignored(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_instruction_is_known_and_the_first_is_from():
    names = [name for name, _ in instructions()]
    assert set(names) == KNOWN and names[0] == "FROM" and names[-1] == "CMD"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_the_default_command_is_the_page_on_the_port_that_is_exposed_and_watched():
    assert json.loads(words_of("CMD")[0]) == ["python", "app.py", "--host", "0.0.0.0"]
    (port,) = words_of("EXPOSE")
    assert f'"--port", type=whole(0, 65535), default={port}' in (ROOT / "app.py").read_text()
    assert f"127.0.0.1:{port}/state" in words_of("HEALTHCHECK")[0]


def test_the_image_has_what_it_installs_from_and_nothing_of_the_user(image):
    for words in words_of("COPY"):
        *sources, _ = words.split()
        assert all((image / source).exists() for source in sources)
    for file in re.findall(r"-r (\S+)", " ".join(words_of("RUN"))):
        nested = re.findall(r"^-r (\S+)", (image / file).read_text(), flags=re.MULTILINE)
        assert {file, *nested} <= set(words_of("COPY")[0].split())
    for owned in words_of("RUN")[1].split("chown user ")[1].split():
        assert (image / owned).is_dir()
    assert not {"tests", "data", ".git", "benchmarks"} & set(os.listdir(image))
    for path in (
        "data/person/me.png",
        ".git/config",
        "model_ckpt/mine/latest.pth",
        "save_image/mine/log.jsonl",
        "test_image/me_anime.png",
        "out/me.png",
        "templates/__pycache__/x.pyc",
        ".venv/bin/python",
    ):
        assert is_ignored(path)


def test_the_command_answers_from_what_was_copied_and_ends_at_sigterm(image):
    command = [sys.executable, *json.loads(words_of("CMD")[0])[1:], "--port", "0"]
    process = subprocess.Popen(command, cwd=image, stdout=subprocess.PIPE, text=True)
    try:
        address = next(
            re.search(r"http://[\d.:]+/", line)[0] for line in process.stdout if "Open " in line
        )
        check = json.loads(words_of("HEALTHCHECK")[0].partition("CMD ")[2])
        check = [sys.executable, *(re.sub(r"http://[\d.:]+/", address, word) for word in check[1:])]
        assert subprocess.run(check).returncode == 0
        state = json.load(urllib.request.urlopen(f"{address}state", timeout=30))
        assert state["models"] == ["pretrained"] and len(state["examples"]) == 24
        picture = (image / "test_image/inputs/person/01.png").read_bytes()
        query = "translate?model=pretrained&direction=BtoA"
        answer = json.load(urllib.request.urlopen(address + query, picture, timeout=60))
        assert len(answer["faces"][0]) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
