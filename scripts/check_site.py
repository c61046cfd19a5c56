#!/usr/bin/env python3
"""Looks at every page of the built site: nothing may be loaded from elsewhere. Where Chromium and its driver are there, on
a wide screen and on a phone: no errors in the console, and nothing wider than the screen.

    scripts/check_site.py [FOLDER]              (PICTURES=folder keeps a picture of each page)

The folder is target/site where none is given; `mkdocs build --strict` makes it. For pictures: apt-get install chromium; pip
install playwright."""

import html.parser
import os
import pathlib
import re
import shutil
import sys

WIDTHS = (390, 1440)
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Loads(html.parser.HTMLParser):
    """What a page loads when it is opened, other than by a click."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "link" and given.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.addresses.append(given.get("href") or "")
        elif tag != "a":
            self.addresses += [given[name] or "" for name in ("src", "srcset", "data") if name in given]


def from_elsewhere(site):
    """Addresses of other hosts that pages and styles load, and files that are not there."""
    wrong = []
    for page in sorted(site.rglob("*.html")):
        loads = Loads()
        loads.feed(page.read_text())
        for address in loads.addresses:
            if re.match(r"([a-z]+:)?//", address):
                wrong.append(f"{page.relative_to(site)} loads {address}")
            elif not address.startswith(("data:", "/")) and not (page.parent / address.split("?")[0]).exists():
                wrong.append(f"{page.relative_to(site)} loads {address}, which is not there")
    for style in sorted(site.rglob("*.css")):
        found = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", style.read_text())
        wrong += [f"{style.relative_to(site)} loads {address}" for address in found]
    return wrong


def look(site):
    """What a browser says of the pages; none where there is no browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if (path := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if executable is None:
        print("check_site: not looked at, Chromium or playwright is not installed")
        return []
    wrong = []
    pages = [page for page in sorted(site.rglob("*.html")) if page.name != "404.html"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for width in WIDTHS:
            tab = chromium.new_page(viewport={"width": width, "height": 900})
            said = []
            tab.on("pageerror", lambda error: said.append(f"error: {error}"))
            tab.on("request", lambda request: said.append(f"request: {request.url}") if not local(request.url) else None)
            for page in pages:
                tab.goto(page.as_uri())
                wide = tab.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    said.append(f"{wide} px wide")
                name = page.relative_to(site)
                if pictures := os.environ.get("PICTURES"):
                    tab.screenshot(path=f"{pictures}/{str(name).replace('/', '-')}-{width}.png", full_page=True)
                wrong += [f"{name}, {width} px: {what}" for what in said]
                said.clear()
            tab.close()
        chromium.close()
    print(f"check_site: {len(pages) * len(WIDTHS)} looks")
    return wrong


def local(address):
    return address.startswith(("file:", "data:", "blob:"))


def main():
    site = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target" / "site").resolve()
    if not (site / "index.html").exists():
        sys.exit(f"check_site: {site} has no index.html: run mkdocs build --strict")
    wrong = from_elsewhere(site) + look(site)
    if wrong:
        sys.exit("check_site: " + "\ncheck_site: ".join(wrong))
    print("check_site: nothing wrong")


if __name__ == "__main__":
    main()
