#!/usr/bin/env python3
"""Compares the processor time that troupe and llama.cpp need per token, with one thread each.

usage: cpu_time.py [--context N [--int8]] TROUPE LLAMA_BIN_DIR ROUNDS MODEL.gguf...

For a machine that others use too: there, wall time says more about them than about a program, and threads that wait
for each other by spinning waste what they get. Processor time with one thread is only disturbed where caches, memory
and cores' second threads are shared. troupe reports its own; llama.cpp's programs run a test once and then more
often, and the difference is what the test takes without start and warm-up. Prints a line for every model and test:
milliseconds a token of both, and the median, least and most of the rounds' ratios (theirs over ours).

With --context, the tests are a prefill of N tokens and a decode behind them; with --int8, keys and values have 8 bits
in both programs. llama.cpp's decode is then what it used in the end of its run, for as long as it says that it took.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PROMPT, DECODE, BATCH, DEPTH, MORE = 512, 48, 16, 128, 3


def run(command):
    """The output of a command, its processor time and how that grew: (clock, processor) in seconds."""
    process, grew = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True), []
    while process.poll() is None:
        grew.append((time.monotonic(), processor(process.pid)))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return process.stdout.read(), grew


def processor(pid):
    """User and system time of a process."""
    try:
        with open(f"/proc/{pid}/schedstat") as f:
            return int(f.read().split()[0]) / 1e9
    except OSError:
        return 0.0


def seconds(command):
    """User and system time of a command."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def last(command, tokens):
    """Seconds of processor time a token at the end of llama-bench, whose only test that is."""
    out, grew = run(command + ["-o", "json"])
    took = tokens / json.loads(out)[0]["avg_ts"]
    end, total = grew[-2] if grew[-1][1] == 0 else grew[-1]
    return (total - next(used for at, used in grew if at >= end - took)) / tokens


def ours(troupe, model, test):
    """Milliseconds of processor time a token."""
    command = [troupe, "bench", "cpu", "--json", "--quiet", "--kernels=false", "--threads=1", "--retries=0", "--rounds=1", "--model", model] + test
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return report["tests"][0]["rounds_cpu_ms_per_token"][0]


def more(command, tokens):
    """Seconds of processor time a token of a command for n repetitions of so many tokens."""
    return (seconds(command(MORE)) - seconds(command(1))) / (MORE - 1) / tokens


def tests(binaries, model):
    """Yields a name, troupe's flags, and what measures llama.cpp."""
    bench = [f"{binaries}/llama-bench", "-m", model, "-t", "1", "-ub", "512"]
    batched = [f"{binaries}/llama-batched-bench", "-m", model, "-t", "1", "-ub", "512", "-npp", f"{DEPTH}", "-npl", f"{BATCH}",
               "-c", f"{BATCH * (DEPTH + 16 * MORE + 16)}"]
    yield f"prefill {PROMPT}", [f"--prompt={PROMPT}", "--batch=1", "--tokens=1"], lambda: more(
        lambda n: bench + ["-p", f"{PROMPT}", "-n", "0", "-r", f"{n}"], PROMPT)
    yield "decode", ["--prompt=0", "--batch=1", f"--tokens={DECODE}"], lambda: more(
        lambda n: bench + ["-p", "0", "-n", f"{DECODE}", "-r", f"{n}"], DECODE)
    yield f"decode, {BATCH} at once", ["--prompt=0", f"--batch={BATCH}", "--tokens=16"], lambda: more(
        lambda n: batched + ["-ntg", f"{n * 16}"], BATCH * 16)


def long_tests(binaries, model, context, int8):
    """Those of --context, likewise."""
    bench = [f"{binaries}/llama-bench", "-m", model, "-t", "1", "-ub", "512", "-r", "1", "--no-warmup"]
    own, kind = [], "bf16 and f16"
    if int8:
        bench, own, kind = bench + ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "1"], ["--kv-dtype=int8"], "8 bits"
    yield f"prefill {context}, {kind}", own + [f"--prompt={context}", "--batch=1", "--tokens=1"], lambda: last(
        bench + ["-p", f"{context}", "-n", "0"], context)
    yield f"decode behind {context}, {kind}", own + ["--prompt=0", f"--depth={context}", "--batch=1", f"--tokens={DECODE}"], lambda: last(
        bench + ["-p", "0", "-n", f"{DECODE}", "-d", f"{context}"], DECODE)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--context", type=int)
    p.add_argument("--int8", action="store_true")
    p.add_argument("troupe")
    p.add_argument("binaries")
    p.add_argument("rounds", type=int)
    p.add_argument("models", nargs="+")
    o = p.parse_args()
    for model in o.models:
        chosen = long_tests(o.binaries, model, o.context, o.int8) if o.context else tests(o.binaries, model)
        for name, flags, theirs in chosen:
            pairs = []
            for _ in range(o.rounds):
                other = theirs()
                pairs.append((ours(o.troupe, model, flags), 1e3 * other))
            ratios = sorted(b / a for a, b in pairs)
            own, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            print(f"{os.path.basename(model)}\t{name}\t{own:.3f}\t{other:.3f}\t{statistics.median(ratios):.2f}\t{ratios[0]:.2f}–{ratios[-1]:.2f}", flush=True)


main()
