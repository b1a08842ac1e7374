"""The page: what it takes and refuses, and asked in a browser."""

import io
import json
import re
import shutil
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
import torch
from contrast import contrast
from PIL import Image, ImageColor

pytest.importorskip("gradio", reason="the page needs gradio, the extra [app]")

import gradio as gr
from gradio.route_utils import delete_files_created_by_app
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from mmjepa import app
from mmjepa.app import MAX_QUESTIONS, build_page, page_theme, read_questions, row_of, serve
from mmjepa.evaluation.asking import Reply, load_saved
from mmjepa.evaluation.taught import TaughtStatement
from mmjepa.page.search_tab import MAX_IMAGES
from mmjepa.page.uploads import GONE, MAX_CHARACTERS, NOT_UPLOADED, PICTURE_SIDE, read_image

DECLARED = r"--([\w-]+): ([^;]+);"
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
    reply = Reply("what?", "yes", 0.714, "Yes.", 0.3, [("no", 0.2), ("liver", 0.001)], None)
    assert row_of(reply) == ["what?", "yes", "71 %", "30 %; the same answer", "-", "no (20 %)"]
    reply.blank, reply.attention = "no", torch.full((4, 4), 0.02)
    assert row_of(reply)[3:5] == ["30 %; no", "32 %"]


def colours_of(theme: gr.themes.Base) -> dict[str, dict[str, tuple[int, ...]]]:
    """The colours of a theme by the names of their variables, light and dark."""
    blocks = re.findall(r"(\S+) \{([^}]*)\}", theme._get_theme_css())
    light, dark = (
        {name: value for where, block in blocks if of in where for name, value in re.findall(DECLARED, block)}
        for of in (":root", ".dark")
    )

    def resolved(values: dict[str, str]) -> dict[str, tuple[int, ...]]:
        colours = {}
        for name, value in values.items():
            while match := re.fullmatch(r"var\(--([\w-]+)\)", value):
                value = values[match[1]]
            with suppress(ValueError):
                colours[name] = ImageColor.getrgb(value)
        return colours

    return {"light": resolved(light), "dark": resolved(light | dark)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("button-primary-text-color", "button-primary-background-fill"),
        ("button-primary-text-color-hover", "button-primary-background-fill-hover"),
        ("button-secondary-text-color", "button-secondary-background-fill"),
        ("block-label-text-color", "block-label-background-fill"),
        ("input-placeholder-color", "input-background-fill"),
        ("body-text-color-subdued", "body-background-fill"),
        ("color-accent", "body-background-fill"),  # the tab that is shown
        ("link-text-color", "background-fill-secondary"),  # the size of the file
    ],
)
def test_the_texts_of_the_page_contrast_with_their_ground_by_at_least_4_5(scheme, text, ground):
    colours = colours_of(page_theme())[scheme]
    assert contrast(colours[text], colours[ground]) >= 4.5


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
def client(page):
    return Client(page.local_url, verbose=False)


@pytest.fixture
def elsewhere(monkeypatch, image_file):
    """The address of an image on a server of this machine, which gradio takes for a public one, and its requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(Path(image_file).read_bytes())

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    async def is_public(host: str) -> str:
        return "127.0.0.1"

    monkeypatch.setattr("safehttpx.async_validate_url", is_public)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/image.png", requests
    server.shutdown()
    server.server_close()


def described(path: str, **fields) -> dict:
    """A file as clients of gradio describe it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


def called(page, data: list, name: str = "ask") -> str:
    """What a caller without gradio's client is told."""
    functions = page.local_api_url + f"call/{name}"
    with httpx.Client(timeout=60) as caller:
        event = caller.post(functions, json={"data": data}).json()["event_id"]
        return caller.get(f"{functions}/{event}").text


@pytest.mark.parametrize(
    "inputs",
    [
        lambda address: [described(address), "what is seen?"],
        lambda address: [described(address, is_stream=True), "what is seen?"],
        lambda address: [{"path": address}, "what is seen?"],
        lambda address: [None, described(address)],
        lambda address: [None, [{"text": [described(address)]}]],
        lambda address: [{**described("x", other=described(address)), "meta": {}}, "what is seen?"],
        lambda address: [{"path": None, "url": address}, "what is seen?"],
    ],
    ids=["image", "stream", "no meta", "text", "nested", "inside a file", "url"],
)
def test_an_address_is_refused_before_it_is_fetched(page, elsewhere, inputs):
    address, requests = elsewhere
    told = called(page, inputs(address))
    assert (json.loads(told.partition("data: ")[2])["error"], requests) == (NOT_UPLOADED, [])


