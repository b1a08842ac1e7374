"""The page: what it takes and refuses, and asked in a browser."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio, the extra [app]")

import gradio as gr
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mmjepa import app
from mmjepa.app import MAX_CHARACTERS, MAX_QUESTIONS, read_image, read_questions, serve

QUESTIONS = ["what is seen?", "<img src=x onerror=document.title=1> is it red?"]


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
    with pytest.raises(gr.Error, match=message):
        read_questions(text)


def test_no_image_no_image_file_and_too_large_images_are_refused(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (20, 10)).save(tmp_path / "image.png")
    cut = (tmp_path / "image.png").read_bytes()[:-30]
    (tmp_path / "cut.png").write_bytes(cut)
    assert read_image(str(tmp_path / "image.png")).size == (20, 10)
    with pytest.raises(gr.Error, match="no image: choose one"):
        read_image(None)
    for name in ("text.png", "cut.png", "none.png"):
        with pytest.raises(gr.Error, match="no image that can be read"):
            read_image(str(tmp_path / name))
    monkeypatch.setattr(app, "MAX_PIXELS", 199)
    with pytest.raises(gr.Error, match="20 x 10 pixels; at most 199"):
        read_image(str(tmp_path / "image.png"))


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
    return WebDriverWait(browser, 60).until(condition)


def ask_in(browser, page, image: str, questions: str) -> None:
    browser.get(page.local_url)
    chosen = wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))
    chosen[0].send_keys(image)
    wait(browser, lambda browser: Path(image).stem in browser.find_element(By.TAG_NAME, "body").text)
    browser.find_element(By.TAG_NAME, "textarea").send_keys(questions)
    next(button for button in browser.find_elements(By.TAG_NAME, "button") if button.text == "Ask").click()


def test_in_a_browser_questions_about_an_image_are_answered(browser, page, image_file):
    ask_in(browser, page, image_file, "\n".join(QUESTIONS))
    cards = wait(browser, lambda browser: browser.find_elements(By.CLASS_NAME, "reply"))
    assert len(cards) == len(QUESTIONS)
    for card, question in zip(cards, QUESTIONS, strict=True):
        assert question in card.text  # its HTML too is text
        assert "from the image" in card.text or "from the question" in card.text
        assert "without the image:" in card.text
        picture = card.find_element(By.TAG_NAME, "img")
        assert picture.get_property("naturalWidth") == 384
    assert browser.title == "MMJepa"
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(address.startswith((page.local_url, "data:")) for address in fetched)


def test_in_a_browser_a_file_that_is_no_image_is_named(browser, page, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(np.random.default_rng(0).bytes(100))
    ask_in(browser, page, str(bad), "what?")
    message = "no image that can be read"
    assert wait(browser, lambda browser: message in browser.find_element(By.TAG_NAME, "body").text)
