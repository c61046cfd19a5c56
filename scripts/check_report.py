#!/usr/bin/env python3
"""Opens reports in headless Chromium, light and dark, on a wide screen and on a phone, and looks for errors in the
console, requests to anywhere, and pages that are wider than the screen.

    scripts/check_report.py REPORT.html...      (PICTURES=folder keeps a picture of each)

Skips with a word where Chromium or its driver is missing: apt-get install chromium; pip install playwright."""

import os
import pathlib
import shutil
import sys

WIDTHS = (390, 1440)


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    return None


def check(page, path, width, scheme):
    """What is wrong with a page."""
    wrong = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on(
        "request",
        lambda request: None
        if request.url == path.as_uri()
        else wrong.append(f"request: {request.url}"),
    )
    page.goto(path.as_uri())
    for opened in (False, True):
        page.evaluate("opened => document.querySelectorAll('details').forEach(d => { d.open = opened })", opened)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            wrong.append(f"{wide} px wide, details {'open' if opened else 'closed'}")
    small = page.evaluate(
        """() => [...document.querySelectorAll('.panel svg text')].filter(text => {
            const drawn = text.ownerSVGElement;
            const scale = drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width;
            return scale > 0 && scale * parseFloat(text.getAttribute('font-size')) < 9;
        }).length"""
    )
    if small:
        wrong.append(f"{small} labels smaller than 9 px")
    cut = page.evaluate(
        """() => [...document.querySelectorAll('svg text')].filter(text => {
            const drawn = text.ownerSVGElement.viewBox.baseVal, box = text.getBBox();
            return !text.hasAttribute('transform') && (box.x < -1 || box.x + box.width > drawn.width + 1);
        }).map(text => text.textContent)"""
    )
    wrong += [f"label is cut: {text[:60]!r}" for text in cut[:5]]
    if pictures := os.environ.get("PICTURES"):
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false })")
        name = f"{path.parent.name}-{path.stem}-{width}-{scheme}.png"
        page.screenshot(path=str(pathlib.Path(pictures) / name), full_page=True)
    return wrong


def main():
    paths = [pathlib.Path(name).resolve() for name in sys.argv[1:]]
    if not paths:
        sys.exit(__doc__)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("check_report: skipped, playwright is not installed")
        return
    executable = browser()
    if executable is None:
        print("check_report: skipped, Chromium is not installed")
        return
    failed = 0
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for path in paths:
            for width in WIDTHS:
                for scheme in ("light", "dark"):
                    context = chromium.new_context(
                        viewport={"width": width, "height": 900}, color_scheme=scheme
                    )
                    for wrong in check(context.new_page(), path, width, scheme):
                        failed += 1
                        print(f"{path}: {width} px, {scheme}: {wrong}", file=sys.stderr)
                    context.close()
        chromium.close()
    looks = len(paths) * len(WIDTHS) * 2
    if failed:
        sys.exit(f"check_report: {failed} faults in {looks} looks")
    print(f"check_report: {looks} looks, nothing wrong")


if __name__ == "__main__":
    main()
