"""The playground by clicks and keys in a headless Chromium."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]
# Where screenshots go, to be looked at; nowhere unless given.
SHOTS = os.environ.get("FLEXVAR_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    browser.get(address)
    ready = "return document.body.dataset.ready"
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(ready))
    yield browser
    wrong = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not wrong


def one(page: Any, name: str) -> Any:
    return page.find_element(By.ID, name)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def fill(page: Any, name: str, text: str) -> None:
    field = one(page, name)
    field.clear()
    field.send_keys(text)


def draw(page: Any) -> str:
    one(page, "go").click()
    return done(page)


def done(page: Any) -> str:
    ends = ("Done", "Stopped", "settings", "keeps everything")
    WebDriverWait(page, 60).until(
        lambda p: one(p, "status").text.startswith(ends) or one(p, "status").get_attribute("class")
    )
    assert one(page, "status").get_attribute("class") != "bad", one(page, "status").text
    return str(one(page, "status").text)


def caption(page: Any) -> str:
    return str(page.find_element(By.CSS_SELECTOR, "#results figcaption").text)


def pick(page: Any, task: str) -> None:
    choice = page.find_element(By.CSS_SELECTOR, f"[name=task][value={task}]")
    choice.find_element(By.XPATH, "..").click()


def test_a_class_is_drawn_and_grows_in_a_strip(page: Any) -> None:
    fill(page, "value", "bee")
    draw(page)
    assert len(page.find_elements(By.CSS_SELECTOR, "#strips .strip button")) >= 3
    figure = caption(page)
    assert "bee" in figure
    assert "seed 0" in figure
    shot(page, "generate")


def test_a_scale_is_clicked_to_go_on_with_another_seed(page: Any) -> None:
    draw(page)
    before = page.find_element(By.CSS_SELECTOR, "#results img").get_attribute("src")
    page.find_elements(By.CSS_SELECTOR, "#strips .strip button")[1].click()
    WebDriverWait(page, 30).until(
        lambda p: p.find_element(By.CSS_SELECTOR, "#results img").get_attribute("src") != before
    )
    assert len(page.find_elements(By.CSS_SELECTOR, "#history li")) == 2


def test_the_frame_takes_keys_and_drags(page: Any) -> None:
    frame = one(page, "frame")
    frame.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    size = [int(one(page, name).get_attribute("value")) for name in ("height", "width")]
    assert size[1] > size[0]
    ActionChains(page).move_to_element_with_offset(frame, 4, 4).click_and_hold().move_by_offset(
        60, 20
    ).release().perform()
    dragged = [int(one(page, name).get_attribute("value")) for name in ("height", "width")]
    assert dragged != size
    draw(page)
    assert f"{dragged[0]}×{dragged[1]}" in caption(page)


def test_two_models_stand_side_by_side(page: Any) -> None:
    one(page, "versus-box").find_element(By.TAG_NAME, "summary").click()
    Select(one(page, "versus")).select_by_visible_text("other")
    one(page, "go").click()
    WebDriverWait(page, 30).until(lambda p: p.find_elements(By.ID, "compare"))
    assert len(page.find_elements(By.CSS_SELECTOR, "#results figure")) == 3
    slider = page.find_element(By.CSS_SELECTOR, "#compare input")
    slider.send_keys(Keys.ARROW_LEFT * 5)
    assert page.find_element(By.CSS_SELECTOR, "#compare .over").get_attribute("style")
    shot(page, "compare")


@pytest.mark.parametrize("task", ["inpaint", "edit", "outpaint"])
def test_a_picture_is_edited(page: Any, task: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    pick(page, task)
    one(page, "file").send_keys(str(tmp_path / "picture.png"))
    paint = one(page, "paint")
    WebDriverWait(page, 5).until(lambda p: paint.size["width"] != 256)
    if task == "outpaint":
        fill(page, "right", "8")
        one(page, "right").send_keys(Keys.TAB)
    else:
        chain = ActionChains(page).move_to_element_with_offset(paint, -80, -60)
        chain.click_and_hold().move_by_offset(80, 60).release().perform()
    draw(page)
    link = page.find_element(By.CSS_SELECTOR, "#results img").get_attribute("src")
    text = page.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then((r) => r.arrayBuffer())"
        ".then((b) => done(Array.from(new Uint8Array(b))));",
        link,
    )
    result = np.asarray(Image.open(io.BytesIO(bytes(text))).convert("RGB"))
    if task == "outpaint":
        assert result.shape == (16, 32, 3)
        assert (result[:, :18] == noise[:, :18]).all()
    else:
        assert (result[:, 20:] == noise[:, 20:]).all()
        assert (result != noise).any()
    shot(page, task)


def test_what_the_model_thinks(page: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    pick(page, "score")
    one(page, "file").send_keys(str(tmp_path / "picture.png"))
    WebDriverWait(page, 5).until(lambda p: p.execute_script("return Paint.ready"))
    draw(page)
    assert len(page.find_elements(By.CSS_SELECTOR, "#opinion tr")) == 6
    shot(page, "score")


def test_settings_come_back_and_copies_are_right(page: Any) -> None:
    fill(page, "value", "dog")
    fill(page, "seed", "5")
    draw(page)
    buttons = {b.text: b for b in page.find_elements(By.CSS_SELECTOR, "#results figcaption button")}
    buttons["Copy as command"].click()
    command = buttons["Copy as command"].get_attribute("data-copied")
    WebDriverWait(page, 5).until(lambda p: buttons["Copy as command"].get_attribute("data-copied"))
    command = buttons["Copy as command"].get_attribute("data-copied")
    assert command.startswith("flexvar generate --model 'tiny' --label 'dog'")
    assert "--seed 5" in command
    fill(page, "value", "ant")
    fill(page, "seed", "9")
    buttons["Use settings"].click()
    assert one(page, "value").get_attribute("value") == "dog"
    assert one(page, "seed").get_attribute("value") == "5"


def test_a_mistake_is_said_and_names_stay_text(page: Any) -> None:
    fill(page, "value", "zebra")
    one(page, "go").click()
    WebDriverWait(page, 10).until(lambda p: one(p, "status").get_attribute("class") == "bad")
    assert "zebra" in one(page, "status").text
    Select(one(page, "model")).select_by_visible_text("other")
    fill(page, "value", "<script>alert(1)</script>")
    draw(page)
    assert "<script>alert(1)</script>" in caption(page)
    # The page's log has an entry for the refused request, which is what was asked for.
    page.get_log("browser")


def test_the_page_fits_a_phone(page: Any) -> None:
    page.set_window_size(390, 844)
    try:
        draw(page)
        width = page.execute_script("return document.documentElement.scrollWidth")
        assert width <= page.execute_script("return window.innerWidth")
        shot(page, "phone")
    finally:
        page.set_window_size(1280, 1000)
