"""Learning conversations: only what the assistant says is learnt, and packing changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mythos.data.corpus import Corpus
from mythos.data.documents import Document
from mythos.data.encode import encode_conversation
from mythos.data.safety import exchanges
from mythos.data.train_tokenizer import CHAT_TEMPLATE
from mythos.model.attention import causal_attend
from mythos.spec.config import ModelConfig
from mythos.train.batch import mixed
from mythos.train.forward import Trainee
from mythos.train.loss import weighted_cross_entropy
from mythos.train.settings import TrainSettings
from mythos.train.weights import fresh_model
from tests.data.small import build, tokenizer

CONFIG = ModelConfig(vocab=300, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=64, context=512)
SETTINGS = TrainSettings(rows=4, length=512)


def talk(number: int) -> tuple[dict[str, str], ...]:
    one, two = exchanges()[2 * number : 2 * number + 2]
    turns = [("user", one.text), ("assistant", one.answer), ("user", two.text), ("assistant", "Yes.")]
    return tuple({"role": role, "content": text} for role, text in turns)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    documents = [Document("made", f"d{n}", "one", messages=talk(n)) for n in range(8)]
    return build(tmp_path_factory.mktemp("chats"), documents)["train"]


def test_a_chat_s_packed_loss_equals_its_own(corpus: Corpus) -> None:
    """Loss and gradients of packed rows, in float32, against each conversation alone in the plain model."""
    model = fresh_model(CONFIG, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # attention that is not nearly flat
    batches = mixed({"made": corpus}, {"made": 1.0}, SETTINGS, whole=True)
    trainee = Trainee(model, compiled=False, recompute=False)
    got, seen, epoch = torch.zeros(()), 0, 0
    while seen < len(corpus.ends):  # one epoch, whatever number of rows it has
        batch = batches(epoch, 1)
        x_TD, _ = trainee.hidden(batch.packed)
        got = got + weighted_cross_entropy(x_TD, trainee.head_VD, batch.targets_TA, batch.weights_TA)
        seen += int((batch.packed.tokens_RL == 1).sum()) // 4  # <|im_start|>, four in a conversation
        epoch += 1
    got.backward()
    got_grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    want = torch.zeros(())
    for number in range(8):
        made = encode_conversation(tokenizer(), CHAT_TEMPLATE, talk(number))
        ids, learnt = torch.tensor(made.ids), torch.tensor(made.trained)
        logits = model(ids, torch.arange(len(ids)), causal_attend([len(ids)]))
        want = want + F.cross_entropy(logits[:-1][learnt[1:]], ids[1:][learnt[1:]], reduction="sum")
    want.backward()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-3)
    for name, p in model.named_parameters():
        assert p.grad is not None
        scale = p.grad.abs().max().item() + 1e-6
        torch.testing.assert_close(got_grads[name] / scale, p.grad / scale, rtol=0, atol=2e-4, msg=name)


def test_what_is_not_the_assistant_s_is_not_learnt(corpus: Corpus) -> None:
    """No gradient reaches what the model says in masked places, and what it is given after the last answer
    changes neither the loss nor a gradient."""
    model = fresh_model(CONFIG, 0)
    batch = mixed({"made": corpus}, {"made": 1.0}, SETTINGS, whole=True)(0, 2)
    trainee = Trainee(model, compiled=False, recompute=False)

    def learnt_from(tokens_RL: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        batch.packed.tokens_RL.copy_(tokens_RL)
        model.zero_grad()
        x_TD, _ = trainee.hidden(batch.packed)
        x_TD.retain_grad()
        loss = weighted_cross_entropy(x_TD, trainee.head_VD, batch.targets_TA, batch.weights_TA)
        loss.backward()
        assert x_TD.grad is not None
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return loss.detach(), x_TD.grad, grads

    tokens_RL = batch.packed.tokens_RL.clone()
    masked_T = batch.targets_TA[:, 0] < 0
    loss, x_grad, grads = learnt_from(tokens_RL)
    assert 0.3 < masked_T.float().mean() < 1 and batch.count == int((~masked_T).sum())
    assert (x_grad[masked_T] == 0).all() and (x_grad[~masked_T].abs().sum(-1) > 0).all()

    # What follows a conversation's last learnt target: its own last token, and what fills the row up.
    after_RL = torch.zeros_like(tokens_RL, dtype=torch.bool)
    targets_RL, starts_RL = batch.targets_TA[:, 0].view_as(tokens_RL), batch.packed.starts_RL
    for row in range(len(tokens_RL)):
        for start in starts_RL[row].unique():
            here = starts_RL[row] == start
            last = (here & (targets_RL[row] >= 0)).nonzero()
            after_RL[row] |= here & (torch.arange(len(here)) > (last.max() if len(last) else -1))
    assert after_RL.any() and not (after_RL & (targets_RL >= 0)).any()
    other, _, others = learnt_from(torch.where(after_RL, 77, tokens_RL))
    # The embeddings of tokens that are only there are neither read nor moved by the loss.
    assert torch.equal(loss, other) and all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))
    asked = targets_RL < 0
    asked &= ~after_RL
    other, _, _ = learnt_from(torch.where(asked & (torch.arange(512) % 7 == 3), 77, tokens_RL))
    assert not torch.equal(loss, other)  # what is asked is read, of course
