"""The gallery's pages in a real browser: one Chromium for all tests, straight from the disk."""

import io
import itertools
import json
import shutil
from datetime import datetime, timedelta

import pytest
from PIL import Image
from test_gallery import HOSTILE, make_run, make_test_grids, record

from viewer import pages as gallery

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
COLUMNS = 3


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three runs, the first with a hostile name, and grids of test.py, with all their pages."""
    root = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["gallery.py"])
        hostile = make_run(
            root / "save_image" / (HOSTILE.replace("/", "") + " #%?"), options={"crop": HOSTILE}
        )
        (hostile / "log.jsonl").write_text(json.dumps(record(1, **{HOSTILE: 1.0})) + "\n")
        make_run(root / "save_image/short", epochs=(1, 2), options={"ngf": 8})
        make_run(root / "save_image/run", epochs=(1, 2, 3, 5))
        (root / "save_image/run/0002_epoch_anime.png").unlink()
        make_run(root / "save_image/dtn", rows=4)
        make_test_grids(root / "test_image")
        gallery.main()
    return root


@pytest.fixture
def visit(browser, site):
    """Open a page of the site; at the end nothing may have gone wrong in it."""
    troubles, contexts = [], []

    def open_page(path, width=1280, expect_trouble=False, **how):
        context = browser.new_context(viewport={"width": width, "height": 800}, **how)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        if not expect_trouble:
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(dialog.message))
            page.on("requestfailed", lambda request: troubles.append(request.url))
        page.on("request", lambda r: r.url.startswith("file:") or troubles.append(r.url))
        path, _, state = path.partition("#")
        page.goto((site / path).as_uri() + (f"#{state}" if state else ""))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


RUN = "save_image/run/index.html"


def colours(page, *selectors):
    """Colour in the middle of each element, as it is on the screen."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    boxes = [page.locator(selector).first.bounding_box() for selector in selectors]
    return [
        shot.getpixel((box["x"] + box["width"] // 2, box["y"] + box["height"] // 2))
        for box in boxes
    ]


def at(page, words):
    playwright.expect(page.locator("#at")).to_have_text(words)


def face(direction, number, row):
    return (
        f"#sections section:nth-of-type({direction + 1}) .face:nth-of-type({number + 1}) .row{row}"
    )


def test_every_tile_shows_its_own_face_and_row(visit):
    page = visit(RUN)
    at(page, "epoch 5 of 5")
    page.wait_for_selector(".face")
    tiles = list(itertools.product((0, 1), range(COLUMNS), range(3)))
    expected = [(100, row * 100, number * 40 + direction * 20) for direction, number, row in tiles]
    assert colours(page, *(face(*tile) for tile in tiles)) == expected  # as make_run drew them


def test_a_dtn_has_its_translations_and_what_it_makes_of_real_anime(visit):
    page = visit("save_image/dtn/index.html")
    at(page, "epoch 3 of 3")
    page.wait_for_selector(".face")
    rows = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 2): 3}  # of the grid, by direction and row
    tiles = [(direction, number, row) for direction, row in rows for number in range(COLUMNS)]
    expected = [(60, rows[direction, row] * 75, number * 40) for direction, number, row in tiles]
    assert colours(page, *(face(*tile) for tile in tiles)) == expected
    titles = page.locator("#sections h2").all_text_contents()
    assert titles == ["Persons to anime", "Anime, made again"]
    told = page.locator("#sections .rows").all_text_contents()
    assert told == [
        "Top to bottom: real person, fake anime",
        "Top to bottom: real anime, reconstructed anime",
    ]
    page.keyboard.press("n")
    playwright.expect(page.locator(".faces.alone figcaption").first).to_have_text("real person")


