"""compile: what "auto" stands for, that a run keeps it, and that compiled updates are the same."""

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import agentzoo.compiling
import agentzoo.precision
from agentzoo import Dreamer, DreamerV3
from agentzoo.agents.dreamer import DreamerConfig
from agentzoo.agents.dreamer_v3 import DreamerV3Config
from agentzoo.agents.registry import OWN
from agentzoo.algorithm import module
from agentzoo.blocks.compiled import FOLDER, Forms, cache_folder, compiled, enabled
from agentzoo.blocks.fast import class_by_class
from agentzoo.blocks.fast.quick_tanh import quick_tanh
from agentzoo.blocks.latents import CategoricalLatent
from agentzoo.compiling import (
    MARGIN,
    TABLE,
    Repaid,
    lacking,
    require_compiling,
    resolve_compile,
    wanted,
)
from agentzoo.precision import Measured
from agentzoo.ranks import Ranks
from agentzoo.runtime.errors import ConfigError, RunError
from agentzoo.train.checkpoint import newest
from agentzoo.train.cuda_graph import EagerUpdate
from tests.agents.builders import STATE, box, random_batch
from tests.agents.fake_envs import Steer

CPU = torch.device("cpu")
MEASURED = (Repaid("DreamerV3", images=False, times=1.2, updates=100, fields={"deter": 256}),)
DEBUG = (Repaid("DreamerV3", images=False, times=1.2, updates=0),)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has a compiler and Python's headers, to look at."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "on"),
        ({"updates": MARGIN * 100 - 1}, "off"),  # saves less than compiling takes, or hardly more
        ({"images": True}, "off"),
        ({"agent": "LSImagine"}, "off"),
        ({"device": "cuda"}, "off"),
        ({"deter": 512}, "off"),  # nobody measured it
        ({"precision": "bf16"}, "off"),
        ({"compile": "off"}, "off"),
        ({"compile": "on", "updates": 0}, "on"),
    ],
)
def test_auto_goes_by_the_length_of_the_run_and_the_table(
    given: dict[str, object], expected: str
) -> None:
    asked = {"agent": "DreamerV3", "images": False, "device": "cpu", "updates": MARGIN * 100}
    fields = {"deter": 256, "precision": "fp32", "compile": "auto"}
    asked |= {name: value for name, value in given.items() if name in asked}
    config = replace(DreamerV3Config(), **fields | {k: v for k, v in given.items() if k in fields})
    agent = asked.pop("agent")
    assert resolve_compile(agent, config, table=MEASURED, **asked) == (expected, "")


def test_an_agent_without_the_setting_stays_eager() -> None:
    assert wanted(DreamerConfig()) == "off"
    assert resolve_compile(
        "Dreamer", DreamerConfig(), images=False, device="cpu", updates=10**6
    ) == ("off", "")
    with pytest.raises(ConfigError, match="compile"):
        Dreamer(Steer(), preset="debug", compile="on")


def test_the_table_names_fields_that_the_agents_have() -> None:
    for one in TABLE:
        config = OWN[one.agent].load().config_class
        assert set(one.fields) <= set(config.__dataclass_fields__), one
        assert one.times > 1
        assert one.updates > 0


@pytest.mark.usefixtures("tools")
def test_what_a_machine_lacks_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CXX", raising=False)
    assert lacking() == ""
    config = DreamerV3Config(deter=256, compile="auto")
    asked = {"images": False, "device": "cpu", "updates": 1_000, "table": MEASURED}
    on = replace(config, compile="on")
    require_compiling(on, "cpu")
    (tmp_path / "include" / "Python.h").unlink()
    with pytest.raises(ConfigError, match=r"compile='on'.*\(Python\.h\).*python3\.\d+-dev"):
        require_compiling(on, "cpu")
    word, said = resolve_compile("DreamerV3", config, **asked)
    assert word == "off"
    assert said.startswith("compile='auto' stays eager: Python's headers")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler g\+\+ here; install .* g\+\+ \(De"):
        require_compiling(on, "cpu")
    monkeypatch.setenv("CXX", "clang++-19")
    assert "no C++ compiler clang++-19 here" in lacking()
    # who does not ask for it needs none
    require_compiling(config, "cpu")
    require_compiling(DreamerConfig(), "cpu")


@pytest.mark.usefixtures("tools")
def test_on_is_for_float32_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match="on a CPU, the device is cuda; leave compile out"):
        require_compiling(DreamerV3Config(compile="on"), "cuda")
    with pytest.raises(ConfigError, match="precision='fp32', which is 'bf16' here"):
        require_compiling(DreamerV3Config(compile="on", precision="bf16"), "cpu")
    with pytest.raises(ConfigError, match="compile='yes'"):
        DreamerV3Config(compile="yes")


