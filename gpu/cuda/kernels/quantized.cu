// Products of few tokens with quantized weights, on the tensor cores, at the speed of memory. See quantized.cuh for the
// formats.
//
// As many blocks as fit run from the start, and each takes every so many-th tile of 16 rows. A block's warps divide
// k: warp w takes the pieces w, w + WARPS, … of a tile. The pieces of a warp, of all of its tiles, come one after
// another through a ring in shared memory, so that the next are under way whatever the warp waits for; what comes
// first does not wait for the kernel before. The sums of a group's codes are float32 and are scaled as a
// whole. Their order depends on k alone, so the bits of an output do not depend on the other tokens.
//
// Around the product: activations can be normalized into shared memory, and rows can be gated, a block taking a tile
// of gates and then the tile of ups that belongs to it.

struct QuantArgs {
  void* out; const act* x; const u8* codes; const u8* meta; const float* row_scale; const float* bias; const float* norm;
  i64 stride; // bytes of a row of codes of 8 bits
  int tokens, n, k, accumulate, mode, half; // mode: see common.cuh; half: rows of the gate, or 0
  float eps, offset;
};

constexpr int WARPS = NORM_THREADS / 32;
#ifndef DEPTH // pieces in a warp's ring, and blocks of a multiprocessor
#define DEPTH (FORMAT::bits == 4 ? 4 : 3)
#define BLOCKS 2
#endif

// A block's tiles in its order.
struct Tiles {
  int count, first, step, up; // up: tiles from a gate to its up, or 0
  __device__ __forceinline__ Tiles(const QuantArgs& a) {
    int units = ((a.half ? a.half : a.n) + ROWS - 1) / ROWS;
    first = blockIdx.x, step = gridDim.x, up = a.half / ROWS;
    count = first < units ? (units - first + step - 1) / step : 0;
    if (up) count *= 2;
  }
  __device__ __forceinline__ int at(int i) const { return up ? first + step * (i >> 1) + (i & 1) * up : first + step * i; }
};

// A warp's ring, and the piece that is fetched next.
template <class F>
struct Ring {
  const QuantArgs& a;
  const Tiles& tiles;
  u8* room;
  int pieces, tile, piece; // tile: which of the block's

  __device__ __forceinline__ Ring(const QuantArgs& a, const Tiles& tiles, u8* room, int pieces)
      : a(a), tiles(tiles), room(room), pieces(pieces), tile(warp_id() < pieces ? 0 : tiles.count), piece(warp_id()) {}

  __device__ __forceinline__ u8* slot(int i) { return room + i * F::piece_bytes; }

  // Starts to copy the next piece, if there is one.
  __device__ __forceinline__ void fetch(int i) {
    if (tile < tiles.count) {
      u32 to = shared_address(slot(i));
      int number = tiles.at(tile), lane = lane_id();
      i64 at = (i64)number * pieces + piece;
      if constexpr (F::bits == 8) {
        int column = lane & 7;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          int r = 4 * j + (lane >> 3), row = min(number * ROWS + r, a.n - 1);
          copy16(to + r * PIECE + ((column >> 1) ^ (r & 3)) * 32 + (column & 1) * 16, a.codes + row * a.stride + piece * PIECE + column * 16, 16);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 2; j++) copy16(to + j * 512 + lane * 16, a.codes + at * F::code_bytes + j * 512 + lane * 16, 16);
      }
      if (lane * 16 < F::meta_bytes) copy16(to + F::code_bytes + lane * 16, a.meta + at * F::meta_bytes + lane * 16, 16);
      piece += WARPS;
      if (piece >= pieces) piece = warp_id(), tile++;
    }
    copies_end(); // empty ones count, too
  }
};

// The weights of rows g and g + 8 in 32 columns, as the first factor of two products.
template <class F>
__device__ __forceinline__ void expand(const u8* piece, int s, u32 low_group, u32 high_group, u32 (&low)[4], u32 (&high)[4]) {
  const int g = lane_id() >> 2, t = lane_id() & 3;
  if constexpr (F::bits == 8) {
    const u8* at = piece + g * PIECE + (s ^ (g & 3)) * 32 + t * 8;
    uint2 l = *(const uint2*)at, h = *(const uint2*)(at + 8 * PIECE);
    low[0] = F::code::pair(l.x, false), low[1] = F::code::pair(l.x, true), low[2] = F::code::pair(l.y, false), low[3] = F::code::pair(l.y, true);
    high[0] = F::code::pair(h.x, false), high[1] = F::code::pair(h.x, true), high[2] = F::code::pair(h.y, false), high[3] = F::code::pair(h.y, true);
  } else {
    uint2 c = *(const uint2*)(piece + (s >> 1) * 512 + lane_id() * 16 + (s & 1) * 8);
    u32 constant = F::shared == GROUP_MINIMUM ? OFFSET_0 : OFFSET_8;
    u32 low_offset = F::shared == GROUP_ZERO ? offset_of_zero(low_group) : constant;
    u32 high_offset = F::shared == GROUP_ZERO ? offset_of_zero(high_group) : constant;
#pragma unroll
    for (int i = 0; i < 4; i++) low[i] = F::code::pair(c.x, i, low_offset), high[i] = F::code::pair(c.y, i, high_offset);
  }
}

