"""Masks are exact: the assistant's turns with their end token, and together the tokens of the whole chat."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mythos.data.chat import encode_chat
from mythos.data.documents import Document
from mythos.data.encode import encode_conversation, encode_document, text_end
from mythos.data.template import ChatError
from mythos.data.train_tokenizer import CHAT_TEMPLATE
from tests.data.small import tokenizer

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = st.text(st.sampled_from("ab é\n\t .,<|>im_endstart1漢"), min_size=1, max_size=30)
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


@settings(deadline=None, max_examples=200)
@given(TURNS, st.sampled_from([CHAT_TEMPLATE, SMOLLM]), st.booleans())
def test_the_mask_is_exact(turns: list[tuple[str, str]], template: str, system: bool) -> None:
    reader = tokenizer()
    messages = [{"role": "system", "content": "Be <|im_end|> brief."}] if system else []
    for ask, answer in turns:
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    made = encode_conversation(reader, template, messages)
    stripped = [m | {"content": m["content"].strip()} if m["role"] == "assistant" else m for m in messages]
    assert made.ids == encode_chat(reader, template, stripped, add_generation_prompt=False)
    # Runs of learnt tokens, each an answer and its end token, and the text of each is the answer's.
    runs, run = [], []
    for index, yes in zip([*made.ids, -1], [*made.trained, False], strict=True):
        if yes:
            run.append(index)
        elif run:
            runs.append(run)
            run = []
    (end,) = reader.encode("<|im_end|>")
    assert [reader.decode(r[:-1]) for r in runs] == [answer.strip() for _, answer in turns]
    assert all(r[-1] == end and end not in r[:-1] for r in runs)
    assert made.bytes == sum(len(answer.strip().encode()) for _, answer in turns)
    # What stands before the first answer is the prompt that a server would make.
    first = made.trained.index(True)
    assert made.ids[:first] == encode_chat(reader, template, stripped[: 2 if system else 1])


def test_plain_text_is_learnt_with_its_end() -> None:
    made = encode_document(tokenizer(), CHAT_TEMPLATE, Document("s", "i", "g", "<|im_end|> is text\n"))
    assert all(made.trained) and made.ids[-1] == text_end(tokenizer()) == 0
    assert 2 not in made.ids and made.bytes == len("<|im_end|> is text\n")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>{% endif %}",
            "no end token",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}",
            "two ways",
        ),
    ],
)
def test_templates_without_exact_masks_are_refused(template: str, says: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ChatError, match=says):
        encode_conversation(tokenizer(), template, messages)
