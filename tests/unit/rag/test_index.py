from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import ConfigError, NotFoundError, RunError
from tunesmith.rag import index as module
from tunesmith.rag.documents import Refused
from tunesmith.rag.index import Added, Index

TEXTS = {
    "apples.md": "# Apples\n\nAn apple grows on a tree.",
    "deep/bread.txt": "Bread is baked from flour. The bakers rise early.",
    "cheese.txt": "Cheese ripens in a cellar.",
}


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three documents, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in TEXTS.items():
        write(tmp_path / "docs" / name, text)
    return tmp_path / "docs"


@pytest.fixture
def index(docs: Path, encoder: Path) -> Index:
    """An index of that folder."""
    made = Index.create(docs.parent / "index", str(encoder))
    made.add([docs])
    return made


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def contents(index: Index) -> dict[str, list[str]]:
    """Texts of each document's chunks, in order, straight from the table."""
    found: dict[str, dict[int, str]] = {}
    for row in index._table.search().select(["document", "position", "text"]).limit(None).to_list():
        assert found.setdefault(row["document"], {}).setdefault(row["position"], row["text"]) == row["text"]
    for positions in found.values():
        assert sorted(positions) == list(range(len(positions)))
    return {name: [texts[i] for i in sorted(texts)] for name, texts in found.items()}


def test_documents_are_found_by_words_and_by_vectors(index: Index) -> None:
    assert index.documents() == ["docs/apples.md", "docs/cheese.txt", "docs/deep/bread.txt"]
    (hit,) = index.text("baker's baking", 5)  # stems: bakers, baked
    assert (hit.chunk.document, hit.chunk.position, hit.chunk.start) == ("docs/deep/bread.txt", 0, 0)
    assert hit.chunk.text == TEXTS["deep/bread.txt"]
    assert hit.chunk.metadata == {"file": "docs/deep/bread.txt", "kind": "text"}
    assert index.text("the in of", 5) == []
    dense = index.dense(index.embed([TEXTS["apples.md"]])[0], 3)
    assert dense[0].chunk.heading == "Apples"
    assert dense[0].score == pytest.approx(1.0, abs=1e-6)


def test_scores_are_cosines_and_bm25(index: Index) -> None:
    vectors = index.embed(list(TEXTS.values()))
    query = index.embed(["something else"])[0]
    expected = sorted((float(vector @ query) for vector in vectors), reverse=True)
    assert [hit.score for hit in index.dense(query, 10)] == pytest.approx(expected, abs=1e-6)
    # bread.txt: 6 words that are not stop words (bread bake flour baker rise early), twice no term
    hit = index.text("flour", 1)[0]
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    assert 0 < hit.score < idf * 2.2


def test_an_index_opens_again_and_says_what_it_is(index: Index, encoder: Path) -> None:
    again = Index.open(index.folder, str(encoder))
    assert again.encoder == str(encoder)
    assert contents(again) == contents(index)
    stats = again.stats()
    assert (stats["documents"], stats["chunks"], stats["chunks_outside_full_text_index"]) == (3, 3, 0)
    assert stats["fields"] == {"file": 3, "kind": 3}
    assert stats["dimensions"] == 32 and stats["exact"] and stats["size_bytes"] > 0


def test_another_encoder_is_refused(index: Index, encoder: Path, tmp_path: Path) -> None:
    from end_to_end.projects import build_encoder

    other = build_encoder(tmp_path / "other", layers=2)
    with pytest.raises(ConfigError, match="made with the encoder"):
        Index.open(index.folder, str(other))
    with pytest.raises(ConfigError, match="not minilm-l6"):
        Index.open(index.folder, "minilm-l6")


def test_an_encoder_that_changed_is_refused(docs: Path, tmp_path: Path) -> None:
    from end_to_end.projects import build_encoder

    folder = build_encoder(tmp_path / "own")
    index = Index.create(tmp_path / "index", str(folder))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"vocab_size"', '"other": 1, "vocab_size"'))
    with pytest.raises(ConfigError, match="changed since"):
        index.add([docs])
    assert index.documents() == []


