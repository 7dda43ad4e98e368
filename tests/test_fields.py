"""Fields of a configuration: ranges, meanings, and answers to other libraries' words."""

import math
import re
from dataclasses import dataclass

import pytest

from agentzoo import Dreamer, DreamerV2, DreamerV3
from agentzoo.agent import Agent
from agentzoo.agents.registry import OWN
from agentzoo.config import AgentConfig
from agentzoo.fields import Range, comments, fields_of, suggestion
from agentzoo.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("numbers", "inside", "outside", "said"),
    [
        (Range(1), (1, 7.5), (0, math.nan, -math.inf), "at least 1"),
        (Range(0), (0, 3), (-1e-9,), "0 or more"),
        (Range(0, open=True), (1e-9,), (0, -1), "above 0"),
        (Range(0, 1), (0, 0.5, 1), (1.0001, -0.1, math.nan), "from 0 to 1"),
    ],
)
def test_a_range_knows_its_numbers(
    numbers: Range, inside: tuple[float, ...], outside: tuple[float, ...], said: str
) -> None:
    assert all(value in numbers for value in inside)
    assert not any(value in numbers for value in outside)
    assert str(numbers) == said


@pytest.mark.parametrize(
    ("agent", "field", "value", "said"),
    [
        (Dreamer, "model_lr", -1.0, r"model_lr=-1\.0 has to be 0 or more"),
        (Dreamer, "discount", 2.0, r"discount=2\.0 has to be from 0 to 1"),
        (Dreamer, "units", 0, r"units=0 has to be at least 1"),
        (DreamerV2, "stoch", 0, r"stoch=0 has to be at least 1"),
        (DreamerV3, "units", 0, r"units=0 has to be at least 1"),
        (DreamerV3, "discount_horizon", 1.0, r"discount_horizon=1\.0 has to be above 1"),
        (DreamerV3, "unimix", 1.5, r"unimix=1\.5 has to be from 0 to 1"),
        (Dreamer, "min_std", 0.0, r"min_std=0\.0 has to be above 0"),
        (Dreamer, "expl_amount", -0.1, r"expl_amount=-0\.1 has to be 0 or more"),
        (Dreamer, "grad_clip", math.inf, r"grad_clip=inf has to be a finite number"),
    ],
)
def test_numbers_out_of_range_are_a_sentence(
    agent: type[Agent], field: str, value: float, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        agent(preset="debug", device="cpu", **{field: value})


@pytest.mark.parametrize("name", list(OWN))
def test_every_field_of_every_agent_has_a_meaning_and_presets_are_in_range(name: str) -> None:
    kind = OWN[name].load()
    assert [
        one.name for one in fields_of(kind.config_class) if not (one.meaning or one.range)
    ] == []
    for preset, fields in kind.presets.items():
        assert kind.config_class(**fields), preset


@pytest.mark.parametrize("name", list(OWN))
def test_a_meaning_of_several_lines_is_its_own_fields(name: str) -> None:
    found = {one.name: one for one in fields_of(OWN[name].load().config_class)}
    assert found["checkpoint_grace"].meaning.endswith("or 10,000 where that is not known")
    assert found["precision"].range == "fp32, tf32, bf16, auto"
    # the choices are where a meaning begins; behind that they are another field's
    assert [one.name for one in found.values() if re.search(r"\w\|\w", one.meaning)] == []


@dataclass(frozen=True, kw_only=True)
class Commented(AgentConfig):
    """Fields with comments at all the places where they may stand."""

    units: int = 4  # width
    rule: str = "one"  # one|two, how it is done
    long: float = 1.0  # a meaning that
    # goes on below
    # stands above
    # in two lines
    above: int | None = None
    wrapped: float | None = None  # inside its brackets
    silent: bool = True


def test_a_meaning_is_the_fields_comment() -> None:
    assert comments(Commented) == {
        "units": "width",
        "rule": "one|two, how it is done",
        "long": "a meaning that",
        "above": "goes on below stands above in two lines",
        "wrapped": "inside its brackets",
        "silent": "",
    }
    found = {one.name: one for one in fields_of(Commented)}
    rule, units, above = found["rule"], found["units"], found["above"]
    assert (rule.range, rule.meaning) == ("one, two", "how it is done")
    assert (units.type, units.range, units.default) == ("int", "at least 1", 4)
    assert above.type == "int or None"
    assert (units.is_common, found["repeat"].is_common) == (False, True)
    assert found["repeat"].meaning.startswith("action repeat")


@pytest.mark.parametrize(
    ("agent", "word", "said"),
    [
        (Dreamer, "gamma", r'did you mean "discount"\?'),
        (DreamerV3, "gamma", r'did you mean "discount_horizon"\?'),
        (DreamerV3, "learning_rate", r'did you mean "lr"\?'),
        (Dreamer, "learning_rate", r'did you mean "model_lr" or "actor_lr" or "value_lr"\?'),
        (Dreamer, "buffer_size", r'did you mean "replay_rows"\?'),
        (Dreamer, "total_timesteps", r'did you mean "total_steps"\?'),
        (Dreamer, "callback", r"agent\.learn\(callbacks=\.\.\.\)"),
        (Dreamer, "verbose", r"learn\(progress=False\) hides the progress bar"),
        (Dreamer, "batchsize", r'did you mean "batch_size"'),
        (Dreamer, "xyzzy", r"--help-config lists them all"),
    ],
)
def test_other_libraries_words_are_understood(agent: type[Agent], word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"no configuration field '{word}'; .*{said}"):
        agent(preset="debug", device="cpu", **{word: 1})


def test_a_synonym_is_suggested_only_where_the_agent_has_the_field() -> None:
    assert suggestion("gamma", ["units", "lam"]).startswith("did you mean")  # the nearest instead
    assert "discount" not in suggestion("gamma", ["units", "lam"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("total_timesteps", '"total_steps"'),
        ("callback", '"callbacks"'),
        ("verbose", '"progress"'),
        ("progress_bar", '"progress"'),
        ("environment", '"env"'),
    ],
)
def test_learn_understands_other_libraries_words(word: str, said: str) -> None:
    agent = Dreamer(preset="debug", device="cpu")
    with pytest.raises(ConfigError, match=rf"learn has no argument '{word}'; did you mean {said}"):
        agent.learn(**{word: 1})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lr_decay": "linear"}, "a decay needs a number of updates"),
        ({"lr_decay_updates": 10}, "a decay needs a number of updates"),
        ({"lr_decay": "step", "lr_decay_updates": 10}, "lr_decay='step' is not known"),
        ({"lr_final": 1.5}, r"lr_final=1\.5 has to be from 0 to 1"),
    ],
)
def test_a_decay_says_how_and_how_long(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Dreamer(preset="debug", device="cpu", **fields)
