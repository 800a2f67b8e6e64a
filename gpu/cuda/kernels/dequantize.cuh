// Quantized weights as bfloat16: rows for products of many tokens, and rows of an embedding table.

struct DequantizeArgs {
  u16* out; const u8* codes; const u8* meta; const float* row_scale;
  i64 stride;
  int from, rows, k, pieces; // rows: from on, to [rows, k]
};

// A block takes a piece, a thread 8 columns of a row.
KERNEL NAMED(dequantize)(DequantizeArgs a) {
  pdl_wait();
  int row = blockIdx.y * ROWS + threadIdx.x / 16, column = blockIdx.x * PIECE + threadIdx.x % 16 * 8;
  if (row >= a.rows || column >= a.k) return;
  float w[8];
  widen8<FORMAT>(a.codes, a.meta, a.row_scale, a.stride, a.pieces, a.from + row, column, w);
  store8(a.out + (i64)row * a.k + column, w);
}

struct EmbedQuantArgs {
  act* out; const u8* codes; const u8* meta; const float* row_scale; const int* ids;
  i64 stride, units; // units: of 8 elements
  int vocab, k, pieces;
  float scale;
};

KERNEL NAMED(embed)(EmbedQuantArgs a) {
  pdl_begin();
  i64 i = global_thread();
  if (i >= a.units) return;
  int per_row = a.k / 8, row = clamp_index(a.ids[i / per_row], a.vocab);
  float w[8];
  widen8<FORMAT>(a.codes, a.meta, a.row_scale, a.stride, a.pieces, row, (int)(i % per_row) * 8, w);
#pragma unroll
  for (int j = 0; j < 8; j++) w[j] *= a.scale;
  store8(a.out + i * 8, w);
}