template <class F>
__device__ __forceinline__ u32 group_of(const u8* piece, int group, int row) {
  const u8* at = piece + F::code_bytes + (group * ROWS + row) * F::group_bytes;
  return F::group_bytes == 2 ? *(const u16*)at : *(const u32*)at;
}

// Multiplies a piece by x, the activations of tokens g, g + 8, … as each 32 columns' second factors.
template <class F, int NT>
__device__ __forceinline__ void take_piece(const u8* piece, const uint4 (&x)[4][NT], float (&c)[NT][4]) {
  const int g = lane_id() >> 2;
  float part[NT][4], sums[NT][4]; // of a group: of products, and, in all rows, of activations
  u32 low_group = 0, high_group = 0;
#pragma unroll
  for (int s = 0; s < 4; s++) {
    if (F::groups && s % F::span == 0) {
      low_group = group_of<F>(piece, s / F::span, g), high_group = group_of<F>(piece, s / F::span, g + 8);
#pragma unroll
      for (int i = 0; i < NT; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) part[i][j] = sums[i][j] = 0;
    }
    u32 low[4], high[4];
    expand<F>(piece, s, low_group, high_group, low, high);
#pragma unroll
    for (int i = 0; i < NT; i++) {
      float(&to)[4] = F::groups ? part[i] : c[i];
      mma(to, low[0], high[0], low[1], high[1], x[s][i].x, x[s][i].y);
      mma(to, low[2], high[2], low[3], high[3], x[s][i].z, x[s][i].w);
      if (F::shared == GROUP_MINIMUM) {
        constexpr u32 ones = 0x3f803f80u;
        mma(sums[i], ones, ones, ones, ones, x[s][i].x, x[s][i].y);
        mma(sums[i], ones, ones, ones, ones, x[s][i].z, x[s][i].w);
      }
    }
    if (F::groups && (s + 1) % F::span == 0) {
      float low_scale = F16::half((u16)low_group), high_scale = F16::half((u16)high_group);
      float low_minimum = F16::half((u16)(low_group >> 16)), high_minimum = F16::half((u16)(high_group >> 16));
#pragma unroll
      for (int i = 0; i < NT; i++) {
        c[i][0] = fmaf(low_scale, part[i][0], c[i][0]), c[i][1] = fmaf(low_scale, part[i][1], c[i][1]);
        c[i][2] = fmaf(high_scale, part[i][2], c[i][2]), c[i][3] = fmaf(high_scale, part[i][3], c[i][3]);
        if (F::shared == GROUP_MINIMUM) {
          c[i][0] = fmaf(low_minimum, sums[i][0], c[i][0]), c[i][1] = fmaf(low_minimum, sums[i][1], c[i][1]);
          c[i][2] = fmaf(high_minimum, sums[i][2], c[i][2]), c[i][3] = fmaf(high_minimum, sums[i][3], c[i][3]);
        }
      }
    }
  }
}

// The activations of a piece's columns that a thread multiplies, of tokens g, g + 8, ….
template <int NT>
__device__ __forceinline__ void load_piece(const act* const (&x)[NT], int p, int k, uint4 (&in)[4][NT]) {
#pragma unroll
  for (int s = 0; s < 4; s++) {
    int at = p * PIECE + 32 * s + 8 * (lane_id() & 3);
#pragma unroll
    for (int j = 0; j < NT; j++) in[s][j] = at < k && x[j] ? *(const uint4*)(x[j] + at) : make_uint4(0, 0, 0, 0);
  }
}

// The output of a tile that a thread finishes. What changes it is read ahead.
struct Output {
  i64 at;
  bool real;
  float scale, bias, old;

  __device__ __forceinline__ Output(const QuantArgs& a, int row, int token, bool real_token)
      : at((i64)token * (a.half ? a.half : a.n) + row - a.half), real(real_token && row < a.n), scale(1), bias(0), old(0) {
    if (!real) return;
    if (FORMAT::shared == ROW_SCALE) scale = a.row_scale[row];
    if (a.bias) bias = a.bias[row];
    if (a.accumulate) old = a.mode == STORE_F32 ? ((const float*)a.out)[at] : load((const act*)a.out + at);
  }
  __device__ __forceinline__ void write(const QuantArgs& a, float sum) const {
    if (a.mode == STORE_F32) ((float*)a.out)[at] = sum;
    else store((act*)a.out + at, sum);
  }
};

