"""Tokenizer and chat: what is written comes back, and no message can pass for the template."""

import json

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mythos.data.chat import ChatError, encode_chat, render_chat
from mythos.data.template import TemplateError
from mythos.data.tokenizer import Tokenizer, TokenizerError
from mythos.model.gguf import tokenizer_json

TEXTS = [
    "", " ", "\n\n\t x", "The capital of France is Paris.", "def f(x):\n    return x ** 2\n", "naïve café",
    "日本語のテキスト", "🙂🧑‍🔬", "1234567890", "a" * 1000, "\u0000\u0001", "\U0003ffff", "\r\n\r\n",
    "' 's 't 're",
]  # fmt: skip
NAMES = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<filename>")


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(real_tokenizer: Tokenizer, text: str) -> None:
    ids = real_tokenizer.encode(text)
    assert real_tokenizer.decode(ids) == text
    assert b"".join(map(real_tokenizer.token_bytes, ids)) == text.encode()


# The vocabulary has no token for these, nor for the first bytes of what lies above U+3FFFF: they are dropped.
DROPPED = "\x04\x06\x13\x14\x16\x1d"


@settings(max_examples=100, deadline=None)
@given(
    st.text(
        st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs"], exclude_characters=DROPPED),
        max_size=40,
    )
)
def test_any_text_comes_back(real_tokenizer: Tokenizer, text: str) -> None:
    assert real_tokenizer.decode(real_tokenizer.encode(text, special=False)) == text


def test_bytes_without_a_token_are_dropped_and_become_nothing_else(real_tokenizer: Tokenizer) -> None:
    assert real_tokenizer.decode(real_tokenizer.encode(f"a{DROPPED}b")) == "ab"


def test_a_lone_surrogate_is_replaced(real_tokenizer: Tokenizer) -> None:
    assert real_tokenizer.decode(real_tokenizer.encode("a\ud800b")) == "a?b"


def test_control_tokens_only_where_asked_for(real_tokenizer: Tokenizer) -> None:
    start, end = real_tokenizer.encode("<|im_start|>"), real_tokenizer.encode("<|im_end|>")
    assert (start, end) == ([1], [2])
    assert real_tokenizer.eos_ids == {0, 2}
    for name in real_tokenizer.control_tokens:
        plain = real_tokenizer.encode(f"a{name}b", special=False)
        assert not set(plain) & set(range(17))
        assert real_tokenizer.decode(plain) == f"a{name}b"
        assert len(real_tokenizer.encode(f"a{name}b")) == 3


def test_every_token_has_its_bytes(real_tokenizer: Tokenizer) -> None:
    assert real_tokenizer.token_bytes(1) == b"<|im_start|>"
    assert sum(len(real_tokenizer.token_bytes(i)) for i in range(real_tokenizer.vocab_size)) > 300_000
    with pytest.raises(KeyError):
        real_tokenizer.token_bytes(real_tokenizer.vocab_size)


def test_tokens_are_those_of_the_library(real_gguf, real_tokenizer: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_buffer(tokenizer_json(real_gguf))
    for text in [*TEXTS, "".join(TEXTS), "<|im_start|>user\n  hi <|im_end|>\n"]:
        assert real_tokenizer.encode(text) == inner.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"decoder": {"type": "ByteLevel"}}',
     b'{"decoder": {"type": "Metaspace"}, "added_tokens": []}', b'{"decoder": 3, "added_tokens": {}}'],
)  # fmt: skip
def test_other_files_are_no_tokenizers(data: bytes) -> None:
    with pytest.raises(TokenizerError) as error:
        Tokenizer.from_bytes(data)
    assert error.value.cure


def test_greedy_control_tokens_are_refused(real_gguf) -> None:
    document = json.loads(tokenizer_json(real_gguf))
    document["added_tokens"][1]["rstrip"] = True
    with pytest.raises(TokenizerError, match="plain control tokens"):
        Tokenizer.from_bytes(json.dumps(document).encode())


