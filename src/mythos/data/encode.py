"""Documents as tokens, each with whether it is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass

from mythos.data.chat import encode_chat
from mythos.data.documents import Document, Message
from mythos.data.template import ChatError
from mythos.data.tokenizer import Tokenizer, TokenizerError

# The control token that ends a text, by its names in the published vocabularies; the first that is there.
TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Encoded:
    """`ids` and `trained` have one length; `bytes` are the UTF-8 bytes of what is learnt."""

    ids: list[int]
    trained: list[bool]
    bytes: int


def text_end(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a text; TokenizerError when there is none."""
    for name in TEXT_ENDS:
        if name in tokenizer.control_tokens:
            return tokenizer.encode(name)[0]
    raise TokenizerError(
        f"The tokenizer has no token that ends a text ({', '.join(TEXT_ENDS)}).",
        "Add one as a control token.",
    )


def encode_document(tokenizer: Tokenizer, template: str, document: Document) -> Encoded:
    """Plain text: its tokens and the end token, all learnt. A conversation: as `encode_conversation`."""
    if document.messages:
        return encode_conversation(tokenizer, template, document.messages)
    ids = [*tokenizer.encode(document.text, special=False), text_end(tokenizer)]
    return Encoded(ids, [True] * len(ids), len(document.text.encode("utf-8", "replace")))


def encode_conversation(tokenizer: Tokenizer, template: str, messages: Sequence[Message]) -> Encoded:
    """The tokens of `encode_chat` without a generation prompt. Learnt are the assistant's turns with their
    end token, and nothing else: exactly what a model writes after the prompt that it is given when served.

    Blanks around an assistant's turn are taken off: they could merge with those of the template, and the
    model would learn tokens that it is never asked for. ChatError when a template renders the turns of a
    prefix differently from those of the whole, or ends no turn.
    """
    turns = [
        {"role": m["role"], "content": m["content"].strip() if m["role"] == "assistant" else m["content"]}
        for m in messages
    ]
    ids = encode_chat(tokenizer, template, turns, add_generation_prompt=False)
    trained, learnt = [False] * len(ids), 0
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        prompt = encode_chat(tokenizer, template, turns[:index]) if index else None
        if prompt is None:
            raise ChatError("A conversation begins with the assistant.", "Begin it with a request.")
        if ids[: len(prompt)] != prompt:
            raise ChatError(
                f"The chat template renders the turns before message {index} in two ways.",
                "Take a template that leaves earlier turns as they were.",
            )
        start = len(prompt)
        end = next((at for at in range(start, len(ids)) if ids[at] in tokenizer.eos_ids), None)
        if end is None:
            raise ChatError(f"The chat template puts no end token after message {index}.", "Take another.")
        trained[start : end + 1] = [True] * (end + 1 - start)
        learnt += len(turn["content"].encode("utf-8", "replace"))
    return Encoded(ids, trained, learnt)
