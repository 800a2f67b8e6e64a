// Products of few tokens with bfloat16 weights, on the tensor cores, at the speed of memory.
//
// A block computes 16 rows of W for up to 8 * NT tokens, and its warps divide k between them: warp w
// takes the pieces of 64 elements w, w + warps, …. A thread's 16 bytes of a row are the operands of
// two products m16n8k16 as they come from memory: which k an operand stands for does not matter as
// long as weights and activations agree. The order of the sums depends on k and the number of warps, which follows from W's shape, so the
// bits of an output do not depend on the other tokens.
//
// Around the product: activations can be normalized (their squares are summed on the way, and the
// scale is applied to the sums), and pairs of rows can be gated, the block's 16 rows being 8 gate
// rows and the 8 up rows that belong to them.

struct SkinnyArgs {
  void* out; const act* x; const u8* w; const float* bias; const float* norm; // norm: [k] or null
  i64 stride; // bytes of a row of w
  int tokens, n, k, accumulate, mode; // n: rows of w, or of the gate
  float eps, offset;
};

// SkinnyArgs.mode
enum { STORE_ACT, STORE_F32, GATE_SILU, GATE_GELU_TANH };

constexpr int PIECE = 64; // elements of k
constexpr int ROWS = 16;

__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A thread's part of a piece of two rows of W.
struct Piece { uint4 low[2], high[2]; };

__device__ __forceinline__ Piece load_piece(const u8* low, const u8* high, int k0, int k) {
  Piece p;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    int at = k0 + 32 * h;
    bool real = at < k;
    p.low[h] = real ? stream16(low + 2 * (i64)at) : make_uint4(0, 0, 0, 0);
    p.high[h] = real ? stream16(high + 2 * (i64)at) : make_uint4(0, 0, 0, 0);
  }
  return p;
}

template <int NT, bool NORM>
struct Sums {
  float c[NT][4];
  float squares[NT]; // of token 8 * nt + group, this thread's part
};

// A thread's activations for half a piece, of tokens group, group + 8, …, and the norm's weights.
template <int NT, bool NORM>
struct Input {
  uint4 x[NT];
  float norm[8];
};

template <int NT, bool NORM>
__device__ __forceinline__ void load_input(const SkinnyArgs& a, const act* const (&x)[NT], int at, Input<NT, NORM>& in) {
  bool real = at < a.k;
#pragma unroll
  for (int i = 0; i < NT; i++) in.x[i] = real && x[i] ? *(const uint4*)(x[i] + at) : make_uint4(0, 0, 0, 0);
  if (NORM && real) load8(a.norm + at, in.norm);
}

// Multiplies eight activations by the weights of a norm and adds up their squares.
__device__ __forceinline__ uint4 scale_norm(uint4 x, const float (&norm)[8], float offset, float& squares) {
  float v[8];
  widen_bf16(x, v);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    squares += v[i] * v[i];
    v[i] *= norm[i] + offset;
  }
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

template <int NT, bool NORM>
__device__ __forceinline__ void take_half(const SkinnyArgs& a, uint4 low, uint4 high, const Input<NT, NORM>& in, int at, Sums<NT, NORM>& s) {
#pragma unroll
  for (int i = 0; i < NT; i++) {
    uint4 b = in.x[i];
    if (NORM && at < a.k) b = scale_norm(b, in.norm, a.offset, s.squares[i]);
    mma(s.c[i], low.x, high.x, low.y, high.y, b.x, b.y);
    mma(s.c[i], low.z, high.z, low.w, high.w, b.z, b.w);
  }
}

// Multiplies a piece; even holds the activations of its first half, and then those of the next
// piece's, which begins at then.
template <int NT, bool NORM>
__device__ __forceinline__ void take_piece(const SkinnyArgs& a, const act* const (&x)[NT], const Piece& p, int k0, int then, Input<NT, NORM>& even,
                                           Sums<NT, NORM>& s) {
  Input<NT, NORM> odd;
  load_input<NT, NORM>(a, x, k0 + 32, odd);
  take_half<NT, NORM>(a, p.low[0], p.high[0], even, k0, s);
  load_input<NT, NORM>(a, x, then, even);
  take_half<NT, NORM>(a, p.low[1], p.high[1], odd, k0 + 32, s);
}

__device__ __forceinline__ void finish(const SkinnyArgs& a, int row, int token, float sum) {
  i64 at = (i64)token * a.n + row;
  if (a.mode == STORE_F32) {
    float* out = (float*)a.out + at;
    *out = a.accumulate ? sum + *out : sum;
  } else {
    act* out = (act*)a.out + at;
    store(out, a.accumulate ? sum + load(out) : sum);
  }
}

