"""The same weights give the same logits as `transformers`, in fp32 on tiny random models."""

import pytest
import torch

from mythos.model.attention import causal_attend
from mythos.model.transformer import Transformer
from mythos.spec.config import ModelConfig

transformers = pytest.importorskip("transformers")


def test_llama_logits() -> None:
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    ).eval()
    config = ModelConfig(vocab=96, layers=3, width=64, heads=4, kv_heads=2, head_dim=16, ffn=160, context=256)
    with torch.device("meta"):
        ours = Transformer(config)
    state = {k.removeprefix("model."): v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    state["embed.weight"] = state.pop("embed_tokens.weight")
    ours.load_state_dict(state, assign=True)
    tokens = torch.randint(0, 96, (2, 33))
    with torch.no_grad():
        got = ours(tokens.flatten(), torch.arange(33).repeat(2), causal_attend([33, 33]))
        torch.testing.assert_close(got, theirs(tokens).logits.flatten(0, 1), atol=1e-5, rtol=0)
