"""Writes vectors.gguf: random blocks of every type with what PyPI's gguf (0.19.0) dequantizes them to.

    pip install gguf==0.19.0 numpy && python vectors.py vectors.gguf

Each type's tensor "T" has a companion "T.expected" in F32; "T.plain" and "T.quantized" are values and what
gguf quantizes them to.
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES

rng = np.random.default_rng(7)
out = GGUFWriter(sys.argv[1], "vectors")
out.add_array("vectors.strings", ["a", "", "ü"])
out.add_array("vectors.floats", [0.5, -2.0])
out.add_array("vectors.ints", [1, -2, 3])
out.add_bool("vectors.bool", True)
out.add_uint64("vectors.u64", 1 << 63)

for t in [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL]:
    length, size = GGML_QUANT_SIZES[t]
    rows, blocks = 2, 2 if length > 1 else 32
    raw = rng.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    if length > 1:  # scales: finite, of both signs, one of them subnormal
        scales = rng.standard_normal((rows * blocks, 2)).astype(np.float16)
        scales[0, 0] = np.float16(3e-7)
        as_bytes = scales.view(np.uint8)
        if t == T.Q6_K:
            raw[:, 208:210] = as_bytes[:, :2]
        else:
            width = 4 if t in (T.Q4_1, T.Q5_1, T.Q4_K, T.Q5_K) else 2
            raw[:, :width] = as_bytes[:, :width]
    elif t == T.F16:
        raw = rng.standard_normal((rows * blocks, 1)).astype(np.float16).view(np.uint8)
    else:
        raw[:, 1] &= 0xBF
    raw = raw.reshape(rows, blocks * size)
    expected = quants.dequantize(raw, t).astype(np.float32).reshape(rows, blocks * length)
    out.add_tensor(t.name, raw, raw_dtype=t)
    out.add_tensor(t.name + ".expected", expected)

plain = rng.standard_normal((2, 96)).astype(np.float32)
plain[0, :32] = 0
plain[1, 5] = 40
for t in [T.Q8_0, T.Q4_0, T.Q4_1]:
    out.add_tensor(t.name + ".plain", plain)
    out.add_tensor(t.name + ".quantized", quants.quantize(plain, t), raw_dtype=t)

out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
