"""The page's paths and its websocket: who is let in, what is shown, and within which limits."""

import asyncio
import io
import json
import os
import signal
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from agentzoo import PlaNet
from agentzoo.cli.main import app as cli
from agentzoo.cli.watch import model_to_watch
from agentzoo.runtime import load_policy
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.runtime.policy.planners import parse_plan
from agentzoo.runtime.policy.spaces import action_spec
from agentzoo.runtime.server import ServerSettings
from agentzoo.runtime.server.history import BOUNDS, History
from agentzoo.runtime.server.page import shows
from agentzoo.runtime.server.page.frames import frame, read_frame, shown
from agentzoo.runtime.server.page.job import Job
from agentzoo.runtime.server.page.runs import Runs
from agentzoo.runtime.server.page.worker import MOST_STEPS, Line, policy_of, units_of
from tests.unit_runtime.server.live import Live, serving

KEY = "open-sesame"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained planner of CartPole-like size: its dreams never end."""
    pytest.importorskip("dm_control")
    torch.set_num_threads(1)
    agent = PlaNet("dmc:cartpole-swingup?obs=state", preset="debug", seed=3)
    return agent.export(tmp_path_factory.mktemp("page"), golden_steps=20, world=True)


@pytest.fixture(scope="module")
def live(bundle: Path) -> Iterator[Live]:
    with serving(bundle, max_dreams=2) as server:
        yield server


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        return reply.status, await reply.text(), dict(reply.headers)


class Visitor:
    """The page's side of the protocol, from a test."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[bytes] = []

    async def say(self, **message: object) -> None:
        await self.socket.send_str(json.dumps(message))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds; frames on the way are kept."""
        limit = time.monotonic() + 120  # there is a message every second, whatever happens
        while True:
            assert time.monotonic() < limit, f"none of {kinds} came"
            message = await self.socket.receive(timeout=60)
            if message.type is aiohttp.WSMsgType.BINARY:
                self.frames.append(message.data)
                if "frame" in kinds:
                    return read_frame(message.data)[0]
            elif message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                if told["kind"] in kinds:
                    return told
                assert told["kind"] != "ended", told  # nothing further would come
            else:
                return {"kind": "closed", "code": self.socket.close_code}


def visit(
    live: Live, script: Callable[..., Coroutine[Any, Any, Any]], *, count: int = 1, key: str = ""
) -> Any:
    """Run a script with some visitors that were let in."""

    async def go() -> Any:
        async with aiohttp.ClientSession() as session:
            sockets = [await session.ws_connect(f"{live.http}/page/socket") for _ in range(count)]
            visitors = [Visitor(one) for one in sockets]
            for one in visitors:
                await one.say(key=key)
            try:
                return await script(*visitors)
            finally:
                for one in sockets:
                    await one.close()

    return run(go())


# -- who is let in -------------------------------------------------------------------------------


def test_the_page_and_its_files_come_with_a_policy_that_lets_nothing_else_in(live: Live) -> None:
    for path, kind in (("/", "html"), ("/page/app.js", "javascript"), ("/page/style.css", "css")):
        status, text, headers = run(get(live.http + path))
        assert status == 200
        assert kind in headers["Content-Type"]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "http://" not in text.replace("http://www.w3.org", "")  # no foreign host
    for path in ("/page/door.py", "/page/..%2Fapp.py", "/page/%2e%2e/settings.py"):
        assert run(get(live.http + path))[0] == 404


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/socket"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},  # DNS rebinding
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
    ],
)
def test_foreign_pages_are_refused(live: Live, path: str, headers: dict[str, str]) -> None:
    status, text, _ = run(get(live.http + path, **headers))
    assert status == 403
    assert "evil" not in text


def test_a_websocket_of_a_foreign_page_is_refused(live: Live) -> None:
    async def go(**headers: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{live.http}/page/socket", headers=headers) as socket,
        ):
            await socket.close()

    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            run(go(**headers))
    run(go(Origin=live.http))  # its own


def test_the_key_is_the_first_message(bundle: Path) -> None:
    async def talk(visitor: Visitor) -> dict[str, Any]:
        return await visitor.hear("hello", "closed")

    with serving(bundle, api_key=KEY) as live:
        assert run(get(live.http + "/"))[0] == 200  # holds nothing
        assert visit(live, talk, key=KEY)["kind"] == "hello"
        for wrong in ("", "open", KEY + "x"):
            assert visit(live, talk, key=wrong) == {"kind": "closed", "code": 4401}

        async def silent(text: str) -> int | None:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"{live.http}/page/socket") as socket,
            ):
                await socket.send_str(text)
                await socket.receive(timeout=30)
                return socket.close_code

        for text in ("no json", "[]", '{"key": 7}', '{"do": "runs"}'):
            assert run(silent(text)) == 4401


def test_it_is_off_where_others_look_on_unless_it_is_asked_for_with_a_key(bundle: Path) -> None:
    assert ServerSettings().shows_page
    assert not ServerSettings(page=False).shows_page
    assert not ServerSettings(host="0.0.0.0", api_key=KEY).shows_page
    assert ServerSettings(host="0.0.0.0", api_key=KEY, page=True).shows_page
    with pytest.raises(ConfigError, match="the page would be open to whoever reaches"):
        ServerSettings(host="0.0.0.0", insecure=True, page=True)
    with pytest.raises(ConfigError, match="no folder of runs"):
        ServerSettings(runs=Path("/nowhere"))
    with serving(bundle, page=False) as live:
        assert run(get(live.http + "/"))[0] == 426
        assert run(get(live.http + "/page/app.js"))[0] == 404


@pytest.mark.parametrize("text", ["[" * 9_000, '{"key": ' * 1_500], ids=["lists", "maps"])
def test_json_without_an_end_is_no_key_and_no_command(live: Live, caplog, text: str) -> None:
    async def before() -> int | None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{live.http}/page/socket") as socket,
        ):
            await socket.send_str(text)
            await socket.receive(timeout=30)
            return socket.close_code

    async def after(visitor: Visitor) -> dict[str, Any]:
        await visitor.hear("hello")
        await visitor.socket.send_str(text)
        return await visitor.hear("refused", "closed")

    assert run(before()) == 4401
    assert visit(live, after)["error"] == "that was no JSON"
    assert not caplog.records


def test_an_action_of_a_number_that_no_float_holds_rests(live: Live) -> None:
    async def play(visitor: Visitor) -> dict[str, Any]:
        await visitor.say(do="play", model="a", seed=1)
        await visitor.hear("playing")
        await visitor.socket.send_str('{"do": "act", "action": [1%s]}' % ("0" * 400))
        await visitor.socket.send_str('{"do": "act", "action": [NaN]}')
        await visitor.say(do="nothing")
        return await visitor.hear("refused", "closed")

    assert visit(live, play)["kind"] == "refused"


def test_harnesses_still_find_their_protocol_at_the_root(live: Live) -> None:
    async def go() -> int:
        async with aiohttp.ClientSession() as session, session.ws_connect(live.http) as socket:
            return (await socket.receive(timeout=30)).type

    assert run(go()) is aiohttp.WSMsgType.BINARY


# -- episodes and dreams -------------------------------------------------------------------------


def test_an_episode_runs_beside_its_dream_and_is_shared(live: Live) -> None:
    async def script(one: Visitor, other: Visitor) -> None:
        told = await one.hear("hello")
        assert [model["name"] for model in told["models"]] == ["a"]
        assert told["models"][0]["dreams"]
        await one.say(do="watch", model="a", seed=3, deterministic=None)
        assert (await one.hear("watching"))["dreams"]
        await other.say(do="watch", model="a", seed=3, deterministic=None)
        await other.hear("watching")
        assert len(live.server.page.shows) == 1
        while "dream_reward" not in (header := await one.hear("frame")):
            assert header["step"] <= 5
        assert header["step"] == 5
        await other.hear("frame")
        _, pictures = read_frame(one.frames[-1])
        assert pictures["real"].dtype == np.uint8
        assert {*header["vectors"]} == {"real", "dream"}
        # pause is everybody's; one step is one step
        await other.say(do="control", pause=True)
        assert (await one.hear("control"))["paused"]
        await asyncio.sleep(0.5)
        one.frames.clear()
        await other.say(do="control", step=True)
        first = await one.hear("frame")
        await asyncio.sleep(0.5)
        before = len(one.frames)
        await other.say(do="control", step=True)
        assert (await one.hear("frame"))["step"] == first["step"] + 1
        assert before == 1
        await other.say(do="control", pause=False, speed=4.0)
        assert (await one.hear("control"))["watchers"] == 2

    visit(live, script, count=2)


def test_keys_steer_the_persons_dream_alone(live: Live) -> None:
    async def script(visitor: Visitor) -> list[dict[str, Any]]:
        await visitor.say(do="play", model="a", seed=1, deterministic=None)
        await visitor.hear("playing")
        first = await visitor.hear("frame")
        assert first["vectors"]["person"] == first["vectors"]["policy"]  # the same place
        await visitor.say(do="act", action=[1.0])
        for _ in range(10):
            last = await visitor.hear("frame")
        return [first, last]

    first, last = visit(live, script)
    assert last["step"] == first["step"] + 10
    assert last["vectors"]["person"] != last["vectors"]["policy"]
    assert np.isfinite(last["numbers"]["person"]["reward"])


def test_nobody_waits_for_a_watcher_who_does_not_read(bundle: Path) -> None:
    async def script(deaf: Visitor, other: Visitor) -> None:
        for one in (deaf, other):
            await one.say(do="watch", model="a", seed=1, deterministic=None)
            await one.hear("watching")
        (show,) = live.server.page.shows
        unread = show.audience[0]

        async def flood() -> None:
            async with asyncio.timeout(30):  # there is no other who would end the wait
                for _ in range(50):
                    await unread.frame(bytes(1 << 20))
                for _ in range(10):
                    await unread.tell({"kind": "note", "text": "x" * (1 << 20)})

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(flood(), live.loop))
        while (await other.hear("control"))["watchers"] > 1:  # the one was let go
            pass
        await other.hear("frame")

    with serving(bundle, write_timeout_s=600.0) as live:
        visit(live, script, count=2)
        dropped = live.metrics()['agentzoo_connections_dropped_total{reason="slow_client"}']
    assert dropped == 1


def test_commands_that_a_worker_does_not_read_do_not_pile_up(bundle: Path) -> None:
    """The latest of each kind waits, and is what counts once the worker reads again."""
    pause = {"do": "act", "action": [0.5] * 1_000}  # of another size than the policy's: rests

    async def script(visitor: Visitor) -> tuple[int, list[dict[str, Any]]]:
        await visitor.say(do="play", model="a", seed=1, deterministic=None)
        await visitor.hear("playing")
        (show,) = live.server.page.shows
        os.kill(show.process.pid, signal.SIGSTOP)
        # until then the thread that reads may go on, long on a busy machine
        os.waitid(os.P_PID, show.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            for _ in range(400):  # 2 MB
                await visitor.say(**pause)
            await visitor.say(do="act", action=[1.0])
            await visitor.say(do="nothing")
            await visitor.hear("refused")  # so all the others were taken
            unread = show.process.stdin.transport.get_write_buffer_size()
        finally:
            os.kill(show.process.pid, signal.SIGCONT)
        visitor.frames.clear()
        return unread, [await visitor.hear("frame") for _ in range(20)]

    with serving(bundle, max_dreams=1) as live:
        unread, frames = visit(live, script)
        assert live.metrics()["agentzoo_page_commands_waited_total"] > 300
    assert unread < 100_000
    assert frames[-1]["vectors"]["person"] != frames[-1]["vectors"]["policy"]


def test_commands_between_two_steps_are_kept_one_of_each_kind() -> None:
    """In a worker that has no time for them: its environment is being reset, for example."""
    count, read = 5_000, threading.Event()

    def flood() -> Iterator[bytes]:
        for i in range(count):
            action = [float(i)] * 100
            yield json.dumps({"action": action, "speed": 1.0 + i, "step": True}).encode()
        yield b'{"pause": true, "again": true}'
        yield b'{"again": false}'
        read.set()

    tracemalloc.start()
    try:
        line = Line(flood(), io.BytesIO())
        assert read.wait(60)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000  # all of them take 16 MB
    line.take(60.0)
    found = line.controls
    assert (found.action[0], found.speed) == (count - 1, count)
    assert (found.is_paused, found.again, found.is_over) == (True, True, True)
    assert 1 <= found.steps <= MOST_STEPS


def test_there_are_no_more_than_max_dreams(bundle: Path) -> None:
    async def script(one: Visitor, other: Visitor) -> dict[str, Any]:
        await one.say(do="watch", model="a", seed=1, deterministic=None)
        await one.hear("watching")
        await other.say(do="play", model="a", seed=1, deterministic=None)
        refused = await other.hear("refused")
        await one.say(do="leave")
        return refused

    with serving(bundle, max_dreams=1) as live:
        refused = visit(live, script, count=2)
    assert "--max-dreams" in refused["error"]


@pytest.mark.parametrize("view", ["watch", "play"])
def test_a_show_that_was_left_gives_its_place_to_the_next(bundle: Path, view: str) -> None:
    async def script(visitor: Visitor) -> list[object]:
        seen: list[object] = []
        for seed in (1, 2, 3):
            await visitor.say(do=view, model="a", seed=seed, deterministic=None)
            told = await visitor.hear("watching", "playing", "refused")
            seen.append(told.get("seed", told))
            if seed == 2:
                await visitor.say(do="leave")
        return seen

    with serving(bundle, max_dreams=1) as live:
        assert visit(live, script) == [1, 2, 3]


def test_a_show_that_is_left_before_it_began_leaves_no_place_taken(bundle: Path) -> None:
    async def script(visitor: Visitor) -> object:
        for seed in range(5):  # in one go, so that they are read together
            await visitor.say(do="play", model="a", seed=seed, deterministic=None)
            await visitor.say(do="leave")
        await visitor.say(do="play", model="a", seed=7, deterministic=None)
        told = await visitor.hear("playing", "refused")
        return told.get("seed", told)

    with serving(bundle, max_dreams=1) as live:
        assert visit(live, script) == 7


def test_an_episode_ends_when_its_time_is_up_and_its_process_with_it(bundle: Path) -> None:
    async def script(visitor: Visitor) -> tuple[int, dict[str, Any]]:
        await visitor.say(do="watch", model="a", seed=1, deterministic=None)
        await visitor.hear("watching")
        (show,) = live.server.page.shows
        pid = show.process.pid
        assert int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[16]) >= 10
        return pid, await visitor.hear("ended")

    with serving(bundle, dream_s=30.0) as live:
        pid, ended = visit(live, script)
    assert "ended after 30 s" in ended["why"]
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_dies_inside_a_frame_ends_the_show(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stub announces 100,000 bytes, sends 500 and ends."""
    stub = """
import struct, sys
sys.stdin.readline()
ready = b'{"kind": "ready", "dreams": false}'
out = sys.stdout.buffer
out.write(struct.pack("<I", len(ready)) + b"T" + ready)
out.write(struct.pack("<I", 100_000) + b"F" + bytes(500))
"""

    async def started() -> asyncio.subprocess.Process:
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(sys.executable, "-c", stub, **pipes)

    monkeypatch.setattr(shows, "started", started)

    async def script(visitor: Visitor) -> dict[str, Any]:
        await visitor.say(do="watch", model="a", seed=1, deterministic=None)
        return await visitor.hear("ended")

    with serving(bundle) as live:
        assert "its process ended" in visit(live, script)["why"]


