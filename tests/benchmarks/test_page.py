"""The report's page in headless Chromium, driven by its own driver with real keys, on a desk and on a phone."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from benchmarks.summary import write_report


def working(*names):
    """The first of these programs that runs; some systems install one that only tells how to get the real one."""
    found = [path for name in names if (path := shutil.which(name))]
    return next(
        (path for path in found if not subprocess.run([path, "--version"], capture_output=True).returncode), None
    )


CHROMIUM, DRIVER = working("chromium", "chromium-browser", "google-chrome"), working("chromedriver")
TAB, ENTER = "\ue004", "\ue007"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="the page is looked at in Chromium with chromedriver, not installed here"
)


class Browser:
    """The few commands of the WebDriver protocol that the tests need."""

    def __init__(self, port, phone):
        self.base = f"http://127.0.0.1:{port}"
        options = {
            "binary": CHROMIUM,
            "args": ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"],
        }
        if phone:
            options["mobileEmulation"] = {"deviceMetrics": {"width": 412, "height": 915, "pixelRatio": 2.0}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, method, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def do(self, method, path, content=None):
        return self.call(method, f"/session/{self.session}{path}", content)

    def run(self, script):
        return self.do("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, *keys):
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.do("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": pressed}]})

    def focused(self):
        return self.run("const e = document.activeElement; return e.id || e.ariaLabel || e.textContent.trim();")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A mixed report: a phantom set with published figures, and real data without."""
    out = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for dataset, phantom in (("covidx", True), ("mine", False)):
        for method, seed in (("padim", 0), ("padim", 1), ("vae", 0), ("a_method_with_a_rather_long_name", 0)):
            folder = out / "cells" / f"{method}--{dataset}--{seed}"
            folder.mkdir(parents=True)
            (folder / "status.json").write_text('{"status": "done"}')
            (folder / "config.yaml").write_text("data: {init_args: {}}\nmodel: {init_args: {}}\n")
            labels = np.arange(40) % 2
            scores = labels * len(method) / 8 + rng.normal(0, 1, 40)
            cases = [f"patient{n % 2 + n // 4 * 2}" if dataset == "mine" else f"case{n}" for n in range(40)]
            lines = [
                f"case{n},,{cases[n]},{labels[n]},{scores[n]},{rng.random()},{rng.random()},{rng.random()}"
                for n in range(40)
            ]
            (folder / "scores.csv").write_text(
                "\n".join(["id,subject,case,label,score,mean,deviation,filled", *lines]) + "\n"
            )
            content = {"metrics": {"image_auroc": 0.5 + len(method) / 100, "pixel_ap": 0.2}, "phantom": phantom}
            content |= {"fit_seconds": 10.0 * len(method), "images_per_second": 5.0, "parameters": 1000}
            (folder / "metrics.json").write_text(json.dumps(content))
            pictures = {
                f"{n}_{kind}": rng.integers(0, 255, (64, 64), np.uint8) for n in range(40) for kind in ("input", "map")
            }
            names = np.array([f"case{n}" for n in range(40)])
            np.savez_compressed(folder / "gallery.npz", names=names, labels=labels, **pictures)
    about = {"name": "a comparison", "published": ["memmc_mae"]}
    (out / "benchmark.json").write_text(json.dumps(about))
    assert write_report([out], out, {"fae--mine--0": "took longer than 1 minutes"}) == {"fae--mine--0"}
    return out / "report.html"


