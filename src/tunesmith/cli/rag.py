"""``tunesmith rag``: an index of documents, kept up to date, and what is found in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith.cli.progress import progress

if TYPE_CHECKING:
    from tunesmith.model.load import LanguageModel
    from tunesmith.rag.index import Added, Hit, Index
    from tunesmith.rag.rerank import Reranking
    from tunesmith.rag.retrieve import Retriever

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
QUIET = click.option("--quiet", is_flag=True, help="Show no progress.")
INDEX = click.argument("index", type=click.Path(path_type=Path))
WHERE = click.option(
    "--where", multiple=True, metavar="KEY=VALUE", help="Only documents with this metadata; repeatable."
)
RERANK = click.option(
    "--rerank", metavar="NAME",
    help="Rank the best anew: by a cross-encoder (name or folder), or 'likelihood': by --model's of the question.",
)  # fmt: skip
DEPTH = click.option("--depth", type=click.IntRange(1, 50), help="How many --rerank ranks anew (default: 50).")


@click.group("rag")
def command() -> None:
    """Index documents and search them."""


@command.command("add")
@INDEX
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--encoder", help="Model whose vectors a new index holds (default: minilm-l6).")
@click.option("--chunk-size", type=int, help="Words in a chunk of a new index (default: 200).")
@QUIET
@JSON
def add(
    index: Path, paths: tuple[Path, ...], encoder: str | None, chunk_size: int | None, quiet: bool, as_json: bool
) -> None:
    """Take files and folders into an index, which is made if it is not there.

    PATHS are text, Markdown, HTML, PDF, DOCX, JSON Lines and CSV files (of the last two, each row is a document) and
    folders, with all that is below them. What cannot be read is named, and the rest goes on. Exits with 3 if nothing
    could be used.
    """
    with progress(quiet) as listener:
        opened = _open_or_create(index, paths, encoder, chunk_size)
        _say(opened.add(paths, listener), as_json)


@command.command("refresh")
@INDEX
@QUIET
@JSON
def refresh(index: Path, quiet: bool, as_json: bool) -> None:
    """Bring an index up to date with the files and folders that were added to it."""
    with progress(quiet) as listener:
        _say(_open(index).refresh(listener), as_json)


@command.command("remove")
@INDEX
@click.argument("names", nargs=-1, required=True)
@JSON
def remove(index: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Take documents out of an index by name; the name of a file or folder takes out all of it."""
    from tunesmith.errors import NotFoundError

    opened = _open(index)
    removed, wrong = 0, []
    for name in names:
        try:
            removed += opened.remove(name)
        except NotFoundError as error:
            wrong.append(str(error))
    click.echo(json.dumps({"removed": removed}) if as_json else f"removed {removed:,}")
    if wrong:
        raise NotFoundError("\n".join(wrong))


