"""Faults of the studio's page that axe-core finds, at three sizes of the window.

    npm pack axe-core && tar xzf axe-core-*.tgz
    python benchmarks/accessibility.py RUNS package/axe.min.js

RUNS is a folder of runs, with at least one model. Chromium must be installed. Prints a table with the number of passed
rules and the violated ones for every view; exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from common import table
from ganvas.studio.api import app

SIZES = ((1440, 900), (1280, 800), (390, 844))
VIEWS = ("explore", "watch", "train")
DIALOGS = {"explore": ("Video", "Save all")}  # buttons that open one, by the start of their names
LOADED = 3000  # milliseconds until a view is complete


def violations(page: Page, axe: str) -> tuple[int, str]:
    """(passed rules, violated rules with the first element of each)."""
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    return len(found["passes"]), "; ".join(
        f"{one['id']} ({one['nodes'][0]['target'][0]})" for one in found["violations"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("axe", type=Path)
    parser.add_argument("--port", type=int, default=8799)
    args = parser.parse_args()
    token, axe = secrets.token_urlsafe(), args.axe.read_text()
    server = uvicorn.Server(
        uvicorn.Config(app(args.runs, token=token, train=True), port=args.port, log_level="warning")
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.1)
    rows = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in SIZES:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"http://127.0.0.1:{args.port}/?token={token}")
            for view in VIEWS:
                page.evaluate(f"location.hash = '{view}'")
                page.wait_for_timeout(LOADED)
                passed, broken = violations(page, axe)
                rows.append({"window": f"{width}x{height}", "view": view, "passed": passed, "violated": broken})
                for name in DIALOGS.get(view, ()):
                    button = page.get_by_role("button", name=name).first
                    if not button.is_visible():
                        continue
                    button.click()
                    page.wait_for_timeout(LOADED)
                    passed, broken = violations(page, axe)
                    rows.append({"window": f"{width}x{height}", "view": name, "passed": passed, "violated": broken})
                    page.keyboard.press("Escape")
            page.close()
        browser.close()
    server.should_exit = True
    table("axe-core", rows)
    sys.exit(1 if any(row["violated"] for row in rows) else 0)


if __name__ == "__main__":
    main()
