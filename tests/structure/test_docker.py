"""The image serves without torch, as nobody in particular, and asks for a key."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def test_it_installs_what_serving_needs_and_no_torch() -> None:
    assert re.findall(r'"\.\[(.*)\]"', TEXT) == ["onnx,serve"]
    assert "-c constraints.txt" in TEXT


def test_what_it_copies_is_there_and_let_through() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.M)
              for name in line.split()]  # fmt: skip
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert [name for name in copied if f"!{name}" not in let_through] == []


def test_it_runs_as_a_user_and_its_open_port_asks_for_a_key() -> None:
    final = TEXT.rsplit("FROM", 1)[1]
    assert re.search(r"^USER agentzoo$", final, re.M)
    assert '"--host", "0.0.0.0"' in final
    assert "--insecure" not in TEXT
    assert "/v2/health/ready" in final
