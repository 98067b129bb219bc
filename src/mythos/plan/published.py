"""Published models by the name they are served under, from `published.toml`."""

import tomllib
from functools import cache
from importlib.resources import files

from mythos.spec.config import ModelConfig
from mythos.spec.hf_config import shape_from_hf


def shape(name: str) -> ModelConfig | None:
    """The shape of the model of that name (as `owner/model`, any case); None when it is not known."""
    return _by_name().get(name.strip().lower())


def known_as(config: ModelConfig) -> str:
    """The first name of the published model of exactly this shape; "" when there is none."""
    return _by_shape().get(config, "")


@cache
def totals() -> dict[str, float]:
    """The published number of parameters by first name."""
    return {entry["names"][0]: float(entry["total"]) for entry in _table()}


@cache
def _table() -> list[dict]:
    return tomllib.loads((files("mythos.plan") / "published.toml").read_text())["models"]


@cache
def _by_name() -> dict[str, ModelConfig]:
    return {name.lower(): shape_from_hf(entry["config"]) for entry in _table() for name in entry["names"]}


@cache
def _by_shape() -> dict[ModelConfig, str]:
    return {shape_from_hf(entry["config"]): entry["names"][0] for entry in _table()}
