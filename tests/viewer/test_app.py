"""app.py without a browser: what it answers, what it refuses, and that it keeps nothing."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from common.errors import UserError
from pictures.decode import load_image
from viewer import web_page

PERSON = ROOT / "test_image/inputs/person/01.png"
QUERY = "/translate?model=pretrained&direction=BtoA&find=0"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The page's server in an empty folder, which it finds the bundled model from."""
    monkeypatch.chdir(tmp_path)
    made = web_page.Server("127.0.0.1", 0, [])
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def ask(server):
    """Send one request; returns its status, its headers and its body, JSON as an object."""

    def request(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers["Content-Type"] == "application/json":
            content = json.loads(content)
        return answer.status, answer.headers, content

    return request


def pixels(url):
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_a_picture_comes_back_as_seen_translated_and_back_again(ask):
    status, _, answer = ask("POST", QUERY, PERSON.read_bytes())
    assert status == 200 and answer["notes"] == [] and "pretrained" in answer["about"]
    ((seen, fake, back),) = (list(map(pixels, face)) for face in answer["faces"])
    assert (seen == load_image(PERSON, len(seen))).all()
    assert seen.shape == fake.shape == back.shape
    apart = [np.abs(a.astype(int) - b).mean() for a, b in ((seen, fake), (seen, back))]
    assert apart[0] > apart[1] > 0  # the way back is nearer to the person than the anime face is


def test_faces_are_found_where_asked_and_a_wall_gets_a_note(ask):
    pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
    face = Image.open(PERSON).resize((256, 256))
    wall = Image.new("RGB", (900, 500), "grey")
    found = {}
    for places in ((), ((40, 100), (560, 200))):
        photo = wall.copy()
        for place in places:
            photo.paste(face, place)
        file = io.BytesIO()
        photo.save(file, "PNG")
        found[len(places)] = ask("POST", QUERY.replace("find=0", "find=1"), file.getvalue())[2]
    assert len(found[2]["faces"]) == 2 and found[2]["notes"] == []
    assert len(found[0]["faces"]) == 1 and "no face found" in found[0]["notes"][0]


def bomb():
    """A small PNG whose header claims 100 million pixels."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (10_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "body, reason",
    [
        (b"", "no image"),
        (b"no picture", "no image"),
        (b"%!PS-Adobe\n", "no image"),
        (PERSON.read_bytes()[:200], "cannot be read"),
        (bomb(), "10000x10000 pixels"),
    ],
)
def test_what_is_no_picture_gets_one_line(ask, body, reason):
    status, _, answer = ask("POST", QUERY, body)
    assert status == 200 and reason in answer["error"] and "\n" not in answer["error"]


def test_a_body_that_is_too_large_or_of_unknown_length_is_not_read(ask):
    large = {"Content-Length": str(web_page.MAX_BYTES + 1)}
    assert ask("POST", QUERY, **large)[0] == 413
    for length in ("-1", "x", ""):
        assert ask("POST", QUERY, **{"Content-Length": length})[0] == 411


def test_nothing_is_written_anywhere(ask, tmp_path):
    written, watching = [], True

    def watch(event, args):  # a hook cannot be taken out again
        if watching and event == "open" and isinstance(args[2], int):
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                written.append(args)

    sys.addaudithook(watch)
    (tmp_path / "probe").write_bytes(b"")
    assert len(written) == 1  # the watch works
    assert ask("POST", QUERY, PERSON.read_bytes())[0] == 200
    assert ask("POST", QUERY, b"no picture")[0] == 200
    assert ask("POST", QUERY, PERSON.read_bytes()[:200])[0] == 200
    watching = False
    assert os.listdir(tmp_path) == ["probe"] and len(written) == 1


def test_models_and_examples_are_found_by_name_only(ask):
    for model in ("nosuch", "../model_ckpt/pretrained", str(ROOT / "model_ckpt/pretrained"), ""):
        _, _, answer = ask("POST", f"/translate?model={model}&direction=BtoA", PERSON.read_bytes())
        assert "there is no model" in answer["error"]
    assert "AtoB or BtoA" in ask("POST", "/translate?model=pretrained&direction=x", b"")[2]["error"]
    for path in (
        "/example/../../LICENSE",
        "/example//etc/passwd",
        "/example/",
        "/LICENSE",
        "/example/%2e%2e/person/01.png",
        "/app.py",
        "/templates/app.js",
    ):
        assert ask("GET", path)[0] == 404
    assert ask("GET", "/example/person/01.png")[2] == PERSON.read_bytes()


def test_the_list_has_the_pretrained_model_first_then_every_checkpoint_of_every_run(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/latest.pth",
        "a/best.pth",
        "a/epoch_0020.pth",
        "a/other.pth",
        "b/x.txt",
        "c/latest_net_G_A.pth",
        "pretrained.pth",
    ):
        Path("model_ckpt", name).parent.mkdir(parents=True, exist_ok=True)
        Path("model_ckpt", name).touch()
    models = list(web_page.list_models())
    assert models[0] == "pretrained"
    assert models[1:] == ["a/latest.pth", "a/epoch_0020.pth", "a/best.pth", "c"]


def test_a_broken_checkpoint_gets_one_line(ask):
    Path("model_ckpt/run").mkdir(parents=True)
    Path("model_ckpt/run/latest.pth").write_bytes(b"nonsense")
    _, _, answer = ask("POST", QUERY.replace("pretrained", "run/latest.pth"), PERSON.read_bytes())
    assert "model_ckpt/run/latest.pth" in answer["error"] and "\n" not in answer["error"]


def test_a_run_that_trained_on_is_read_again(ask, workplace, train):
    assert train("--name", "run").code == 0
    query = QUERY.replace("pretrained", "run/latest.pth")
    first = ask("POST", query, PERSON.read_bytes())[2]
    assert "faces" in first
    assert train("--resume", "--name", "run", "--niter", 4).code == 0
    assert ask("POST", query, PERSON.read_bytes())[2]["about"] != first["about"]


def test_weights_that_were_replaced_in_a_folder_are_read_again(ask):
    shutil.copytree(ROOT / "model_ckpt/pretrained", "model_ckpt/mine")
    path, query = Path("model_ckpt/mine/person_to_anime.pth"), QUERY.replace("pretrained", "mine")
    state = torch.load(path, weights_only=True)
    faces = []
    for _ in range(2):  # files of one size and time, in one place
        state["weights"] = {key: -x for key, x in state["weights"].items()}
        torch.save(state, path)
        os.utime(path, (1, 1))
        faces.append(ask("POST", query, PERSON.read_bytes())[2]["faces"])
    assert faces[0] != faces[1]


def test_a_picture_that_comes_byte_by_byte_keeps_nobody_waiting_and_ends(ask, server, monkeypatch):
    monkeypatch.setattr(web_page, "BODY_SECONDS", 6)
    ask("POST", QUERY, PERSON.read_bytes())  # the model is read
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as slow:
        slow.sendall(
            f"POST {QUERY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n".encode()
        )
        slow.sendall(b"a")
        assert "faces" in ask("POST", QUERY, PERSON.read_bytes())[2]
        answer = b""
        with contextlib.suppress(OSError):
            slow.settimeout(0.2)
            for _ in range(98):
                try:
                    answer = slow.recv(1000)
                    break
                except TimeoutError:
                    slow.sendall(b"a")
        assert answer.startswith(b"HTTP/1.1 408 ")


MALFORMED = {
    "a host that is no name": ["Host: ["],
    "an origin that is no address": ["Host: localhost", "Origin: http://["],
    "an address that is none": ["Host: localhost"],
    "a length of 5,000 digits": ["Host: localhost", f"Content-Length: {'9' * 5000}"],
    "a length of 5,000 noughts": ["Host: localhost", f"Content-Length: {'0' * 5000}x"],
    "a length in other digits": ["Host: localhost", "Content-Length: \u0663"],
    "a length with a sign": ["Host: localhost", "Content-Length: +5"],
    "two lengths": ["Host: localhost", "Content-Length: 5", "Content-Length: 7"],
    "a length and chunks": ["Host: localhost", "Content-Length: 5", "Transfer-Encoding: chunked"],
    "no length": ["Host: localhost", "Content-Type: multipart/form-data; boundary="],
    "no host": [],
    "two hosts": ["Host: localhost", "Host: evil.example"],
    "no colon": ["Host localhost"],
    "a header of 70,000 letters": ["Host: localhost", "X: " + "a" * 70_000],
    "a thousand headers": ["Host: localhost", *["X: a"] * 1000],
    "a port that is no number": ["Host: localhost:x", "Origin: http://localhost:x["],
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_headers_are_answered_with_4xx_and_no_traceback(server, capfd, kind):
    path = "http://[/translate" if "address that is none" in kind else QUERY
    lines = [f"POST {path} HTTP/1.1", *MALFORMED[kind], "Connection: close", "", "hello"]
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as client:
        client.sendall("\r\n".join(lines).encode())
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert re.match(rb"HTTP/1.1 4\d\d ", client.recv(1000)), kind
    assert "Traceback" not in capfd.readouterr().err


def test_other_sites_and_other_names_of_this_machine_are_refused(ask, server):
    port = server.server_port
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        assert ask("POST", QUERY, PERSON.read_bytes(), **headers)[0] == 403
        assert ask("GET", "/state", **headers)[0] == 403
    assert ask("GET", "/state", Host=f"localhost:{port}")[0] == 200
    assert ask("GET", "/state", Origin=f"http://127.0.0.1:{port}")[0] == 200
    policy = ask("GET", "/")[1]["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_a_name_of_this_machine_may_have_capitals(monkeypatch):
    monkeypatch.setattr(web_page.ThreadingHTTPServer, "__init__", lambda *_: None)
    assert "johns-macbook" in web_page.Server("Johns-MacBook", 0, []).hosts


def test_without_opencv_the_page_says_so_and_takes_the_middle(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    answerer = web_page.Answerer([])
    assert "pip install -r requirements-app.txt" in answerer.state()["no_faces"]
    answer = answerer.translate(PERSON.read_bytes(), "pretrained", "BtoA", find=True)
    assert len(answer["faces"]) == 1


def test_a_port_in_use_ends_in_one_line(server):
    with pytest.raises(UserError, match=f"--port {server.server_port}: .*another port"):
        web_page.serve("127.0.0.1", server.server_port, [])


def test_the_command_listens_on_this_machine_alone_unless_told_otherwise(script, monkeypatch):
    asked = []
    monkeypatch.setattr(web_page, "serve", lambda *args: asked.append(args))
    assert script("app.py", "--gpu_ids", "-1").code == 0
    assert script("app.py", "--gpu_ids", "-1", "--host", "0.0.0.0", "--port", 80).code == 0
    assert asked == [("127.0.0.1", 7860, []), ("0.0.0.0", 80, [])]
    assert script("app.py", "--port", 70000).code == 2