def test_no_function_of_the_page_fetches_an_address(page, elsewhere):
    address, requests = elsewhere
    for function in page.fns.values():
        body = {"fn_index": function._id, "data": [described(address)] * len(function.inputs), "session_hash": "x"}
        httpx.post(page.local_api_url + "queue/join", json=body)
        httpx.get(page.local_api_url + "queue/data?session_hash=x", timeout=60)
        httpx.post(page.local_api_url + "run/predict", json=body)
    assert requests == []


@pytest.mark.parametrize("route", ["file={}", "file/{}", "proxy={}"])
def test_the_page_hands_on_no_file_of_another_server(page, elsewhere, route):
    address, requests = elsewhere
    answer = httpx.get(page.local_api_url + route.format(address))
    assert (answer.status_code, requests) == (403, [])


def test_the_page_sends_no_answers_to_the_hub(page):
    addresses = [page.local_api_url + route for route in ("runs", "run-history/buckets")]
    assert [httpx.get(address).status_code for address in addresses] == [404, 404]


def test_gradios_own_client_is_refused_an_address_and_told_why(client, elsewhere):
    address, requests = elsewhere
    with pytest.raises(AppError, match="Addresses and paths are not read"):
        client.predict({"path": address, "meta": {"_type": "gradio.FileData"}}, "what is seen?", api_name="/ask")
    assert requests == []


@pytest.mark.parametrize(
    "path",
    [
        "{image}",
        "file://{image}",
        "/etc/passwd",
        "{folder}/../../etc/passwd",
        "data:image/png;base64,AA==",
        "a\0b",
        "",
    ],
)
def test_a_path_of_the_server_and_a_data_address_are_refused(page, image_file, path):
    path = path.format(image=image_file, folder=get_upload_folder())
    assert json.loads(called(page, [described(path), "what?"]).partition("data: ")[2])["error"] == NOT_UPLOADED


