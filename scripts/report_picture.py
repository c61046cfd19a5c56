#!/usr/bin/env python3
"""Takes the picture of a report that README and the documentation show, as docs/report.webp: its first lines, and the
first figure, without the table between them.

    cargo run -p inferbench-results --example report -- FOLDER study
    scripts/report_picture.py FOLDER/report.html

Needs Chromium and its driver: apt-get install chromium; scripts/install-test-tools, and this with .venv/bin/python."""

import base64
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

PICTURE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "report.webp"
WIDTH, SCALE = 1120, 1.5


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    report = pathlib.Path(sys.argv[1]).resolve()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": 3000})
        page.goto(report.as_uri())
        page.add_style_tag(content="#decide > .frame, #decide > .small { display: none }")
        bottom = page.locator("#decide .panel").first.bounding_box()
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom["y"] + bottom["height"] + 16, "scale": SCALE}
        wanted = {"format": "webp", "quality": 75, "clip": clip}
        taken = page.context.new_cdp_session(page).send("Page.captureScreenshot", wanted)
        PICTURE.write_bytes(base64.b64decode(taken["data"]))
        chromium.close()
    print(f"report_picture: {PICTURE.stat().st_size / 1e3:.0f} kB")


main()