template <int WARPS, int NT, bool NORM>
__device__ void skinny(const SkinnyArgs& a) {
  constexpr int T = 8 * NT, STEP = WARPS * PIECE;
  __shared__ float parts[WARPS][ROWS][T + 1];
  __shared__ float squares[WARPS][T];
  const int group = lane_id() >> 2, first = blockIdx.y * T, tokens = min(T, a.tokens - first);
  const bool gated = a.mode >= GATE_SILU;
  const int row0 = blockIdx.x * (gated ? ROWS / 2 : ROWS);
  const int low_row = min(row0 + group, a.n - 1);
  const int high_row = gated ? a.n + low_row : min(row0 + group + 8, a.n - 1);
  const u8* low = a.w + (i64)low_row * a.stride;
  const u8* high = a.w + (i64)high_row * a.stride;
  int piece0 = warp_id() * PIECE; // of the warp; k0 is the thread's part of it
  const int mine = (lane_id() & 3) * 8;

  // The weights do not depend on the kernel before: the first of them come while it ends.
  Piece next = load_piece(low, high, piece0 + mine, a.k), after = load_piece(low, high, piece0 + mine + STEP, a.k);
  pdl_wait();
  const act* x[NT];
  Sums<NT, NORM> s;
#pragma unroll
  for (int i = 0; i < NT; i++) {
    int t = 8 * i + group;
    x[i] = t < tokens ? a.x + (i64)(first + t) * a.k : nullptr;
    s.squares[i] = s.c[i][0] = s.c[i][1] = s.c[i][2] = s.c[i][3] = 0;
  }
  // Pieces past the end are zeros and change nothing. Weights are under way for two pieces, and
  // activations, which come from the caches, for half of one.
  Input<NT, NORM> input;
  load_input<NT, NORM>(a, x, piece0 + mine, input);
  for (; piece0 < a.k; piece0 += 2 * STEP) { // whole warps: a product needs all of its threads
    const int k0 = piece0 + mine;
    Piece piece = next;
    next = load_piece(low, high, k0 + 2 * STEP, a.k);
    take_piece<NT, NORM>(a, x, piece, k0, k0 + STEP, input, s);
    piece = after;
    after = load_piece(low, high, k0 + 3 * STEP, a.k);
    take_piece<NT, NORM>(a, x, piece, k0 + STEP, k0 + 2 * STEP, input, s);
  }
  // Only now: blocks of the next kernel that came earlier would crowd on the multiprocessors that have
  // room first, and keep it slow once its turn comes.
  pdl_launch();
  const int column = 2 * (lane_id() & 3);
#pragma unroll
  for (int i = 0; i < NT; i++) {
    parts[warp_id()][group][8 * i + column] = s.c[i][0];
    parts[warp_id()][group][8 * i + column + 1] = s.c[i][1];
    parts[warp_id()][group + 8][8 * i + column] = s.c[i][2];
    parts[warp_id()][group + 8][8 * i + column + 1] = s.c[i][3];
    if (NORM) {
      float v = s.squares[i];
      v += __shfl_xor_sync(FULL, v, 1);
      v += __shfl_xor_sync(FULL, v, 2);
      if (column == 0) squares[warp_id()][8 * i + group] = v;
    }
  }
  __syncthreads();
  auto total = [&](int row, int t) {
    float sum = 0, sq = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      sum += parts[w][row][t];
      if (NORM) sq += squares[w][t];
    }
    return NORM ? sum * (1.0f / sqrtf(sq / a.k + a.eps)) : sum;
  };
  if (gated) {
    for (int i = threadIdx.x; i < ROWS / 2 * tokens; i += blockDim.x) {
      int r = i % (ROWS / 2), t = i / (ROWS / 2), row = row0 + r;
      if (row >= a.n) continue;
      float gate = total(r, t), up = total(r + 8, t);
      if (a.bias) gate += a.bias[row], up += a.bias[a.n + row];
      gate = a.mode == GATE_SILU ? SiLU::of(gate) : GELUTanh::of(gate);
      store((act*)a.out + (i64)(first + t) * a.n + row, gate * up);
    }
    return;
  }
  for (int i = threadIdx.x; i < ROWS * tokens; i += blockDim.x) {
    int r = i % ROWS, t = i / ROWS, row = row0 + r;
    if (row >= a.n) continue;
    float sum = total(r, t);
    if (a.bias) sum += a.bias[row];
    finish(a, row, first + t, sum);
  }
}

// Blocks of a multiprocessor cover each other's beginnings and ends; their number bounds the registers.
// Matrices with few rows have few blocks, which then need more warps.
#define SKINNY_OF(WARPS, NT, BLOCKS)                                                                                   \
  KERNEL __launch_bounds__(32 * WARPS, BLOCKS) skinny_##WARPS##_##NT(SkinnyArgs a) { skinny<WARPS, NT, false>(a); }  \
  KERNEL __launch_bounds__(32 * WARPS, BLOCKS) skinny_##WARPS##_##NT##_norm(SkinnyArgs a) { skinny<WARPS, NT, true>(a); }

SKINNY_OF(4, 1, 5)
SKINNY_OF(4, 2, 4)
SKINNY_OF(4, 4, 3)
SKINNY_OF(8, 1, 2)
SKINNY_OF(8, 2, 2)
SKINNY_OF(8, 4, 1)
