// Weights of 8 and 4 bits: how they lie in memory, and how their codes become bfloat16, exactly.
//
// A product takes them in pieces of 16 rows by 128 columns. Thread (g, t) = (lane / 4, lane % 4) of a warp
// multiplies rows g and g + 8 of a piece, and of each 32 columns the 8 from 8t on.
//
//   8 bits: rows of codes as cuBLASLt takes them, padded with zeros to whole pieces.
//   4 bits: [tile of 16 rows][piece][half of 64 columns][lane][columns' first 32: row g, row g + 8; second 32: the same],
//           each 8 columns in 4 bytes whose nibbles, lowest first, are of the columns 0 2 4 6 1 3 5 7.
//   Groups: [tile][piece][group of columns][16 rows] of what a group of a row shares: a float16 scale; or that and in
//           the upper half the bfloat16 -(128 + zero), or the float16 minimum; or a float32 scale.
//
// Formats whose scale is one per row keep it apart, in float32.

// Two bfloat16 at a time. There is no addition of them before Hopper, but this; with products of 1 it is exact here.
__device__ __forceinline__ u32 fma_bf16(u32 x, u32 y, u32 z) {
  u32 v;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(v) : "r"(x), "r"(y), "r"(z));
  return v;
}

// a & mask | bits in one instruction: the compiler makes two of it if both are constants.
__device__ __forceinline__ u32 and_or(u32 a, u32 mask, u32 bits) {
  u32 v;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(v) : "r"(a), "r"(mask), "r"(bits));
  return v;
}

// 8 bits: four codes in the order of columns, of which pair(v, false) is the first two. For products, factors are those
// of four columns in an order and of a size that activations agree with; sums are then so many units.
// Integers: two's complement less its sign is 7 bits behind the 1 of a bfloat16 of 128 to 255; 128, or
// 256 for negative codes, is taken away again.
struct Int8 {
  static constexpr int bits = 8;
  static __device__ __forceinline__ u32 pair(u32 v, bool last) {
    u32 r = __byte_perm(v, 0, last ? 0x4342 : 0x4140);
    u32 value = and_or(r, 0x007f007fu, 0x43004300u), offset = and_or(r, 0x00800080u, 0x43004300u);
    return fma_bf16(offset, 0xbf80bf80u, value);
  }
  static constexpr float unit = 1;
  static __device__ __forceinline__ void factors(u32 v, u32& a, u32& b) { a = pair(v, false), b = pair(v, true); }
  static __device__ __forceinline__ void activations(u32&, u32&) {}
};

// Floats of 4 bits of exponent and 3 of mantissa: the same bits lower in a bfloat16 are the value times 2^-120,
// subnormal ones included. NaN is refused when weights are packed.
struct E4M3 {
  static constexpr int bits = 8;
  static __device__ __forceinline__ u32 pair(u32 v, bool last) { return fma_bf16(moved(__byte_perm(v, 0, last ? 0x3424 : 0x1404)), 0x7b807b80u, 0x80008000u); }
  // The codes in the upper bytes of both halves.
  static __device__ __forceinline__ u32 moved(u32 v) { return and_or(v, 0x80008000u, v >> 4 & 0x07f007f0u); }

  // For products, times 2^-120 and two of four columns at once: the second and fourth, then the first and third.
  static constexpr float unit = 1.152921504606846976e18f; // 2^60: what is left when activations are 2^60 times as large
  static __device__ __forceinline__ void factors(u32 v, u32& a, u32& b) { a = moved(v), b = moved(v << 8); }
  static __device__ __forceinline__ void activations(u32& a, u32& b) {
    constexpr u32 large = 0x5d805d80u, zero = 0x80008000u;
    u32 even = __byte_perm(a, b, 0x5410);
    a = fma_bf16(__byte_perm(a, b, 0x7632), large, zero), b = fma_bf16(even, large, zero);
  }
};

// 4 bits: 8 codes behind the 1 of a bfloat16 of 128 to 143, from which offset takes 128 and the zero.
struct Int4 {
  static constexpr int bits = 4;
  static constexpr float unit = 1;
  static __device__ __forceinline__ u32 above_128(u32 v, int i) { return and_or(v >> 4 * i, 0x000f000fu, 0x43004300u); }
  static __device__ __forceinline__ u32 pair(u32 v, int i, u32 offset) { return fma_bf16(above_128(v, i), 0x3f803f80u, offset); }
};

// What elements share besides the scale, Format::shared: one scale per row and nothing else; one per group; that and
// an integer zero that codes are counted from; or a minimum that is added; or one scale per group in float32.
enum { ROW_SCALE, GROUP_SCALE, GROUP_ZERO, GROUP_MINIMUM, GROUP_FLOAT };

template <class Code, int GROUP, int SHARED>
struct Format {
  using code = Code;
  static constexpr int shared = SHARED;
  static constexpr int bits = Code::bits;
  static constexpr int code_bytes = ROWS * PIECE * bits / 8;
  static constexpr int group_bytes = SHARED == GROUP_SCALE ? 2 : 4; // of a row
  static constexpr int groups = SHARED == ROW_SCALE ? 0 : PIECE / (GROUP > 0 ? GROUP : PIECE);
  static constexpr int meta_bytes = groups * ROWS * group_bytes;
  static constexpr int piece_bytes = code_bytes + meta_bytes;
  static constexpr int span = groups == 0 ? 4 : 4 / groups; // of 32 columns in a group
};

