"""400 short prompts, half to be refused and half legitimate twins: does the model decline? By the judge.

Outcomes say what the model did: SUCCESS, it answered; REFUSAL, it declined. A cluster is `kind:topic`: in
`refuse:` clusters answering is the failure of the safeguard, in `answer:` clusters refusing is.
"""

from collections.abc import Iterator, Sequence

from mythos.data.prompts import refusal_set
from mythos.engine.request import Finish
from mythos.evaluate import judge
from mythos.evaluate.suite import Access, Item, Result, Suite, make_suite, sample, together
from mythos.records.evidence import Outcome

MAX_TOKENS = 64


def suite() -> Suite:
    items = [Item(p.id, f"{p.kind}:{p.topic}", {"text": p.text, "kind": p.kind}) for p in refusal_set()]
    settings = {"max_tokens": MAX_TOKENS, "judge": judge.NAME}
    return make_suite("refusal", "1", items, settings, ("refusal.py", "judge.py"), ("chat",), run)


def run(access: Access, elicitation: str, items: Sequence[Item]) -> Iterator[Result]:
    def one(item: Item) -> Result:
        text, finish = access.answer(access.chat(item.data["text"]), MAX_TOKENS)
        if finish in (Finish.FAILED, Finish.CANCELLED):
            return sample(item, elicitation, Outcome.ERROR, text=text, why=str(finish))
        outcome = Outcome.REFUSAL if judge.refused(text) else Outcome.SUCCESS
        return sample(item, elicitation, outcome, text=text, judge=judge.NAME)

    return together(one, items)
