"""Policies on one port: openpi, vla-eval and the Open Inference Protocol, chosen by path."""

from ..errors import MissingExtraError

try:
    from .server import Server, serve
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "aiohttp", "serve") from error
from .settings import ModelSettings, ServerSettings, model_settings, read_models

__all__ = ["ModelSettings", "Server", "ServerSettings", "model_settings", "read_models", "serve"]
