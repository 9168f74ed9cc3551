"""Draw docs/page.png, the first screen of the page of the demonstration's predictions, as a browser shows it.

python docs/draw_page.py
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console

from crossentropy.evaluation import demo, report

PICTURE = Path(__file__).with_name("page.png")
WIDTH, HEIGHT = 1120, 874


def draw(picture: Path) -> None:
    """Train, save, report, open, take a picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        predictions, page = Path(folder, "predictions.parquet"), Path(folder, "page.html")
        demo.run(predictions, Console(file=io.StringIO()))
        report(predictions, html=page)
        text = page.read_text("utf-8").replace(folder + "/", "")
        page.write_text(text, "utf-8")
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        view.goto(page.as_uri())
        found = view.screenshot()
        browser.close()
    # flat colours: a palette is a third of the size
    Image.open(io.BytesIO(found)).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
