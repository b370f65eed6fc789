"""Picture of a report in headless Chromium: python benchmarks/screenshot.py report.html out.png [--dark] ...

With no --height the picture is as tall as the page, which the page's own script measures first.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--virtual-time-budget=15000",
)  # fmt: skip
TALLEST = 16384  # pixels: Chromium's limit of one texture
LIGHT, DARK = 1, 0  # blink::mojom::PreferredColorScheme


def chromium(page: Path, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run Chromium on a page with a new profile. Raises FileNotFoundError where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("chromium is not installed")
    with tempfile.TemporaryDirectory() as profile:
        words = [program, *FLAGS, f"--user-data-dir={profile}", *arguments, page.resolve().as_uri()]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout)


def screenshot(page: Path, out: Path, width: int = 1280, height: int | None = None, dark: bool = False) -> None:
    """Write a PNG of the page, as tall as the page where no height is given."""
    scheme = f"--blink-settings=preferredColorScheme={DARK if dark else LIGHT}"
    tall = height or page_height(page, width)
    done = chromium(page, scheme, f"--window-size={width},{tall}", f"--screenshot={out.resolve()}")
    if not out.exists():
        raise RuntimeError(done.stderr.strip())


def page_height(page: Path, width: int) -> int:
    """Height of the page at a width, told by a copy of the page with a script that writes it into the DOM."""
    probe = ("<script>setInterval(() => { document.documentElement.dataset.height = "
             "document.documentElement.scrollHeight; }, 200);</script></body>")  # fmt: skip
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        head, _, tail = text.rpartition("</body>")  # the last: the chart library holds another
        copy.write_text(head + probe + tail, "utf-8")
        dom = chromium(copy, f"--window-size={width},900", "--dump-dom").stdout
    found = re.search(r'<html[^>]*data-height="(\d+)"', dom)
    return min(int(found[1]), TALLEST) if found else 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    screenshot(options.page, options.out, options.width, options.height, options.dark)
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
