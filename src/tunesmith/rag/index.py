"""An index of documents on disk: chunks, their vectors and their words in a LanceDB table.

    INDEX/
    ├── index.json      format, encoder and its fingerprint, chunk sizes, the paths that were added
    ├── .lock           held by the one process that writes
    └── chunks.lance/   the table, one row a chunk, with every former version

A change of a document is one commit of the table: a reader, or whoever opens the index after the writer was killed,
finds the document's old chunks or its new ones, never some of both. Many documents may share a commit.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from tunesmith.errors import ConfigError, MissingExtraError, NotFoundError, RunError
from tunesmith.hardware import one_heap, return_freed_memory
from tunesmith.rag.chunk import Chunk, chunk_text
from tunesmith.rag.documents import (
    Document,
    Entry,
    Limits,
    Parser,
    Refused,
    document_name,
    find_files,
    list_entries,
    read_file,
)
from tunesmith.run import held_for_writing, read_json, write_json

if TYPE_CHECKING:
    import numpy as np

    from tunesmith.model.embed import Encoder

FORMAT_VERSION = 1
TABLE = "chunks"
COMMIT_CHUNKS = 1024  # chunks embedded and written at once, more only where one document has more
EXACT_ROWS = 50_000  # up to here every vector is compared; above, a graph of neighbours (HNSW) leads to the nearest
NEIGHBOURS_TAKEN = 4  # times as many as asked for are taken from the graph, then compared exactly
SHOWN = ("id", "document", "heading", "position", "start", "text", "metadata")
FOREVER = timedelta(days=36_500)  # old versions are never removed

Progress = Callable[[str, float, float, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. ``score`` is the cosine similarity in [-1, 1], or BM25 ≥ 0."""

    chunk: Chunk
    score: float


