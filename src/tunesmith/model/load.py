"""A model's folder becomes a language model in memory, checked before and after loading."""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from tunesmith.errors import ModelError, NotFoundError
from tunesmith.hardware import detect
from tunesmith.model.attention import Segment, build_pack
from tunesmith.model.forward import decoder, head_logits, hidden_states
from tunesmith.model.quantise import count_parameters, import_peft, quantise_4bit
from tunesmith.model.safety import check_model_folder
from tunesmith.sources import ModelFolder, resolve_model

ADAPTER_CONFIG = "adapter_config.json"
HEAD_FILE = "head.safetensors"  # a head of its own, see model.head
ORIGIN = "tunesmith.json"  # beside a saved model: which base, method and task it came from
LONGEST_PARITY = 4096  # tokens; windows longer than that are not reached by what fits here


@dataclass(slots=True)
class LanguageModel:
    """A model with its tokenizer, loaded for one way to use it.

    ``packed`` says whether its attention runs over a layout of segments (measured when it was loaded);
    ``folder`` is where it came from, ``origin`` what a saved model says of its training, empty for a base model;
    ``interface`` is how it is used: ``causal`` (next tokens), ``head`` (a linear head on pooled features; ``model``
    is then a ``model.head.HeadModel``), ``seq2seq``, ``preference`` (causal, by pairs) or ``image_text``.
    For images ``tokenizer`` is the processor.
    """

    model: Any
    tokenizer: Any
    folder: ModelFolder
    packed: bool
    device: torch.device
    origin: dict[str, Any]
    interface: str = "causal"

    @property
    def max_length(self) -> int:
        """Tokens the model was built for."""
        length: int = getattr(self.model.config.get_text_config(), "max_position_embeddings", 2048)
        return length

    @property
    def four_bit(self) -> bool:
        """Whether weights are kept in 4 bits."""
        return any(type(module).__name__ == "Linear4bit" for module in self.model.modules())

    @property
    def parameters(self) -> int:
        return count_parameters(self.model)


def load_model(name: str, interface: str = "causal", outputs: int = 0, four_bit: bool = False) -> LanguageModel:
    """Load a base model, or a model or adapter that Tunesmith saved, in the dtype this hardware is fast in.

    Args:
        name: A catalog name, a path, ``hf:owner/name``, or the folder of a saved model or adapter.
        interface: How a base model is to be used; a saved one knows.
        outputs: Numbers that a new head gives, for the interface ``head``.
        four_bit: Keep a decoder's frozen weights in 4 bits, as QLoRA trains on; a saved adapter knows.

    Raises:
        NotFoundError: If there is no such model.
        ModelError: If its files are damaged, unsafe, or of a kind that cannot be used.
    """
    path = Path(name).expanduser()
    origin = _origin(path)
    alone = (path / HEAD_FILE).is_file() and not (path / "config.json").is_file()
    if alone or (path / ADAPTER_CONFIG).is_file():
        if "base_model" not in origin:
            what = "a head" if alone else "an adapter"
            raise ModelError(f"{path}: {what} without {ORIGIN}, so its base is unknown. Use one saved by a run.")
        return _load_adapter(path, origin)
    used, numbers = origin.get("interface", interface), origin.get("outputs", outputs)
    return _load_base(resolve_model(name), origin, used, numbers, four_bit)


def is_saved(name: str) -> bool:
    """Whether a name is the folder of a model that Tunesmith trained and saved."""
    return (Path(name).expanduser() / ORIGIN).is_file()


def _origin(path: Path) -> dict[str, Any]:
    file = path / ORIGIN
    if not file.is_file():
        return {}
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error}).") from error
    return loaded if isinstance(loaded, dict) else {}


def _load_base(
    folder: ModelFolder, origin: dict[str, Any], interface: str, outputs: int, four_bit: bool = False
) -> LanguageModel:
    check_model_folder(folder.path)
    if interface == "head":
        from tunesmith.model.head import load_head_model

        return load_head_model(folder, origin, outputs, four_bit)
    if interface == "seq2seq":
        from tunesmith.model.seq2seq import load_seq2seq

        return load_seq2seq(folder, origin)
    if interface == "image_text":
        from tunesmith.model.vision import load_image_text

        return load_image_text(folder, origin)
    return load_causal(folder, origin, interface, four_bit)


def load_tokenizer(folder: ModelFolder, architecture: str) -> Any:
    """What turns examples into the model's input: a tokenizer, or the processor of a model that sees images.

    Raises:
        ModelError: If the folder has none that can be read.
    """
    check_model_folder(folder.path)
    kinds = {"image-encoder": AutoImageProcessor, "vision-language": AutoProcessor}
    try:
        return kinds.get(architecture, AutoTokenizer).from_pretrained(folder.path, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder.name}: its tokenizer or processor cannot be read: {error}") from error


