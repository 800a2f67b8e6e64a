#!/usr/bin/env python3
"""Compares the processor time that troupe and llama.cpp need per token, with one thread each.

usage: cpu_time.py TROUPE LLAMA_BIN_DIR ROUNDS MODEL.gguf...

For a machine that others use too: there, wall time says more about them than about a program, and threads that wait
for each other by spinning waste what they get. Processor time with one thread is only disturbed where caches, memory
and cores' second threads are shared. troupe reports its own; llama.cpp's programs run a test once and then more
often, and the difference is what the test takes without start and warm-up. Prints a line for every model and test:
milliseconds a token of both, and the median, least and most of the rounds' ratios (theirs over ours).
"""
import json
import os
import statistics
import subprocess
import sys

PROMPT, DECODE, BATCH, DEPTH, MORE = 512, 48, 16, 128, 3


def seconds(command):
    """User and system time of a command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def ours(troupe, model, test):
    """Milliseconds of processor time a token."""
    command = [troupe, "bench", "cpu", "--json", "--quiet", "--kernels=false", "--threads=1", "--retries=0", "--rounds=1", "--model", model] + test
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report["tests"][0]["rounds_cpu_ms_per_token"][0]


def tests(binaries, model):
    """Yields a name, troupe's flags, and llama.cpp's command for n repetitions of so many tokens."""
    bench = [f"{binaries}/llama-bench", "-m", model, "-t", "1", "-ub", "512"]
    yield f"prefill {PROMPT}", [f"--prompt={PROMPT}", "--batch=1", "--tokens=1"], PROMPT, lambda n: bench + [
        "-p", f"{PROMPT}", "-n", "0", "-r", f"{n}"]
    yield "decode", ["--prompt=0", "--batch=1", f"--tokens={DECODE}"], DECODE, lambda n: bench + ["-p", "0", "-n", f"{DECODE}", "-r", f"{n}"]
    yield f"decode, {BATCH} at once", ["--prompt=0", f"--batch={BATCH}", "--tokens=16"], BATCH * 16, lambda n: [
        f"{binaries}/llama-batched-bench", "-m", model, "-t", "1", "-ub", "512", "-npp", f"{DEPTH}", "-npl", f"{BATCH}",
        "-c", f"{BATCH * (DEPTH + 16 * MORE + 16)}", "-ntg", f"{n * 16}"]


def main():
    troupe, binaries, rounds, *models = sys.argv[1:]
    for model in models:
        for name, flags, tokens, theirs in tests(binaries, model):
            pairs = []
            for _ in range(int(rounds)):
                other = (seconds(theirs(MORE)) - seconds(theirs(1))) / (MORE - 1) / tokens
                pairs.append((ours(troupe, model, flags), 1e3 * other))
            ratios = sorted(b / a for a, b in pairs)
            own, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            print(f"{os.path.basename(model)}\t{name}\t{own:.3f}\t{other:.3f}\t{statistics.median(ratios):.2f}\t{ratios[0]:.2f}–{ratios[-1]:.2f}", flush=True)


main()
