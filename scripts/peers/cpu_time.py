#!/usr/bin/env python3
"""Compares the processor time that troupe and llama.cpp need per token, with one thread each.

usage: cpu_time.py TROUPE LLAMA_BIN_DIR ROUNDS MODEL.gguf...

For a machine that others use too: there, wall time says more about them than about a program, and threads that wait
for each other by spinning waste what they get. Processor time with one thread is only disturbed where caches, memory
and cores' second threads are shared. Each program runs a test n and then 2n times, in turn with the other; the
difference is what n take without start and warm-up. Prints a line for every model and test: milliseconds a token of
both, and the median, least and most of the rounds' ratios (theirs over ours).
"""
import os
import statistics
import subprocess
import sys

PROMPT, DECODE, BATCH, DEPTH = 512, 24, 16, 128


def seconds(command):
    """User and system time of a command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def difference(command):
    return seconds(command(2)) - seconds(command(1))


def tests(troupe, binaries, model):
    """Yields a name, the tokens of one repetition, and both programs' commands for n repetitions."""
    own = [troupe, "bench", "cpu", "--quiet", "--kernels=false", "--threads=1", "--retries=0", "--model", model]
    bench = [f"{binaries}/llama-bench", "-m", model, "-t", "1", "-ub", "512"]
    yield f"prefill {PROMPT}", PROMPT, lambda n: own + ["--tokens=1", "--batch=1", f"--prompt={PROMPT}", f"--rounds={n}"], lambda n: bench + [
        "-p", f"{PROMPT}", "-n", "0", "-r", f"{n}"]
    yield "decode", DECODE, lambda n: own + ["--batch=1", "--prompt=0", "--rounds=1", f"--tokens={n * DECODE}"], lambda n: bench + [
        "-p", "0", "-n", f"{n * DECODE}", "-r", "1", "--no-warmup"]
    yield f"decode, {BATCH} at once", BATCH * DECODE, lambda n: own + [
        f"--batch={BATCH}", "--prompt=0", "--rounds=1", f"--tokens={n * DECODE}"], lambda n: [
        f"{binaries}/llama-batched-bench", "-m", model, "-t", "1", "-ub", "512", "-npp", f"{DEPTH}", "-npl", f"{BATCH}",
        "-c", f"{BATCH * (DEPTH + 2 * DECODE + 16)}", "-ntg", f"{n * DECODE}"]


def main():
    troupe, binaries, rounds, *models = sys.argv[1:]
    for model in models:
        for name, tokens, ours, theirs in tests(troupe, binaries, model):
            pairs = [(difference(ours), difference(theirs)) for _ in range(int(rounds))]
            ratios = sorted(b / a for a, b in pairs)
            own, other = (1e3 * statistics.median(p[i] for p in pairs) / tokens for i in (0, 1))
            print(f"{os.path.basename(model)}\t{name}\t{own:.3f}\t{other:.3f}\t{statistics.median(ratios):.2f}\t{ratios[0]:.2f}–{ratios[-1]:.2f}", flush=True)


main()
