#!/usr/bin/env python3
"""Makes a model of random weights with Hugging Face transformers, and a golden of it for `troupe verify`.

The reference computes in float32 from weights rounded to bfloat16. With --compare, the same model in bfloat16, as
transformers runs it, is held to the reference too, so that the engine's error has something to stand beside.

    python3 scripts/torch_golden.py internal/bench/shapes/llama-3.2-1b/config.json OUT --device cuda --compare
"""
import argparse
import json
import os

import torch
import transformers
from safetensors.torch import save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=40, help="tokens")
    parser.add_argument("--greedy", type=int, default=24, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(args.seed)
    with open(args.config, encoding="utf-8") as f:
        config = transformers.AutoConfig.for_model(**json.load(f))
    with torch.device(args.device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(torch.bfloat16))
    os.makedirs(args.out, exist_ok=True)
    weights = {name: p.to(torch.bfloat16).cpu().contiguous() for name, p in model.named_parameters()}
    save_file(weights, os.path.join(args.out, "model.safetensors"))
    config.save_pretrained(args.out)

    prompt = torch.randint(0, config.vocab_size, (1, args.prompt), device=args.device)
    with torch.no_grad():
        logits = model(prompt).logits[0].float()
        ids, greedy, margin = prompt, [], float("inf")
        for _ in range(args.greedy):
            best, at = model(ids).logits[0, -1].topk(2)
            margin = min(margin, (best[0] - best[1]).item())
            greedy.append(at[0].item())
            ids = torch.cat([ids, at[:1].view(1, 1)], dim=1)
        if args.compare:
            model.to(torch.bfloat16)
            model.model.rotary_emb = type(model.model.rotary_emb)(config).to(args.device)  # its frequencies stay float32
            error = (model(prompt).logits[0].float() - logits).abs()
            print(f"transformers in bfloat16: largest error {error.max().item():.4g}, mean {error.mean().item():.3g}, "
                  f"largest logit {logits.abs().max().item():.4g}")
    save_file({"logits": logits.cpu().contiguous()}, os.path.join(args.out, "golden.safetensors"))
    with open(os.path.join(args.out, "golden.json"), "w", encoding="utf-8") as f:
        json.dump({"transformers": transformers.__version__, "compute": "float32, weights rounded to bfloat16",
                   "prompt_ids": prompt[0].tolist(), "greedy_ids": greedy, "greedy_margin_min": margin}, f, indent=1)


if __name__ == "__main__":
    main()
