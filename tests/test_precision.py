"""precision="auto": what it stands for, where that is written, and that a run keeps it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import agentzoo
from agentzoo import DreamerV3
from agentzoo.agents.dreamer import DreamerConfig
from agentzoo.agents.registry import OWN
from agentzoo.algorithm import module
from agentzoo.precision import MEASURED, Measured, resolve_precision, slower_here
from agentzoo.runtime.errors import RunError
from tests.agents.fake_envs import Steer

HAS = {"avx512_f", "avx512_bf16"}
TABLE = (
    Measured("Dreamer", images=True, times=1.6, fields={"depth": 32}),
    Measured("Dreamer", images=True, times=1.02, fields={"depth": 8}),
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "bf16"),
        ({"images": False}, "fp32"),
        ({"agent": "DreamerV2"}, "fp32"),
        ({"depth": 16}, "fp32"),  # not measured
        ({"depth": 8}, "fp32"),  # measured, and hardly faster
        ({"flags": {"avx512_f"}}, "fp32"),
        ({"flags": ()}, "fp32"),
        ({"device": "cuda"}, "fp32"),
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "bf16", "flags": ()}, "bf16"),
        ({"precision": "tf32", "device": "cuda"}, "tf32"),
    ],
)
def test_auto_goes_by_the_processor_and_the_table(given: dict[str, object], expected: str) -> None:
    asked = {"agent": "Dreamer", "images": True, "device": "cpu", "flags": HAS, "table": TABLE}
    config = DreamerConfig(precision=given.get("precision", "auto"), depth=given.get("depth", 32))
    asked |= {name: value for name, value in given.items() if name in asked}
    assert resolve_precision(asked.pop("agent"), config, **asked) == expected


def test_the_table_names_fields_that_the_agents_have() -> None:
    for one in MEASURED:
        config = OWN[one.agent].load().config_class
        assert set(one.fields) <= set(config.__dataclass_fields__), one
        assert one.times > 0


def test_the_word_it_stands_for_is_written_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    fields = {"size": "1m", "precision": "auto", "device": "cpu", "seed": 0}
    agent = DreamerV3(Steer(image=True), preset="pixels", **fields)
    assert agent.config.precision == agent.spec.precision == "bf16"
    written = json.loads((agent.save(tmp_path) / "config.json").read_text("utf-8"))
    assert written["config"]["precision"] == "bf16"
    assert "precision=bf16" in written["training"]["overrides"]
    # elsewhere it is read as what it was
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert agentzoo.load(tmp_path, device="cpu").config.precision == "bf16"
    assert DreamerV3(Steer(image=True), preset="pixels", **fields).config.precision == "fp32"


def learn(run: Path, steps: int, precision: str) -> DreamerV3:
    few = {"preset": "debug", "device": "cpu", "seed": 1, "prefill": 40, "pretrain": 1}
    agent = DreamerV3(Steer(), precision=precision, **few)
    agent.learn(steps, run=run, progress=False)
    return agent


def test_a_resumed_run_keeps_its_precision_where_auto_means_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert learn(tmp_path / "fresh", 60, "auto").config.precision == "fp32"  # nobody measured it
    learn(tmp_path / "run", 60, "bf16")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    named = learn(tmp_path / "copy", 120, "bf16")
    assert "slower" not in capsys.readouterr().out
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    resumed = learn(tmp_path / "run", 120, "auto")
    said = "is slower here: this processor has no avx512_bf16; it is kept"
    assert said in capsys.readouterr().out
    assert resumed.config.precision == resumed.spec.precision == "bf16"
    theirs = module(named.algorithm).state_dict()
    assert all(torch.equal(x, theirs[k]) for k, x in module(resumed.algorithm).state_dict().items())
    with pytest.raises(RunError, match="precision was 'bf16', is 'fp32'"):
        learn(tmp_path / "run", 180, "fp32")


@pytest.mark.parametrize(
    ("precision", "device", "flags", "slower"),
    [
        ("bf16", "cpu", {"avx512_f"}, True),
        ("bf16", "cpu", HAS, False),
        ("bf16", "cuda", {"avx512_f"}, False),
        ("fp32", "cpu", {"avx512_f"}, False),
    ],
)
def test_a_precision_that_the_processor_lacks_is_said(
    precision: str, device: str, flags: set[str], slower: bool
) -> None:
    assert bool(slower_here(precision, device=device, flags=flags)) == slower