def learn(run: Path, steps: int, compile: str, precision: str = "fp32") -> DreamerV3:
    few = {"preset": "debug", "device": "cpu", "seed": 1, "prefill": 40, "pretrain": 1}
    agent = DreamerV3(Steer(), compile=compile, precision=precision, **few)
    agent.learn(steps, run=run, progress=False)
    return agent


def written(run: Path) -> str:
    return json.loads((run / "config.json").read_text("utf-8"))["config"]["compile"]


def test_a_short_run_stays_eager_and_its_resume_does_although_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learn(tmp_path / "run", 60, "auto").config.compile == "off"
    assert written(tmp_path / "run") == "off"
    monkeypatch.setattr(agentzoo.compiling, "TABLE", DEBUG)
    assert learn(tmp_path / "run", 120, "auto").config.compile == "off"
    with pytest.raises(RunError, match="compile was 'off', is 'on'"):
        learn(tmp_path / "run", 180, "on")


def test_a_run_where_compiling_would_pay_but_cannot_says_so_and_is_the_eager_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agentzoo.compiling, "TABLE", DEBUG)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    agent = learn(tmp_path / "auto", 60, "auto")
    assert "compile='auto' stays eager: there is no C++ compiler" in capsys.readouterr().out
    assert written(tmp_path / "auto") == "off"
    theirs = module(learn(tmp_path / "off", 60, "off").algorithm).state_dict()
    mine = module(agent.algorithm).state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in mine.items())
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        learn(tmp_path / "on", 60, "on")
    assert not (tmp_path / "on").exists()


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("asked", ["auto", "on"])
def test_a_run_that_compiles_goes_on_compiling_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Eager updates differ from compiled ones by rounding, so the run would be another."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert learn(tmp_path / "run", 60, "on").config.compile == "on"
    # "auto" would stay eager today: nothing is in the table for these sizes
    assert learn(tmp_path / "run", 90, asked).config.compile == "on"
    assert written(tmp_path / "run") == "on"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"compile='on'.*no C\+\+ compiler"):
        learn(tmp_path / "run", 120, asked)


@pytest.mark.parametrize("unimix", [0.0, 0.01])
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_class_by_class_samples_are_the_plain_ones(classes: int, unimix: float) -> None:
    draw = torch.Generator().manual_seed(0)
    latent = CategoricalLatent(5, classes, unimix)
    stats = 3 * torch.randn(64, latent.size, generator=draw)
    noise = torch.rand(64, *latent.noise_shape, generator=draw)
    found = class_by_class.sample(stats, noise, unimix)
    assert torch.equal(found, latent.sample(stats, noise))


def test_of_equal_scores_the_first_class_is_taken() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0], [0.0, 1.0, 0.0, 1.0]])
    found = torch.stack(class_by_class.largest(scores.unbind(-1)), -1)
    assert found.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_tanh_is_pytorchs_outside_the_compiler() -> None:
    x = torch.linspace(-20, 20, 1001)
    assert torch.equal(quick_tanh(x), torch.tanh(x))


def test_compiled_forms_are_for_what_has_no_gradient() -> None:
    assert not enabled()
    with compiled(Forms()):
        assert not enabled()
        with torch.no_grad():
            assert enabled()
            with compiled(None):
                assert not enabled()
    with torch.no_grad():
        assert not enabled()


