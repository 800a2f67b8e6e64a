#!/usr/bin/env python3
"""Makes tiny checkpoints that are quantized in the formats that are published, and what their weights are.

usage: make.py DIR                  writes DIR/CASE/{config.json,model.safetensors,golden.json} for every case
       make.py DIR SOURCE CASE...   quantizes the checkpoint in SOURCE, a small one in bfloat16, instead of drawn weights

It needs nothing but Python. What it writes follows the formats' own sources and shares nothing with the engine:
AutoGPTQ's and GPTQModel's packing (qlinear, convert_gptq_v2_to_v1_format), AutoAWQ's gemm packing, compressed-tensors'
pack_to_int32, and the fp8 checkpoints of DeepSeek V3 and Qwen 3. golden.json has, for each matrix, the SHA-256 of its
elements as float32, each code's exact product with its scale, rounded once.
"""
import hashlib
import json
import math
import os
import random
import struct
import sys

HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, LAYERS = 4, 2, 16, 128, 32, 1
HIDDEN = {"fp8-block-128": 256}  # of the model of a case, or else 64


def shapes_of(hidden):
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    return {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (INTERMEDIATE, hidden), "mlp.up_proj": (INTERMEDIATE, hidden), "mlp.down_proj": (hidden, INTERMEDIATE),
    }  # fmt: skip


def f32(v):
    return struct.unpack("<f", struct.pack("<f", v))[0]


def f16(v):
    return struct.unpack("<e", struct.pack("<e", v))[0]


def bf16_bits(v):
    (bits,) = struct.unpack("<I", struct.pack("<f", v))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def bf16(v):
    return struct.unpack("<f", struct.pack("<I", bf16_bits(v) << 16))[0]


def e4m3_value(b):
    sign, exponent, fraction = -1 if b & 0x80 else 1, b >> 3 & 15, b & 7
    return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


E4M3 = sorted((e4m3_value(b), b) for b in range(256) if b & 0x7F != 0x7F and b != 0x80)


def to_e4m3(v):
    low, high = 0, len(E4M3) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if E4M3[middle][0] <= v else (low, middle)
    return min(E4M3[low], E4M3[high], key=lambda e: abs(e[0] - v))[1]


class Tensors:
    """Tensors of a safetensors file."""

    def __init__(self):
        self.all = {}

    def add(self, name, dtype, shape, values):
        code = {"F32": "f", "F16": "e", "I8": "b", "U8": "B", "F8_E4M3": "B", "I32": "I", "I64": "q", "BF16": "H"}[dtype]
        if dtype == "BF16":
            values = [bf16_bits(v) for v in values]
        assert len(values) == math.prod(shape), (name, len(values), shape)
        self.all[name] = (dtype, shape, struct.pack(f"<{len(values)}{code}", *values))

    def write(self, path):
        header, at = {}, 0
        order = sorted(self.all, key=lambda name: (-struct.calcsize({"I64": "q", "F32": "f", "I32": "I", "F16": "H", "BF16": "H"}.get(self.all[name][0], "b")), name))
        for name in order:
            dtype, shape, data = self.all[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(self.all[name][2] for name in order))


def pack(rows, per, bits, places=None):
    """Packs rows of codes along them into 32-bit words: element i of a word is at bits * places[i]."""
    words = []
    for row in rows:
        row = row + [0] * (-len(row) % per)
        for at in range(0, len(row), per):
            words.append(sum(code << bits * (places[i] if places else i) for i, code in enumerate(row[at : at + per])))
    return words


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def quantize_ints(w, bits, group_of, symmetric, scale_type, zero_top=False):
    """Codes in 0..2^bits-1, and scales and zeros by [row][group], for the groups of columns that group_of says."""
    groups, top = max(group_of) + 1, 2**bits - 1
    codes, scales, zeros = [], [], []
    for row in w:
        row_scales, row_zeros = [], []
        for g in range(groups):
            members = [v for v, of in zip(row, group_of) if of == g] + [0.0]
            if symmetric:
                scale, zero = max(abs(v) for v in members) / (2 ** (bits - 1) - 0.5), 2 ** (bits - 1)
            else:
                scale = (max(members) - min(members)) / top
                zero = round(-min(members) / scale)
            row_scales.append(scale_type(scale))
            row_zeros.append(min(max(zero, 0), top))
        codes.append([min(max(round(v / row_scales[g]) + row_zeros[g], 0), top) for v, g in zip(row, group_of)])
        scales.append(row_scales)
        zeros.append(row_zeros)
    return codes, scales, zeros