template <class F>
__device__ __forceinline__ float scale_of(u32 group) { return F::shared == GROUP_FLOAT ? __uint_as_float(group) : F16::half((u16)group); }

__device__ __forceinline__ u32 offset_of_zero(u32 group) { return __byte_perm(group, 0, 0x3232); }
constexpr u32 OFFSET_8 = 0xc308c308u, OFFSET_0 = 0xc300c300u; // -(128 + 8) and -128, twice

// Where 8 codes of a row begin; 8 bits: column is a multiple of 8.
template <class F>
__device__ __forceinline__ const u8* codes_at(const u8* codes, i64 stride, int pieces, int row, int column) {
  if (F::bits == 8) return codes + row * stride + column;
  i64 piece = (i64)(row / ROWS) * pieces + column / PIECE;
  int half = column / 64 & 1, lane = (row & 7) * 4 + (column / 8 & 3), word = (column / 32 & 1) * 2 + (row / 8 & 1);
  return codes + piece * F::code_bytes + half * 512 + lane * 16 + word * 4;
}

// The group of a row and column: its scale, and the rest in the upper half.
template <class F>
__device__ __forceinline__ u32 group_at(const u8* meta, int pieces, int row, int column) {
  if (F::groups == 0) return 0;
  constexpr int per = F::groups == 0 ? 1 : F::groups;
  i64 piece = (i64)(row / ROWS) * pieces + column / PIECE;
  const u8* at = meta + piece * F::meta_bytes + ((column % PIECE) / (PIECE / per) * ROWS + row % ROWS) * F::group_bytes;
  return F::group_bytes == 2 ? *(const u16*)at : *(const u32*)at;
}

// Eight weights of a row from column on, in their order.
template <class F>
__device__ __forceinline__ void widen8(const u8* codes, const u8* meta, const float* row_scale, i64 stride, int pieces, int row, int column, float (&w)[8]) {
  const u8* at = codes_at<F>(codes, stride, pieces, row, column);
  u32 group = group_at<F>(meta, pieces, row, column), v[4];
  if constexpr (F::bits == 8) {
    uint2 c = *(const uint2*)at;
    v[0] = F::code::pair(c.x, false), v[1] = F::code::pair(c.x, true), v[2] = F::code::pair(c.y, false), v[3] = F::code::pair(c.y, true);
  } else {
    u32 c = *(const u32*)at, offset = F::shared == GROUP_ZERO ? offset_of_zero(group) : F::shared == GROUP_MINIMUM ? OFFSET_0 : OFFSET_8;
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = F::code::pair(c, i, offset);
  }
  float scale = F::shared == ROW_SCALE ? row_scale[row] : scale_of<F>(group);
  float minimum = F::shared == GROUP_MINIMUM ? F16::half((u16)(group >> 16)) : 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[2 * i] = fmaf(__uint_as_float(v[i] << 16), scale, minimum);
    w[2 * i + 1] = fmaf(__uint_as_float(v[i] & 0xffff0000u), scale, minimum);
  }
}

// The formats. A module has one of them, FORMAT; NAMED is the name of a kernel for it.
#if defined(QUANT_e4m3)
typedef Format<E4M3, 0, ROW_SCALE> FORMAT;
#define NAMED(kind) kind##_e4m3
#elif defined(QUANT_e4m3_128)
typedef Format<E4M3, 128, GROUP_FLOAT> FORMAT;
#define NAMED(kind) kind##_e4m3_128
#elif defined(QUANT_i8)
typedef Format<Int8, 0, ROW_SCALE> FORMAT;
#define NAMED(kind) kind##_i8
#elif defined(QUANT_q8_0)
typedef Format<Int8, 32, GROUP_SCALE> FORMAT;
#define NAMED(kind) kind##_q8_0
#elif defined(QUANT_q4_0)
typedef Format<Int4, 32, GROUP_SCALE> FORMAT;
#define NAMED(kind) kind##_q4_0
#elif defined(QUANT_q4_1)
typedef Format<Int4, 32, GROUP_MINIMUM> FORMAT;
#define NAMED(kind) kind##_q4_1
#elif defined(QUANT_i4_32)
typedef Format<Int4, 32, GROUP_ZERO> FORMAT;
#define NAMED(kind) kind##_i4_32
#elif defined(QUANT_i4_64)
typedef Format<Int4, 64, GROUP_ZERO> FORMAT;
#define NAMED(kind) kind##_i4_64
#elif defined(QUANT_i4_128)
typedef Format<Int4, 128, GROUP_ZERO> FORMAT;
#define NAMED(kind) kind##_i4_128
#endif

#if defined(QUANT_q4_0) || defined(QUANT_q4_1) || defined(QUANT_i4_32) || defined(QUANT_i4_64) || defined(QUANT_i4_128)
#define NIBBLES // codes have 4 bits
#endif
