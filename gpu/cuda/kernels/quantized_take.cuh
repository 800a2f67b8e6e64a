// What products with quantized weights on tensor cores share: how pieces in shared memory become the first factors, and
// what the sums of a group's codes are worth. In a piece the codes come first, and then what groups share; rows of 8-bit codes
// have their eighths of 32 bytes exchanged by the row's number, so that threads that are served together read other banks.

// The weights of rows g and g + 8 in the s-th 32 columns of a piece as the first factors of two products. 4-bit codes count
// from -128.
template <class F>
__device__ __forceinline__ void expand_quarter(const u8* piece, int s, u32 (&low)[4], u32 (&high)[4]) {
  const int g = lane_id() >> 2, t = lane_id() & 3;
  if constexpr (F::bits == 8) {
    const u8* at = piece + g * PIECE + (s ^ (g & 3)) * 32 + t * 8;
    uint2 l = *(const uint2*)at, h = *(const uint2*)(at + 8 * PIECE);
    F::code::factors(l.x, low[0], low[1]), F::code::factors(l.y, low[2], low[3]);
    F::code::factors(h.x, high[0], high[1]), F::code::factors(h.y, high[2], high[3]);
  } else {
    uint2 c = *(const uint2*)(piece + s / 2 * 512 + lane_id() * 16 + s % 2 * 8);
#pragma unroll
    for (int i = 0; i < 4; i++) low[i] = F::code::above_128(c.x, i), high[i] = F::code::above_128(c.y, i);
  }
}

template <class F>
__device__ __forceinline__ u32 group_of(const u8* piece, int group, int row) {
  const u8* at = piece + F::code_bytes + (group * ROWS + row) * F::group_bytes;
  return F::group_bytes == 2 ? *(const u16*)at : *(const u32*)at;
}

// Adds to c what a group of a row makes of the sum of its products and of its activations.
template <class F>
__device__ __forceinline__ void take_group(u32 group, const float (&part)[2], const float (&sum)[2], float& c0, float& c1) {
  float scale = scale_of<F>(group), offset = F::bits == 8 ? 0 : F::shared == GROUP_MINIMUM ? -128 : -136;
  if (F::shared == GROUP_ZERO) offset = __uint_as_float(group & 0xffff0000u);
  float p0 = part[0], p1 = part[1];
  if (F::bits == 4) p0 = fmaf(offset, sum[0], p0), p1 = fmaf(offset, sum[1], p1);
  c0 = fmaf(scale, p0, c0), c1 = fmaf(scale, p1, c1);
  if (F::shared == GROUP_MINIMUM) {
    float minimum = F16::half((u16)(group >> 16));
    c0 = fmaf(minimum, sum[0], c0), c1 = fmaf(minimum, sum[1], c1);
  }
}