def test_slider_keys_and_buttons_move_the_pictures(visit):
    page = visit(RUN)
    page.wait_for_selector(".face")

    def shows(words, red):
        at(page, words)
        page.wait_for_function(
            "words => document.querySelector('.pane').style"
            ".getPropertyValue('--file0').includes(words)",
            arg=f"{red // 20:04}_epoch",
        )
        assert colours(page, face(0, 0, 0))[0][0] == red

    page.locator("#slider").fill("0")
    shows("epoch 1 of 5", 20)
    page.locator("#slider").press("ArrowRight")
    page.locator("#slider").press("ArrowRight")  # the focused slider moves once, not twice
    shows("epoch 3 of 5", 60)
    page.locator("#slider").evaluate("slider => slider.blur()")
    page.keyboard.press("End")
    shows("epoch 5 of 5", 100)
    page.keyboard.press("ArrowRight")
    shows("epoch 5 of 5", 100)
    page.keyboard.press("ArrowLeft")
    shows("epoch 3 of 5", 60)
    page.keyboard.press("Home")
    shows("epoch 1 of 5", 20)
    page.click("#later")
    page.click("#later")
    shows("epoch 3 of 5", 60)
    page.keyboard.press("ArrowLeft")
    at(page, "epoch 2 of 5")  # to anime, its grid is gone: the one before, and a line that says so
    note = page.get_by_text("No grid of epoch 2; this is epoch 1.")
    playwright.expect(note).to_be_visible()
    assert [red for red, _, _ in colours(page, face(0, 0, 0), face(1, 0, 0))] == [20, 40]


def stop_time(page):
    """From here on the page's time passes only with page.clock.run_for (milliseconds)."""
    start = datetime(2026, 1, 1)
    page.clock.install(time=start)
    page.clock.pause_at(start + timedelta(hours=1))


def test_play_goes_to_the_last_epoch_and_stops_there(visit):
    page = visit(RUN + "#epoch=2")
    at(page, "epoch 2 of 5")
    stop_time(page)
    play = page.locator("#play")
    page.click("text=5/s")
    page.keyboard.press("Space")
    playwright.expect(play).to_have_text("pause")
    seen = []
    while seen[-1:] != ["epoch 5 of 5"]:  # a step waits for its pictures, whose time is real
        page.clock.run_for(200)
        seen.append(page.locator("#at").inner_text())
    assert set(seen) == {"epoch 3 of 5", "epoch 5 of 5"}
    playwright.expect(play).to_have_text("play")
    page.keyboard.press("Space")  # from the end it starts again
    at(page, "epoch 1 of 5")
    page.keyboard.press("Space")
    playwright.expect(play).to_have_text("play")
    page.clock.run_for(5000)
    at(page, "epoch 1 of 5")


def test_play_is_slow_for_those_who_want_less_motion(visit):
    page = visit(RUN + "#epoch=1", reduced_motion="reduce")
    at(page, "epoch 1 of 5")
    stop_time(page)
    page.click("text=10/s")
    page.keyboard.press("Space")
    page.clock.run_for(900)
    at(page, "epoch 1 of 5")
    page.clock.run_for(200)
    at(page, "epoch 2 of 5")


def test_zoom_is_in_whole_multiples_of_crisp_pixels(visit):
    page = visit(RUN)
    tile = page.locator(".tile").first
    for key, zoom in (("1", 1), ("4", 4), ("-", 3), ("-", 2), ("+", 3), ("+", 4), ("+", 4)):
        page.keyboard.press(key)
        box = tile.bounding_box()
        assert (box["width"], box["height"]) == (16 * zoom, 16 * zoom)
        pressed = page.locator("#zooms [aria-pressed=true]")
        playwright.expect(pressed).to_have_text(f"{zoom}×")
    assert tile.evaluate("tile => getComputedStyle(tile).imageRendering") == "pixelated"


def test_rows_can_be_hidden_but_never_all(visit):
    page = visit(RUN)
    page.wait_for_selector(".face")
    for key, left in (("r", [1, 2]), ("c", [1]), ("f", [1]), ("r", [0, 1])):
        page.keyboard.press(key)
        for row in range(3):
            count = COLUMNS * 2 if row in left else 0
            playwright.expect(page.locator(f".face .row{row}")).to_have_count(count)
    told = page.locator(".rows").first
    playwright.expect(told).to_have_text("Top to bottom: real person, fake anime")


