"""The page of app.py in a real Chromium: a picture in by every way, a translation out."""

import shutil
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_gallery import HOSTILE

from viewer import web_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
PERSON = ROOT / "test_image/inputs/person/01.png"
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CAMERA)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path, monkeypatch):
    """Open the page; at the end nothing may have gone wrong in it, or been asked of others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_ckpt" / HOSTILE.replace("/", "")).mkdir(parents=True)
    (tmp_path / "model_ckpt" / HOSTILE.replace("/", "") / "latest.pth").write_bytes(b"nonsense")
    server = web_page.Server("127.0.0.1", 0, [])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address, troubles, contexts = f"http://127.0.0.1:{server.server_port}/", [], []

    def open_page(width=1280, **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, **how)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("requestfailed", lambda request: troubles.append(request.url))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "data:")) or troubles.append(request.url)
            ),
        )
        page.goto(address)
        playwright.expect(page.locator("#model option")).to_have_count(2)
        return page

    yield open_page
    for context in contexts:
        context.close()
    server.shutdown()
    thread.join()
    server.server_close()
    assert troubles == []


def translated(page, faces=1):
    """Wait for a result; returns its captions."""
    playwright.expect(page.locator(".result")).to_have_count(faces)
    for image in page.locator(".result img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    return page.locator(".result figcaption span").all_inner_texts()


def test_upload_gives_the_person_the_anime_face_and_the_way_back(visit):
    page = visit()
    page.locator("#find").uncheck()
    page.set_input_files("#file", PERSON)
    assert translated(page) == ["person", "anime", "and back"]
    playwright.expect(page.locator("#status")).to_contain_text("1 face, by pretrained")
    with page.expect_download() as download:
        page.get_by_role("link", name="save anime").click()
    assert download.value.suggested_filename == "anime.png"
    assert Image.open(download.value.path()).size == (64, 64)


def test_faces_are_found_in_a_photograph(visit, tmp_path):
    pytest.importorskip("cv2", reason="needs opencv-python-headless<5")
    photo = Image.new("RGB", (900, 500), "grey")
    for place in ((40, 100), (560, 200)):
        photo.paste(Image.open(PERSON).resize((256, 256)), place)
    photo.save(tmp_path / "two.jpg")
    page = visit()
    page.set_input_files("#file", tmp_path / "two.jpg")
    assert len(translated(page, 2)) == 6


def test_an_odd_file_gives_a_line_in_the_page_and_the_next_one_works(visit, tmp_path):
    (tmp_path / "odd.png").write_text("no picture")
    page = visit()
    page.set_input_files("#file", tmp_path / "odd.png")
    error = page.locator("#error")
    playwright.expect(error).to_have_text(
        "This picture cannot be read: its content is no image of an accepted type"
    )
    page.set_input_files("#file", PERSON)
    translated(page)
    playwright.expect(error).to_be_hidden()


def test_a_file_that_is_too_large_is_not_sent(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(web_page, "MAX_BYTES", 2_000_000)
    (tmp_path / "large.png").write_bytes(b"x" * 2_000_001)
    page = visit()
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files("#file", tmp_path / "large.png")
    playwright.expect(page.locator("#error")).to_have_text(
        "This file has 3 MB; at most 2 are taken."
    )
    assert sent == []


def test_an_example_of_either_domain_chooses_its_direction(visit):
    page = visit()
    page.get_by_role("button", name="example anime/02.png").click()
    assert translated(page) == ["anime", "person", "and back"]
    playwright.expect(page.get_by_label("anime to person")).to_be_checked()
    playwright.expect(page.locator("#finding")).to_be_hidden()
    page.get_by_role("button", name="example person/02.png").click()
    playwright.expect(page.locator("figcaption span").first).to_have_text("person")
    playwright.expect(page.get_by_label("person to anime")).to_be_checked()
    page.get_by_label("anime to person").check()  # the same picture, the other way
    playwright.expect(page.locator("figcaption span").first).to_have_text("anime")


GIVE = """(name) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 80;
  canvas.toBlob((blob) => {
    const data = new DataTransfer();
    data.items.add(new File([blob], "x.png", {type: "image/png"}));
    const event = name === "drop" ? new DragEvent("drop", {dataTransfer: data})
                                  : new ClipboardEvent("paste", {clipboardData: data});
    document.dispatchEvent(event);
  });
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(visit, way):
    page = visit()
    page.evaluate(GIVE, way)
    assert translated(page) == ["person", "anime", "and back"]


def test_the_camera_gives_a_picture_and_is_let_go(visit):
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="use the camera").click()
    playwright.expect(page.locator("#live")).to_be_visible()
    video = page.locator("#video")
    video.evaluate(
        "video => new Promise(done => { video.onplaying = done;"
        " if (video.videoWidth) done(); }).then(() => 0)"
    )
    page.get_by_role("button", name="take the picture").click()
    translated(page)
    playwright.expect(page.locator("#live")).to_be_hidden()
    assert video.evaluate("video => video.srcObject") is None


def test_a_hostile_model_name_is_only_text_and_its_broken_file_a_line(visit):
    page = visit()
    page.set_input_files("#file", PERSON)
    translated(page)
    page.locator("#model").select_option(index=1)
    playwright.expect(page.locator("#error")).to_contain_text(HOSTILE.replace("/", ""))
    playwright.expect(page.locator(".result")).to_have_count(0)


@pytest.fixture
def no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)


def test_without_opencv_the_page_says_what_to_install(no_opencv, visit):
    page = visit()
    playwright.expect(page.locator("#finding")).to_contain_text("requirements-app.txt")
    playwright.expect(page.locator("#find")).to_be_disabled()
    page.set_input_files("#file", PERSON)
    translated(page)


def test_a_server_that_is_gone_is_named(visit):
    page = visit()
    page.route("**/translate?*", lambda route: route.fulfill(body="not JSON"))
    page.set_input_files("#file", PERSON)
    playwright.expect(page.locator("#error")).to_contain_text("Is app.py still running?")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit, scheme):
    page = visit(width=375, color_scheme=scheme)
    page.set_input_files("#file", PERSON)
    translated(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    heights = [
        button.bounding_box()["height"]
        for button in page.locator(".buttons button").all()
        if button.is_visible()
    ]
    assert np.min(heights) >= 40