@contextlib.contextmanager
def browser_of(report, phone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        browser = Browser(port, phone)
        try:
            browser.do("POST", "/url", {"url": f"file://{report}"})
            yield browser
        finally:
            browser.do("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()


@pytest.fixture(scope="module")
def desk(report):
    with browser_of(report, phone=False) as browser:
        yield browser


NAMES = "return rows().filter(r => !r.hidden).map(r => r.cells[0].textContent.replace(' †', '') + ' ' + r.dataset.set)"


def test_everything_is_there(desk):
    assert desk.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert desk.run("return document.images.length") > 40
    assert desk.run("return document.querySelectorAll('section.phantom').length") == 1
    assert desk.run("return document.querySelector('section.phantom .banner').textContent").startswith("PHANTOM")
    assert desk.run("return [...document.querySelectorAll('td.published')].filter(c => c.textContent).length") == 1
    assert "fae--mine--0" in desk.run("return document.querySelector('details[open]').textContent")
    assert desk.run("return document.getElementById('count').textContent") == "7 of 7 rows"


def test_keys_alone_reach_and_sort_the_table(desk):
    desk.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    order = []
    for _ in range(20):
        desk.press(TAB)
        order.append(desk.focused())
        if order[-1] == "image AUROC":
            break
    wanted = ["covidx", "mine", "how to read this", "dataset", "metric", "text", "leaderboard", "method", "data set"]
    assert [one for one in order if one in wanted] == wanted, order
    assert order[-1] == "image AUROC"
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert desk.run(style) != "none"
    desk.press(ENTER)
    assert desk.run("return document.activeElement.parentNode.ariaSort") == "descending"
    values = "return rows().filter(r => r.cells[3].dataset.value).map(r => parseFloat(r.cells[3].dataset.value))"
    assert desk.run(values) == sorted(desk.run(values), reverse=True)
    desk.press(ENTER)
    assert desk.run("return document.activeElement.parentNode.ariaSort") == "ascending"
    assert desk.run(values) == sorted(desk.run(values))


def test_filters(desk):
    desk.run("control('dataset').value = 'mine'; control('dataset').dispatchEvent(new Event('input'))")
    assert {name.split()[1] for name in desk.run(NAMES)} == {"mine"}
    assert desk.run("return document.querySelector('section.phantom').hidden")
    desk.run("control('text').value = 'PAD'; control('text').dispatchEvent(new Event('input'))")
    assert desk.run(NAMES) == ["padim mine"]
    assert desk.run("return control('count').textContent") == "1 of 7 rows"
    desk.run("control('metric').value = 'pixel_ap'; control('metric').dispatchEvent(new Event('input'))")
    heads = "return [...document.querySelectorAll('#board th')].filter(h => !h.hidden).map(h => h.textContent)"
    assert "pixel AP" in desk.run(heads)
    assert not [name for name in desk.run(heads) if "image AUROC" in name]
    desk.run("for (const n of ['dataset', 'metric', 'text']) control(n).value = ''; filter()")
    assert len(desk.run(NAMES)) == 7


def test_viewer_by_keyboard_and_address(desk, report):
    desk.run("state.clear(); document.querySelectorAll('.case')[1].querySelector('button[data-method=padim]').click()")
    assert desk.run("return control('viewer').open")
    assert desk.run("return location.hash") == "#?case=1&map=padim"
    assert "padim" in desk.run("return control('viewer-title').textContent")
    desk.press("\ue015")  # arrow down: the next case under the same method
    assert desk.run("return location.hash") == "#?case=2&map=padim"
    desk.press("\ue014")  # arrow right: the next method
    assert desk.run("return location.hash") == "#?case=2&map=vae"
    desk.run("control('opacity').value = 20; control('opacity').dispatchEvent(new Event('input'))")
    assert desk.run("return control('viewer-map').style.opacity") == "0.2"
    desk.press("\ue00c")  # escape
    assert not desk.run("return control('viewer').open")
    assert desk.run("return location.hash") == ""
    desk.do("POST", "/url", {"url": f"file://{report}#?dataset=mine&metric=pixel_ap&sort=0-&case=3&map=vae"})
    desk.do("POST", "/refresh", {})
    assert {name.split()[1] for name in desk.run(NAMES)} == {"mine"}
    assert desk.run("return control('viewer').open && control('viewer-title').textContent.includes('vae')")
    assert desk.run("return document.querySelectorAll('#board th')[0].ariaSort") == "descending"
    desk.do("POST", "/url", {"url": f"file://{report}"})
    desk.do("POST", "/refresh", {})


def test_viewer_steps_through_the_images_of_a_case(desk, report):
    first = desk.run("return [...document.querySelectorAll('.case')].findIndex(c => c.querySelector('script'))")
    assert first > 0
    desk.run(f"document.querySelectorAll('.case')[{first}].querySelector('button[data-method=vae]').click()")
    title, picture = "return control('viewer-title').textContent", "return control('viewer-map').src"
    assert "(2 of 2)" in desk.run(title)
    before = desk.run(picture)
    desk.press("\ue00e")  # page up: the image before
    assert "(1 of 2)" in desk.run(title)
    assert "vae" in desk.run(title)
    assert desk.run(picture) != before
    assert desk.run("return location.hash").endswith("&image=0")
    desk.press("\ue00e")  # there is none before the first
    assert "(1 of 2)" in desk.run(title)
    desk.run("control('next-image').click()")
    assert desk.run(picture) == before
    desk.press("\ue00c")
    assert desk.run("return location.hash") == ""


def test_tables_as_text(desk):
    table = "document.getElementById('board')"
    lines = desk.run(f"return asText({table}, 'CSV')").splitlines()
    assert lines[0].startswith("method,data set,seeds,image AUROC")
    assert len(lines) == 8 + 2 * 2  # head, seven methods; of each data set chance and the strongest statistic
    assert desk.run(f"return asText({table}, 'Markdown')").splitlines()[1].startswith("|---|")
    latex = desk.run(f"return asText({table}, 'LaTeX')")
    assert "\\toprule" in latex
    assert "a\\_method\\_with" in latex
    count = "return document.querySelectorAll('{}').length"
    assert desk.run(count.format(".copy")) == desk.run(count.format("main table"))


def test_print_keeps_every_column(desk):
    """The wide tables fit A4 across."""
    pdf = desk.do("POST", "/print", {"orientation": "landscape", "shrinkToFit": False})
    assert len(pdf) > 10_000
    assert "@page" in desk.run("return document.querySelector('style').textContent")


def test_no_word_in_the_console_and_no_network(desk):
    assert desk.do("POST", "/se/log", {"type": "browser"}) == []
    loaded = desk.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [url for url in loaded if not url.startswith("data:")] == []


def test_phone(report):
    with browser_of(report, phone=True) as phone:
        assert phone.run("return window.innerWidth") == 412
        assert phone.run("return document.documentElement.scrollWidth") <= 412
        phone.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert phone.run("return document.documentElement.scrollWidth") <= 412
        wide = "const b = document.getElementById('board').parentNode; return b.scrollWidth > b.clientWidth"
        assert phone.run(wide)  # the table scrolls in its own frame
        first = "return document.querySelector('#board tbody td').getBoundingClientRect().left"
        before = phone.run(first)
        phone.run("document.getElementById('board').parentNode.scrollLeft = 300")
        assert abs(phone.run(first) - before) < 2  # the method's name stays in sight
        phone.run("document.querySelectorAll('#board th button')[3].click()")
        assert phone.run("return document.querySelectorAll('#board th')[3].ariaSort") == "descending"
        assert phone.do("POST", "/se/log", {"type": "browser"}) == []


def test_page_refers_to_nothing_outside(report):
    page = Path(report).read_text()
    sources = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?([^\"' >]+)", page)
    assert [source for source in sources if not source.startswith("data:")] == []
    links = set(re.findall(r"href=\"#([^\"]+)\"", page))
    assert links <= set(re.findall(r"id=\"([^\"]+)\"", page))
