"""The widget of a notebook: what it reads, and its sheet in Chromium."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import SHEET, encoded, write_network
from PIL import Image

import featherweight as fw
from featherweight.errors import InputError
from featherweight.image_kind import ImageKind
from featherweight.inference import draw as module

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# The widget's model as anywidget gives it to the page, of which this process is the other side.
PAGE = """<div id="el"></div><script type="module">
const url = URL.createObjectURL(new Blob([SOURCE], {type: "text/javascript"}));
const values = {picture: "", shown: ""}, listeners = [];
window.model = {
  get: (name) => values[name],
  set: (name, value) => { values[name] = value; },
  on: (_, listener) => listeners.push(listener),
  save_changes: async () => { values.shown = await window.read(values.picture);
                              listeners.forEach((each) => each()); },
};
(await import(url)).default.render({model: window.model, el: document.getElementById("el")});
window.ready = true;
</script>"""


@pytest.fixture
def drawing(model):
    return fw.draw(model.path)


def test_a_network_of_photographs_has_no_sheet(tmp_path):
    kind = ImageKind(3, 32, 32, "natural", "upright", ("cat", "dog"))
    with pytest.raises(InputError, match="reads whole pictures"):
        fw.draw(write_network(tmp_path / "m.onnx", kind))


def test_a_drawing_is_read_when_it_arrives(drawing):
    assert drawing.reading is None
    assert repr(drawing) == "drawing: empty"
    seen = []
    drawing.observe(lambda change: seen.append(drawing.reading), "shown")
    drawing.picture = module.PNG + base64.b64encode(encoded(SHEET)).decode()
    expected = drawing.reader.read(SHEET)
    assert drawing.reading.label == expected.label
    assert np.array_equal(drawing.reading.probabilities, expected.probabilities)
    assert drawing.shown == expected._repr_html_()
    assert repr(drawing) == f"drawing: {expected}"
    assert len(seen) == 1
    assert seen[0] is drawing.reading
    drawing.picture = ""
    assert drawing.reading is None
    assert drawing.shown == ""


def test_the_page_gets_picture_and_reading_and_nothing_else(drawing):
    synced = {name for name in drawing.keys if not name.startswith("_")}
    assert {"picture", "shown"} <= synced <= {"picture", "shown", "layout", "tabbable", "tooltip"}


def test_an_unknown_network_is_said():
    with pytest.raises(InputError, match="neither pretrained"):
        fw.draw("nowhere")


def test_without_its_package_the_message_names_the_extra():
    code = "import sys; sys.modules['anywidget'] = None; import featherweight as fw; fw.draw"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'featherweight[notebook]'" in done.stderr.splitlines()[-1]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_stroke_in_a_browser_is_sent_read_and_shown(drawing, tmp_path):
    from playwright.sync_api import sync_playwright

    def read(picture):
        drawing.picture = picture
        return drawing.shown

    source = Path(module.__file__).with_name("draw.js").read_text(encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(device_scale_factor=2)
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.expose_function("read", read)
        page.set_content(PAGE.replace("SOURCE", json.dumps(source)))
        page.wait_for_function("window.ready")
        box = page.locator("canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"]
        page.mouse.move(x, y + 40)
        page.mouse.down()
        page.mouse.move(x, y + 240, steps=8)
        assert drawing.picture == ""  # the stroke has not ended
        page.mouse.up()
        page.wait_for_selector("[aria-live] img")
        content = base64.b64decode(drawing.picture.removeprefix(module.PNG))
        (tmp_path / "drawn.png").write_bytes(content)
        pixels = np.asarray(Image.open(tmp_path / "drawn.png").convert("L"))
        assert pixels.shape == (560, 560)  # the device's pixels
        ys, xs = (pixels < 128).nonzero()
        assert abs(xs.mean() - 280) < 3
        assert 30 <= xs.max() - xs.min() <= 42  # a pen of 18 CSS pixels
        assert abs(ys.min() - 62) < 6
        assert abs(ys.max() - 498) < 6
        assert drawing.reading.label in page.inner_text("[aria-live]")
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function("!document.querySelector('[aria-live] img')")
        assert drawing.reading is None
        browser.close()
    assert not problems