def test_compiled_code_is_kept_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "agentzoo" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "agentzoo" / "compiled"


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """Read functions as the compiler does and run them as they stand; the graphs that were read."""
    read: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        read.append(graph)
        return graph.forward

    real = torch.compile

    def compile_so(function: Any, *, options: object, **asked: Any) -> Any:
        return real(function, backend=backend, **asked)

    monkeypatch.setattr(torch, "compile", compile_so)
    return read


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_a_process_may_compile_for_any_number_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reads a function for 8 shapes, and all runs of a process would share them."""
    read = count_graphs(monkeypatch)
    for size in range(2, 14):
        form, x = Forms().of(doubled), torch.ones(size)
        assert torch.equal(form(x), 2 * x)
        assert torch.equal(form(x), 2 * x)
    assert len(read) == 12


def test_a_run_is_not_computed_by_what_another_one_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, x = count_graphs(monkeypatch), torch.ones(3)
    for _ in range(2):
        forms = Forms()
        assert forms.of(doubled) is forms.of(doubled)
        forms.of(doubled)(x)
    assert len(read) == 2


@pytest.mark.usefixtures("tools")
def test_a_compiler_that_fails_is_not_the_algorithms_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: object, _: object) -> Any:
        raise OSError("g++ cannot write\nto its folder")

    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: real(function, backend=broken, fullgraph=True)
    )
    match = r"imagination cannot be compiled on this machine \(.*g\+\+ cannot write\)"
    with pytest.raises(RunError, match=match):
        learn(tmp_path / "run", 60, "on")


def test_processes_compile_where_all_of_them_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agentzoo.compiling, "TABLE", DEBUG)
    monkeypatch.setattr(agentzoo.compiling, "lacking", lambda: "")
    lacks = "off", "compile='auto' stays eager: there is no C++ compiler"

    def exchange(_: Ranks, said: object) -> list[object]:
        return [said, lacks if said == ("on", "") else said]

    monkeypatch.setattr(Ranks, "exchange", exchange)
    assert learn(tmp_path / "run", 60, "auto").config.compile == "off"
    assert "stays eager: there is no C++ compiler" in capsys.readouterr().out


@pytest.mark.usefixtures("tools")
def test_a_float32_run_that_compiles_is_resumed_where_auto_means_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    learn(tmp_path / "run", 60, "on")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    faster = (Measured("DreamerV3", images=False, times=2.0),)
    monkeypatch.setattr(agentzoo.precision, "MEASURED", faster)
    resumed = learn(tmp_path / "run", 90, "on", precision="auto")
    assert (resumed.config.compile, resumed.config.precision) == ("on", "fp32")
    with pytest.raises(ConfigError, match="precision='fp32', which is 'bf16' here"):
        learn(tmp_path / "new", 60, "on", precision="auto")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for compiled code that goes with the tests."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        yield folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # PyTorch's own compiler's
@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_compiled_updates_are_the_eager_ones(cached: Path) -> None:
    sides: dict[bool, dict[str, torch.Tensor]] = {}
    for on in (False, True):
        torch.manual_seed(0)
        config = DreamerV3Config(**DreamerV3.presets["debug"])
        algorithm = DreamerV3.algorithm_class(STATE, box(), config)
        update = EagerUpdate(algorithm, CPU, compiled=on)
        assert update.warm is not on
        batch = random_batch(algorithm)
        found = [update(batch, seed)[0] for seed in range(5)]
        assert update.warm
        losses = {f"{k} {name}": x for k, one in enumerate(found) for name, x in one.items()}
        sides[on] = {**losses, **algorithm.state_dict()}
    assert any(cached.rglob("*.so"))  # it was compiled
    for name, eager in sides[False].items():
        torch.testing.assert_close(sides[True][name], eager, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking()), reason=lacking())
@pytest.mark.usefixtures("cached")
def test_a_run_that_compiles_is_resumed_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    learning = (
        "import sys, torch; from agentzoo import DreamerV3; torch.set_num_threads(1); "
        "DreamerV3('gym:Pendulum-v1', preset='debug', device='cpu', seed=3, compile='on').learn("
        "int(sys.argv[2]), run=sys.argv[1], log='none', progress=False)"
    )
    for run, steps in (("whole", 400), ("halves", 200), ("halves", 400)):
        command = [sys.executable, "-c", learning, str(tmp_path / run), str(steps)]
        subprocess.run(command, check=True, timeout=600)
    weights = [newest(tmp_path / run / "checkpoints") for run in ("whole", "halves")]
    whole, halves = ((folder / "model.safetensors").read_bytes() for folder in weights if folder)
    assert whole == halves
