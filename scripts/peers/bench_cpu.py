#!/usr/bin/env python3
"""Measures troupe against llama.cpp on a CPU: three models in three types, in one table.

usage: bench_cpu.py --llama-bench PATH --smollm2 FILE.gguf [--dir DIR] [--troupe PATH] [--rounds N] ...

Makes what it needs in DIR, and keeps it there: SmolLM2 as bf16, q8 and q4 files made from FILE (what scripts/fetch_smollm2.sh
fetched), and Llamas of 0.47 and 1.24 billion drawn weights (`troupe bench cpu` draws them): 9 GB in all. Every file is
measured by `troupe bench cpu --peer`: prefill of 512, decode, and 16 decodes at once, in turn with llama.cpp. bf16 runs
with --compute bf16, which rounds activations as llama.cpp does, and once more in float32, which is troupe's default.

A quiet machine needs less than 15 minutes. To see that it works: --shapes '' --prompt 32 --tokens 4 --rounds 1.
"""
import argparse
import json
import os
import subprocess
import sys
import time

TYPES = ("bf16", "q8_0", "q4_0")  # of weights, as `troupe bench cpu` and `troupe quantize` call them
TARGETS = {"bf16": (1.4, 1.1, 1.5), "q8_0": (2.0, 1.5, 1.5), "q4_0": (1.8, 1.4, 1.5)}  # prefill, decode, 16 at once


def smollm2(options):
    """Yields the type and path of every file of SmolLM2."""
    for kind in TYPES:
        path = os.path.join(options.dir, f"smollm2-{kind}.gguf")
        if not os.path.exists(path):
            subprocess.run([options.troupe, "quantize", options.smollm2, "-o", path, "--type", kind, "--requantize"], check=True)
        yield kind, path


def bench(options, compute, rounds, *what):
    """The tests of one run of troupe bench cpu."""
    command = [options.troupe, "bench", "cpu", "--json", "--quiet", "--kernels=false", "--peer", f"llama-bench={options.llama_bench}",
        "--dir", options.dir, "--threads", str(options.threads), "--compute", compute, "--rounds", str(rounds), "--retries", str(options.retries),
        "--prompt", str(options.prompt), "--tokens", str(options.tokens), "--batch", f"1,{options.batch}", *what]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report["tests"]


def line(kind, compute, test):
    place = 0 if test["kind"] == "prefill" else 1 if test["sequences"] == 1 else 2
    name = ("prefill %d" % test["tokens"], "decode", "decode, %d at once" % test["sequences"])[place]
    target = TARGETS[kind][place]
    verdict = f"{target}" if test["ratio"] >= target else f"{target}, missed"
    others = max(test["rounds_others"])
    return (f"| {test['model']} | {compute} | {name} | {test['tokens_per_s']:.1f} | {test['peer_tokens_per_s']:.1f} | {test['ratio']:.2f} | "
            f"{test['ratio_min']:.2f}–{test['ratio_max']:.2f} | {verdict} | {100 * others:.0f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--troupe", default="bin/troupe")
    parser.add_argument("--llama-bench", required=True, help="llama.cpp's program, with llama-batched-bench beside it")
    parser.add_argument("--smollm2", required=True, help="SmolLM2 as a GGUF file of any type")
    parser.add_argument("--dir", default=os.path.expanduser("~/.cache/troupe/bench-cpu"))
    parser.add_argument("--shapes", default="llama-0.5b,llama-3.2-1b")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="of the drawn models")
    parser.add_argument("--small-rounds", type=int, default=5, help="of SmolLM2")
    parser.add_argument("--retries", type=int, default=0, help="of rounds that others disturbed")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    began = time.monotonic()
    print("| model | products in | test | tok/s | llama.cpp | ratio | spread | target | others used |\n|---|---|---|---|---|---|---|---|---|", flush=True)

    def show(kind, compute, rounds, *what):
        for test in bench(options, compute, rounds, *what):
            print(line(kind, compute, test), flush=True)

    for kind, path in smollm2(options):
        for compute in ("bf16", "f32") if kind == "bf16" else ("f32",):
            show(kind, compute, options.small_rounds, "--model", path)
    for shape in filter(None, options.shapes.split(",")):
        for kind in TYPES:
            show(kind, "bf16" if kind == "bf16" else "f32", options.rounds, "--shape", shape, "--type", kind)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {options.threads} threads; load average {os.getloadavg()[0]:.1f}", file=sys.stderr)


main()
