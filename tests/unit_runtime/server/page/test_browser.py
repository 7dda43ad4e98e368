"""The page in a real Chromium: an episode and its dream, keys, hostile names, a telephone's width.

cartpole_pixels is the bundle of a Dreamer that learned dmc:cartpole-swingup from 64x64 pixels for
46,204 steps (preset cpu, update_every=200, seed 1), exported with its world model; its weights and
settings, which serving does not need, were left out.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentzoo.cli.doctor import opengl
from agentzoo.runtime.server import ModelSettings
from tests.unit_runtime.server.live import Live, serving
from tests.unit_runtime.server.page.webdriver import CHROMIUM, DRIVER, Browser, until

pytest.importorskip("dm_control")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
)
BUNDLE = Path(__file__).parent / "cartpole_pixels"
HOSTILE = "<img src=x onerror=window.hacked=1>"
# mean column of what is orange in a canvas, and how much of it there is
CART = """
const canvas = document.getElementById(arguments[0]);
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
let sum = 0, columns = 0;
for (let i = 0; i < pixels.length; i += 4) {
  const orange = pixels[i] - pixels[i + 2];
  if (orange > 30) { sum += orange; columns += orange * ((i / 4) % canvas.width); }
}
return [columns / sum, sum];
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of the pixel agent and of a bundle that says hostile things, with hostile runs."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(BUNDLE, folder / "bundle")
    manifest = folder / "bundle" / "manifest.json"
    found = json.loads(manifest.read_text())
    found["policy"]["agent"] = HOSTILE
    manifest.write_text(json.dumps(found))
    run = folder / "runs" / f"{HOSTILE}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"agent": HOSTILE, "env": HOSTILE, "seed": 1}))
    lines = [{"env_step": 10 * i, "eval/mean_reward": i, HOSTILE: i} for i in range(9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    models = [
        ModelSettings(name="cartpole", source=str(BUNDLE), provider="cpu"),
        ModelSettings(name="hostile", source=str(folder / "bundle"), provider="cpu"),
    ]
    with serving(models=models, runs=folder / "runs") as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Browser]:
    browser.resize(1100, 900)
    browser.open(live.http + "/")
    browser.wait("return document.querySelectorAll('#models tr').length")
    yield browser
    browser.open("about:blank")
    until(lambda: not live.server.page.sockets)
    assert browser.complaints() == []  # no error, and nothing that the content policy held back


def test_the_page_shows_what_is_served(page: Browser) -> None:
    rows = page.run("return [...document.querySelectorAll('#models tr')].map(r => r.innerText)")
    assert [row.split("\t")[0] for row in rows] == ["cartpole", "hostile"]
    assert "dmc:cartpole-swingup" in rows[0]
    assert page.text("#status") == "2 models here"


@pytest.mark.skipif(bool(opengl()), reason="needs OpenGL")
def test_an_episode_plays_and_its_dream_moves(page: Browser) -> None:
    page.click("#tab-watch")
    page.click("#watch-form button")
    page.wait("return watch && watch.dreamReward.filter(p => Number.isFinite(p[1])).length > 3")
    first = page.run(CART, "watch-dream")
    dreamt = "return watch.dreamReward.filter(p => Number.isFinite(p[1])).length > 40"
    page.wait(dreamt)
    last = page.run(CART, "watch-dream")
    assert first[1] > 0  # a cart was drawn
    assert first != last
    assert page.run("return watch.value.filter(p => Number.isFinite(p[1])).length") > 40
    assert "1 watching, seed 0" in page.text("#watch-facts")
    page.click("#pause")
    page.wait("return document.getElementById('pause').textContent === 'Go on'")


def held(page: Browser, key: str) -> float:
    """Column in which the cart was last seen while a key was held for 20 dreamed steps."""
    page.click("#play-form button")
    page.wait("return play && play.reward.person.length > 0")  # stopping had left none
    page.key(key, down=True)
    newest = "return play.reward.person.at(-1)[0]"
    start, seen = page.run(newest), list[float]()
    while page.run(newest) < start + 20:
        column, orange = page.run(CART, "play-person")
        seen += [column] if orange > 400 else []  # at the picture's edge it fades
    page.key(key, down=False)
    page.click("#play-stop")
    return seen[-1]


def test_opposite_keys_move_the_cart_to_opposite_sides(page: Browser) -> None:
    page.click("#tab-play")
    page.run("document.getElementById('play-seed').value = 1")
    left, right = held(page, "ArrowLeft"), held(page, "ArrowRight")
    assert left < 32 - 6
    assert right > 32 + 6


def test_a_hostile_name_is_text(page: Browser) -> None:
    page.click("#tab-runs")
    page.wait("return document.querySelectorAll('#run-list tr').length")
    page.wait("return [...document.querySelectorAll('#run-metric option')].length > 1")
    rows = page.text("#run-list")
    assert rows.count(HOSTILE) == 3
    page.click("#tab-server")
    assert HOSTILE in page.text("#models")
    assert page.run("return window.hacked === undefined && !document.querySelector('img')")


def test_nothing_overflows_at_a_telephones_width(page: Browser, tmp_path: Path) -> None:
    page.resize(360, 740)
    for tab in ("server", "watch", "play", "runs"):
        page.click(f"#tab-{tab}")
        width = page.run("return document.documentElement.scrollWidth")
        assert width <= 360, tab
        assert page.screenshot(tmp_path / f"{tab}.png").stat().st_size > 5_000


def test_tabs_answer_to_the_keyboard(page: Browser) -> None:
    page.run("document.getElementById('tab-server').focus()")
    page.key("ArrowRight", down=True)
    page.key("ArrowRight", down=False)
    assert page.run("return document.activeElement.id") == "tab-watch"
    assert page.run("return document.getElementById('watch').hidden") is False
    unnamed = """
    const named = (one) => (one.labels || []).length || one.textContent.trim() || one.ariaLabel;
    return [...document.querySelectorAll("input, select, button, canvas")]
      .filter((one) => !named(one)).map((one) => one.id);
    """
    assert page.run(unnamed) == []


def test_the_key_is_asked_for_and_never_in_the_address(browser: Browser) -> None:
    models = [ModelSettings(name="cartpole", source=str(BUNDLE), provider="cpu")]
    with serving(models=models, api_key="open-sesame") as live:
        browser.open(live.http + "/")
        browser.wait("return !document.getElementById('key-form').hidden")
        browser.type("#key", "wrong")
        browser.click("#key-form button")
        browser.wait(
            "return document.getElementById('status').textContent.startsWith('that is not')"
        )
        browser.type("#key", "open-sesame")
        browser.click("#key-form button")
        browser.wait("return document.querySelectorAll('#models tr').length")
        assert browser.run("return location.href") == live.http + "/"
        browser.open("about:blank")
    browser.complaints()
