"""A request answered again without the wire: same permit, same ledger entry, same engine, another receipt."""

import time

import orjson

from mythos.engine.request import Done
from mythos.records.errors import MythosError
from mythos.records.ids import new_id
from mythos.records.principal import Principal
from mythos.serve.answer import begin, failure, written
from mythos.serve.call import Call
from mythos.serve.chat_in import read_chat
from mythos.serve.errors import ApiError, Dialect
from mythos.serve.messages_in import OLD_VERSION, read_messages
from mythos.serve.receipts import Draft
from mythos.serve.service import Service


async def repeat(service: Service, caller: Principal, surface: str, body: bytes) -> tuple[Draft, Done]:
    """What the answer to `body`, a request to the path `surface`, would put into a receipt, and its end.

    MythosError when it is refused or fails.
    """
    messages = surface == "/v1/messages"
    dialect = Dialect.ANTHROPIC if messages else Dialect.OPENAI
    now, ids = time.monotonic(), (new_id("req"), new_id("rcpt"))
    call = Call(service, "POST", surface, b"", {}, *ids, dialect=dialect, began=now)
    call.principal = caller
    try:
        fields = orjson.loads(body)
        asked = read_messages(fields, OLD_VERSION, False) if messages else read_chat(fields, False)
        answer = await begin(call, asked)
        await written(answer)
        async for _ in answer.batches():
            pass
        if error := failure(answer):
            raise error
        await written(answer)
    except ApiError as error:
        raise MythosError(f"the request was refused: {error.message}") from None
    except (ValueError, AttributeError) as error:
        raise MythosError(f"this is no request: {error}") from None
    assert answer.done is not None  # `failure` has seen to it
    return answer.draft, answer.done
