#!/usr/bin/env python3
"""Makes testdata/golden: tiny random-weight models with what transformers computes from them.

Each covers parts of an architecture that a default config leaves out. Needs torch and
transformers (made with 2.11 and 5.17). Run it in this folder: python3 make_goldens.py
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig,
                          MistralConfig, MixtralConfig, Phi3Config, Qwen2Config, Qwen3Config,
                          Qwen3MoeConfig)

COMMON = dict(vocab_size=48, hidden_size=24, intermediate_size=32, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1,
              eos_token_id=2, pad_token_id=0)


def rope(kind, **keys):
    return dict(rope_type=kind, rope_theta=10000.0, **keys)


MODELS = {
    "llama-bias-linear": LlamaConfig(
        **COMMON, num_hidden_layers=2, attention_bias=True, mlp_bias=True,
        rope_parameters=rope("linear", factor=4.0)),
    "llama-yarn": LlamaConfig(
        **COMMON, num_hidden_layers=2,
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen2-window": Qwen2Config(
        **COMMON, num_hidden_layers=3, use_sliding_window=True, sliding_window=8,
        max_window_layers=1, tie_word_embeddings=True),
    "qwen3-bias": Qwen3Config(
        **COMMON, num_hidden_layers=2, head_dim=12, attention_bias=True,
        tie_word_embeddings=True),
    "qwen3-moe-mixed": Qwen3MoeConfig(
        **COMMON, num_hidden_layers=4, head_dim=8, decoder_sparse_step=2, mlp_only_layers=[3],
        moe_intermediate_size=12, num_experts=4, num_experts_per_tok=3, norm_topk_prob=False,
        tie_word_embeddings=True),
    "mixtral-window": MixtralConfig(
        **{**COMMON, "intermediate_size": 12}, num_hidden_layers=2, num_local_experts=3,
        num_experts_per_tok=2, sliding_window=8, tie_word_embeddings=True),
    "phi3-longrope": Phi3Config(
        **{**COMMON, "num_attention_heads": 2}, num_hidden_layers=2, sliding_window=24,
        original_max_position_embeddings=16,
        rope_parameters=rope("longrope", partial_rotary_factor=0.5,
                             short_factor=[1.0, 1.1, 1.2],
                             long_factor=[1.5, 3.0, 5.0])),
    "gemma2-scalar": Gemma2Config(
        **COMMON, num_hidden_layers=2, head_dim=8, query_pre_attn_scalar=20, sliding_window=6,
        final_logit_softcapping=5.0, attn_logit_softcapping=2.0),
    "gemma3-global": Gemma3TextConfig(
        **COMMON, num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=12, sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": rope("default"),
            "full_attention": dict(rope_type="linear", rope_theta=1e6, factor=8.0)}),
    "mistral-full": MistralConfig(
        **COMMON, num_hidden_layers=2, sliding_window=None, head_dim=12),
}


@torch.no_grad()
def greedy(model, prompt, count):
    """Recomputes the whole sequence for each token, so that no cache can hide an error."""
    ids, margin = list(prompt), float("inf")
    for _ in range(count):
        top = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[len(prompt):], margin


@torch.no_grad()
def make(name, config, seed):
    torch.manual_seed(seed)
    config._attn_implementation = "eager"  # the implementation that knows soft caps
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases, which would be all ones and zeros
            parameter.add_(torch.randn_like(parameter) * 0.2)
        else:
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.to(torch.bfloat16)
    out = pathlib.Path("golden") / name
    model.save_pretrained(out)
    # Not model.to(torch.float32): the rotary frequencies went through bfloat16 above.
    model = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, attn_implementation="eager").eval()
    for module in model.modules():  # Gemma's embedding scale has the weights' type
        if hasattr(module, "embed_scale"):
            module.embed_scale = module.embed_scale.to(torch.bfloat16).float()
    for seed in range(1000):  # a prompt after which no choice is close
        prompt = torch.randint(3, 48, (30,), generator=torch.Generator().manual_seed(seed)).tolist()
        ids, margin = greedy(model, prompt, 24)
        if margin > 0.005:
            break
    logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
    save_file({"logits": logits.contiguous()}, out / "golden.safetensors")
    for f in out.iterdir():
        f.chmod(0o644)
    (out / "golden.json").write_text(json.dumps(
        dict(prompt_ids=prompt, greedy_ids=ids, greedy_margin_min=margin)) + "\n")
    size = sum(f.stat().st_size for f in out.iterdir())
    print(f"{name}: {size} bytes, margin {margin:.4f}")


for number, (name, config) in enumerate(MODELS.items()):
    make(name, config, number)
