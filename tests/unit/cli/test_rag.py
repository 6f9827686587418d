"""``tunesmith rag``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from end_to_end.projects import TINY, build_cross_encoder, build_encoder, call


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "apples.md").write_text("# Apples\n\nAn apple grows on a \x1b[31mtree.")
    (folder / "bread.txt").write_text("Bread is baked from flour.")
    (folder / "copy.txt").write_text("Bread is baked from flour.")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    return folder


def test_from_documents_to_what_is_found(docs: Path, encoder: Path) -> None:
    first = call("rag", "add", "kb", "docs", "missing", "--encoder", encoder, "--chunk-size", 50)
    assert first.code == 0
    assert first.out == (
        "5 found: 2 added, 0 changed, 0 unchanged, 1 duplicates, 2 refused; 0 removed; 2 chunks written\n"
    )
    assert "refused: docs/broken.pdf: " in first.err
    assert "refused: missing: no such file or folder\n" in first.err
    assert "duplicate: docs/copy.txt has the same content as docs/bread.txt" in first.err

    (docs / "bread.txt").write_text("Bread is baked from rye.")
    again = json.loads(call("rag", "refresh", "kb", "--json", "--quiet").out)
    assert (again["found"], again["changed"], again["added"], again["unchanged"]) == (4, 1, 1, 1)

    shown = call("rag", "search", "kb", "baking rye", "--retriever", "bm25", "-k", 1)
    assert shown.out.startswith("1. docs/bread.txt · ")
    assert "   Bread is baked from rye.\n" in shown.out
    found = json.loads(call("rag", "search", "kb", "apple", "--where", "kind=markdown", "--json").out)
    assert [(h["rank"], h["document"], h["heading"]) for h in found["hits"]] == [(1, "docs/apples.md", "Apples")]
    assert found["hits"][0]["metadata"] == {"file": "docs/apples.md", "kind": "markdown"}
    assert "\x1b" not in call("rag", "search", "kb", "apple").out

    facts = json.loads(call("rag", "stats", "kb", "--json").out)
    assert (facts["documents"], facts["chunks"], facts["chunk_size"]) == (3, 3, 50)
    assert "documents:" in call("rag", "stats", "kb").out

    assert call("rag", "remove", "kb", "docs/copy.txt").out == "removed 1\n"
    old = json.loads(call("rag", "search", "kb", "flour", "--retriever", "bm25", "--at", 3, "--json").out)
    assert [hit["document"] for hit in old["hits"]] == ["docs/bread.txt"]
    nothing = call("rag", "search", "kb", "flour", "--retriever", "bm25")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing found\n")


def test_a_question_is_answered_with_its_sources(docs: Path, encoder: Path) -> None:
    call("rag", "add", "kb", "docs", "--encoder", encoder, "--quiet")
    told = json.loads(call("rag", "ask", "kb", "who bakes?", "--model", TINY, "-k", 2, "--json").out)
    assert (told["refused"], len(told["hits"])) == (False, 2)
    hybrid = json.loads(call("rag", "search", "kb", "who bakes?", "--retriever", "hybrid", "-k", 2, "--json").out)
    assert [hit["id"] for hit in told["hits"]] == [hit["id"] for hit in hybrid["hits"]]
    shown = call("rag", "ask", "kb", "who bakes?", "--model", TINY, "-k", 2)
    assert f"[2] {told['hits'][1]['document']}" in shown.out
    only = json.loads(call("rag", "ask", "kb", "who bakes?", "--model", TINY, "--where", "kind=markdown", "--json").out)
    assert [hit["document"] for hit in only["hits"]] == ["docs/apples.md"]
    nothing = json.loads(call("rag", "ask", "kb", "who?", "--model", TINY, "--where", "kind=pdf", "--json").out)
    assert (nothing["refused"], nothing["hits"]) == (True, [])
    refused = call("rag", "ask", "kb", "who bakes?", "--model", TINY, "--threshold", 2)
    assert refused.out.startswith("The documents do not say.")
    for arguments, said in (
        (("", "-k", 2), "question is empty"),
        (("x", "-k", 0), "at least 1"),
        (("x", "--where", "language=en"), "where language: no document in kb has this. Fields are file, kind."),
    ):
        wrong = call("rag", "ask", "kb", *arguments)
        assert (wrong.code, said in wrong.err) == (3, True)


def test_what_was_found_is_ranked_anew(docs: Path, encoder: Path, tmp_path: Path) -> None:
    cross_encoder = build_cross_encoder(tmp_path / "ce")
    call("rag", "add", "kb", "docs", "--encoder", encoder, "--quiet")
    plain = json.loads(call("rag", "search", "kb", "who bakes?", "-k", 9, "--json").out)["hits"]
    for name, model in ((cross_encoder, []), ("likelihood", ["--model", TINY])):
        ranked = call("rag", "search", "kb", "who bakes?", "-k", 9, "--rerank", name, *model, "--json")
        anew = json.loads(ranked.out)["hits"]
        assert sorted(hit["id"] for hit in anew) == sorted(hit["id"] for hit in plain)
        assert [hit["score"] for hit in anew] == sorted((hit["score"] for hit in anew), reverse=True)
        assert {hit["score"] for hit in anew}.isdisjoint(hit["score"] for hit in plain)
        options = ("--model", TINY, "-k", 1, "--rerank", name, "--retriever", "dense", "--json")
        told = call("rag", "ask", "kb", "who bakes?", *options)
        assert json.loads(told.out)["hits"][0]["id"] == anew[0]["id"]
        one = json.loads(
            call("rag", "search", "kb", "who bakes?", "--rerank", name, *model, "--depth", 1, "--json").out
        )
        assert [hit["id"] for hit in one["hits"]] == [hit["id"] for hit in plain]
    for arguments, code, part in (
        (["--depth", 3], 2, "--depth: only with --rerank"),
        (["--model", TINY], 2, "--model: only with --rerank likelihood"),
        (["--rerank", TINY], 3, "no trained head"),
        (["--rerank", "nothing-of-this-name"], 4, "nothing-of-this-name"),
    ):
        result = call("rag", "search", "kb", "apple", *arguments)
        assert (result.code, part in result.err) == (code, True), (arguments, result)


def test_what_cannot_be_done_is_said(docs: Path, encoder: Path, tmp_path: Path) -> None:
    missing = call("rag", "add", "kb", "none", "nowhere")
    assert (missing.code, missing.out) == (4, "")
    assert "error: none: no such file" in missing.err and "error: nowhere: no such file" in missing.err
    assert not (tmp_path / "kb").exists()
    assert call("rag", "search", "kb", "apple").code == 4

    refused = call("rag", "add", "kb", "docs/broken.pdf", "--encoder", encoder)
    assert refused.code == 3 and refused.out.startswith("1 found: 0 added")
    call("rag", "add", "kb", "docs")
    for arguments, code, part in (
        (["add", "kb", "docs", "--chunk-size", 50], 3, "made with chunks of 200 words"),
        (["add", "kb", "docs", "--encoder", "minilm-l6"], 3, "made with the encoder"),
        (["add", "docs", "docs"], 3, "is no index"),
        (["search", "kb", " "], 3, "query is empty"),
        (["search", "kb", "apple", "--where", "kind"], 2, "expected KEY=VALUE"),
        (["search", "kb", "apple", "--where", "language=en"], 3, "where language: no document"),
        (["search", "kb", "apple", "--at", 999], 4, "no version 999"),
        (["search", "kb", "apple", "-k", 0], 3, "k: 0"),
        (["remove", "kb", "docs/aples.md", "docs/bread.txt"], 4, "Did you mean 'docs/apples.md'?"),
    ):
        result = call("rag", *arguments)
        assert (result.code, part in result.err) == (code, True), (arguments, result)
    assert json.loads(call("rag", "stats", "kb", "--json").out)["documents"] == 1


def test_without_lancedb_the_command_to_install_it_is_said(
    docs: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    result = call("rag", "add", "kb", "docs", "--encoder", encoder)
    assert result.code == 1
    assert "pip install 'tunesmith[rag]'" in result.err
