"""The arguments of the Ray Serve application, which need no Ray to be checked."""

from typing import Any

import pytest

from agentzoo.runtime.deploy import app, read_deployment
from agentzoo.runtime.errors import ConfigError


def test_texts_of_a_command_line_and_values_of_a_file_are_the_same() -> None:
    typed = read_deployment(
        {"model": ["a=left", "b=right"], "replicas": 3, "cpus": 0.5, "allow_hosts": ["zoo.test"]}
    )
    texts = read_deployment(
        {"model": "a=left,b=right", "replicas": "3", "cpus": "0.5", "allow_hosts": "zoo.test"}
    )
    assert texts == typed
    assert [(one.name, one.source) for one in typed.models()] == [("a", "left"), ("b", "right")]


def test_limits_are_those_of_the_server() -> None:
    deployment = read_deployment({"model": "left", "max_sessions": 7, "threads": 2, "max_rows": 4})
    settings = deployment.settings("secret")
    assert (settings.max_sessions, settings.max_rows, settings.api_key) == (7, 4, "secret")
    assert [one.threads for one in deployment.models()] == [2]
    assert not settings.shows_page


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({}, "no policy to serve"),
        ({"model": "a", "replica": 2}, 'no "replica"; did you mean "replicas"'),
        ({"model": "a", "replicas": "two"}, "replicas is 'two', expected a whole number"),
        ({"model": "a", "replicas": 1.5}, "replicas is 1.5, expected a whole number"),
        ({"model": "a", "replicas": True}, "replicas is True, expected a whole number"),
        ({"model": "a", "replicas": 0}, "replicas is 0, expected at least 1"),
        ({"model": "a", "cpus": []}, r"cpus is \[\], expected a number"),
        ({"model": "a", "plan": 3}, "plan is 3, expected a text"),
        ({"model": 3}, "model is 3, expected texts"),
        ({"model": ["a", 3]}, "model is .*, expected texts"),
        ({"model": "a=x,a=y"}, 'two models are called "a"'),
        ({"model": "a", "max_sessions": "0"}, "max_sessions is 0, expected at least 1"),
        ({"model": "a", "drain_s": "-1"}, "drain_s is -1.0, expected at least 0"),
        ({"model": "a", "provider": "tpu"}, "provider is 'tpu', expected one of"),
    ],
    ids=str,
)
def test_what_is_no_argument_is_a_sentence(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        app(args)