// The dynamic shared memory is the warps' rings and then, with a norm, the tokens' activations.
template <class F, int NT, bool NORM>
__device__ void quantized(const QuantArgs& a) {
  constexpr int T = 8 * NT;
  __shared__ float parts[2][WARPS][ROWS][T + 1];
  __shared__ float room[33];
  extern __shared__ __align__(16) u8 dynamic[];
  const int g = lane_id() >> 2, t = lane_id() & 3, first = blockIdx.y * T, tokens = min(T, a.tokens - first);
  const int pieces = (a.k + PIECE - 1) / PIECE;
  const Tiles tiles(a);
  Ring<F> ring(a, tiles, dynamic + warp_id() * DEPTH * F::piece_bytes, pieces);
#pragma unroll
  for (int i = 0; i < DEPTH; i++) ring.fetch(i);

  pdl_wait();
  act* normalized = (act*)(dynamic + WARPS * DEPTH * F::piece_bytes);
  if (NORM) {
    for (int i = 0; i < tokens; i++) normalize(a.x + (i64)i * a.k, a.norm, normalized + i * a.k, a.k, a.eps, a.offset, room);
    __syncthreads();
  }
  const act* x[NT];
#pragma unroll
  for (int i = 0; i < NT; i++) {
    if (8 * i + g >= tokens) x[i] = nullptr;
    else if (NORM) x[i] = normalized + (8 * i + g) * a.k;
    else x[i] = a.x + (i64)(first + 8 * i + g) * a.k;
  }

  const int r = threadIdx.x % ROWS, token = threadIdx.x / ROWS; // of the output that the thread finishes
  float gate = 0;
  int slot = 0;
  uint4 in[4][NT]; // all tiles want the same, one piece after another
  load_piece<NT>(x, warp_id(), a.k, in);
  for (int i = 0; i < tiles.count; i++) {
    float c[NT][4];
#pragma unroll
    for (int j = 0; j < NT; j++) c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0;
    const Output output(a, tiles.at(i) * ROWS + r, first + token, token < tokens);
    for (int p = warp_id(); p < pieces; p += WARPS) {
      uint4 now[4][NT];
#pragma unroll
      for (int s = 0; s < 4; s++)
#pragma unroll
        for (int j = 0; j < NT; j++) now[s][j] = in[s][j];
      int next = p + WARPS < pieces ? p + WARPS : warp_id();
      if (NT == 1) load_piece<NT>(x, next, a.k, in); // more tokens would need more registers than there are
      copies_wait<DEPTH - 1>();
      __syncwarp(); // a thread multiplies what others copied
      take_piece<F, NT>(ring.slot(slot), now, c);
      if (NT > 1) load_piece<NT>(x, next, a.k, in);
      __syncwarp();
      ring.fetch(slot);
      slot = slot + 1 == DEPTH ? 0 : slot + 1;
    }
    if (i + 1 == tiles.count) pdl_launch(); // late, see skinny.cu
    float(&mine)[WARPS][ROWS][T + 1] = parts[i & 1]; // the other one may still be read
#pragma unroll
    for (int j = 0; j < NT; j++) {
      mine[warp_id()][g][8 * j + 2 * t] = c[j][0];
      mine[warp_id()][g][8 * j + 2 * t + 1] = c[j][1];
      mine[warp_id()][g + 8][8 * j + 2 * t] = c[j][2];
      mine[warp_id()][g + 8][8 * j + 2 * t + 1] = c[j][3];
    }
    __syncthreads();
    if (!output.real) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += mine[w][r][token];
    if (F::shared == ROW_SCALE) sum *= output.scale;
    if (a.bias) sum += output.bias;
    if (!a.half) output.write(a, a.accumulate ? sum + output.old : sum);
    else if ((i & 1) == 0) gate = gate_of(a.mode, sum);
    else output.write(a, gate * sum);
  }
}

KERNEL __launch_bounds__(32 * WARPS, BLOCKS) NAMED(quant_8)(QuantArgs a) { quantized<FORMAT, 1, false>(a); }
KERNEL __launch_bounds__(32 * WARPS, BLOCKS) NAMED(quant_8_norm)(QuantArgs a) { quantized<FORMAT, 1, true>(a); }
KERNEL __launch_bounds__(32 * WARPS, BLOCKS) NAMED(quant_16)(QuantArgs a) { quantized<FORMAT, 2, false>(a); }
