#!/usr/bin/env python3
"""What `troupe serve --isolate` costs against one process, and how long a killed replica is missed.

    scripts/bench_isolate.py bin/troupe [rounds]

Rounds alternate. Processor time per token is the difference of a long and a short run, so that starting counts for
nothing; it includes the load generator. One thread computes.
"""
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import urllib.request


def bench(troupe, mode, at_once, prompts, seed):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([troupe, "bench", "serve", *mode, "--threads", "1", "--num-prompts", str(prompts), "--max-concurrency", str(at_once),
                          "--random-input-len", "128", "--random-output-len", "128", "--ignore-eos", "--ledger=false", "--seed", str(seed), "--json"],
                         capture_output=True, timeout=120, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(out.stdout)


def costs(troupe, rounds):
    rows = {}
    for r in range(rounds):
        modes = [[], ["--isolate"]]
        for mode in modes if r % 2 == 0 else reversed(modes):
            for at_once, few, many in ((1, 8, 40), (16, 32, 192)):
                short, _ = bench(troupe, mode, at_once, few, r)
                long, report = bench(troupe, mode, at_once, many, 100 + r)
                rows.setdefault((at_once, " ".join(mode) or "one process"), []).append(
                    ((long - short) / ((many - few) * 128) * 1e6, report["output_throughput"], report["median_ttft_ms"], report["median_itl_ms"]))
    print("at once, mode: medians (least to most) of µs of processor per token, tok/s, TTFT ms, ITL ms")
    for key, values in sorted(rows.items()):
        print(*key, *("%.3g (%.3g to %.3g)" % (statistics.median(v), min(v), max(v)) for v in zip(*values)), sep="; ")


def restart(troupe):
    """Milliseconds from a replica's SIGKILL to the answer to a request that is sent then."""
    server = subprocess.Popen([troupe, "serve", "--isolate", "--json", "--http", "127.0.0.1:0", "--nats-listen", "none", "--log-format", "json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        text = ""
        while not text.endswith("\n}\n"):
            text += server.stdout.readline()
        url = json.loads(text)["http"]
        pid = next(entry["pid"] for entry in map(json.loads, server.stderr) if entry.get("pid"))  # the log names it
        ask(url)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        ask(url)
        return (time.monotonic() - began) * 1e3
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


def ask(url):
    body = json.dumps({"prompt": "The king", "max_tokens": 1}).encode()
    urllib.request.urlopen(urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"}), timeout=60).read()


if __name__ == "__main__":
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    costs(sys.argv[1], rounds)
    print("killed until the next request is answered, ms:", *("%.0f" % restart(sys.argv[1]) for _ in range(rounds)))
