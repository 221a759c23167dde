"""Measure how long the page takes from pen-up to the answer on the screen.

    python tools/page_latency.py                  # starts `featherweight serve` on a free port
    python tools/page_latency.py http://HOST:PORT/ --repeats 200

It draws digits in Chromium with the mouse and prints medians of what the page itself measures: from
pen-up to the next frame that shows the answer, of it the request and its answer, of it the
preparation of the picture and the network on the server.
"""

import argparse
import shutil
import statistics
import subprocess
import sys

from playwright.sync_api import Page, sync_playwright

from featherweight.inference.stress import STROKES

SERVE = [sys.executable, "-m", "featherweight", "serve", "--port", "0"]
# The page measures each answer that it shows at pen-up; see static/page.js.
MEASURES = """() => performance.getEntriesByName("answer").map(({ duration, detail }) =>
    [duration, detail.took, detail.prepare, detail.network])"""


def draw(page: Page, digit: int) -> None:
    """Draw a digit with the mouse and wait for its answer, at most half a minute."""
    box = page.locator("#sheet").bounding_box()
    assert box is not None
    for points in STROKES[digit]:
        for i, (x, y) in enumerate(points):
            page.mouse.move(
                box["x"] + box["width"] * (0.3 + 0.4 * x),
                box["y"] + box["height"] * (0.2 + 0.6 * y),
                steps=4,
            )
            if i == 0:
                page.mouse.down()
        shown = len(page.evaluate(MEASURES))  # before pen-up, after which the answer may be quick
        page.mouse.up()
        page.wait_for_function(f"shown => ({MEASURES})().length > shown", arg=shown)


def measure(url: str, repeats: int) -> list[list[float]]:
    """Return milliseconds (repeats, 4): pen-up to answer, request, preparation, network."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector("#samples li")
        rows: list[list[float]] = []
        digit = 0
        while len(rows) < repeats + 5:
            draw(page, digit % 10)
            page.click("#clear")
            rows, digit = page.evaluate(MEASURES), digit + 1
        browser.close()
    return rows[5 : 5 + repeats]  # the first ones load code and fill caches


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", nargs="?", help="A running server; without it one is started.")
    parser.add_argument("--repeats", type=int, default=50, help="Number of answers.")
    arguments = parser.parse_args()
    server = None
    url = arguments.url
    if url is None:
        server = subprocess.Popen(SERVE, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        url = server.stderr.readline().split()[0]
    try:
        rows = measure(url, arguments.repeats)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    names = ("pen-up to the answer shown", "request", "preparation", "network")
    whole = statistics.median(row[0] for row in rows)
    print(f"medians of {len(rows)} answers, in milliseconds:")
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        median = statistics.median(column)
        print(f"  {name:27} {median:7.2f}  {100 * median / whole:5.1f} %")


if __name__ == "__main__":
    main()