def values_of(codes, scales, zeros, group_of):
    return [[f32(s[g] * (q - z[g])) for q, g in zip(row, group_of)] for row, s, z in zip(codes, scales, zeros)]


def gptq(bits, group, symmetric, version, act_order=False):
    def write(out, name, w, rng):
        n, k = len(w), len(w[0])
        group_of = [c // (group or k) for c in range(k)]
        if act_order:
            rng.shuffle(group_of)
        codes, scales, zeros = quantize_ints(w, bits, group_of, symmetric, f16)
        per, groups = 32 // bits, max(group_of) + 1
        out.add(name + ".qweight", "I32", [k // per, n], [word for words in zip(*[pack([row], per, bits) for row in codes]) for word in words])
        words = pack(transposed(zeros), per, bits)
        if version == 1:  # as GPTQModel converts: the words are made less, which borrows between zeros
            one = sum(1 << bits * i for i in range(per))
            words = [(word - one) % 2**32 for word in words]
        out.add(name + ".qzeros", "I32", [groups, n // per], words)
        out.add(name + ".scales", "F16", [groups, n], [s for row in transposed(scales) for s in row])
        out.add(name + ".g_idx", "I32", [k], group_of)
        return values_of(codes, scales, zeros, group_of)

    config = {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "desc_act": act_order, "sym": symmetric, "lm_head": False, "damp_percent": 0.01}
    if version == 2:
        config["checkpoint_format"] = "gptq_v2"
    return config, write


def awq(group):
    places = [0, 4, 1, 5, 2, 6, 3, 7]  # the nibbles of a word are of the columns 0 2 4 6 1 3 5 7

    def write(out, name, w, rng):
        n, k = len(w), len(w[0])
        group_of = [c // group for c in range(k)]
        codes, scales, zeros = quantize_ints(w, 4, group_of, False, f16)
        groups = max(group_of) + 1
        out.add(name + ".qweight", "I32", [k, n // 8], pack(transposed(codes), 8, 4, places))
        out.add(name + ".qzeros", "I32", [groups, n // 8], pack(transposed(zeros), 8, 4, places))
        out.add(name + ".scales", "F16", [groups, n], [s for row in transposed(scales) for s in row])
        return values_of(codes, scales, zeros, group_of)

    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}, write


def write_packed(out, name, w, bits, group, symmetric, order=None):
    n, k = len(w), len(w[0])
    group_of = order or [c // (group or k) for c in range(k)]
    codes, scales, zeros = quantize_ints(w, bits, group_of, symmetric, bf16)
    per, groups = 32 // bits, max(group_of) + 1
    out.add(name + ".weight_packed", "I32", [n, -(-k // per)], pack(codes, per, bits))
    out.add(name + ".weight_shape", "I64", [2], [n, k])
    out.add(name + ".weight_scale", "BF16", [n, groups], [s for row in scales for s in row])
    if not symmetric:
        out.add(name + ".weight_zero_point", "I32", [-(-n // per), groups], [word for words in zip(*[pack([column], per, bits) for column in transposed(zeros)]) for word in words])
    if order:
        out.add(name + ".weight_g_idx", "I32", [k], order)
    return values_of(codes, scales, zeros, group_of)


def weights_of(bits, strategy, symmetric=True, kind="int", **more):
    return {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "dynamic": False, "observer": "minmax", **more}


def compressed(form, groups):
    return {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed", "global_compression_ratio": None,
        "kv_cache_scheme": None, "ignore": ["lm_head"], "config_groups": {f"group_{i}": g for i, g in enumerate(groups)},
    }  # fmt: skip


def packed_symmetric():
    config = compressed("pack-quantized", [{"targets": ["Linear"], "weights": weights_of(4, "group", group_size=32), "input_activations": None, "output_activations": None}])
    return config, lambda out, name, w, rng: write_packed(out, name, w, 4, 32, True)


def packed_mixed():
    config = compressed("pack-quantized", [
        {"targets": ["Linear"], "weights": weights_of(4, "group", symmetric=False, group_size=64)},
        {"targets": ["re:.*self_attn[.](q|k|v)_proj$"], "weights": weights_of(8, "channel")},
        {"targets": ["re:.*o_proj$"], "weights": weights_of(4, "group", group_size=32, actorder="group")},
    ])  # fmt: skip
    config["ignore"].append("re:.*gate_proj$")

    def write(out, name, w, rng):
        if name.endswith("o_proj"):
            order = [c // 32 for c in range(len(w[0]))]
            rng.shuffle(order)
            return write_packed(out, name, w, 4, 32, True, order)
        if "self_attn" in name:
            return write_packed(out, name, w, 8, 0, True)
        if name.endswith("gate_proj"):
            out.add(name + ".weight", "BF16", [len(w), len(w[0])], [v for row in w for v in row])
            return [[bf16(v) for v in row] for row in w]
        return write_packed(out, name, w, 4, 64, False)

    return config, write


def bytes_per_row(symmetric):
    config = compressed("int-quantized", [{"targets": ["Linear"], "weights": weights_of(8, "channel", symmetric), "input_activations": weights_of(8, "token", dynamic=True)}])

    def write(out, name, w, rng):
        n, k = len(w), len(w[0])
        codes, scales, zeros = quantize_ints(w, 8, [0] * k, symmetric, bf16)
        out.add(name + ".weight", "I8", [n, k], [q - 128 for row in codes for q in row])
        out.add(name + ".weight_scale", "BF16", [n, 1], [s for row in scales for s in row])
        if not symmetric:
            out.add(name + ".weight_zero_point", "I8", [n, 1], [z - 128 for row in zeros for z in row])
        return values_of(codes, scales, zeros, [0] * k)

    return config, write


def write_floats(out, name, w, rows, columns, scale_name, scale_type, shape):
    """8-bit floats with a scale for each block of rows by columns."""
    n, k = len(w), len(w[0])
    down, across = -(-n // rows), -(-k // columns)
    scales = []
    for i in range(down):
        for j in range(across):
            block = [v for row in w[i * rows : (i + 1) * rows] for v in row[j * columns : (j + 1) * columns]]
            scale = max(abs(v) for v in block) / 448
            scales.append(f32(scale) if scale_type == "F32" else bf16(scale))
    scale_at = [[scales[r // rows * across + c // columns] for c in range(k)] for r in range(n)]
    codes = [[to_e4m3(v / s) for v, s in zip(row, row_scales)] for row, row_scales in zip(w, scale_at)]
    out.add(name + ".weight", "F8_E4M3", [n, k], [q for row in codes for q in row])
    out.add(name + scale_name, scale_type, shape(n, k, down, across), scales)
    return [[f32(s * e4m3_value(q)) for q, s in zip(row, row_scales)] for row, row_scales in zip(codes, scale_at)]


def fp8_tensor():
    def write(out, name, w, rng):
        out.add(name + ".input_scale", "F32", [], [0.02])
        return write_floats(out, name, w, 1 << 20, 1 << 20, ".weight_scale", "F32", lambda *_: [])

    return {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}, write


def fp8_block(rows, columns):
    def write(out, name, w, rng):
        if name.endswith("v_proj"):
            out.add(name + ".weight", "BF16", [len(w), len(w[0])], [v for row in w for v in row])
            return [[bf16(v) for v in row] for row in w]
        return write_floats(out, name, w, rows, columns, ".weight_scale_inv", "F32", lambda n, k, down, across: [down, across])

    skipped = ["lm_head", "model.layers.0.self_attn.v_proj"]
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [rows, columns], "modules_to_not_convert": skipped}, write


def floats_per_row():
    config = compressed("float-quantized", [{"targets": ["Linear"], "weights": weights_of(8, "channel", kind="float"), "input_activations": weights_of(8, "token", kind="float", dynamic=True)}])
    return config, lambda out, name, w, rng: write_floats(out, name, w, 1, 1 << 20, ".weight_scale", "BF16", lambda n, *_: [n, 1])


CASES = {
    "fp8-tensor": fp8_tensor(),
    "fp8-block": fp8_block(48, 40),
    "fp8-block-128": fp8_block(128, 128),
    "float-channel": floats_per_row(),
    "int8-channel": bytes_per_row(True),
    "int8-zeros": bytes_per_row(False),
    "packed-symmetric": packed_symmetric(),
    "packed-mixed": packed_mixed(),
    "gptq-v1": gptq(4, 32, False, 1),
    "gptq-v2-act-order": gptq(4, 32, False, 2, act_order=True),
    "gptq-channel": gptq(4, 0, True, 1),
    "gptq-8bit": gptq(8, 64, True, 1),
    "awq": awq(64),
}


def drawn(hidden, rng, tensors, quantize):
    """Fills tensors with a model of random weights, and returns its config."""

    def rows_of(n, k, spread):
        return [[rng.gauss(0, spread) for _ in range(k)] for _ in range(n)]

    def plain(name, shape, rows):
        tensors.add(name, "BF16", shape, [v for row in rows for v in row])

    plain("model.embed_tokens.weight", [VOCAB, hidden], rows_of(VOCAB, hidden, 1))
    plain("lm_head.weight", [VOCAB, hidden], rows_of(VOCAB, hidden, 0.1))
    plain("model.norm.weight", [hidden], [[1.0] * hidden])
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ["input_layernorm", "post_attention_layernorm"]:
            plain(prefix + norm + ".weight", [hidden], [[1 + rng.gauss(0, 0.1) for _ in range(hidden)]])
        for module, (n, k) in shapes_of(hidden).items():
            w = rows_of(n, k, 1 / math.sqrt(k))
            w[3] = [abs(v) for v in w[3]]  # a row whose zeros are 0
            quantize(prefix + module, w)
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": VOCAB, "hidden_size": hidden,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip


def read(source, tensors, quantize):
    """Fills tensors with those of the checkpoint in source, projections quantized, and returns its config."""
    with open(os.path.join(source, "model.safetensors"), "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(length)), f.read()
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if not name.endswith("_proj.weight"):
            tensors.all[name] = (entry["dtype"], entry["shape"], data[begin:end])
            continue
        assert entry["dtype"] == "BF16", name
        n, k = entry["shape"]
        bits = struct.unpack(f"<{n * k}H", data[begin:end])
        values = struct.unpack(f"<{n * k}f", struct.pack(f"<{n * k}I", *(b << 16 for b in bits)))
        quantize(name.removesuffix(".weight"), [list(values[r * k : (r + 1) * k]) for r in range(n)])
    with open(os.path.join(source, "config.json")) as f:
        return json.load(f)


def make(directory, case, fill):
    rng = random.Random(case)
    config, write = CASES[case]
    tensors, golden = Tensors(), {}

    def quantize(name, w):
        values = write(tensors, name, w, rng)
        raw = b"".join(struct.pack(f"<{len(row)}f", *row) for row in values)
        golden[name + ".weight"] = {"shape": [len(w), len(w[0])], "sha256": hashlib.sha256(raw).hexdigest(), "first": values[0][:4]}

    model = fill(rng, tensors, quantize)
    out = os.path.join(directory, case)
    os.makedirs(out, exist_ok=True)
    tensors.write(os.path.join(out, "model.safetensors"))
    for name, value in [("config.json", {**model, "quantization_config": config}), ("golden.json", golden)]:
        with open(os.path.join(out, name), "w") as f:
            json.dump(value, f, indent=1)
            f.write("\n")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    directory, source, cases = sys.argv[1], sys.argv[2:3], sys.argv[3:]
    for case in cases or CASES:
        hidden = HIDDEN.get(case, 64)
        make(directory, case, lambda *to: read(source[0], *to[1:]) if source else drawn(hidden, *to))


main()
