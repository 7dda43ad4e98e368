"""Bundles that several tests read; nothing writes to them."""

from pathlib import Path

import pytest
import torch

from agentzoo.export import export
from tests.serving.toys import BOX, DISCRETE, VECTOR, PlanningToy, Toy, seeded, toy_spec

MAKES = {
    "box": lambda: seeded(Toy),
    "vector": lambda: seeded(Toy, VECTOR, BOX),
    "discrete": lambda: seeded(Toy, VECTOR, DISCRETE),
    "planning": lambda: seeded(PlanningToy),
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Kind -> (folder, the algorithm it came from), exported on first use."""
    made: dict[str, tuple[Path, Toy]] = {}

    def bundle(kind: str) -> tuple[Path, Toy]:
        if kind not in made:
            toy = MAKES[kind]()
            made[kind] = export(toy, toy_spec(toy), tmp_path_factory.mktemp(kind)), toy
        return made[kind]

    return bundle