def test_one_face_is_shown_alone_with_its_history(visit):
    page = visit(RUN)
    button = page.get_by_role("button", name="face 2:").nth(1)
    button.focus()
    button.press("Enter")
    playwright.expect(page.locator("#which")).to_have_text("face 2 of 3")
    alone = page.locator(".alone .tile >> visible=true")
    playwright.expect(alone).to_have_count(3)
    assert alone.first.bounding_box()["width"] == 64  # four times 16
    tiles = [f"section:nth-of-type(2) .alone .row{row}" for row in range(3)]
    assert colours(page, *tiles) == [(100, row * 100, 60) for row in range(3)]
    films = page.locator(".film figcaption >> visible=true")
    assert films.all_text_contents() == ["1", "2", "3", "5"]
    page.click("[data-at='2'] >> visible=true")
    at(page, "epoch 2 of 5")
    page.keyboard.press("n")
    playwright.expect(page.locator("#which")).to_have_text("face 3 of 3")
    page.keyboard.press("n")  # the first of the other direction
    playwright.expect(page.locator("#which")).to_have_text("face 1 of 3")
    playwright.expect(page.locator("h2:visible").first).to_have_text("Persons to anime")
    page.keyboard.press("p")
    playwright.expect(page.locator("h2:visible").first).to_have_text("Anime to persons")
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".face >> visible=true")).to_have_count(2 * COLUMNS)
    assert page.evaluate("document.activeElement.ariaLabel").startswith("face 3:")


def test_curves_have_axes_a_legend_and_a_marker_at_the_epoch(visit):
    page = visit(RUN)
    chart = page.locator(".chart", has_text="cycle loss")
    assert set(chart.locator("text").all_text_contents()) >= {"0", "1", "2", "3", "4", "5", "epoch"}
    assert chart.locator("svg").first.get_attribute("aria-label") == (
        "cycle loss: cycle_A 3 at epoch 1, 0.6 at epoch 5; cycle_B 4 at epoch 1, 0.8 at epoch 5"
    )
    marker, points = chart.locator(".now"), chart.locator("circle")
    for index, key, numbers in ((3, "End", ["0.6", "0.8"]), (0, "Home", ["3", "4"])):
        page.keyboard.press(key)
        assert marker.get_attribute("x1") == points.nth(index).get_attribute("cx")
        assert chart.locator(".legend b").all_text_contents() == numbers
    box = chart.locator("svg").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 14, box["y"] + 40)
    at(page, "epoch 5 of 5")


def test_compare_shows_any_two_runs_and_what_differs_between_them(visit, site):
    page = visit("save_image/compare.html#a=run&b=short")
    playwright.expect(page.locator("h3:visible").first).to_have_text("A: run, epoch 5")
    playwright.expect(page.locator("h3:visible").nth(1)).to_have_text("B: short, epoch 2")
    chart = page.locator(".chart", has_text="cycle loss")
    assert chart.locator(".legend li").all_text_contents() == [
        "A: cycle_A 0.6",
        "A: cycle_B 0.8",
        "B: cycle_A 1.5",
        "B: cycle_B 2",
    ]
    rows = page.locator("#options > table tbody tr")
    assert rows.all_inner_texts() == ["ngf\t64\t8\t64"]
    page.locator("#pick-1").select_option(label="run")
    playwright.expect(page.locator("h3:visible").nth(1)).to_have_text("B: run, epoch 5")
    playwright.expect(page.locator("#options")).to_contain_text("All options are alike.")
    page.locator("#pick-0").select_option(index=3)
    assert HOSTILE.replace("/", "") in page.locator("h3:visible").first.inner_text()


