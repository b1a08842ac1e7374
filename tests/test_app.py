"""The page: what it takes and refuses, and asked in a browser."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio, the extra [app]")

import gradio as gr
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mmjepa import app
from mmjepa.app import MAX_CHARACTERS, MAX_QUESTIONS, PICTURE_SIDE, read_image, read_questions, row_of, serve
from mmjepa.evaluation.asking import Reply

HOSTILE = "<img src=x onerror=document.title=1> is it **red**?"


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def test_questions_are_lines_and_empty_lines_are_none():
    assert read_questions(" is it?\n\nwhat? \n") == ["is it?", "what?"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n ", "no question"),
        (None, "no question"),
        ("a?\n" * (MAX_QUESTIONS + 1), f"at most {MAX_QUESTIONS} at once"),
        ("a" * (MAX_CHARACTERS + 1), f"at most {MAX_CHARACTERS}"),
    ],
)
def test_no_question_or_too_many_or_too_long_ones_are_refused(text, message):
    with pytest.raises(gr.Error, match=message) as raised:
        read_questions(text)
    assert not raised.value.print_exception  # no traceback in the server's log


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_images_of_the_named_formats_are_read(format):
    image = read_image(encoded(Image.new("RGB", (20, 10)), format))
    assert (image.size, image.mode) == ((20, 10), "RGB")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "no image: choose one"),
        (b"", "no image that can be read"),
        (b"no image", "no image that can be read"),
        (encoded(Image.new("RGB", (20, 10)))[:-30], "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
        (encoded(Image.new("1", (5001, 100))), "thin line"),
        (encoded(Image.new("1", (8000, 8000))), "too large: give one of at most 50,000,000 pixels"),
        (encoded(Image.new("1", (20_000, 10_000))), "too large: give one of at most 50,000,000 pixels"),
    ],
    ids=["none", "empty", "text", "cut", "eps", "line", "large", "larger than Pillow opens"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_image_no_image_file_and_too_large_images_are_refused(file, message):
    with pytest.raises(gr.Error, match=message) as raised:
        read_image(file)
    assert not raised.value.print_exception


def test_a_reply_becomes_a_row_that_names_only_likely_other_answers():
    reply = Reply("what?", "yes", 0.714, "Yes.", [("no", 0.2), ("liver", 0.001)], None)
    assert row_of(reply) == ["what?", "yes", "71 %", "the question", "Yes.", "no (20 %)"]


def test_a_model_that_does_not_exist_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["app.py"])
    monkeypatch.setenv("MMJEPA_MODEL", f"{tmp_path}/nothing")
    with pytest.raises(SystemExit, match="there is no folder .*/nothing"):
        app.main()


@pytest.fixture(scope="module")
def page(saved_folder):
    page = serve(saved_folder, prevent_thread_lock=True, quiet=True)
    yield page
    page.close()


@pytest.fixture(scope="module")
def browser():
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        pytest.skip("no chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def wait(browser, condition):
    """Waits until `condition(browser)` holds -> what it gave. The page may draw an element anew as it is looked at."""
    return WebDriverWait(browser, 300, ignored_exceptions=[StaleElementReferenceException]).until(condition)


def wait_for_text(browser, text: str, within: str = "body") -> None:
    wait(browser, lambda browser: text in browser.find_element(By.CSS_SELECTOR, within).text)


def click(browser, css: str, text: str = "") -> None:
    """Clicks the first element of that kind and text, as soon as it is there and can be clicked."""

    def click_if_there(browser) -> bool:
        found = [element for element in browser.find_elements(By.CSS_SELECTOR, css) if text in ("", element.text)]
        try:
            found[0].click()
        except (IndexError, ElementNotInteractableException, ElementClickInterceptedException):
            return False
        return True

    wait(browser, click_if_there)


def give(browser, page, file: str | Path) -> None:
    browser.get(page.local_url)
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(file))


def cells(browser) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#answers [role=gridcell]")]


@pytest.mark.slow
def test_in_a_browser_questions_about_an_image_are_answered(browser, page, image_file):
    give(browser, page, image_file)
    wait_for_text(browser, Path(image_file).stem)
    browser.find_element(By.TAG_NAME, "textarea").send_keys("what is seen?\n" + HOSTILE)
    click(browser, "button", "Ask")
    wait_for_text(browser, HOSTILE, "#answers")  # HTML and Markdown are text
    wait(browser, lambda browser: {"what is seen?", HOSTILE} <= set(cells(browser)))
    assert {"the image", "the question"} & set(cells(browser))

    def size_of_picture(browser) -> list[int]:
        picture = browser.find_element(By.CSS_SELECTOR, "#maps .media-button img")
        return [picture.get_property(name) for name in ("naturalWidth", "naturalHeight")]

    wait(browser, lambda browser: size_of_picture(browser) == [PICTURE_SIDE, PICTURE_SIDE * 30 // 40])
    click(browser, "#maps .thumbnails button:nth-child(2)")
    wait_for_text(browser, HOSTILE, "#maps .caption")
    assert browser.title == "MMJepa"
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(address.startswith((page.local_url, "data:")) for address in fetched)


@pytest.mark.slow
def test_in_a_browser_an_example_fills_the_page(browser, page):
    browser.get(page.local_url)
    click(browser, "button", "slide 1")
    wait(browser, lambda browser: browser.find_element(By.TAG_NAME, "textarea").get_property("value"))
    click(browser, "button", "Ask")
    wait_for_text(browser, "%", "#answers")
    asked = browser.find_element(By.TAG_NAME, "textarea").get_property("value").splitlines()
    wait(browser, lambda browser: asked[0] in cells(browser))


@pytest.mark.slow
def test_in_a_browser_a_file_that_is_no_image_is_named(browser, page, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(np.random.default_rng(0).bytes(100))
    give(browser, page, bad)
    wait_for_text(browser, "no image that can be read")
    assert str(tmp_path) not in browser.page_source


@pytest.mark.slow
def test_in_a_browser_a_too_large_file_and_a_missing_image_are_named(browser, page, tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(21 * 2**20)
    give(browser, page, tmp_path / "large.png")
    wait_for_text(browser, "maximum allowed size of 20")
    click(browser, "button", "Ask")
    wait_for_text(browser, "There is no image")
