#!/usr/bin/env python3
"""Compares greedy answers of troupe with those of llama.cpp, and shows how close the first difference was.

usage: greedy.py [--tokens N] [--prompt TEXT] [--threads N] TROUPE LLAMA_COMPLETION MODEL.gguf...

Both engines complete the prompt. Where their texts part, troupe has given one token and llama.cpp another: the margin is
the difference of their log-probabilities in troupe, in nats. Engines that sum in another order, or round activations
otherwise, differ in logits by some hundredths to tenths (quantized weights), so a margin of that size is a tie that
either may win. Prints a line of a table for every model; exits with 1 if a margin is larger than --tie.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

START_SECONDS, ANSWER_SECONDS = 120, 600
ALTERNATIVES = 20  # most likely tokens that are looked at for llama.cpp's


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(base, process):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"troupe ended with {process.returncode} instead of serving")
        try:
            urllib.request.urlopen(f"{base}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"troupe does not serve after {START_SECONDS} s")


def ours(options, model):
    """The tokens of troupe's answer: text and alternatives, a dictionary of texts to log-probabilities."""
    base = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen([options.troupe, "serve", "--model", model, "--device", "cpu", "--threads", str(options.threads),
        "--http", base.removeprefix("http://"), "--nats-listen", "none", "--log-level", "error", "--kv-dtype", options.kv_dtype,
        "--kv-blocks", "128", "--sequences-max", "1"])
    try:
        wait_for(base, process)
        body = {"prompt": options.prompt, "max_tokens": options.tokens, "temperature": 0, "logprobs": ALTERNATIVES}
        request = urllib.request.Request(f"{base}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            logprobs = json.load(answer)["choices"][0]["logprobs"]
        return list(zip(logprobs["tokens"], logprobs["top_logprobs"]))
    finally:
        process.terminate()
        process.wait()


def theirs(options, model):
    command = [options.completion, "-m", model, "-p", options.prompt, "-n", str(options.tokens), "--temp", "0", "-t", str(options.threads),
        "-no-cnv", "--no-display-prompt", "--simple-io", "--no-warmup"]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ANSWER_SECONDS, check=True)
    return out.stdout.decode(errors="replace").removesuffix("\n").removesuffix("\n")


def compare(tokens, other):
    """Returns how many tokens are the same, and of the first other one both texts and the margin, or None."""
    at = 0
    for n, (token, alternatives) in enumerate(tokens):
        rest = other[at:]
        if rest.startswith(token):
            at += len(token)
            continue
        if not rest:  # an end of text, or the cut of a character in the middle: nothing to compare
            return n, None
        candidates = [text for text in alternatives if text and rest.startswith(text)]
        if not candidates:
            return n, (token, rest[:12], float("inf"))
        best = max(candidates, key=len)
        return n, (token, best, alternatives[token] - alternatives[best])
    return len(tokens), None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--tie", type=float, default=0.5, help="the largest margin, in nats, that is still a tie")
    parser.add_argument("troupe")
    parser.add_argument("completion", help="llama.cpp's llama-completion")
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    print("| model | same tokens | troupe | llama.cpp | margin, nats |\n|---|---|---|---|---|", flush=True)
    worst = 0.0
    for model in options.models:
        tokens = ours(options, model)
        same, parted = compare(tokens, theirs(options, model))
        name = os.path.basename(model)
        if parted is None:
            print(f"| {name} | all {same} | | | |", flush=True)
            continue
        own, other, margin = parted
        worst = max(worst, margin)
        print(f"| {name} | {same} of {len(tokens)} | {json.dumps(own)} | {json.dumps(other)} | {margin:.3f} |", flush=True)
    sys.exit(worst > options.tie)


main()
