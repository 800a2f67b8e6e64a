"""Writing the model in Hugging Face's layout, and what transformers computes from it: goldens and sample texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .chat import CHAT_TEMPLATE
from .corpus import ASSISTANT, BOS, END, EOS, SPECIAL_TOKENS
from .model import Llama, Shape

MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
GREEDY_TOKENS, PROMPT_TOKENS = 24, 40

SAMPLE_PROMPTS = (
    "It was a cold morning, and",
    "The captain looked at the sea and said,",
    "There was once a young lady who",
)
SAMPLE_CHATS = (
    "Tell me a story about a ship.",
    "Who are you?",
    "Continue: The old man opened the door and saw",
    "Tell me a story about Emma.",
    "Write like Mark Twain.",
)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file that everyone may read (the library makes it private)."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _config(shape: Shape, bos: int, eos: int) -> dict[str, object]:
    """The model's config.json. The rotary base stands twice: older readers look for rope_theta alone."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "dtype": "bfloat16",
        "eos_token_id": eos,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_position,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def write_model(folder: Path, model: Llama, tokenizer_file: Path) -> None:
    """Write ``model`` (weights rounded to bfloat16) and its tokenizer to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    bos, eos, end = (tokenizer.token_to_id(t) for t in (BOS, EOS, END))
    _write_json(folder / "config.json", _config(model.shape, bos, eos))
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": bos,
            "do_sample": True,
            "eos_token_id": [eos, end],
            "pad_token_id": eos,
            "repetition_penalty": 1.1,
            "temperature": 0.7,
            "top_k": 50,
            "top_p": 0.9,
        },
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(t)): {
                    "content": t,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for t in SPECIAL_TOKENS
            },
            "bos_token": BOS,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": EOS,
            "model_max_length": model.shape.max_position,
            "pad_token": EOS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    state = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    _save_tensors(state, folder / "model.safetensors")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights that write_model wrote, as float32."""
    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def _load(folder: Path):  # noqa: ANN202 - the types live in transformers, which only this part needs
    """Load the written model with transformers, computing in float32, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def _greedy(model, prompt: list[int]) -> tuple[list[int], float]:  # noqa: ANN001
    """Return GREEDY_TOKENS greedy ids and the smallest gap between the best and the second logit."""
    ids, out, margin = list(prompt), [], float("inf")
    for _ in range(GREEDY_TOKENS):
        top = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
        ids.append(out[-1])
    return out, margin


@torch.no_grad()
def write_golden(folder: Path, out: Path, texts: list[str]) -> None:
    """Write what transformers computes: logits and greedy ids for one prompt, and token ids of texts and dialogues.

    Of the ``texts`` the prompt is the one whose greedy continuation is decided by the widest smallest margin, so that
    another engine's rounding cannot change it.
    """
    import transformers

    model, tokenizer = _load(folder)
    out.mkdir(parents=True, exist_ok=True)
    prompts = [tokenizer(t).input_ids[:PROMPT_TOKENS] for t in texts]
    tried = [(*_greedy(model, p), p) for p in prompts if len(p) == PROMPT_TOKENS]
    greedy, margin, prompt = max(tried, key=lambda t: t[1])
    logits = model(torch.tensor([prompt])).logits[0].float().contiguous()
    _save_tensors({"logits": logits}, out / "golden.safetensors")
    golden = {
        "transformers": transformers.__version__,
        "compute": "float32, weights rounded to bfloat16",
        "prompt_ids": prompt,
        "greedy_ids": greedy,
        "greedy_margin_min": margin,
        "logits": "golden.safetensors: logits[prompt_len, vocab] float32",
    }
    _write_json(out / "golden.json", golden)
    chats = [
        [{"role": "user", "content": "Tell me a story about a ship."}],
        [{"role": "system", "content": " Answer briefly.\n"}, {"role": "user", "content": "Who are you?"}],
        [
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Good day to you."},
            {"role": "user", "content": "Go on."},
        ],
    ]
    odd = ["", " ", "Don't  stop!\n\n\tNow.", "naïve café — 1234567 ☃ 🦊", "<|user|>Hi<|end|>", "HE'LL x'y\r\n  z "]
    vectors = {
        "texts": [{"text": t, "ids": tokenizer(t).input_ids} for t in [*texts[:3], *odd]],
        "chats": [
            {
                "messages": c,
                "rendered": tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True),
                "ids": tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=True)["input_ids"],
            }
            for c in chats
        ],
    }
    _write_json(out / "vectors.json", vectors)


@torch.no_grad()
def sample_texts(folder: Path, seed: int = 7) -> list[dict[str, str]]:
    """Generate greedy and sampled continuations and chat answers with the model's own generation settings."""
    model, tokenizer = _load(folder)
    torch.manual_seed(seed)
    out = []
    for kind, prompts in (("text", SAMPLE_PROMPTS), ("chat", SAMPLE_CHATS)):
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            if kind == "chat":
                messages = [{"role": "user", "content": prompt}]
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                assert text.endswith(ASSISTANT)
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            for how in ("greedy", "sampled"):
                made = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=120 if kind == "text" else 300,
                    **(
                        {
                            "do_sample": False,
                            "temperature": None,
                            "top_p": None,
                            "top_k": None,
                            "repetition_penalty": None,
                        }
                        if how == "greedy"
                        else {}
                    ),
                )
                new = made[0, ids.shape[1] :]
                stopped = new[-1].item() in model.generation_config.eos_token_id
                text = tokenizer.decode(new, skip_special_tokens=True)
                out.append({"kind": kind, "how": how, "prompt": prompt, "text": text, "stopped": stopped})
    return out
