#!/usr/bin/env python3
"""Checks and times the attention kernels of gpu/cuda without the Go program.

Needs a Hopper GPU, nvcc and PyTorch (reference and ceiling). From the repository's root:

    python3 scripts/cuda_attention/bench.py check     # against float64, and bit for bit across batches and chunks
    python3 scripts/cuda_attention/bench.py time      # against a copy and against PyTorch's own attention
"""

import ctypes
import math
import os
import statistics
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../gpu/cuda/kernels")
ROWS = 8  # query rows of a tile of flash_decode
ALL = 2**31 - 1
DEV = "cuda"


def die(status, what):
    if status:
        raise SystemExit(f"{what}: CUDA error {status}")


class Args(ctypes.Structure):
    """FlashArgs of attention_mma.cuh."""

    _fields_ = (
        [(n, ctypes.c_void_p) for n in "out q k_pool v_pool tables slots query_start positions partial plan".split()]
        + [
            (n, ctypes.c_int)
            for n in (
                "sequences tokens stride q_column heads kv_heads block_size dim table_width table_rows blocks window "
                "heads_per_tile tokens_per_tile few capacity"
            ).split()
        ]
        + [("scale", ctypes.c_float), ("soft_cap", ctypes.c_float)]
    )


class Kernels:
    """The kernels of every width, compiled by nvcc."""

    def __init__(self, widths, files):
        torch.zeros(1, device=DEV)  # creates the context
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.functions = {}
        with tempfile.TemporaryDirectory() as tmp:
            jobs = []
            for dp in widths:
                for f in files:
                    if f == "attention_wgmma.cu" and dp not in (64, 128):
                        continue
                    src, cubin = f"{tmp}/{f}.{dp}.cu", f"{tmp}/{f}.{dp}.cubin"
                    with open(src, "w") as out:
                        out.write(f"#define ACT_BF16\n#define DP {dp}\n")
                        for part in ["common.cuh", "attention_mma.cuh"] + ["attention_rows.cuh"] * (f != "attention_decode.cu") + [f]:
                            out.write(f'#line 1 "{part}"\n' + open(f"{KERNELS}/{part}").read())
                    arch = "-gencode=arch=compute_90a,code=sm_90a"
                    jobs.append((dp, f, cubin, subprocess.Popen(["nvcc", "-std=c++17", arch, "-cubin", "-o", cubin, src])))
            for dp, f, cubin, job in jobs:
                if job.wait():
                    raise SystemExit(f"{f} for {dp} does not compile")
                module = ctypes.c_void_p()
                die(self.cuda.cuModuleLoad(ctypes.byref(module), cubin.encode()), "cuModuleLoad")
                for kind in {"attention_decode.cu": ["decode", "combine"], "attention_prefill.cu": ["prefill"], "attention_wgmma.cu": ["wgmma"]}[f]:
                    fn = ctypes.c_void_p()
                    die(self.cuda.cuModuleGetFunction(ctypes.byref(fn), module, f"flash_{kind}_{dp}".encode()), kind)
                    die(self.cuda.cuFuncSetAttribute(fn, 8, 227 * 1024 - 1024), "cuFuncSetAttribute")
                    self.functions[kind, dp] = fn
        self.widths = sorted(widths)

    def width(self, dim):
        return next(w for w in self.widths if dim <= w)

    def launch(self, kind, dp, grid, threads, shared, args):
        box = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        die(self.cuda.cuLaunchKernel(self.functions[kind, dp], *grid, threads, 1, 1, shared, stream, box, None), f"launch of {kind}")


def tile_keys(dp):
    return 64 if dp <= 128 else 32


def heads_per_tile(group, rows):
    return min(group, rows)


