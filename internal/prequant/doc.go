// Package prequant reads weights that a checkpoint stores quantized, by the quantization_config of its config.json,
// and makes 8-bit floats of others.
//
// [ParseConfig] reads the config, [Open] puts it together with the checkpoint's tensors, and a [Weight] hands out its
// rows in the types of package gpu that hold them without loss, or dequantized. The formats are those of the files
// that are published:
//
//   - fp8, fbgemm_fp8 and modelopt: 8-bit floats (arXiv:2209.05433) with a scale per tensor, per row or per block
//     (https://huggingface.co/docs/transformers/quantization/finegrained_fp8)
//   - compressed-tensors: https://github.com/vllm-project/compressed-tensors, formats float-quantized, int-quantized,
//     naive-quantized and pack-quantized
//   - gptq: arXiv:2210.17323, in the layouts of AutoGPTQ (v1) and GPTQModel (v2)
//   - awq: arXiv:2306.00978, in AutoAWQ's gemm layout
//
// Everything in a file is taken as hostile: shapes, types, indices and scales are checked before a row is made, and
// an error names the tensor or the field.
//
// Read config.go, source.go, weight.go in this order.
package prequant
