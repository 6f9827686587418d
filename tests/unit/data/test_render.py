from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.render import IGNORE_INDEX, Renderer, render_all
from tunesmith.errors import DataError
from tunesmith.records import Message

SYSTEM, USER = Message("system", "be nice"), Message("user", "hello there")
YES, NO = Message("assistant", "yes"), Message("assistant", "no")
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"


@pytest.fixture
def tokenizer(tiny_model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_path)


@pytest.fixture
def renderer(tokenizer: Any) -> Renderer:
    return Renderer(tokenizer, 1024)


def trained(tokenizer: Any, rendered: Any) -> str:
    return str(tokenizer.decode([label for label in rendered.labels if label != IGNORE_INDEX]))


def with_template(tokenizer: Any, template: str | None) -> Renderer:
    tokenizer.chat_template = template
    return Renderer(tokenizer, 1024)


def test_the_answer_and_its_end_are_trained_and_nothing_else(tokenizer: Any, renderer: Renderer) -> None:
    rendered = renderer.render((SYSTEM, USER, YES), "id-1")
    assert tokenizer.decode(rendered.input_ids) == (
        "<|im_start|>system\nbe nice<|im_end|>\n<|im_start|>user\nhello there<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>"
    )
    assert trained(tokenizer, rendered) == "yes<|im_end|>"
    assert rendered.input_ids[: rendered.prompt_length] == renderer.prompt((SYSTEM, USER))
    assert rendered.labels[: rendered.prompt_length] == [IGNORE_INDEX] * rendered.prompt_length
    assert rendered.example_id == "id-1"


def test_the_prompt_is_what_transformers_makes_with_or_without_the_answer(tokenizer: Any, renderer: Renderer) -> None:
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": USER.content}], add_generation_prompt=True, return_dict=False
    )
    assert renderer.prompt((USER,)) == expected == renderer.prompt((USER, YES))
    assert "You are a tiny assistant." in tokenizer.decode(expected)


def test_every_turn_with_weight_is_trained(tokenizer: Any, renderer: Renderer) -> None:
    rendered = renderer.render((USER, YES, USER, NO, USER))
    assert trained(tokenizer, rendered) == "yes<|im_end|>no<|im_end|>"
    silent = Message("assistant", "yes", weight=0)
    assert trained(tokenizer, renderer.render((USER, silent, USER, NO))) == "no<|im_end|>"
    assert trained(tokenizer, renderer.render((USER, YES, USER, Message("assistant", "no", 0)))) == "yes<|im_end|>"
    with pytest.raises(DataError, match="no token would be trained"):
        renderer.render((USER, silent))


def test_all_tokens_are_trained_but_the_first(tokenizer: Any) -> None:
    rendered = Renderer(tokenizer, 1024, train_on="all").render((USER, YES))
    assert rendered.labels == [IGNORE_INDEX, *rendered.input_ids[1:]]
    assert rendered.prompt_length == len(Renderer(tokenizer, 1024).prompt((USER,)))


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=100, deadline=None)
@given(turns=st.lists(st.tuples(WORDS, WORDS, st.sampled_from([0.0, 1.0])), min_size=1, max_size=3))
def test_mask_equals_labels_and_prompts_are_prefixes_whatever_the_text(tiny_model_path: Path, turns: Any) -> None:
    from transformers import AutoTokenizer

    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model_path), 1024)
    messages = [m for user, answer, w in turns for m in (Message("user", user), Message("assistant", answer, w))]
    expected = "".join(f"{m.content}<|im_end|>" for m in messages if m.role == "assistant" and m.weight)
    try:
        rendered = renderer.render(tuple(messages))
    except DataError as error:
        assert not expected or "cannot be proved" in str(error)
        return
    assert len(rendered.labels) == len(rendered.input_ids)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(rendered.input_ids, rendered.labels, strict=True))
    assert trained(renderer.tokenizer, rendered) == expected
    first = next(i for i, m in enumerate(messages) if m.role == "assistant" and m.weight)
    assert rendered.input_ids[: rendered.prompt_length] == renderer.prompt(tuple(messages[:first]))


def test_a_template_that_changes_the_prompt_is_found_out(tokenizer: Any) -> None:
    changing = "{{ messages | length }}" + "{% for m in messages %}" + TURN + "<|im_end|>\n{% endfor %}" + HEADER
    with pytest.raises(DataError, match=r"message 2: where the answer begins cannot be proved: from token 1"):
        with_template(tokenizer, changing).render((USER, YES))


def test_an_answer_that_melts_into_the_header_is_found_out(tokenizer: Any) -> None:
    # The header ends in "a", the answer begins with a letter that the tokenizer has a joint token for.
    template = "{% for m in messages %}{{ m.role }}:a{{ m.content }}<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}assistant:a{% endif %}"
    merged = next(t for t in tokenizer.get_vocab() if len(t) == 2 and t[0] == "a" and t.isascii())
    with pytest.raises(DataError, match="cannot be proved"):
        with_template(tokenizer, template).render((USER, Message("assistant", merged[1])))


def test_a_template_that_ends_no_turn_gets_an_end_but_only_after_the_last(tokenizer: Any) -> None:
    endless = "{% for m in messages %}" + TURN + "\n{% endfor %}" + HEADER
    endless = endless.replace("<|im_start|>", "### ")
    renderer = with_template(tokenizer, endless)
    assert trained(tokenizer, renderer.render((USER, YES))) == "yes\n<|im_end|>"
    with pytest.raises(DataError, match=r"message 2: .* ends this assistant turn with no token"):
        renderer.render((USER, YES, USER, NO))


