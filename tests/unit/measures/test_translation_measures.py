"""chrF and BLEU: the edges; equality with sacrebleu is in tests/reference."""

import pytest

from tunesmith.measures import translation


@pytest.mark.parametrize("measure", [translation.chrf, translation.bleu])
def test_from_nothing_to_everything(measure):
    assert measure(["le chat est sur le tapis"], ["le chat est sur le tapis"]) == pytest.approx(100.0)
    assert measure([""], ["le chat est sur le tapis"]) == 0.0
    assert measure(["xyz"], ["le chat"]) == 0.0
    with pytest.raises(ValueError, match="1 and 0 sentences"):
        measure(["a"], [])


def test_words_without_their_endings_still_count_for_chrf():
    assert translation.chrf(["les chats dormaient"], ["le chat dormait"]) > 40
    assert translation.bleu(["les chats dormaient"], ["le chat dormait"]) == 0.0


def test_an_answer_that_ends_in_a_detached_full_stop_warns_nobody(caplog):
    translation.bleu(["le chat ."] * 200, ["le chat."] * 200)
    assert not caplog.records