def test_hostile_names_options_and_logs_are_only_text(visit, site):
    folder = next(path for path in (site / "save_image").iterdir() if "onerror" in path.name)
    page = visit("save_image/index.html")
    page.get_by_role("link", name=folder.name, exact=True).click()
    page.wait_for_selector(".face")
    assert page.title() == folder.name and page.locator("h1").inner_text() == folder.name
    assert colours(page, face(0, 1, 2)) == [(60, 200, 40)]
    page.get_by_text("the other options").click()
    assert HOSTILE in page.locator("#options").inner_text()
    assert HOSTILE in page.locator("#charts").inner_text()


def test_reload_keeps_epoch_zoom_and_face(visit):
    page = visit(RUN)
    page.wait_for_selector(".face")
    for key in ("Home", "n", "3"):
        page.keyboard.press(key)
    page.wait_for_function("() => location.hash === '#epoch=1&face=0.0&zoom=3'")
    page.reload()
    at(page, "epoch 1 of 5")
    playwright.expect(page.locator("#which")).to_have_text("face 1 of 3")
    playwright.expect(page.locator("#zooms [aria-pressed=true]")).to_have_text("3×")


def test_grids_of_test_py_are_shown_tile_for_tile(visit):
    page = visit("test_image/index.html")
    at(page, "grid 1 of 2")
    playwright.expect(page.locator(".face")).to_have_count(16)
    assert colours(page, face(0, 5, 0), face(0, 5, 1)) == [(200, 10, 150), (100, 10, 150)]
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(".face")).to_have_count(6)
    assert colours(page, face(1, 2, 1)) == [(100, 10, 60)]


def test_a_grid_that_is_gone_is_named(visit, site):
    broken = make_run(site / "save_image/broken")
    gallery.write_run_page(broken)
    (broken / "0003_epoch_anime.png").unlink()
    page = visit("save_image/broken/index.html", expect_trouble=True)
    note = page.get_by_text("0003_epoch_anime.png is missing or broken.")
    playwright.expect(note).to_be_visible()
    page.keyboard.press("ArrowLeft")
    playwright.expect(note).to_have_count(0)


PAGES = [
    RUN,
    RUN + "#face=0.1",
    "save_image/index.html",
    "save_image/compare.html",
    "test_image/index.html",
]


@pytest.mark.parametrize("path", PAGES)
def test_no_page_scrolls_sideways_on_a_phone(visit, path):
    page = visit(path, width=375)
    page.wait_for_selector(".tile:visible, article img")
    for key in "14":
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(visit, scheme):
    page = visit(RUN, color_scheme=scheme)
    pick = "e => getComputedStyle(document.querySelector(e[0])).getPropertyValue(e[1])"
    paper = luminance(page.evaluate(pick, ["body", "background-color"]))
    assert (paper < 0.1) == (scheme == "dark")
    for selector in ("body", ".help", ".rows", "a", "[aria-pressed=true]"):
        ground = "[aria-pressed=true]" if "aria" in selector else "body"
        below = luminance(page.evaluate(pick, [ground, "background-color"]))
        ink = luminance(page.evaluate(pick, [selector, "color"]))
        assert (max(ink, below) + 0.05) / (min(ink, below) + 0.05) >= 4.5, selector


def luminance(css):
    """Relative luminance of rgb(r, g, b), as the contrast rule of WCAG 2.1 defines it."""
    parts = [int(part) / 255 for part in css.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_everything_that_can_be_used_has_a_name(visit):
    for path in (RUN, RUN + "#face=1.0", "save_image/compare.html", "test_image/index.html"):
        page = visit(path)
        page.wait_for_selector(".tile:visible")
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, select, input, a')].filter(e => !(e.ariaLabel "
            "|| e.textContent.trim() || e.labels?.length) && !e.querySelector('img[alt]')).length"
        )
        assert nameless == 0
        slider = page.locator("#slider")
        assert slider.get_attribute("aria-valuetext") == page.locator("#at").inner_text()