@command.command("search")
@INDEX
@click.argument("query")
@click.option("-k", "--k", type=int, default=5, show_default=True, help="How many chunks.")
@click.option(
    "--retriever", type=click.Choice(["dense", "bm25", "hybrid"]), default="dense", show_default=True,
    help="By meaning, by words, or by both (reciprocal ranks).",
)  # fmt: skip
@WHERE
@click.option("--at", "version", type=int, help="Search a former version of the index.")
@RERANK
@DEPTH
@click.option("--model", help="Model of --rerank likelihood (default: the smallest of the catalog).")
@JSON
def search(
    index: Path,
    query: str,
    k: int,
    retriever: Retriever,
    where: tuple[str, ...],
    version: int | None,
    rerank: str | None,
    depth: int | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Find the chunks that fit a query best."""
    from tunesmith.rag.retrieve import check_queries, retrieve

    opened = _open(index) if version is None else _open(index).at(version)
    check_queries([query], k)
    conditions = _conditions(where)
    opened.check_fields(conditions)
    if model is not None and rerank != "likelihood":
        raise click.UsageError("--model: only with --rerank likelihood.")
    reranking = _reranking(rerank, depth, lambda: _load_decoder(model)[1])
    hits = retrieve(opened, [query], retriever, k, where=conditions, reranking=reranking)[0]
    if as_json:
        click.echo(json.dumps(_hits_json(query, retriever, hits), ensure_ascii=False, indent=2))
    elif not hits:
        click.echo("nothing found", err=True)
    for rank, hit in enumerate([] if as_json else hits, start=1):
        click.echo(_safe(f"{rank}. {_place(hit)} · {hit.score:.3f}\n{_indented(hit.chunk.text)}\n"))


@command.command("ask")
@INDEX
@click.argument("question")
@click.option("--model", help="Name, folder, or a run, for the model it chose (default: the smallest of the catalog).")
@click.option("-k", "--k", type=int, default=5, show_default=True, help="How many chunks the model is shown.")
@click.option(
    "--retriever", type=click.Choice(["dense", "bm25", "hybrid"]), default="hybrid", show_default=True,
    help="By meaning, by words, or by both (reciprocal ranks).",
)  # fmt: skip
@click.option("--threshold", type=float, help="Best score below which the question is refused (cosine; bm25: BM25).")
@WHERE
@RERANK
@DEPTH
@JSON
def ask(
    index: Path,
    question: str,
    model: str | None,
    k: int,
    retriever: Retriever,
    threshold: float | None,
    where: tuple[str, ...],
    rerank: str | None,
    depth: int | None,
    as_json: bool,
) -> None:
    """Answer a question from an index's documents, with a model on this machine.

    The answer is printed with the sources it was shown; those it cites are marked with *. Without any hit, or below
    the threshold, it says that the documents do not say.
    """
    from tunesmith.rag import answer

    opened = _open(index)
    answer.check_question(question, k)
    conditions = _conditions(where)
    opened.check_fields(conditions)
    name, lm = _load_decoder(model)
    reranking = _reranking(rerank, depth, lambda: lm)
    found = answer.ask(opened, question, lm, k, retriever, threshold=threshold, where=conditions, reranking=reranking)
    if as_json:
        told = {
            "format_version": 1, "question": question, "answer": found.text, "refused": found.refused, "model": name,
            "cited": list(found.citations.real), "invented_citations": list(found.citations.invented),
            "hits": _hits_json(question, retriever, list(found.hits))["hits"],
        }  # fmt: skip
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
        return
    click.echo(_safe(found.text + "\n"))
    for number, hit in enumerate(found.hits, start=1):
        click.echo(_safe(f"{'*' if number in found.citations.real else ' '} [{number}] {_place(hit)}"))
    if found.citations.invented:
        numbers = ", ".join(map(str, found.citations.invented))
        click.echo(f"note: it cites {numbers}, which it was not shown", err=True)


@command.command("stats")
@INDEX
@JSON
def stats(index: Path, as_json: bool) -> None:
    """Show what an index holds, and how it was made."""
    facts = _open(index).stats()
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    facts["fields"] = [f"{field} ({count:,})" for field, count in facts["fields"].items()]
    for key, value in facts.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else _shown(value)
        click.echo(_safe(f"{key.replace('_', ' ') + ':':<33}{shown}"))


def _open(folder: Path) -> Index:
    from tunesmith.rag.index import Index

    return Index.open(folder)


def _open_or_create(folder: Path, paths: tuple[Path, ...], encoder: str | None, chunk_size: int | None) -> Index:
    """The index; a new one only if there is something to take in.

    Raises:
        NotFoundError: If none of the paths is there.
        ConfigError: If the index was made with another encoder or chunk size.
    """
    from tunesmith.errors import ConfigError, NotFoundError
    from tunesmith.rag.index import Index

    if not any(path.expanduser().exists() for path in paths):
        raise NotFoundError("\n".join(f"{path}: no such file or folder. Check the path." for path in paths))
    if not (folder / "index.json").is_file():
        sizes = {} if chunk_size is None else {"chunk_size": chunk_size, "overlap": chunk_size // 10}
        return Index.create(folder, encoder or "minilm-l6", **sizes)
    opened = Index.open(folder, encoder)
    if chunk_size not in (None, opened.chunk_size):
        raise ConfigError(
            f"--chunk-size {chunk_size}: {folder} was made with chunks of {opened.chunk_size} words. Leave it out, or "
            "make an index in another folder."
        )
    return opened


def _load_decoder(model: str | None) -> tuple[str, LanguageModel]:
    """A model that writes text, and where it is: a name, a folder, what a run chose, or the catalog's smallest."""
    from tunesmith.errors import ModelError
    from tunesmith.model.load import load_model
    from tunesmith.plan.choose import DEFAULT_MODEL
    from tunesmith.run import saved_model

    name = saved_model(model or DEFAULT_MODEL)
    lm = load_model(name)
    if lm.interface not in ("causal", "preference"):
        raise ModelError(f"{name}: a model of kind {lm.interface} writes no text. Use a decoder.")
    return name, lm


def _reranking(name: str | None, depth: int | None, load: Callable[[], LanguageModel]) -> Reranking | None:
    """What ``--rerank`` asks for; ``load`` gives the model whose likelihood counts."""
    from tunesmith.rag import rerank

    if name is None and depth is not None:
        raise click.UsageError("--depth: only with --rerank.")
    if name is None:
        return None
    score = rerank.by_likelihood(load()) if name == rerank.LIKELIHOOD else rerank.by_cross_encoder(name)
    return rerank.Reranking(score, depth or rerank.DEPTH)


def _say(done: Added, as_json: bool) -> None:
    """Counts on stdout, what was refused and what is double on stderr; ends with 3 if nothing could be used."""
    for item in done.refused:
        click.echo(_safe(f"refused: {item.name}: {item.reason}"), err=True)
    for name, other in done.duplicates:
        click.echo(_safe(f"duplicate: {name} has the same content as {other}, which is indexed"), err=True)
    if as_json:
        click.echo(json.dumps({"found": done.found, **asdict(done)}, ensure_ascii=False, indent=2))
    else:
        click.echo(
            f"{done.found:,} found: {done.added:,} added, {done.changed:,} changed, {done.unchanged:,} unchanged, "
            f"{len(done.duplicates):,} duplicates, {len(done.refused):,} refused; {done.removed:,} removed; "
            f"{done.chunks:,} chunks written"
        )
    if done.cut:
        click.echo(
            f"note: of {done.cut:,} chunks the encoder reads only the beginning; words are found in all of them. "
            "An index with a smaller --chunk-size has none.",
            err=True,
        )
    if done.refused and len(done.refused) == done.found:
        raise click.exceptions.Exit(3)


def _conditions(where: tuple[str, ...]) -> dict[str, str]:
    wrong = [item for item in where if not item.partition("=")[0] or "=" not in item]
    if wrong:
        raise click.UsageError(f"--where {', '.join(wrong)}: expected KEY=VALUE, such as kind=pdf.")
    return {item.partition("=")[0]: item.partition("=")[2] for item in where}


def _hits_json(query: str, retriever: str, hits: list[Hit]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "query": query,
        "retriever": retriever,
        "hits": [
            {"rank": rank, "score": hit.score, **asdict(hit.chunk)} for rank, hit in enumerate(hits, start=1)
        ],
    }  # fmt: skip


def _place(hit: Hit) -> str:
    return hit.chunk.document + (f" · {hit.chunk.heading}" if hit.chunk.heading else "")


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())


def _safe(text: str) -> str:
    """Without signs that a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