def test_adding_again_reads_only_what_changed(index: Index, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(docs / "cheese.txt", "Cheese is old.")
    write(docs / "new.txt", "New.")
    embedded: list[str] = []
    encode = Index._encode

    def spy(self: Index, texts: list[str]) -> tuple[np.ndarray, int]:
        embedded.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(Index, "_encode", spy)
    assert index.add([docs]) == Added(added=1, changed=1, unchanged=2, chunks=2)
    assert sorted(embedded) == ["Cheese is old.", "New."]
    assert contents(index)["docs/cheese.txt"] == ["Cheese is old."]
    before = index.stats()["version"]
    assert index.add([docs]) == Added(unchanged=4)
    assert index.stats()["version"] == before


def test_a_touched_file_is_unchanged(index: Index, docs: Path) -> None:
    os.utime(docs / "cheese.txt", ns=(0, 0))
    assert index.refresh() == Added(unchanged=3)


def test_changed_documents_lose_their_former_chunks(docs: Path, encoder: Path) -> None:
    index = Index.create(docs.parent / "index", str(encoder), chunk_size=10, overlap=0)
    words = [f"w{i}" for i in range(35)]
    write(docs / "cheese.txt", " ".join(words))
    index.add([docs])
    assert len(contents(index)["docs/cheese.txt"]) == 4
    write(docs / "cheese.txt", " ".join(words[:15]))
    index.refresh()
    assert contents(index)["docs/cheese.txt"] == [" ".join(words[:10]), " ".join(words[10:15])]
    assert index.text("w34", 5) == []
    assert [h.chunk.position for h in index.text("w12", 5)] == [1]


def test_a_change_of_one_document_is_one_commit_before_the_index_is_tidied(
    index: Index, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "_tidy", lambda self: None)
    before = index.stats()["version"]
    write(docs / "cheese.txt", "Rennet and milk.")
    index.refresh()
    assert index.stats()["version"] == before + 1
    assert index.stats()["chunks_outside_full_text_index"] == 1
    assert [h.chunk.document for h in index.text("rennet", 5)] == ["docs/cheese.txt"]  # found though not yet indexed
    assert index.text("ripens", 5) == []


def test_what_a_killed_writer_left_untidied_the_next_one_tidies(
    index: Index, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(docs / "cheese.txt", "Rennet and milk.")
    with monkeypatch.context() as killed:
        killed.setattr(Index, "_tidy", lambda self: None)
        index.refresh()
    assert index.stats()["chunks_outside_full_text_index"] == 1
    assert index.refresh() == Added(unchanged=3)
    tidied = index.stats()
    assert tidied["chunks_outside_full_text_index"] == 0
    index.refresh()
    assert index.stats()["version"] == tidied["version"]


def test_refresh_takes_out_what_is_gone_and_takes_in_what_is_new(index: Index, docs: Path) -> None:
    (docs / "cheese.txt").unlink()
    write(docs / "deep" / "eggs.txt", "Eggs.")
    assert index.refresh() == Added(added=1, unchanged=2, removed=1, chunks=1)
    assert index.documents() == ["docs/apples.md", "docs/deep/bread.txt", "docs/deep/eggs.txt"]


def test_adding_does_not_take_out_files(index: Index, docs: Path) -> None:
    (docs / "cheese.txt").unlink()
    assert index.add([docs]) == Added(unchanged=2)
    assert "docs/cheese.txt" in index.documents()


def test_a_folder_that_is_gone_is_reported_and_its_documents_kept(index: Index, docs: Path) -> None:
    docs.rename(docs.with_name("away"))
    done = index.refresh()
    assert done == Added(refused=(Refused("docs", "no such file or folder; the index keeps what it held of it"),))
    assert len(index.documents()) == 3


def test_a_document_that_can_no_longer_be_read_is_kept(index: Index, docs: Path) -> None:
    (docs / "cheese.txt").write_bytes(b"caf\xe9")
    done = index.refresh()
    assert (done.unchanged, done.removed, len(done.refused), done.found) == (2, 0, 1, 3)
    assert "keeps what it held" in done.refused[0].reason
    assert contents(index)["docs/cheese.txt"] == [TEXTS["cheese.txt"]]


def test_rows_come_and_go_with_their_lines(index: Index, docs: Path) -> None:
    rows = docs / "faq.csv"
    write(rows, "question,answer\nA?,a\nB?,b\nC?,c\n")
    assert index.refresh().added == 3
    write(rows, "question,answer\nB?,b\nC?,c\n")  # the first is gone, and the others move up
    assert index.refresh() == Added(changed=2, unchanged=3, removed=1, chunks=2)
    assert contents(index)["docs/faq.csv#2"] == ["B?\n\nb"]
    assert contents(index)["docs/faq.csv#3"] == ["C?\n\nc"]
    assert "docs/faq.csv#4" not in index.documents()
    assert index.remove("docs/faq.csv") == 2


def test_counts_add_up_whatever_is_found(docs: Path, encoder: Path) -> None:
    index = Index.create(docs.parent / "index", str(encoder))
    write(docs / "copy.txt", TEXTS["cheese.txt"])
    write(docs / "rows.jsonl", '{"text": "one"}\nbroken\n{"text": "one"}\n')
    write(docs / "picture.png", "x")
    done = index.add([docs, docs / "apples.md", docs.parent / "none"])
    assert done.duplicates == (("docs/copy.txt", "docs/cheese.txt"), ("docs/rows.jsonl#3", "docs/rows.jsonl#1"))
    assert [item.name for item in done.refused] == ["docs/picture.png", "docs/rows.jsonl#2", "none"]
    assert (done.added, done.found) == (4, 9)
    assert "docs/copy.txt" not in index.documents()


def test_a_duplicate_takes_the_place_of_what_it_doubled(index: Index, docs: Path) -> None:
    write(docs / "a-copy.txt", TEXTS["cheese.txt"])
    assert index.refresh().duplicates == (("docs/a-copy.txt", "docs/cheese.txt"),)
    (docs / "cheese.txt").unlink()
    assert index.refresh() == Added(added=1, unchanged=2, removed=1, chunks=1)
    assert contents(index)["docs/a-copy.txt"] == [TEXTS["cheese.txt"]]


def test_a_document_that_becomes_a_duplicate_is_taken_out(index: Index, docs: Path) -> None:
    write(docs / "apples.md", TEXTS["cheese.txt"])
    done = index.refresh()
    assert (done.duplicates, done.removed, done.found) == ((("docs/apples.md", "docs/cheese.txt"),), 1, 3)
    assert "docs/apples.md" not in index.documents()


def test_removed_documents_stay_out_until_they_are_added(index: Index, docs: Path) -> None:
    assert index.remove("docs/deep") == 1
    assert index.refresh() == Added(unchanged=2)
    assert index.text("flour", 3) == []
    assert Index.open(index.folder).refresh() == Added(unchanged=2)
    assert index.add([docs / "deep"]).added == 1
    assert index.remove(str(docs)) == 3
    assert index.refresh() == Added()


def test_removing_what_is_not_there_names_the_nearest(index: Index) -> None:
    with pytest.raises(NotFoundError, match=r"'docs/cheese\.txt'"):
        index.remove("docs/chese.txt")


def test_old_versions_can_be_read_and_not_written(index: Index, docs: Path) -> None:
    version = index.stats()["version"]
    write(docs / "cheese.txt", "Milk.")
    index.refresh()
    index.remove("docs/apples.md")
    old = index.at(version)
    assert sorted(text for texts in contents(old).values() for text in texts) == sorted(TEXTS.values())
    assert [h.chunk.document for h in old.text("ripens", 3)] == ["docs/cheese.txt"]
    assert old.dense(index.embed(["Milk."])[0], 3)[0].score < 0.9999
    with pytest.raises(RunError, match="version"):
        old.refresh()
    assert [v.number for v in index.versions()] == list(range(1, index.stats()["version"] + 1))
    assert {v.number: v.chunks for v in index.versions()}[version] == 3
    with pytest.raises(NotFoundError, match="no version 99"):
        index.at(99)


def test_metadata_narrows_both_kinds_of_search(index: Index, docs: Path) -> None:
    write(docs / "rows.jsonl", '{"text": "An apple in German.", "lang": "d\'e"}\n{"text": "An apple.", "lang": "en"}')
    index.refresh()
    query = index.embed(["apple"])[0]
    for where, names in (
        ({"lang": "d'e"}, ["docs/rows.jsonl#1"]),
        ({"kind": "row"}, ["docs/rows.jsonl#1", "docs/rows.jsonl#2"]),
        ({"kind": "row", "lang": "en"}, ["docs/rows.jsonl#2"]),
        ({"lang": "fr"}, []),
    ):
        assert sorted(h.chunk.document for h in index.text("apple", 9, where)) == names
        assert sorted(h.chunk.document for h in index.dense(query, 9, where)) == names
        assert index.count(where) == len(names)
    with pytest.raises(ConfigError, match=r"where language: no document .* has this\. Fields are file, kind, lang\."):
        index.text("apple", 9, {"language": "en"})


@pytest.mark.parametrize("query", ['"', "a AND (b", "text:apple", "*", "' OR 1=1 --", "\\", "apple~2 +tree -x"])
def test_queries_are_words_and_never_syntax(index: Index, query: str) -> None:
    found = {hit.chunk.document for hit in index.text(query, 5)}
    assert found <= {"docs/apples.md"}
    assert ("docs/apples.md" in found) == ("apple" in query)


def test_wrong_queries_are_refused(index: Index) -> None:
    with pytest.raises(ConfigError, match="query is empty"):
        index.text(" \n", 5)
    with pytest.raises(ConfigError, match="k: 0"):
        index.text("apple", 0)
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        index.dense([1.0, 0.0, 0.0], 5)


def test_chunks_by_id_come_in_the_order_asked(index: Index) -> None:
    ids = [hit.chunk.id for hit in index.dense(index.embed(["x"])[0], 3)]
    assert [chunk.id for chunk in index.chunks(ids[::-1])] == ids[::-1]
    assert index.chunks([]) == []
    with pytest.raises(NotFoundError, match="no chunk 0123"):
        index.chunks([ids[0], "0123"])


def test_an_empty_index_answers_with_nothing(docs: Path, encoder: Path) -> None:
    index = Index.create(docs.parent / "index", str(encoder))
    assert index.text("apple", 3) == index.dense(index.embed(["apple"])[0], 3) == []
    assert index.stats()["documents"] == 0


def test_texts_longer_than_the_encoder_reads_are_counted_and_found(index: Index, docs: Path) -> None:
    write(docs / "long.txt", "many " * 100 + "needle")
    assert index.refresh().cut == 1
    assert index.text("needle", 1)[0].chunk.document == "docs/long.txt"


def test_one_writer_at_a_time(index: Index) -> None:
    with index._writing(), pytest.raises(RunError, match="another process"):
        Index.open(index.folder).refresh()
    assert index.refresh().unchanged == 3


def test_an_open_index_sees_what_another_wrote(index: Index, docs: Path) -> None:
    other = Index.open(index.folder)
    write(docs / "new.txt", "Marmalade.")
    index.refresh()
    assert [hit.chunk.document for hit in other.text("marmalade", 1)] == ["docs/new.txt"]


def test_a_large_index_goes_by_a_graph_and_finds_the_same(
    index: Index, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 200)
    write(docs / "rows.jsonl", "\n".join(f'{{"text": "row number {i} says {i * i}"}}' for i in range(400)))
    query = index.embed(["row number 7"])[0]
    assert index.stats()["exact"]
    index.refresh()
    assert not index.stats()["exact"]
    vectors = index._table.to_arrow()
    scores = np.stack(vectors["vector"].to_numpy(zero_copy_only=False)) @ query
    best = {vectors["id"][int(i)].as_py() for i in np.argsort(-scores)[:10]}
    assert len(best & {hit.chunk.id for hit in index.dense(query, 10)}) >= 9
    write(docs / "new.txt", "row number 7")
    index.refresh()
    assert index.dense(query, 1)[0].chunk.document == "docs/new.txt"


@pytest.mark.parametrize(
    ("chunk_size", "overlap", "part"), [(9, 0, "9 words"), (100, 51, "repeat 51"), (100, -1, "repeat -1")]
)
def test_sizes_out_of_range_are_refused(
    tmp_path: Path, encoder: Path, chunk_size: int, overlap: int, part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        Index.create(tmp_path / "index", str(encoder), chunk_size=chunk_size, overlap=overlap)


def test_a_folder_that_holds_something_else_is_refused(docs: Path, encoder: Path, tiny_model_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no index"):
        Index.create(docs, str(encoder))
    with pytest.raises(ConfigError, match="of kind decoder"):
        Index.create(docs.parent / "index", str(tiny_model_path))
    with pytest.raises(NotFoundError, match="not an index"):
        Index.open(docs)


def test_damage_is_said_in_words(index: Index) -> None:
    file = index.folder / "index.json"
    whole = file.read_text()
    file.write_text(whole.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(RunError, match="format 2"):
        Index.open(index.folder)
    file.write_text(whole.replace('"dimensions"', '"dimension"'))
    with pytest.raises(RunError, match="damaged"):
        Index.open(index.folder)
    file.write_text(whole)
    for manifest in index.folder.glob("chunks.lance/_versions/*"):
        manifest.write_bytes(b"damaged")
    with pytest.raises(RunError, match="cannot be opened"):
        Index.open(index.folder)
