"""What a search tries: settings with their ranges, from the rules or from a file, and Optuna's proposals in them."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import random
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tunesmith.config import Config, parse_config
from tunesmith.errors import ConfigError, MissingExtraError, NotFoundError

if TYPE_CHECKING:
    import optuna

Json = dict[str, Any]
Space = dict[str, Any]  # a setting's name as for --set → a list of values, or {low, high} and log: true
RATE = "train.learning_rate"
TRAIN = ("learning_rate", "global_batch_size", "warmup_ratio", "weight_decay", "max_grad_norm")
OCTAVES = 2  # up and down from the rule's learning rate, which is rarely further off (Schulman 2025)
RANKS, BATCHES, WARMUP = (8, 16, 32, 64), (8, 16, 32), {"low": 0.01, "high": 0.1, "log": True}
DRAWS = 5  # times that another setting is asked for where the one proposed was tried
DRAWN_FIRST = 6  # trials drawn at random before TPE models what was seen


def default_space(config: Config, loop: Mapping[str, Any], train: int) -> Space:
    """Learning rate two octaves round the rule's (or the project's own), batch, warm-up, and LoRA's rank.

    Args:
        config: The project; its first method is trained.
        loop: The plan's settings of the loop for it.
        train: Number of training examples, which no batch exceeds.
    """
    rate = loop["learning_rate"]
    space: Space = {
        RATE: {"low": rate / 2**OCTAVES, "high": rate * 2**OCTAVES, "log": True},
        "train.global_batch_size": [size for size in BATCHES if size <= train] or [train],
        "train.warmup_ratio": WARMUP,
    }
    return space | ({"method.rank": list(RANKS)} if hasattr(config.method[0], "rank") else {})


def read_space(path: Path, config: Config) -> Space:
    """The space in a YAML file, checked against the project.

    Raises:
        NotFoundError: If it is not there.
        ConfigError: If it is empty, names what cannot be searched, or holds a value that cannot be written; all
            problems at once.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file. --space takes a YAML file of settings and their values.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(
            f"{path}: the search space is empty. Name at least one setting with two values, such as "
            "'train.learning_rate: {low: 1e-4, high: 1e-2, log: true}' or 'method.rank: [8, 32]'."
        )
    known = [f"train.{name}" for name in TRAIN]
    known += [f"method.{name}" for name in type(config.method[0]).model_fields if name != "kind"]
    problems, space = [], {}
    for key, values in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
            if key == "train.epochs":
                hint = "How long is best, the rungs tell: set train.epochs in the project to the longest."
            problems.append(f"'{key}' cannot be searched. {hint}")
            continue
        try:
            space[key] = _axis(values)
            for value in _ends(space[key]):
                configured(config, {key: value})
        except ConfigError as error:
            problems += [f"'{key}': {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return space


def _axis(values: Any) -> Any:
    """A list of at least two different values, or a range."""
    if isinstance(values, list) and len({str(value) for value in values}) == len(values) >= 2:
        return values
    if isinstance(values, dict) and {"low", "high"} <= set(values) <= {"low", "high", "log"}:
        low, high = (_number(values[key]) for key in ("low", "high"))
        log = values.get("log", False) is True
        if low < high and (low > 0 or not log) and math.isfinite(high):
            return {"low": low, "high": high} | ({"log": True} if log else {})
    raise ConfigError(
        f"{values!r} is neither a list of two or more different values nor a range {{low: …, high: …}} with low < high "
        "(and low > 0 with log: true)."
    )


def _number(value: Any) -> float:
    """A number; YAML reads 1e-4 as text."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{value!r} is no number.") from error
    return int(value) if isinstance(value, int) else number


def _ends(axis: Any) -> list[Any]:
    return axis if isinstance(axis, list) else [axis["low"], axis["high"]]


def configured(config: Config, setting: Mapping[str, Any]) -> Config:
    """The project with other settings.

    Raises:
        ConfigError: If they cannot be written.
    """
    raw = config.model_dump(mode="json")
    raw["method"] = raw["method"][:1]
    for key, value in setting.items():
        group, name = key.split(".")
        (raw["method"][0] if group == "method" else raw[group])[name] = value
    return parse_config(raw, "the search space")


def own_setting(config: Config, loop: Mapping[str, Any], space: Space) -> Json:
    """What the project has for each setting of the space without a search."""
    method = config.method[0]
    places = {key: key.split(".") for key in space}
    groups = {"train": loop, "method": method.model_dump(), "data": config.data.model_dump()}
    return {key: groups[group][name] for key, (group, name) in places.items()}


def size(space: Space, own: Mapping[str, Any]) -> int:
    """How many settings there are, the project's own among them; beyond counting where one has a range."""
    if any(isinstance(axis, dict) for axis in space.values()):
        return sys.maxsize
    inside = all(own[key] in axis for key, axis in space.items())
    return math.prod(len(axis) for axis in space.values()) + (not inside)


def in_options(config: Config, setting: Mapping[str, Any]) -> list[str]:
    """A setting as options of the command line, beside what the project file says."""
    method = configured(config, setting).method[0]
    options = [f"{key}={_said(value)}" for key, value in setting.items() if not key.startswith("method.")]
    if any(key.startswith("method.") for key in setting):
        options.append(f"method={json.dumps({'kind': method.kind} | method.model_dump(exclude_defaults=True))}")
    return [word for option in options for word in ("--set", option)]


def _said(value: Any) -> str:
    if isinstance(value, str) and value.replace("_", "").isalpha():
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


# ── Optuna ───────────────────────────────────────────────────────────────────────────────────────────────
def import_optuna() -> Any:
    """The library, quiet.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "Searching hyperparameters needs Optuna. Install it: pip install 'tunesmith[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Proposals:
    """Settings to try, one after another, by TPE from what those before were worth on the first rung.

    What is proposed depends on the seed, its number and what was told, not on where the search was interrupted.

    Source:
        Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; Akiba et al. 2019, arXiv:1907.10902.
    """

    def __init__(self, storage: str | None, space: Space, higher_is_better: bool, seed: int) -> None:
        self.optuna, self.space, self.seed = import_optuna(), space, seed
        self.distributions = {key: self._distribution(axis) for key, axis in space.items()}
        self.study: optuna.Study = self.optuna.create_study(
            storage=storage, study_name="hyperparameters", load_if_exists=True,
            direction="maximize" if higher_is_better else "minimize",
        )  # fmt: skip

    def _distribution(self, axis: Any) -> Any:
        kinds = self.optuna.distributions
        if isinstance(axis, list):
            return kinds.CategoricalDistribution(axis)
        whole = isinstance(axis["low"], int) and isinstance(axis["high"], int)
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        return kind(axis["low"], axis["high"], log=axis.get("log", False))

    def propose(self, number: int, taken: Sequence[Json] = ()) -> Json:
        """The setting of trial ``number``, none of those ``taken`` if it can be helped."""
        for attempt in range(DRAWS):
            proposed = self._ask(f"{self.seed}/{number}/{attempt}")
            if proposed not in taken:
                return proposed
        if all(isinstance(axis, list) for axis in self.space.values()):
            whole = [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]
            left = [setting for setting in whole if setting not in taken]
            return random.Random(f"{self.seed}/{number}").choice(left or whole)
        return proposed

    def _ask(self, name: str) -> Json:
        states = self.optuna.trial.TrialState
        for asked in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self.study.tell(asked.number, state=states.FAIL)
        self.study.sampler = self.optuna.samplers.TPESampler(
            n_startup_trials=DRAWN_FIRST, seed=zlib.crc32(name.encode())
        )
        proposed: Json = self.study.ask(self.distributions).params
        return proposed

    def tell(self, number: int, setting: Json, value: float) -> None:
        """What a trial was worth on the first rung; one told again, or outside the space, is passed over."""
        create = self.optuna.trial.create_trial
        if any(trial.user_attrs.get("number") == number for trial in self._told()):
            return
        try:
            told = create(params=setting, distributions=self.distributions, value=value, user_attrs={"number": number})
        except ValueError:  # the project's own setting need not be one of those to try
            return
        self.study.add_trial(told)

    def importance(self) -> dict[str, float]:
        """Share of the first rung's differences that each setting explains (fANOVA); empty where too few were told."""
        if len(self._told()) < DRAWN_FIRST or len({trial.value for trial in self._told()}) < 2:
            return {}
        evaluator = self.optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        found: dict[str, float] = self.optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return found

    def _told(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,))