@dataclass(frozen=True, slots=True)
class Added:
    """What became of every document that was found.

    Attributes:
        added: Documents that are new.
        changed: Documents that replaced a former content of theirs.
        unchanged: Documents that were in the index as they are.
        removed: Documents that are no longer there, or became duplicates, and were taken out; not among those found.
        refused: Documents, files and folders that could not be used. What the index held of them, it still holds.
        duplicates: Pairs of a document and the one in the index that has the same content.
        chunks: Chunks written.
        cut: Those of them of which the encoder read only the beginning; all of their words can still be searched.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    refused: tuple[Refused, ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    chunks: int = 0
    cut: int = 0

    @property
    def found(self) -> int:
        """All that was found: added, changed, unchanged, refused and duplicates."""
        return self.added + self.changed + self.unchanged + len(self.refused) + len(self.duplicates)


class Version(NamedTuple):
    """A former state of the index, readable by ``Index.at``."""

    number: int
    time: datetime
    chunks: int


@dataclass(frozen=True, slots=True)
class _Facts:
    """What index.json holds. ``base`` is the folder that names are relative to."""

    encoder: str
    fingerprint: str
    dimensions: int
    chunk_size: int
    overlap: int
    base: str
    roots: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(slots=True)
class _Listing:
    """What is on disk. ``complete`` are the files of which every document is known."""

    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    refused: dict[str, Refused] = field(default_factory=dict)


class Index:
    """Documents that can be searched by meaning and by words. Made by ``create`` or ``open``."""

    def __init__(self, folder: Path, facts: _Facts, table: Any) -> None:
        self.folder = folder
        self._facts = facts
        self._table = table

    @classmethod
    def create(cls, folder: Path, encoder: str = "minilm-l6", *, chunk_size: int = 200, overlap: int = 20) -> Index:
        """Make an empty index.

        Args:
            folder: Where; must not hold anything else.
            encoder: Model whose vectors it will hold: a catalog name, a folder or ``hf:owner/name``.
            chunk_size: Words in a chunk, at least 10.
            overlap: Words that a chunk repeats of the one before, up to half of ``chunk_size``.

        Raises:
            ConfigError: If the folder holds something, a number is out of range, or the model is no text encoder.
            MissingExtraError: If LanceDB is not installed.
            NotFoundError, SourceError, ModelError: If the encoder is not to be had.
        """
        from tunesmith.model.architecture import architecture
        from tunesmith.sources import resolve_model
        from tunesmith.sources.catalog import MODELS

        _lancedb()
        if chunk_size < 10 or not 0 <= overlap <= chunk_size / 2:
            raise ConfigError(
                f"chunks of {chunk_size} words that repeat {overlap}: expected at least 10 words, and at most half of "
                "them repeated. 200 and 20 are usual."
            )
        if folder.exists() and (not folder.is_dir() or any(p.name != ".lock" for p in folder.iterdir())):
            raise ConfigError(f"{folder}: is there already, and is no index. Name another folder.")
        model = resolve_model(encoder)
        kind = architecture(model)
        if kind != "encoder":
            raise ConfigError(f"encoder {encoder}: is of kind {kind}; expected a text encoder. Try minilm-l6.")
        config = read_json(model.path / "config.json")
        named = encoder in MODELS or encoder.startswith("hf:")
        facts = _Facts(
            encoder if named else str(model.path.resolve()),
            model.fingerprint,
            config["hidden_size"],
            chunk_size,
            overlap,
            str(Path.cwd()),
        )
        _write_facts(folder, facts)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, encoder: str | None = None) -> Index:
        """Open an index.

        Args:
            folder: Where it is.
            encoder: The encoder that the caller means to use; nothing is loaded yet.

        Raises:
            NotFoundError: If there is no index.
            ConfigError: If it was made with another encoder.
            RunError: If it is damaged, or of another format.
            MissingExtraError: If LanceDB is not installed.
        """
        lancedb = _lancedb()
        file = folder / "index.json"
        if not file.is_file():
            raise NotFoundError(f"{folder}: not an index (it has no index.json). Make one with 'tunesmith rag add'.")
        held = read_json(file)
        version = held.pop("format_version", None) if isinstance(held, dict) else None
        if version != FORMAT_VERSION:
            raise RunError(f"{folder}: written in format {version}; this version reads format {FORMAT_VERSION}.")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in held.items()}
        try:
            facts = _Facts(**values)
        except TypeError as error:
            raise RunError(f"{file}: damaged ({error}). Make the index anew.") from error
        if encoder is not None:
            _check_encoder(folder, facts, encoder)
        try:
            database = lancedb.connect(folder, read_consistency_interval=timedelta(0))
            table = database.create_table(TABLE, schema=_schema(facts.dimensions), exist_ok=True)
            if not any(index.columns == ["text"] for index in table.list_indices()):
                _index_words(table)  # of a new table, or where the writer was killed between the two
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(f"{folder}: damaged, it cannot be opened ({_first_line(error)}). Make it anew.") from error
        return cls(folder, facts, table)

    @property
    def encoder(self) -> str:
        """Name or folder of the encoder."""
        return self._facts.encoder

    @property
    def chunk_size(self) -> int:
        """Words in a chunk, at most."""
        return self._facts.chunk_size

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────
    def add(self, paths: Iterable[Path], progress: Progress | None = None, limits: Limits | None = None) -> Added:
        """Take in files, and folders with all that is below them.

        What did not change is not read; a row that is no longer in its file is taken out. Killed at any moment, every
        document in the index is whole, and adding again takes in the rest.

        Raises:
            RunError: If another process writes, or the disk is full.
            ModelError, NotFoundError, SourceError: If the encoder cannot be loaded.
        """
        with self._writing():
            base = Path(self._facts.base)
            asked = [Path(os.path.abspath(path.expanduser())) for path in paths]
            there = [str(path) for path in asked if path.exists()]
            names = [document_name(path, base) for path in asked]
            self._remember(
                roots=tuple(dict.fromkeys([*self._facts.roots, *there])),
                excluded=tuple(e for e in self._facts.excluded if not any(_is_within(e, name) for name in names)),
            )
            return self._take_in(asked, progress, limits)

    def refresh(self, progress: Progress | None = None, limits: Limits | None = None) -> Added:
        """Bring the index up to date with the files and folders that were added; only what changed is touched.

        A document whose file is gone is taken out; where the very path that was added is gone, it is reported, and
        its documents are kept.

        Raises:
            RunError: If another process writes, or the disk is full.
            ModelError, NotFoundError, SourceError: If the encoder cannot be loaded.
        """
        with self._writing():
            return self._take_in([Path(root) for root in self._facts.roots], progress, limits, gone_too=True)

    def remove(self, name: str) -> int:
        """Take out a document, or all of a file or folder; ``refresh`` will not bring them back, ``add`` will.

        Returns:
            How many documents were taken out.

        Raises:
            NotFoundError: If there is none of this name.
        """
        with self._writing():
            documents = self._documents()
            for asked in (name, document_name(Path(name), Path(self._facts.base))):
                found = [document for document in documents if _is_within(document, asked)]
                if found:
                    break
            else:
                near = difflib.get_close_matches(name, documents, n=1)
                hint = f"Did you mean '{near[0]}'?" if near else f"It holds {len(documents):,} documents."
                raise NotFoundError(f"{name}: no document of this name in {self.folder}. {hint}")
            base = Path(self._facts.base)
            self._remember(
                roots=tuple(r for r in self._facts.roots if not _is_within(document_name(Path(r), base), asked)),
                excluded=(*self._facts.excluded, asked),
            )
            self._delete(found)
            self._tidy()
            return len(found)

    def _take_in(
        self, paths: Sequence[Path], progress: Progress | None, limits: Limits | None, gone_too: bool = False
    ) -> Added:
        known = self._documents()
        listing = self._list(paths, known)
        gone = {
            name
            for name, entry in known.items()
            if name not in listing.entries
            and name not in listing.refused
            and (
                _file_name(name) in listing.complete
                or (gone_too and _file_name(name) not in listing.files and self._is_gone(entry))
            )
        }
        elsewhere = known.keys() - listing.entries.keys() - gone
        owners = {known[name].digest: name for name in sorted(elsewhere)}
        same = [name for name, entry in listing.entries.items() if name in known and known[name].digest == entry.digest]
        for name in [*same, *listing.entries]:  # what is in the index already goes before what is new
            owners.setdefault(listing.entries[name].digest, name)
        duplicates = [(n, owners[e.digest]) for n, e in listing.entries.items() if owners[e.digest] != n]
        double = {name for name, _ in duplicates}
        gone |= double & known.keys()
        unchanged = set(same) - double
        wanted = listing.entries.keys() - double - unchanged

        refused = dict(listing.refused)
        written = _Counts()
        waiting: list[tuple[Document, list[Chunk]]] = []
        n_waiting = done = 0
        total = len(wanted)
        with Parser(limits) as parser:
            for document in self._read(listing, wanted, parser):
                done += 1
                if isinstance(document, Refused):
                    refused[document.name] = document
                    continue
                entry = document.entry
                chunks = chunk_text(
                    entry.name, document.text, self._facts.chunk_size, self._facts.overlap, document.metadata
                )
                waiting.append((document, chunks))
                n_waiting += len(chunks)
                if n_waiting >= COMMIT_CHUNKS:
                    self._commit(waiting, known, written)
                    waiting, n_waiting = [], 0
                    if progress is not None:
                        progress("documents", done, total, {})
        if waiting:
            self._commit(waiting, known, written)
        if progress is not None and total:
            progress("documents", total, total, {})
        self._delete(sorted(gone))
        if written.chunks or gone or self._outside_full_text() or self._lacks_graph():
            self._tidy()
        return Added(
            written.added,
            written.changed,
            len(unchanged),
            len(gone),
            _with_what_is_kept(refused, known.keys() - gone),
            tuple(duplicates),
            written.chunks,
            written.cut,
        )

    def _list(self, paths: Sequence[Path], known: Mapping[str, Entry]) -> _Listing:
        """Everything that is under the paths, each file once."""
        base = Path(self._facts.base)
        listing = _Listing()
        for path in paths:
            for file in find_files(path, base):
                name = file.name if isinstance(file, Refused) else document_name(file, base)
                if name in listing.files or any(_is_within(name, excluded) for excluded in self._facts.excluded):
                    continue
                listing.files[name] = Path(name) if isinstance(file, Refused) else file
                if isinstance(file, Refused):
                    listing.refused[name] = file
                    continue
                for item in list_entries(file, base, known):
                    if any(_is_within(item.name, excluded) for excluded in self._facts.excluded):
                        continue
                    if isinstance(item, Refused):
                        listing.refused[item.name] = item
                    else:
                        listing.entries[item.name] = item
                if name not in listing.refused:
                    listing.complete.add(name)
        return listing

    def _read(self, listing: _Listing, wanted: set[str], parser: Parser) -> Iterator[Document | Refused]:
        """Every wanted document, or why there is none."""
        base = Path(self._facts.base)
        by_file: dict[str, set[str]] = {}
        for name in listing.entries:
            if name in wanted:
                by_file.setdefault(_file_name(name), set()).add(name)
        for file, names in by_file.items():
            seen = set()
            for item in read_file(listing.files[file], base, parser, names):
                seen.add(item.name if isinstance(item, Refused) else item.entry.name)
                yield item
            for name in sorted(names - seen):
                yield Refused(name, "it changed while it was read; run 'tunesmith rag refresh'")

    def _commit(self, documents: list[tuple[Document, list[Chunk]]], known: dict[str, Entry], counts: _Counts) -> None:
        """Embed and write documents, all of them in one version of the table."""
        import pyarrow as pa

        chunks = [(document, chunk) for document, parts in documents for chunk in parts]
        vectors, cut = self._encode([chunk.text for _, chunk in chunks])
        rows = pa.table(
            {
                "id": [c.id for _, c in chunks],
                "document": [c.document for _, c in chunks],
                "digest": [d.entry.digest for d, _ in chunks],
                "source": [d.entry.source for d, _ in chunks],
                "size": [d.entry.size for d, _ in chunks],
                "mtime": [d.entry.mtime for d, _ in chunks],
                "heading": [c.heading for _, c in chunks],
                "position": [c.position for _, c in chunks],
                "start": [c.start for _, c in chunks],
                "text": [c.text for _, c in chunks],
                "metadata": [json.dumps(dict(c.metadata), ensure_ascii=False) for _, c in chunks],
                "tags": [[f"{key}={value}" for key, value in c.metadata.items()] for _, c in chunks],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self._facts.dimensions),
            },
            schema=_schema(self._facts.dimensions),
        )
        changed = [document.entry.name for document, _ in documents if document.entry.name in known]
        with self._disk():
            if changed:
                merge = self._table.merge_insert(["document", "position"])
                merge = merge.when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(f"document IN ({_quoted(changed)})").execute(rows)
            else:
                self._table.add(rows)
        known.update({document.entry.name: document.entry for document, _ in documents})
        counts.added += len(documents) - len(changed)
        counts.changed += len(changed)
        counts.chunks += len(chunks)
        counts.cut += cut

    def _delete(self, names: Sequence[str]) -> None:
        if names:
            with self._disk():
                self._table.delete(f"document IN ({_quoted(names)})")

    def _tidy(self) -> None:
        """Let the full-text index and, in a large table, the graph of neighbours hold all rows; join small files.

        Rows that are in neither are found all the same, only more slowly, and the next writer tidies: being killed
        before or in here does no harm.
        """
        from lancedb.index import HnswSq

        with self._disk():
            self._table.optimize(cleanup_older_than=FOREVER)
            if self._lacks_graph():
                self._table.create_index("vector", config=HnswSq(distance_type="cosine"))
        return_freed_memory()

    def _lacks_graph(self) -> bool:
        return self._table.count_rows() > EXACT_ROWS and not self._has_graph()

    def _outside_full_text(self) -> int:
        """Chunks that are not in the full-text index."""
        words = next(index.name for index in self._table.list_indices() if index.columns == ["text"])
        outside: int = self._table.index_stats(words).num_unindexed_rows
        return outside

    def _has_graph(self) -> bool:
        return any(index.columns == ["vector"] for index in self._table.list_indices())

    def _is_gone(self, entry: Entry) -> bool:
        """Whether a document's file is not there, while the path that brought it in still is."""
        if os.path.exists(entry.source):
            return False
        roots = [Path(root) for root in self._facts.roots if Path(entry.source).is_relative_to(root)]
        return any(root.exists() for root in roots) or not roots

    def _remember(self, **changes: Any) -> None:
        facts = replace(self._facts, **changes)
        if facts != self._facts:
            _write_facts(self.folder, facts)
            self._facts = facts

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return held_for_writing(self.folder, "another process is writing this index. Wait for it.")

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            said = str(error)
            why = "the disk is full" if "No space left" in said else f"cannot be written ({_first_line(error)})"
            raise RunError(f"{self.folder}: {why}. What was complete is kept; mend it and run again.") from error

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────
    def dense(self, vector: Sequence[float] | np.ndarray, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """The ``k`` chunks whose vectors are nearest by cosine, the nearest first.

        Exact up to 50,000 chunks; above, by a graph of neighbours, which may miss one now and then.

        Args:
            vector: Of the query, as ``embed`` gives it, shape (dimensions,).
            k: How many, at least 1.
            where: Values that metadata must have.

        Raises:
            ConfigError: If ``k`` or the vector's length is wrong, or no document has such a field of metadata.
        """
        import numpy as np

        query = np.asarray(vector, dtype=np.float32)
        if query.shape != (self._facts.dimensions,):
            raise ConfigError(
                f"a query vector of shape {query.shape}; this index has vectors of {self._facts.dimensions} numbers "
                f"from {self.encoder}. Embed queries with Index.embed."
            )
        search = self._table.search(query, vector_column_name="vector").distance_type("cosine")
        if self._has_graph():
            search = search.refine_factor(NEIGHBOURS_TAKEN)
        rows = self._top(search, k, where, "_distance")
        return _ordered(Hit(_chunk(row), 1.0 - row["_distance"]) for row in rows)

    def text(self, query: str, k: int, where: Mapping[str, str] | None = None) -> list[Hit]:
        """The ``k`` chunks with the highest BM25 for the query's words, the highest first.

        Words are English: stems are compared, stop words left out. A chunk with none of the words is never found.

        Raises:
            ConfigError: If the query is empty, ``k`` is not at least 1, or no document has such a field of metadata.
        """
        from lancedb.query import MatchQuery

        if not query.strip():
            raise ConfigError("the query is empty. Give it some words.")
        rows = self._top(self._table.search(MatchQuery(query, "text")), k, where, "_score")
        return _ordered(Hit(_chunk(row), row["_score"]) for row in rows)

    def _top(self, search: Any, k: int, where: Mapping[str, str] | None, score: str) -> list[dict[str, Any]]:
        if k < 1:
            raise ConfigError(f"k: {k} chunks asked for; expected at least 1.")
        if where:
            search = search.where(_condition(where), prefilter=True)
        rows: list[dict[str, Any]] = search.limit(k).select([*SHOWN, score]).to_list()
        if where and not rows:
            self.check_fields(where)
        return rows

    def check_fields(self, where: Mapping[str, str]) -> None:
        """Refuse conditions on metadata that no document has.

        Raises:
            ConfigError: With the fields that there are.
        """
        fields = self.fields() if where else {}
        unknown = [key for key in where if key not in fields]
        if unknown:
            known = f"Fields are {', '.join(fields)}." if fields else "It is empty."
            raise ConfigError(f"where {', '.join(unknown)}: no document in {self.folder} has this. {known}")

    def count(self, where: Mapping[str, str]) -> int:
        """How many chunks there are of documents with this metadata."""
        found: int = self._table.count_rows(_condition(where) if where else None)
        return found

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, shape (n, dimensions), float32, from the index's own encoder.

        Raises:
            ConfigError: If the encoder is no longer the one that the index was made with.
            ModelError, NotFoundError, SourceError: If it cannot be loaded.
        """
        return self._encode(texts)[0]

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Vectors, and how many texts were cut."""
        from tunesmith.model.embed import embed

        return embed(self._loaded_encoder, texts)

    @functools.cached_property
    def _loaded_encoder(self) -> Encoder:
        from tunesmith.model.embed import load_encoder
        from tunesmith.sources import resolve_model

        model = resolve_model(self.encoder)
        if model.fingerprint != self._facts.fingerprint:
            raise ConfigError(_other_encoder(self.folder, self._facts, f"{self.encoder}, which has changed since"))
        return load_encoder(model)

    def chunks(self, ids: Sequence[str]) -> list[Chunk]:
        """The chunks with these ids, in the order asked for.

        Raises:
            NotFoundError: If one is not there.
        """
        if not ids:
            return []
        rows = self._table.search().where(f"id IN ({_quoted(ids)})").select([*SHOWN]).to_list()
        found = {row["id"]: _chunk(row) for row in rows}
        missing = [i for i in ids if i not in found]
        if missing:
            raise NotFoundError(f"{self.folder}: no chunk {', '.join(missing)}. Was its document changed or removed?")
        return [found[i] for i in ids]

    def fields(self) -> dict[str, int]:
        """Fields of metadata, and how many documents have each."""
        counts: dict[str, int] = {}
        for row in self._firsts(["metadata"]):
            for key in json.loads(row["metadata"]):
                counts[key] = counts.get(key, 0) + 1
        return dict(sorted(counts.items()))

    def stats(self) -> dict[str, Any]:
        """Facts of the index, as JSON can hold them; sizes in bytes, with all former versions."""
        facts = self._facts
        return {
            "format_version": FORMAT_VERSION,
            "folder": str(self.folder),
            "documents": len(self._documents()),
            "chunks": self._table.count_rows(),
            "encoder": facts.encoder,
            "fingerprint": facts.fingerprint,
            "dimensions": facts.dimensions,
            "chunk_size": facts.chunk_size,
            "overlap": facts.overlap,
            "roots": list(facts.roots),
            "excluded": list(facts.excluded),
            "fields": self.fields(),
            "version": self._table.version,
            "versions": len(self.versions()),
            "exact": not self._has_graph(),
            "chunks_outside_full_text_index": self._outside_full_text(),
            "size_bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
        }

    def documents(self) -> list[str]:
        """Names of all documents, sorted."""
        return sorted(self._documents())

    def versions(self) -> list[Version]:
        """All states the index had, the oldest first."""
        return [
            Version(v["version"], v["timestamp"], int(v["metadata"].get("total_rows", 0)))
            for v in self._table.list_versions()
        ]

    def at(self, version: int) -> Index:
        """The index as it was, for reading only.

        Raises:
            NotFoundError: If there is no such version.
        """
        table = _lancedb().connect(self.folder).open_table(TABLE)
        try:
            table.checkout(version)
        except ValueError as error:
            raise NotFoundError(
                f"{self.folder}: no version {version}; there are 1 to {self._table.version}."
            ) from error
        return Index(self.folder, self._facts, table)

    def _documents(self) -> dict[str, Entry]:
        rows = self._firsts(["document", "digest", "source", "size", "mtime"])
        return {
            row["document"]: Entry(row["document"], row["digest"], row["source"], row["size"], row["mtime"])
            for row in rows
        }

    def _firsts(self, columns: list[str]) -> list[dict[str, Any]]:
        """These columns of every document's first chunk."""
        rows: list[dict[str, Any]] = self._table.search().where("position = 0").select(columns).limit(None).to_list()
        return rows


@dataclass(slots=True)
class _Counts:
    added: int = 0
    changed: int = 0
    chunks: int = 0
    cut: int = 0


def _lancedb() -> Any:
    one_heap()  # before its threads start
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError(
            f"An index needs the package {error.name}, which is not installed. Run: pip install 'tunesmith[rag]'"
        ) from error
    return lancedb


def _schema(dimensions: int) -> Any:
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    return pa.schema({
        "id": text, "document": text, "digest": text, "source": text, "size": whole, "mtime": whole, "heading": text,
        "position": whole, "start": whole, "text": text, "metadata": text, "tags": pa.list_(text),
        "vector": pa.list_(pa.float32(), dimensions),
    })  # fmt: skip


def _index_words(table: Any) -> None:
    from lancedb.index import FTS

    config = FTS(stem=True, remove_stop_words=True, language="English", with_position=False)
    table.create_index("text", config=config, replace=True)


def _write_facts(folder: Path, facts: _Facts) -> None:
    write_json(folder / "index.json", {"format_version": FORMAT_VERSION} | {
        name: list(value) if isinstance(value := getattr(facts, name), tuple) else value
        for name in _Facts.__slots__
    })  # fmt: skip


def _check_encoder(folder: Path, facts: _Facts, encoder: str) -> None:
    from tunesmith.sources import find_model

    found = find_model(encoder)
    if (found.fingerprint != facts.fingerprint) if found is not None else encoder != facts.encoder:
        raise ConfigError(_other_encoder(folder, facts, encoder))


def _other_encoder(folder: Path, facts: _Facts, asked: str) -> str:
    return (
        f"{folder}: made with the encoder {facts.encoder} ({facts.fingerprint}), not {asked}. Vectors of two encoders "
        "cannot be compared: leave the encoder out, or make an index in another folder."
    )


def _chunk(row: Mapping[str, Any]) -> Chunk:
    return Chunk(
        row["id"], row["document"], row["heading"], row["position"], row["start"], row["text"],
        json.loads(row["metadata"]),
    )  # fmt: skip


def _ordered(hits: Iterable[Hit]) -> list[Hit]:
    """By score, ties by document and position."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.document, hit.chunk.position))


def _condition(where: Mapping[str, str]) -> str:
    """That metadata has all these values, as SQL."""
    return " AND ".join(f"array_has(tags, {_quoted([f'{key}={value}'])})" for key, value in where.items())


def _quoted(values: Iterable[str]) -> str:
    """Values as SQL writes them."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def _file_name(document: str) -> str:
    """Name of the file that a document came from."""
    file, mark, row = document.rpartition("#")
    return file if mark and row.isdecimal() else document


def _is_within(document: str, name: str) -> bool:
    """Whether a document is the one of this name, a row of that file, or below that folder."""
    return name in (document, _file_name(document)) or document.startswith(f"{name.rstrip('/')}/")


def _with_what_is_kept(refused: Mapping[str, Refused], documents: Iterable[str]) -> tuple[Refused, ...]:
    """What was refused, by name, with a word where the index holds a former content of it."""
    if not refused:
        return ()
    held = {name for document in documents for name in (document, _file_name(document))}
    held |= {parent.as_posix() for name in list(held) for parent in PurePosixPath(name).parents}
    kept = "; the index keeps what it held of it"
    return tuple(Refused(name, item.reason + kept * (name in held)) for name, item in sorted(refused.items()))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
