"""What a search trains: the project with remedies put together by name, as in ``lora+rate=0.25+replay=0.03``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.config import SCALES, Config, parse_config
from tunesmith.errors import ConfigError

Json = dict[str, Any]
DEFAULT = ("none", "rate=0.25", "lora", "replay=0.03", "kl=1", "averaging=0.3", "scale=auto", "replay=0.03+scale=auto")
VALUES = {"rate": 0.25, "replay": 0.03, "kl": 1.0, "l2_sp": 0.01, "ewc": 1.0, "averaging": 0.3, "scale": SCALES}
METHOD_NAMES = ("lora", "qlora", "full")
KNOWN = ("none", "project", *METHOD_NAMES, *VALUES, "seed")


def default_names(config: Config) -> tuple[str, ...]:
    """The variants tried unless others are named: LoRA only where the project trains otherwise."""
    own = ("project",) if config.remedies != Config.model_fields["remedies"].default else ()
    return own + tuple(name for name in DEFAULT if name != "lora" or config.method[0].kind not in ("lora", "qlora"))


def build_variants(config: Config, names: tuple[str, ...], rule: Callable[[Config], float]) -> dict[str, Config]:
    """The project of each variant.

    Args:
        config: The project; its first method is trained.
        names: Parts joined by ``+``: none, project (its own remedies), a method, seed=N, or a remedy with its value.
        rule: The learning rate that a project would be trained with; ``rate=0.25`` is a quarter of it.

    Raises:
        ConfigError: If a part is not known or has no such value, or a project does not go together; all in one message.
    """
    found: dict[str, Config] = {}
    problems: list[str] = []
    for name in dict.fromkeys(names):
        try:
            found[name] = _variant(config, name, rule)
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    if not found:
        raise ConfigError(f"--remedies: nothing to try. Name one of {', '.join(KNOWN)}.")
    return found


def _variant(config: Config, name: str, rule: Callable[[Config], float]) -> Config:
    parts = dict(_part(name, part) for part in name.split("+"))
    raw: Json = config.model_dump(mode="json")
    raw |= {"candidates": ["tune"], "method": raw["method"][:1], "rag": None, "memorization": "off"}
    raw |= {"overfitting": "quick", "fairness": {}}  # looked at once, in the run that follows
    if raw["forgetting"]["tier"] == "off":
        raw["forgetting"]["tier"] = "quick"  # the search is about it
    remedies = raw["remedies"] if "project" in parts else {}
    chooses = parts.get("scale") == SCALES
    if chooses or {"replay", "kl", "ewc"} & parts.keys():
        remedies["replay_from"] = config.remedies.replay_from
    if chooses:
        remedies["exchange"] = config.remedies.exchange
    raw["remedies"] = remedies | {part: value for part, value in parts.items() if part in VALUES and part != "rate"}
    for method in METHOD_NAMES:
        if method in parts and raw["method"][0]["kind"] != method:
            raw["method"] = [{"kind": method}]
            raw["train"]["learning_rate"] = None  # what was set is another method's
    if "seed" in parts:
        raw["seed"] = int(parts["seed"])
    built = parse_config(raw, f"variant {name}")
    if "rate" in parts:
        raw["train"]["learning_rate"] = parts["rate"] * rule(built)
        built = parse_config(raw, f"variant {name}")
    return built


def _part(name: str, part: str) -> tuple[str, Any]:
    """A part of a variant's name and its value."""
    key, sign, text = part.strip().partition("=")
    if key not in KNOWN:
        near = difflib.get_close_matches(key, KNOWN, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(KNOWN)}."
        raise ConfigError(f"--remedies {name}: unknown part '{key}'.{hint}")
    if key not in VALUES and key != "seed":
        if sign:
            raise ConfigError(f"--remedies {name}: '{key}' takes no value. Write {key}.")
        return key, True
    if not sign and key != "seed":
        return key, VALUES[key]
    if key == "scale" and text == "auto":
        return key, SCALES
    try:
        return key, int(text) if key == "seed" else float(text)
    except ValueError as error:
        raise ConfigError(f"--remedies {name}: '{text}' is no number for {key}. Write such as {key}=1.") from error


def same_training(a: Config, b: Config) -> bool:
    """Whether two variants train alike, and differ at most in what is kept of the update afterwards."""
    return _without_scale(a) == _without_scale(b)


def _without_scale(config: Config) -> Mapping[str, Any]:
    raw = config.model_dump(mode="json")
    for key in ("scale", "exchange"):
        del raw["remedies"][key]
    if not (config.remedies.replay or config.remedies.kl or config.remedies.ewc):
        del raw["remedies"]["replay_from"]
    return raw