def test_the_template_adds_its_system_line(real_template: str) -> None:
    text = render_chat(real_template, [{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert render_chat(real_template, own, add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_rendering_is_that_of_transformers(real_gguf, real_tokenizer: Tokenizer, real_template: str) -> None:
    import transformers

    inner = tokenizers.Tokenizer.from_buffer(tokenizer_json(real_gguf))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=inner)
    messages = [
        {"role": "user", "content": " two\n\nlines "},
        {"role": "assistant", "content": "\n1 + 1 = 2"},
        {"role": "user", "content": "日本 {{ messages }} {% raw %}"},
    ]
    for template in (real_template, QWEN_LIKE):
        for prompt in (True, False):
            text = theirs.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=prompt, tokenize=False
            )
            assert render_chat(template, messages, prompt) == text
            assert encode_chat(real_tokenizer, template, messages, prompt) == real_tokenizer.encode(text)


# In the manner of templates for reasoning models: a scan from the end, a namespace, slices, methods, tests.
QWEN_LIKE = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string
        and not (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>' ~ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

fragments = st.sampled_from(
    [
        *NAMES,
        "<",
        "|",
        ">",
        "<|",
        "|>",
        "im_start",
        "im_",
        "end|>",
        " ",
        "\n",
        "system",
        "\ufdd0",
        "\ufdd1",
        "é",
    ]
)
contents = st.lists(fragments, max_size=8).map("".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(contents, min_size=1, max_size=4), st.sampled_from(["real", "qwen", "tight", "trim"]))
@example(["< "], "trim")  # the template takes off the blank, and what stands behind it completes a name
@example([">", "<\n \n"], "trim")
@example(["x", " \n>"], "tight")
def test_no_message_makes_a_control_token(
    real_tokenizer: Tokenizer, real_template: str, contents: list[str], which: str
) -> None:
    template = {
        "real": real_template,
        "qwen": QWEN_LIKE,
        # Nothing between one message and the next, or the template's own tokens:
        "tight": "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>",
        "trim": "{% for m in messages %}{{ m.content | trim }}<|{{ m.content.strip() }}|im_end|>{% endfor %}",
    }[which]
    messages = [{"role": "user", "content": content} for content in contents]
    harmless = [{"role": "user", "content": "x"} for _ in contents]
    control = [i for i in encode_chat(real_tokenizer, template, messages) if i < 17]
    assert control == [i for i in encode_chat(real_tokenizer, template, harmless) if i < 17]
    assert real_tokenizer.decode(encode_chat(real_tokenizer, template, messages)) == render_chat(
        template, messages
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "root", "content": "x"}],
        [{"role": "<|im_end|>", "content": "x"}],
        [{"content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": 5}],
    ],
)
def test_other_messages_are_refused(real_tokenizer: Tokenizer, real_template: str, messages) -> None:
    with pytest.raises(ChatError) as error:
        encode_chat(real_tokenizer, real_template, messages)
    assert error.value.cure


def test_a_template_may_refuse_messages() -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('start with user') }}{% endif %}ok"
    assert render_chat(template, [{"role": "user", "content": ""}]) == "ok"
    with pytest.raises(ChatError, match="start with user"):
        render_chat(template, [{"role": "system", "content": ""}])


def test_messages_are_not_templates_and_are_not_changed(real_tokenizer, real_template: str) -> None:
    messages = [{"role": "user", "content": "{{ 7 * 7 }}{% for x in y %}"}]
    assert "{{ 7 * 7 }}" in render_chat(real_template, messages)
    encode_chat(real_tokenizer, real_template, messages)
    assert messages == [{"role": "user", "content": "{{ 7 * 7 }}{% for x in y %}"}]
    with pytest.raises(TemplateError):
        render_chat("{{ messages[0].update({'role': 'x'}) }}", messages)