def test_a_run_that_cannot_be_read_is_left_out_of_the_list(bundle: Path, tmp_path: Path) -> None:
    for name in ("good", "folder", "gone"):
        (tmp_path / name).mkdir()
    (tmp_path / "good" / "metrics.jsonl").write_text('{"env_step": 1, "a": 2}\n')
    (tmp_path / "folder" / "metrics.jsonl").mkdir()
    (tmp_path / "gone" / "metrics.jsonl").symlink_to(tmp_path / "nowhere")

    async def script(visitor: Visitor) -> list[str]:
        await visitor.say(do="runs")
        return [one["name"] for one in (await visitor.hear("runs"))["runs"]]

    with serving(bundle, runs=tmp_path) as live:
        assert visit(live, script) == ["good"]


def test_the_page_plans_as_the_server_does() -> None:
    zoo = str(Path(__file__).parents[4] / "zoo/tdmpc2-dmc-cheetah-run")
    for plan in ("off", "candidates=64,elites=8", ""):
        served = load_policy(zoo, plan=parse_plan(plan) if plan else None)
        assert policy_of(Job(view="watch", folder=zoo, plan=plan)).digest == served.digest


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"do": "watch", "model": "a", "seed": 1 << 32}, "a seed from 0"),
        ({"do": "watch", "model": "a"}, "a seed from 0"),
        ({"do": "watch", "model": "a", "seed": -1}, "a seed from 0"),
        ({"do": "watch", "model": "a", "seed": 1.5}, "a seed from 0"),
        ({"do": "watch", "model": "<b>", "seed": 1}, "there is no model"),
        ({"do": "play", "model": "a", "seed": 1, "deterministic": "x"}, "true, false or null"),
        ({"do": "dance"}, "does not know how"),
        ({"do": "runs"}, "without --runs"),
        ({"do": "curves", "run": "../..", "metric": "x"}, "no such run"),
        ([], "JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_visit_goes_on(
    live: Live, message: object, match: str
) -> None:
    async def script(visitor: Visitor) -> dict[str, Any]:
        await visitor.hear("hello")
        await visitor.socket.send_str(json.dumps(message))
        return await visitor.hear("refused")

    assert match in visit(live, script)["error"]


