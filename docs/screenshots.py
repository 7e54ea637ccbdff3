"""Write README's screenshots, docs/page.webp and docs/gallery.webp, by a headless Chromium.

    python train.py --demo                           # the run that the gallery shows
    python docs/screenshots.py --name demo
    python docs/screenshots.py --name demo --width 375 --output out    # as on a phone, to look at

Only generated pictures are shown: bundled examples and drawn faces. Needs playwright
(requirements-dev.txt) and a Chromium.
"""

import io
import shutil
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import UserError, one_line_errors
from common.options import make_parser, run_name, whole
from storage.files import atomic_write
from viewer.pages import write_run_page
from viewer.web_page import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXAMPLE = "example person/01.png"
QUALITY = 80


@one_line_errors
def main() -> None:
    parser = make_parser("Write screenshots of app.py's page and of a run's page.")
    parser.add_argument("--name", type=run_name, default="demo", help="run in save_image/")
    parser.add_argument("--width", type=whole(200, 4000), default=1100, help="of the window")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder to write to")
    opt = parser.parse_args()
    run = Path("save_image") / opt.name
    if not (run / "log.jsonl").is_file():
        raise UserError(f"--name {opt.name}: {run}/ has no log.jsonl; python train.py --demo "
                        "makes a run of drawn faces")  # fmt: skip
    opt.output.mkdir(parents=True, exist_ok=True)
    write_run_page(run)
    for name, picture in (("page", show_page), ("gallery", show_gallery)):
        with Chromium(opt.width) as page:
            picture(page, run)
            save(page.screenshot(), opt.output / f"{name}.webp")


class Chromium:
    """A page of a new Chromium, `width` pixels wide, of light colours; closed at the end."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __enter__(self) -> "Page":
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise UserError("playwright is not installed; pip install -r requirements-dev.txt"
                            ) from None  # fmt: skip
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None:
            raise UserError(f"there is no Chromium here (looked for {', '.join(BROWSERS)})")
        self.driver = sync_playwright().start()
        self.browser = self.driver.chromium.launch(executable_path=program)
        return self.browser.new_page(
            viewport={"width": self.width, "height": 780}, color_scheme="light"
        )

    def __exit__(self, *_: object) -> None:
        self.browser.close()
        self.driver.stop()


def show_page(page: "Page", run: Path) -> None:
    """app.py's page with a bundled person, the anime face of it, and the way back."""
    server = Server("127.0.0.1", 0, [])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("#find").uncheck()
        page.get_by_role("button", name=EXAMPLE).click()
        page.wait_for_selector(".result img")
        page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def show_gallery(page: "Page", run: Path) -> None:
    """The run's page at its last epoch."""
    page.goto((run / "index.html").resolve().as_uri())
    page.wait_for_selector(".face")


def save(png: bytes, target: Path) -> None:
    with Image.open(io.BytesIO(png)) as picture, atomic_write(target) as temporary:
        picture.convert("RGB").save(temporary, format="WEBP", quality=QUALITY, method=6)
    print(f"{target} ({picture.width}x{picture.height}, {target.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