def test_a_template_that_ends_only_the_last_turn_is_found_out(tokenizer: Any) -> None:
    last = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n"
    last += "{% if loop.last and m.role == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
    last += "{% if add_generation_prompt %}### assistant\n{% endif %}"
    renderer = with_template(tokenizer, last)
    assert trained(tokenizer, renderer.render((USER, YES))) == "yes\n<|im_end|>"
    with pytest.raises(DataError, match=r"message 2: .* ends this assistant turn with no token"):
        renderer.render((USER, YES, USER, NO))


def test_what_a_template_refuses_is_said_in_its_words(tokenizer: Any) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
    template += TURN + "<|im_end|>{% endfor %}" + HEADER
    with pytest.raises(DataError, match=r"refuses a conversation of system, user, assistant: No system here"):
        with_template(tokenizer, template).render((SYSTEM, USER, YES))


def test_control_tokens_in_the_data_are_refused(renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"message 1 holds '<\|im_end\|>'"):
        renderer.render((Message("user", "a<|im_end|>b"), YES))
    with pytest.raises(DataError, match="control token"):
        renderer.prompt((Message("user", "<|im_start|>system"),))


def test_without_a_template_the_boundary_holds_by_construction(tokenizer: Any) -> None:
    renderer = with_template(tokenizer, None)
    rendered = renderer.render((SYSTEM, USER, YES, USER, NO))
    text = tokenizer.decode(rendered.input_ids)
    assert text == "be nice\n\nhello there\nyes<|im_end|>hello there\nno<|im_end|>"
    assert trained(tokenizer, rendered) == "yes<|im_end|>no<|im_end|>"
    assert renderer.prompt((SYSTEM, USER)) == rendered.input_ids[: rendered.prompt_length]


def test_a_beginning_of_sequence_token_stands_once(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    assert tokenizer("a").input_ids[0] == bos[1]
    for template in (None, tokenizer.chat_template):
        ids = with_template(tokenizer, template).render((USER, YES)).input_ids
        assert ids[0] == bos[1]
        assert ids[1] != bos[1]


# ── many examples, and too long ones ─────────────────────────────────────────────────────────────────────
def pairs(*lengths: int) -> list[tuple[str, tuple[Message, ...]]]:
    return [(f"x:{i}", (Message("user", "q" * n), YES)) for i, n in enumerate(lengths, 1)]


def test_overlong_examples_are_refused_dropped_or_cut(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, 60)
    items = pairs(5, 100, 6, 200)
    whole = [renderer.render(messages, name) for name, messages in items]
    with pytest.raises(DataError) as caught:
        render_all(renderer, items, "refuse")
    assert f"2 of 4 examples are longer than 60 tokens (longest {len(whole[3].input_ids)})" in str(caught.value)
    assert f"x:2: {len(whole[1].input_ids)} tokens" in str(caught.value)
    kept, (finding,) = render_all(renderer, items, "drop")
    assert kept == [whole[0], whole[2]]
    assert (finding.check, finding.count, finding.examples) == ("overlong", 2, ("x:2", "x:4"))
    cut, (finding,) = render_all(renderer, items, "truncate_left")
    assert [len(item.input_ids) for item in cut] == [len(whole[0].input_ids), 60, len(whole[2].input_ids), 60]
    for before, after in zip(whole, cut, strict=True):
        answer = before.input_ids[before.prompt_length :]
        assert after.input_ids[after.prompt_length :] == answer == after.labels[after.prompt_length :]
        assert after.input_ids[0] == before.input_ids[0]
        assert after.input_ids[1:] == before.input_ids[len(before.input_ids) - len(after.input_ids) + 1 :]
    removed = sum(len(item.input_ids) - 60 for item in (whole[1], whole[3]))
    total = sum(len(item.input_ids) for item in whole)
    assert (finding.check, finding.count) == ("truncated", 2)
    assert f"{removed} tokens, {removed / total:.1%}" in finding.message
    assert render_all(Renderer(tokenizer, 1000), items, "refuse") == (whole, [])


def test_cut_examples_train_on_no_token_whose_context_is_gone(tokenizer: Any) -> None:
    renderer = Renderer(tokenizer, 60, train_on="all")
    ((item,), _) = render_all(renderer, pairs(100), "truncate_left")
    assert item.labels == [IGNORE_INDEX, IGNORE_INDEX, *item.input_ids[2:]]


def test_answers_that_do_not_fit_alone_are_an_error(tokenizer: Any) -> None:
    items = [*pairs(100), ("x:9", (USER, Message("assistant", "z" * 80)))]
    with pytest.raises(DataError, match=r"1 examples do not fit into 60 tokens even without their prompt(.|\n)*x:9"):
        render_all(Renderer(tokenizer, 60), items, "truncate_left")
    with pytest.raises(DataError, match="No example is left"):
        render_all(Renderer(tokenizer, 20), items, "drop")


def test_all_examples_that_cannot_be_rendered_are_listed(renderer: Renderer) -> None:
    items = [*pairs(3), ("x:8", (USER,)), ("x:9", (Message("user", "<|im_end|>"), YES))]
    with pytest.raises(DataError) as caught:
        render_all(renderer, items, "refuse")
    assert "2 of 3 examples cannot be rendered" in str(caught.value)
    assert "x:8: no assistant message" in str(caught.value)
    assert "x:9: message 1 holds" in str(caught.value)
