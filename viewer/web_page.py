"""What app.py serves: a page, and answers to the pictures that it sends.

Python's own http.server, since the page needs little: no package to install, no file or telemetry
from another host, and nothing on the disk. A picture is held in memory until it is answered. One
picture is worked on at a time, of at most MAX_BYTES and decode.MAX_PIXELS.

| request | answer |
| --- | --- |
| GET / and the files of PAGE | the page |
| GET /state | JSON: names of models and examples, max_bytes, why no faces can be found or null |
| GET /example/person/01.png | a bundled picture |
| POST /translate?model=NAME&direction=BtoA&find=1, body: a picture | JSON, see `Answerer` |
"""

import base64
import functools
import io
import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from PIL import Image

from common.errors import UserError, one_line
from common.tensors import to_float, to_uint8
from cyclegan_model import GENERATORS
from interop.generators import PRETRAINED, bundled, load_generators
from interop.layouts import PUBLISHED
from pictures.decode import UnreadableImage, crop_box, cut_square, open_image
from pictures.faces import FaceDetector, squares_of_faces
from pictures.folders import find_images
from storage.checkpoint import ROOT, RUN_FILE
from translation_model import TranslationModel

MAX_BYTES = 32_000_000
TIMEOUT = 30  # seconds for which a request may stand still
BODY_SECONDS = 120  # for a whole picture
BATCH = 8
TEMPLATES = Path(__file__).resolve().parent / "templates"
PAGE = {
    "/": ("app.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/app.css": ("app.css", "text/css"),
    "/gallery.css": ("gallery.css", "text/css"),
}
EXAMPLES = Path("test_image/inputs")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def list_models() -> dict[str, Path]:
    """Files and folders of generators in model_ckpt/ by name, the pretrained model first."""
    models: dict[str, Path] = {}
    for folder in [bundled(PRETRAINED), *sorted(path for path in ROOT.glob("*") if path.is_dir())]:
        names = {path.name for path in folder.glob("*.pth")}
        if names & {*PUBLISHED.values(), "latest_net_G_A.pth", "latest_net_G.pth"}:
            models.setdefault(folder.name, folder)
        for name in sorted(filter(RUN_FILE.fullmatch, names), reverse=True):
            models.setdefault(f"{folder.name}/{name}", folder / name)
    return models


class Answerer:
    """Turns pictures into translations with the models of model_ckpt/, on one device."""

    def __init__(self, gpu_ids: list[int]) -> None:
        self.gpu_ids = gpu_ids
        self.lock = threading.Lock()
        self.open = functools.lru_cache(maxsize=2)(self._open)
        self.detector: FaceDetector | None = None
        self.no_faces: str | None = None
        try:
            self.detector = FaceDetector()
        except UserError as error:
            self.no_faces = str(error)

    def state(self) -> dict:
        folder = bundled(EXAMPLES)
        return {
            "models": list(list_models()),
            "examples": find_images(folder) if folder.is_dir() else [],
            "max_bytes": MAX_BYTES,
            "no_faces": self.no_faces,
        }

    def translate(self, picture: bytes, name: str, direction: str, find: bool) -> dict:
        """Translate each face of a picture, or its middle.

        Returns {"about": which model, "notes": lines, "faces": for each face a list of PNGs as
        data URLs: what the model saw, the translation, and the way back where it has one}.
        Raises UserError, UnreadableImage.
        """
        path = list_models().get(name)
        if path is None:
            raise UserError(f"there is no model {name!r} in model_ckpt/ any more; choose another")
        model, about = self.open(path, stamps(path), direction)
        size = model.opt.image_size
        with open_image(io.BytesIO(picture)) as photo:
            if find and self.detector:
                boxes, notes = squares_of_faces(photo, self.detector, model.opt)
            else:
                boxes, notes = [crop_box(photo.size, model.opt.crop)], []
            cuts = [torch.from_numpy(cut_square(photo, box, size)) for box in boxes]
        images = to_float(torch.stack(cuts))
        fakes, recs = model.translate(images, direction)
        columns = [to_uint8(x) for x in (images, fakes, recs) if x is not None]
        faces = [[data_url(pixels) for pixels in row] for row in zip(*columns, strict=True)]
        return {"about": about, "notes": notes, "faces": faces}

    def _open(self, path: Path, changed: tuple, direction: str) -> tuple[TranslationModel, str]:
        model, found = load_generators(path, self.gpu_ids, BATCH, direction)
        return model, f"{path.name} ({found.about}) on {model.device}"


def stamps(path: Path) -> tuple:
    """What changes when a file of weights, or one in a folder of them, is replaced."""
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    found = [(file.name, file.stat()) for file in files if file.exists()]
    return tuple((n, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in found)


def data_url(pixels: torch.Tensor) -> str:
    """A uint8 image (H, W, 3) as a PNG in a URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; `server` has an `answerer` and the `hosts` it goes by, or None."""

    server: "Server"
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def do_GET(self) -> None:
        if not self.is_ours():
            return
        path, examples = urlsplit(self.path).path, bundled(EXAMPLES)
        if path in PAGE:
            name, kind = PAGE[path]
            self.answer((TEMPLATES / name).read_bytes(), f"{kind}; charset=utf-8")
        elif path == "/state":
            self.answer_json(self.server.answerer.state())
        elif path.removeprefix("/example/") in self.server.answerer.state()["examples"]:
            self.answer((examples / path.removeprefix("/example/")).read_bytes(), "image/png")
        else:
            self.refuse(404, "there is no such page")

    def do_POST(self) -> None:
        if not self.is_ours():
            return
        url, length = urlsplit(self.path), self.headers.get("Content-Length", "")
        if url.path != "/translate":
            return self.refuse(404, "there is no such page")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            return self.refuse(411, "a picture needs a Content-Length")
        if len(length) > 12 or int(length) > MAX_BYTES:
            return self.refuse(413, f"at most {MAX_BYTES:,} bytes are taken")
        picture = self.read_body(int(length))
        if picture is None:
            return self.refuse(408, "the picture did not come whole in time")
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            if asked.get("direction") not in GENERATORS:
                raise UserError("direction: must be AtoB or BtoA")
            with self.server.answerer.lock:
                answer = self.server.answerer.translate(
                    picture, asked.get("model", ""), asked["direction"], asked.get("find") == "1"
                )
        except UnreadableImage as error:
            answer = {"error": one_line(f"This picture cannot be read: {error}")}
        except UserError as error:
            answer = {"error": one_line(str(error))}
        self.answer_json(answer)

    def read_body(self, length: int) -> bytes | None:
        """The body of a request; None if it is not whole within BODY_SECONDS."""
        body, end = bytearray(), time.monotonic() + BODY_SECONDS
        try:
            while len(body) < length and (left := end - time.monotonic()) > 0:
                self.connection.settimeout(min(left, TIMEOUT))
                if not (chunk := self.rfile.read1(min(length - len(body), 1 << 16))):
                    break
                body += chunk
        except TimeoutError:
            pass
        self.connection.settimeout(TIMEOUT)
        return bytes(body) if len(body) == length else None

    def is_ours(self) -> bool:
        """Refuse what another site has a browser send here, by a name of its own or from afar."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        hosts = self.server.hosts
        try:
            urlsplit(self.path)
            known = hosts is None or urlsplit(f"//{host}").hostname in hosts
            ours = known and (origin is None or urlsplit(origin).netloc == host)
            if any(len(self.headers.get_all(name, [])) > 1 for name in ("Host", "Content-Length")):
                raise ValueError
        except ValueError:
            self.refuse(400, "an address or a header is malformed")
            return False
        if ours:
            return True
        self.refuse(403, "this page answers only itself")
        return False

    def answer_json(self, value: dict) -> None:
        self.answer(json.dumps(value).encode(), "application/json")

    def refuse(self, status: int, reason: str) -> None:
        self.close_connection = True  # its body, if any, is not read
        self.answer(json.dumps({"error": reason}).encode(), "application/json", status)

    def answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "app.py"

    def log_message(self, *_: object) -> None:
        """Nothing: who sent what is nobody's business."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, gpu_ids: list[int]) -> None:
        super().__init__((host, port), Handler)
        everywhere = host in ("", "0.0.0.0")  # the names of this machine are not known then
        self.hosts = None if everywhere else {host.lower(), "127.0.0.1", "localhost"}
        self.answerer = Answerer(gpu_ids)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away, or stands still, is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def serve(host: str, port: int, gpu_ids: list[int]) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises UserError if the address cannot be had."""
    try:
        server = Server(host, port, gpu_ids)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}); "
            "name another port, 0 for any free one, or an IPv4 address or name of this machine"
        ) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server:
        if server.answerer.no_faces:
            print(
                f"No faces will be found, the middle of a picture is taken: "
                f"{server.answerer.no_faces}"
            )
        name = "127.0.0.1" if server.hosts is None else host
        print(f"Open http://{name}:{server.server_port}/ in a browser; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Ended.")