@pytest.mark.parametrize(
    ("route", "size"), [("call/ask", 2 * 2**20), ("run/ask", 2 * 2**20), ("upload", 22 * 2**20), ("queue/join", 2**21)]
)
def test_a_request_above_the_limit_is_refused(page, route, size):
    answer = httpx.post(page.local_api_url + route, content=b" " * size, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413 and "maximum allowed size" in answer.text


def test_a_request_that_does_not_say_how_long_it_is_is_refused(page):
    answer = httpx.post(page.local_api_url + "call/ask", content=iter([b'{"data": []}']))
    assert answer.status_code == 411


def test_gradios_own_client_asks_about_an_image_that_it_uploads(client, image_file):
    answers, _ = client.predict(handle_file(image_file), "what is seen?", api_name="/ask")
    assert [row[0] for row in answers["data"]] == ["what is seen?"]


def test_when_old_files_are_deleted_the_examples_stay_and_a_lost_upload_is_named(page, image_file):
    with open(image_file, "rb") as file:
        (upload,) = httpx.post(page.local_api_url + "upload", files={"files": file}).json()
    assert "what is seen?" in called(page, [described(upload), "what is seen?"])
    delete_files_created_by_app(page, age=None)
    for number in range(3):
        example = json.loads(called(page, [number], "load_example").partition("data: ")[2])[0]["value"]
        assert "what is seen?" in called(page, [example, "what is seen?"])
    assert json.loads(called(page, [described(upload), "what is seen?"]).partition("data: ")[2])["error"] == GONE


@pytest.fixture(scope="module")
def image_files(tmp_path_factory) -> list[str]:
    """Five PNG files of noise."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    paths = [folder / f"noise_{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    return list(map(str, paths))


def captions(gallery: dict) -> list[str]:
    return [entry["caption"] for entry in gallery["value"]]


def test_a_search_shows_uploaded_images_in_the_order_of_truth(client, saved_folder, image_files):
    gallery, notes, offered = client.predict(list(map(handle_file, image_files)), "is it red?", api_name="/search")
    model, processor = load_saved(saved_folder)
    embeds = model.encode_texts(**processor(text=["is it red?"], return_tensors="pt"))
    pixel_values = processor(images=image_files, return_tensors="pt")["pixel_values"]
    probabilities = model.score_statements(embeds, pixel_values)[:, 0].tolist()
    expected = sorted(zip(probabilities, map(Path, image_files), strict=True), reverse=True)
    assert [caption.split()[1] for caption in captions(gallery)] == [path.name for _, path in expected]
    shown = [float(caption.split()[0]) for caption in captions(gallery)]
    assert shown == pytest.approx([probability for probability, _ in expected], abs=0.011)
    assert "was not measured" in notes["value"] and "5 images" in notes["value"]


def test_a_search_by_image_shows_that_image_first(client, image_files, features_cache):
    kept = list(features_cache.rglob("*.safetensors"))
    files = list(map(handle_file, image_files))
    gallery, _, _ = client.predict(files, handle_file(image_files[3]), api_name="/search_alike")
    assert captions(gallery)[0] == "1.00 noise_3.png" and len(captions(gallery)) == 5
    assert list(features_cache.rglob("*.safetensors")) == kept  # nothing is kept of uploaded images


@pytest.mark.parametrize(
    ("files", "statement", "message"),
    [
        ([], "is it red?", "There are no images"),
        (["image"], " ", "There is no statement"),
        (["image"], "a" * (MAX_CHARACTERS + 1), f"at most {MAX_CHARACTERS}"),
        (["image", "text"], "is it red?", "words.png: This file is no image"),
        (["image"] * (MAX_IMAGES + 1), "is it red?", f"at most {MAX_IMAGES}"),
        (["cut"], "is it red?", "none of the 1 images can be read"),
    ],
)
def test_a_search_without_images_or_statement_is_refused(client, image_file, tmp_path, files, statement, message):
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(Path(image_file).read_bytes()[:-500])
    paths = {"image": image_file, "text": tmp_path / "words.png", "cut": tmp_path / "cut.png"}
    with pytest.raises(AppError, match=message):
        client.predict([handle_file(str(paths[file])) for file in files], statement, api_name="/search")


def test_an_image_that_can_not_be_decoded_is_named_and_the_others_are_shown(client, image_file, tmp_path):
    (tmp_path / "cut.png").write_bytes(Path(image_file).read_bytes()[:-500])
    files = [handle_file(image_file), handle_file(str(tmp_path / "cut.png"))]
    gallery, notes, _ = client.predict(files, "is it red?", api_name="/search")
    assert len(captions(gallery)) == 1 and "cut.png can't be read" in notes["value"]


def test_a_page_of_a_model_that_can_not_score_statements_has_no_search(make_model, processor):
    names = {function.api_name for function in build_page(make_model(truth_weight=0.0), processor).fns.values()}
    assert "ask" in names and not {"search", "search_alike"} & names


def test_the_images_of_a_folder_are_searched_where_none_are_uploaded(saved_folder, image_files, features_cache):
    folder = str(Path(image_files[0]).parent)
    page = serve(saved_folder, images=folder, prevent_thread_lock=True, quiet=True)
    try:
        kept = list(features_cache.rglob("*.safetensors"))
        assert kept  # before anybody asks
        gallery, _, _ = Client(page.local_url, verbose=False).predict([], "is it red?", api_name="/search")
        assert {Path(caption.split()[1]).name for caption in captions(gallery)} == {
            Path(path).name for path in image_files
        }
        assert list(features_cache.rglob("*.safetensors")) == kept
    finally:
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
    assert "with a black image" in browser.find_element(By.ID, "answers").text

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
def test_in_a_browser_drawn_slides_are_searched_and_a_taught_statement_is_taken(browser, make_model, processor):
    taught = [TaughtStatement(text, "is", 1, 1) for text in ("is necrosis seen?", "is it a tumour?")]
    page = build_page(make_model(), processor, taught)
    page.launch(prevent_thread_lock=True, quiet=True)
    browser.get(page.local_url)
    click(browser, "button[role=tab]", "Search")
    click(browser, "button", "9 drawn slides")
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, "input[type=radio]"))
    statement = "textarea, input[type=text]"

    def written(browser) -> list[str]:
        return [field.get_property("value") for field in browser.find_elements(By.CSS_SELECTOR, statement)]

    wait(browser, lambda browser: "is necrosis seen?" in written(browser))
    click(browser, "button", "Find by statement")
    wait(browser, lambda browser: len(browser.find_elements(By.CSS_SELECTOR, "#grid .thumbnail-item img")) == 9)
    wait_for_text(browser, "slide_1.png", "#grid")
    click(browser, "label", "is it a tumour?")
    wait(browser, lambda browser: "is it a tumour?" in written(browser))
    page.close()


@pytest.mark.slow
def test_in_a_browser_a_file_that_is_no_image_is_named(browser, page, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(np.random.default_rng(0).bytes(100))
    give(browser, page, bad)
    wait_for_text(browser, "no image that can be read")
    assert str(tmp_path) not in browser.page_source


@pytest.mark.slow
def test_in_a_browser_an_upload_that_was_deleted_is_named(browser, page, image_file):
    give(browser, page, image_file)
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, "img[src*=gradio_api]"))
    browser.find_element(By.TAG_NAME, "textarea").send_keys("what is seen?")
    delete_files_created_by_app(page, age=None)
    click(browser, "button", "Ask")
    wait_for_text(browser, "no longer on the server")


@pytest.mark.slow
def test_in_a_browser_a_too_large_file_and_a_missing_image_are_named(browser, page, tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(21 * 2**20)
    give(browser, page, tmp_path / "large.png")
    wait_for_text(browser, "maximum allowed size of 20")
    click(browser, "button", "Ask")
    wait_for_text(browser, "There is no image")
