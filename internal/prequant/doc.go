// Package prequant reads weights that a checkpoint stores quantized, by the quantization_config of its config.json,
// and makes 8-bit floats of others.
package prequant