class Case:
    """A paged pool with random keys and values, and a step's queries."""

    def __init__(self, spans, heads, kv_heads, dim, block=16, window=0, cap=0.0, column=0, extra=0, seed=0, world=None):
        # spans: (sequence length so far incl. this step, queries)
        g = torch.Generator(device=DEV).manual_seed(seed)
        self.spans, self.heads, self.kv_heads, self.dim, self.block = spans, heads, kv_heads, dim, block
        self.window, self.cap, self.scale = window, cap, 1 / math.sqrt(dim)
        need = [-(-length // block) for length, _ in spans]
        self.table_width = max(need) + 1
        self.blocks = sum(need) + 1
        order = torch.randperm(self.blocks, generator=torch.Generator().manual_seed(seed))
        tables = torch.randint(0, self.blocks, (len(spans), self.table_width), dtype=torch.int32)
        at = 0
        for s, n in enumerate(need):
            tables[s, :n] = order[at : at + n]
            at += n
        self.k = torch.randn(self.blocks, kv_heads, block, dim, device=DEV, generator=g).bfloat16()
        self.v = torch.randn(self.blocks, kv_heads, block, dim, device=DEV, generator=g).bfloat16()
        self.host_tables = tables
        self.tables = tables.to(DEV)
        self.column, self.stride = column, column + heads * dim + extra
        tokens = sum(n for _, n in spans)
        self.q = (torch.randn(tokens, self.stride, device=DEV, generator=g) * 2).bfloat16()
        starts, positions = [0], []
        for length, n in spans:
            starts.append(starts[-1] + n)
            positions += range(length - n, length)
        self.tokens = tokens
        self.starts = torch.tensor(starts, dtype=torch.int32, device=DEV)
        self.positions = torch.tensor(positions, dtype=torch.int32, device=DEV)
        self.slots = torch.arange(len(spans), dtype=torch.int32, device=DEV)

    def part(self, picks):
        """A case of the same sequences with other queries: (sequence, from row, to row) of this one's rows."""
        c = object.__new__(Case)
        c.__dict__.update(self.__dict__)
        first = self.starts.tolist()
        rows, starts, slots = [], [0], []
        for s, a, b in picks:
            rows += range(first[s] + a, first[s] + b)
            starts.append(len(rows))
            slots.append(s)
        rows = torch.tensor(rows, device=DEV)
        c.tokens, c.q, c.positions = len(rows), self.q[rows].contiguous(), self.positions[rows].contiguous()
        c.starts = torch.tensor(starts, dtype=torch.int32, device=DEV)
        c.slots = torch.tensor(slots, dtype=torch.int32, device=DEV)
        c.rows = rows
        return c

    def reference(self, dtype=torch.float64):
        outs = []
        starts = self.starts.tolist()
        for s, (length, n) in enumerate(self.spans):
            idx = self.host_tables[s, : -(-length // self.block)].long().to(DEV)
            k, v = (pool[idx].permute(1, 0, 2, 3).reshape(self.kv_heads, -1, self.dim)[:, :length].to(dtype) for pool in (self.k, self.v))
            q = self.q[starts[s] : starts[s + 1], self.column : self.column + self.heads * self.dim].to(dtype)
            q = q.view(n, self.kv_heads, -1, self.dim).permute(1, 2, 0, 3)
            x = torch.einsum("hgqd,hkd->hgqk", q, k) * self.scale
            if self.cap:
                x = self.cap * torch.tanh(x / self.cap)
            p = self.positions[starts[s] : starts[s + 1]].long()[:, None]
            j = torch.arange(length, device=DEV)[None]
            seen = j <= p
            if self.window:
                seen &= j > p - self.window
            x = x.masked_fill(~seen, -math.inf).softmax(-1)
            outs.append(torch.einsum("hgqk,hkd->hgqd", x, v).permute(2, 0, 1, 3).reshape(n, -1))
        return torch.cat(outs)


class Launcher:
    """Runs a case; mode is auto, decode (everything by the split kernel), or prefill (nothing)."""

    def __init__(self, kernels, case, mode="auto", capacity_bytes=64 << 20, prefill="prefill"):
        self.ks, c = kernels, case
        self.dp = kernels.width(c.dim)
        self.keep = case
        sequences, group = c.slots.numel(), c.heads // c.kv_heads
        self.out = torch.full((c.tokens, c.heads * c.dim), math.nan, device=DEV, dtype=torch.bfloat16)
        base = dict(
            out=self.out.data_ptr(), q=c.q.data_ptr(), k_pool=c.k.data_ptr(), v_pool=c.v.data_ptr(), tables=c.tables.data_ptr(),
            slots=c.slots.data_ptr(), query_start=c.starts.data_ptr(), positions=c.positions.data_ptr(), sequences=sequences,
            tokens=c.tokens, stride=c.stride, q_column=c.column, heads=c.heads, kv_heads=c.kv_heads, block_size=c.block, dim=c.dim,
            table_width=c.table_width, table_rows=c.tables.shape[0], blocks=c.blocks, window=c.window, scale=c.scale, soft_cap=c.cap,
        )
        self.launches = []
        pure = c.tokens == sequences
        tile, dp = tile_keys(self.dp), self.dp
        stages = 2 * 2 * tile * (dp + 8) * 2
        hpt = heads_per_tile(group, ROWS)
        tpt = 1 if pure and mode != "decode" else ROWS // hpt
        few = 0 if mode == "prefill" else ALL if pure or mode == "decode" else tpt
        if mode != "prefill":
            shared = 4 * tile * (dp + 8) * 2 + 4 * (tile // 16 * 256 + 32 + 256) + 8 + 4 * (sequences + 1)
            sms = torch.cuda.get_device_properties(0).multi_processor_count
            per_sm = min(16, 228 * 1024 // (shared + 1024))
            grid = sms * per_sm
            rows = hpt * tpt
            capacity = capacity_bytes // (4 * rows * (dp + 2))
            self.work = torch.empty(capacity * rows * (dp + 2), device=DEV)
            self.plan = torch.empty(sequences, dtype=torch.int32, device=DEV)
            a = Args(**base, heads_per_tile=hpt, tokens_per_tile=tpt, few=few, capacity=capacity, partial=self.work.data_ptr(), plan=self.plan.data_ptr())
            self.launches.append(("decode", dp, (grid, 1, 1), 128, shared, a))
            self.launches.append(("combine", dp, (c.tokens, c.heads, 1), max(32, dp), 0, a))
        if mode != "decode" and not (pure and mode == "auto"):
            if prefill == "prefill":
                hpt = heads_per_tile(group, 64)
                tpt = 64 // hpt
                a = Args(**base, heads_per_tile=hpt, tokens_per_tile=tpt, few=few)
                shared = stages + 8 * tile + 4 * 16 * dp * 4
                grid = (c.kv_heads, c.tokens // tpt + sequences, -(-group // hpt))
                self.launches.append(("prefill", dp, grid, 128, shared, a))
            else:
                dp = 64 if c.dim <= 64 else 128
                hpt = heads_per_tile(group, 128)
                tpt = 128 // hpt
                a = Args(**base, heads_per_tile=hpt, tokens_per_tile=tpt, few=few)
                stages, block = (10 if dp == 64 else 5), 128 * dp
                shared = 1024 + 2 * block + 2 * stages * block + 4 * stages * 8 + 8 * 64
                grid = (c.kv_heads, c.tokens // tpt + sequences, -(-group // hpt))
                self.launches.append(("wgmma", dp, grid, 384, shared, a))

    def run(self):
        for launch in self.launches:
            self.ks.launch(*launch)
        return self.out


def check(ks):
    bad = 0
    cases = [  # spans, heads, kv, dim, block, window, cap, column, extra
        ([(70, 70), (1, 1), (37, 7)], 1, 1, 8, 4, 0, 0, 3, 5),
        ([(70, 70), (1, 1), (37, 7)], 8, 2, 64, 16, 0, 0, 3, 5),
        ([(70, 70), (1, 1), (37, 7)], 4, 2, 80, 16, 16, 0, 8, 0),
        ([(70, 70), (1, 1), (37, 7)], 3, 1, 33, 8, 0, 5.0, 3, 5),
        ([(1500, 900), (300, 300), (700, 700)], 2, 2, 128, 16, 300, 30.0, 0, 0),
        ([(70, 70), (900, 400), (37, 7)], 7, 1, 16, 32, 1, 0, 3, 5),
        ([(700, 700), (1, 1), (37, 7)], 2, 1, 256, 16, 0, 0, 0, 0),
        ([(2000, 1100), (513, 513), (256, 256), (257, 1), (4000, 40)], 8, 2, 128, 16, 0, 0, 0, 64),
        ([(2000, 1100), (513, 513), (256, 200)], 40, 1, 96, 16, 512, 0, 0, 0),
        ([(1024, 1024)] * 3, 32, 8, 128, 16, 0, 0, 0, 2048),
    ]
    for i, (spans, heads, kv, dim, block, window, cap, column, extra) in enumerate(cases):
        c = Case(spans, heads, kv, dim, block, window, cap, column, extra, seed=i)
        want = c.reference()
        outs = {}
        for mode in ["prefill", "decode", "auto"]:
            outs[mode] = Launcher(ks, c, mode).run().clone()
        outs["decode, no room"] = Launcher(ks, c, "decode", capacity_bytes=0).run().clone()
        outs["decode, little room"] = Launcher(ks, c, "decode", capacity_bytes=60000).run().clone()
        if dim <= 128 and dim % 8 == 0:
            outs["wgmma"] = Launcher(ks, c, "prefill", prefill="wgmma").run().clone()
            outs["wgmma and decode"] = Launcher(ks, c, "auto", prefill="wgmma").run().clone()
        torch.cuda.synchronize()
        err = ((outs["prefill"].double() - want).norm() / want.norm()).item()
        worst = (outs["prefill"].double() - want).abs().max().item()
        line = f"case {i} heads {heads}/{kv} of {dim}: error {err:.2e}, largest {worst:.2e}"
        ok = err < 5e-3
        for mode, o in outs.items():
            same = torch.equal(o.view(torch.int16), outs["prefill"].view(torch.int16))
            if not same:
                e = ((o.double() - want).norm() / want.norm()).item()
                line += f" | {mode} DIFFERS from prefill (error {e:.2e}, {(o != outs['prefill']).float().mean().item():.1%})"
                ok = False
        # chunks of one sequence, and single queries beside others
        n = spans[0][1]
        for picks in [[(0, 0, n)], [(0, 0, 1)], [(0, 0, n // 3), (1, 0, 1)], [(0, n // 3, n // 3 + 2), (2, 0, spans[2][1])], [(0, n - 1, n)]]:
            p = c.part(picks)
            o = Launcher(ks, p).run()
            torch.cuda.synchronize()
            if not torch.equal(o.view(torch.int16), outs["prefill"][p.rows].view(torch.int16)):
                line += f" | chunk {picks} DIFFERS"
                ok = False
        print(("ok   " if ok else "FAIL ") + line, flush=True)
        bad += not ok
    return bad


def median(runs, rounds=7):
    """Microseconds of one of the runs, launched in turn from a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for r in runs:
            r()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for r in runs:
                r()
        times = []
        for _ in range(rounds + 1):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            graph.replay()
            b.record()
            torch.cuda.synchronize()
            times.append(a.elapsed_time(b) * 1e3 / len(runs))
    return statistics.median(times[1:])


def copy_us(ks, x, y):
    times = []
    for _ in range(6):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        die(ks.cuda.cuMemcpyDtoDAsync_v2(ctypes.c_void_p(y.data_ptr()), ctypes.c_void_p(x.data_ptr()), ctypes.c_size_t(x.numel() * 4), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)), "copy")
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) * 1e3)
    return statistics.median(times[1:])


def decode_times(ks, copy):
    for heads, kv, dim, batch, context, rotate in [
        (32, 8, 128, 1, 512, 64), (32, 8, 128, 1, 2048, 32), (32, 8, 128, 1, 8192, 16), (32, 8, 128, 1, 131072, 2), (32, 8, 128, 8, 2048, 4), (32, 8, 128, 32, 512, 4),
        (32, 8, 128, 32, 4096, 2), (32, 8, 128, 256, 512, 2), (32, 8, 128, 256, 2048, 1), (32, 8, 64, 32, 4096, 2), (16, 8, 256, 32, 4096, 2), (16, 8, 256, 1, 8192, 8),
        (28, 4, 128, 32, 4096, 2), (32, 32, 128, 8, 4096, 2),
    ]:
        runs = [Launcher(ks, Case([(context, 1)] * batch, heads, kv, dim, seed=r)) for r in range(rotate)]
        us = median([r.run for r in runs] * max(1, 8 // rotate))
        split = []
        for kind in range(2):
            split.append(median([lambda r=r: ks.launch(*r.launches[kind]) for r in runs] * max(1, 8 // rotate)))
        rate = 2 * 2 * batch * context * kv * dim / us / 1e3
        print(f"decode {heads}/{kv} of {dim}, {batch:3d} x {context:6d}: {us:8.1f} us  {rate:6.0f} GB/s ({rate / copy:4.0%} of copy), alone {split[0]:.1f} + {split[1]:.1f}", flush=True)


def times(ks):
    x = torch.randn(1 << 29, device=DEV)
    y = torch.empty_like(x)
    us = copy_us(ks, x, y)
    copy = 2 * x.numel() * 4 / us / 1e3
    del x, y
    a, b = (torch.randn(8192, 8192, device=DEV).bfloat16() for _ in range(2))
    us = median([lambda: a @ b] * 5)
    print(f"copy {copy:.0f} GB/s (read + written), bf16 product of 8192^3 {2 * 8192**3 / us / 1e6:.0f} TFLOP/s")
    del a, b
    decode_times(ks, copy)
    for heads, kv, dim, batch, n, past in [(32, 8, 128, 1, 512, 0), (32, 8, 128, 1, 2048, 0), (32, 8, 128, 1, 8192, 0), (32, 8, 128, 4, 2048, 0), (32, 8, 128, 1, 2048, 6144),
                                           (32, 8, 64, 1, 8192, 0), (16, 8, 256, 1, 8192, 0), (32, 32, 128, 1, 8192, 0)]:
        flop = 4 * heads * dim * batch * n * (past + (n + 1) / 2)
        line = f"prefill {heads}/{kv} of {dim}, {batch} x {n} after {past}:"
        c = Case([(past + n, n)] * batch, heads, kv, dim)
        for name in ks.prefills(dim):
            us = median([Launcher(ks, c, "prefill", prefill=name).run] * 3)
            line += f" {name} {us:.0f} us {flop / us / 1e6:.0f} TFLOP/s;"
        if past == 0:
            q, k, v = (torch.randn(batch, h, n, dim, device=DEV).bfloat16() for h in (heads, kv, kv))
            for backend in [torch.nn.attention.SDPBackend.FLASH_ATTENTION, torch.nn.attention.SDPBackend.CUDNN_ATTENTION]:
                try:
                    with torch.nn.attention.sdpa_kernel(backend):
                        us = median([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)] * 3)
                    line += f" torch {backend.name.split('_')[0].lower()} {us:.0f} us {flop / us / 1e6:.0f};"
                except RuntimeError as e:
                    line += f" torch {backend.name}: {str(e)[:60]};"
                    torch.cuda.synchronize()
        print(line, flush=True)


def main():
    files = ["attention_decode.cu", "attention_prefill.cu", "attention_wgmma.cu"]
    modes = sys.argv[1:] or ["check", "time"]
    bad = 0
    ks = Kernels([16, 64, 96, 128, 256], files)
    ks.prefills = lambda dim: ["prefill", "wgmma"] if dim <= 128 else ["prefill"]
    if "check" in modes:
        bad += check(ks)
    if "time" in modes:
        with torch.inference_mode():
            times(ks)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