# -- what stands behind it -----------------------------------------------------------------------


def test_frames_are_read_back_and_hold_only_what_json_has() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    content = frame("watch", 4, {"real": picture}, value=float("nan"), pair=[1.0, float("inf")])
    assert struct.unpack_from("<I", content)[0] + 4 + 18 == len(content)
    header, pictures = read_frame(content)
    assert header["value"] is None
    assert header["pair"] == [1.0, None]
    np.testing.assert_array_equal(pictures["real"], picture)
    assert shown(np.zeros((400, 600, 3), np.uint8)).shape == (100, 150, 3)
    assert shown(np.zeros((84, 84, 4), np.uint8)).shape == (84, 84, 1)


def test_a_persons_action_is_one_of_the_environments() -> None:
    import gymnasium as gym

    box = action_spec(gym.spaces.Box(-2, 2, (2,)))
    np.testing.assert_array_equal(units_of(box, [5.0, float("nan")]), [1.0, 0.0])
    np.testing.assert_array_equal(units_of(box, []), [0.0, 0.0])
    discrete = action_spec(gym.spaces.Discrete(3, start=1))
    np.testing.assert_array_equal(units_of(discrete, [0.0, 0.2, 0.9]), [0, 0, 1])
    np.testing.assert_array_equal(units_of(discrete, [1.0]), [1, 0, 0])