def load_causal(
    folder: ModelFolder, origin: dict[str, Any], interface: str = "causal", four_bit: bool = False
) -> LanguageModel:
    """Load a causal language model from a folder that was checked, frozen and in evaluation mode."""
    hardware = detect()
    dtype = torch.bfloat16 if hardware.dtype == "bfloat16" else torch.float32
    device = torch.device("cuda" if hardware.accelerators else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder.path, dtype="auto" if four_bit else dtype, attn_implementation="sdpa", local_files_only=True,
            use_safetensors=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{folder.name}: cannot be loaded as a causal language model: {first}") from error
    if four_bit:
        quantise_4bit(model, dtype, device)
    model.to(device).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    packed = known_parity(f"{folder.fingerprint} {four_bit}", lambda: measure_parity(model))
    if packed:
        model.set_attn_implementation("tunesmith")
    return LanguageModel(model, tokenizer, folder, packed, device, origin, interface)


def _load_adapter(path: Path, origin: dict[str, Any]) -> LanguageModel:
    folder = resolve_model(origin["base_model"])
    if folder.fingerprint != origin.get("base_fingerprint", folder.fingerprint):
        raise ModelError(
            f"{path}: trained on a base with fingerprint {origin['base_fingerprint']}, but {origin['base_model']} "
            f"has {folder.fingerprint} now. Use the same version of the base."
        )
    four_bit = origin.get("method", {}).get("kind") == "qlora"  # predictions are made on the base that was trained on
    lm = _load_base(folder, origin, origin.get("interface", "causal"), origin.get("outputs", 0), four_bit)
    if (path / ADAPTER_CONFIG).is_file():
        if not (path / "adapter_model.safetensors").is_file():
            raise NotFoundError(f"{path}: adapter_model.safetensors is missing. Train again, or copy the whole folder.")
        part = lm.model.backbone if lm.interface == "head" else lm.model
        with peft_quiet():
            adapted = import_peft().PeftModel.from_pretrained(part, path, local_files_only=True).get_base_model().eval()
        if lm.interface == "head":
            lm.model.backbone = adapted
        else:
            lm.model = adapted
    if lm.interface == "head":
        from tunesmith.model.head import load_head_weights

        load_head_weights(lm.model, path)
    return lm


_known_parity: dict[str, bool] = {}


def known_parity(fingerprint: str, measure: Callable[[], bool]) -> bool:
    """Whether attention over a layout gives this model's own logits, measured once per model and process."""
    if fingerprint not in _known_parity:
        _known_parity[fingerprint] = measure()
    return _known_parity[fingerprint]


def measure_parity(model: Any) -> bool:
    """Compare packed with plain logits; True if they agree to 1e-3 of the largest logit (float32) or 5e-2.

    Two examples behind a shared prefix, one of them longer than any sliding window, against each alone.

    Raises:
        ModelError: If the model's own logits are not finite, or its head computes something ours does not, so
            that no path would be right.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    length = min(max(24, window + 9), LONGEST_PARITY, getattr(config, "max_position_embeddings", LONGEST_PARITY) - 1)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config.vocab_size, (length + 12,), generator=generator).tolist()
    prefix, long, short = ids[:5], ids[5:length], ids[length:]
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    before = model.config._attn_implementation
    with torch.no_grad():
        expected = []
        for tail in (long, short):
            plain = model(torch.tensor([[*prefix, *tail]], device=device), use_cache=False).logits[0, -8:].float()
            hidden = decoder(model)(torch.tensor([[*prefix, *tail]], device=device), use_cache=False)
            ours = head_logits(model, hidden.last_hidden_state[0, -8:])
            scale = plain.abs().max()
            if not bool(torch.isfinite(plain).all()):
                raise ModelError("the model's own logits are not finite. Its weights are damaged; fetch it again.")
            if (plain - ours).abs().max() > tolerance * scale:
                raise ModelError(
                    f"models of type '{model.config.model_type}' compute their logits in a way that is not supported. "
                    "Choose another; 'tunesmith models list' shows those known to work."
                )
            expected.append(plain)
        pack = build_pack(prefix, [[Segment(long)], [Segment(short)]], device)
        try:
            model.set_attn_implementation("tunesmith")
            hidden = hidden_states(model, pack)
        except (NotImplementedError, TypeError, ValueError, KeyError, RuntimeError, AttributeError):
            return False
        finally:
            model.set_attn_implementation(before)
        ends = [start[0] + len(item[0].tokens) for start, item in zip(pack.starts, pack.items, strict=True)]
        found = [head_logits(model, hidden[end - 8 : end]) for end in ends]
    return all(
        bool(((a - b).abs().max() <= tolerance * a.abs().max()).item()) for a, b in zip(expected, found, strict=True)
    )


@contextlib.contextmanager
def peft_quiet() -> Iterator[None]:
    """peft 0.21 asks transformers for a property by its old name, which warns; to go when it asks by the new one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


@functools.lru_cache(maxsize=1)
def quiet() -> None:
    """Keep transformers' progress bars and advice out of the user's terminal."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


quiet()
__all__ = ["ADAPTER_CONFIG", "ORIGIN", "LanguageModel", "is_saved", "load_model", "measure_parity"]