def test_latencies_of_the_last_minutes() -> None:
    now = [1000.0]
    history = History(lambda: now[0])
    assert history.summary()["now"] == {"rate": 0.0, "median": None, "p99": None}
    for second in range(20):
        now[0] = 1000.0 + second
        for _ in range(10):
            history.add(0.002)
        history.add(0.5)
    now[0] = 1020.0
    summary = history.summary()
    assert summary["now"]["rate"] == 11.0
    assert 0.002 <= summary["now"]["median"] <= 0.002 * 1.12
    assert 0.5 <= summary["now"]["p99"] <= 0.5 * 1.12
    assert [point["rate"] for point in summary["history"]][-4:] == [11.0] * 4
    assert history.total == 220
    history.add(10 * BOUNDS[-1])
    now[0] = 1400.0
    assert history.summary()["minutes"]["median"] is None


def test_runs_are_read_while_they_grow_and_nothing_else_is(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "group" / "one"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"agent": "<b>Dreamer</b>", "env": "dmc:x", "seed": 3}')
    metrics = run / "metrics.jsonl"
    metrics.write_text('{"env_step": 10, "loss": 1.5, "bad": "nan"}\n{"env_step": 20, "lo')
    (tmp_path / "metrics.jsonl").write_text('{"env_step": 1, "secret": 1}\n')
    runs = Runs(tmp_path / "runs")
    (found,) = runs.refresh()
    assert found.facts()["name"] == "group/one"
    assert found.facts()["seed"] == "3"
    assert found.curve("loss") == [(10.0, 1.5)]
    assert "bad" not in found.facts()["metrics"]
    with metrics.open("a") as file:
        file.write('ss": 2.5}\nnot json\n')
    runs.refresh()
    assert found.curve("loss") == [(10.0, 1.5), (20.0, 2.5)]
    metrics.write_text('{"env_step": 5, "loss": 0.5}\n')  # resumed from an earlier step
    runs.refresh()
    assert found.curve("loss") == [(5.0, 0.5)]
    with metrics.open("a") as file:
        file.writelines(f'{{"env_step": {10 + i}, "loss": {i}}}\n' for i in range(5000))
    runs.refresh()
    assert len(found.curve("loss")) <= 502
    assert found.curve("loss")[-1] == (5009.0, 4999.0)
    assert runs.find("../metrics") is None


def test_watch_takes_a_bundle_and_says_what_it_cannot_take(bundle: Path, tmp_path: Path) -> None:
    model, runs = model_to_watch(str(bundle), tmp_path)
    assert model.source == str(bundle)
    assert runs is None
    with pytest.raises(RunError, match="neither a bundle nor a run"):
        model_to_watch(str(tmp_path), tmp_path)
    assert model_to_watch("me/walker@main", tmp_path)[0].name == "walker"
    assert "Show a policy in the browser" in CliRunner().invoke(cli, ["watch", "--help"]).output


@pytest.mark.slow
def test_watch_exports_a_run(tmp_path: Path) -> None:
    agent = PlaNet("dmc:cartpole-swingup?obs=state", preset="debug", seed=1, total_steps=1000)
    agent.learn(run=tmp_path / "runs" / "one", progress=False)
    model, runs = model_to_watch(str(tmp_path / "runs" / "one"), tmp_path)
    assert runs == tmp_path / "runs"
    assert (Path(model.source) / "world_imagine.onnx").is_file()
