// Products of few tokens with quantized weights, on the tensor cores, at the speed of memory. See quantized.cuh for the
// formats.
//
// As many blocks as fit run from the start, of one or more teams of warps, and each team takes every so many-th unit: a
// tile of 16 rows, or one of gates and the one of ups that belongs to it. A team's warps divide k: warp w takes the pieces
// w, w + WARPS, … of a tile. The pieces of a warp, of all of its units, come one after another through a ring in shared
// memory, so that the next are under way whatever the warp waits for; what comes first does not wait for the kernel
// before. The sums of a group's codes are float32 and are scaled as a whole; codes of 4 bits are multiplied as 128 more
// than they are, which the sum of the activations, made beside, takes away again. Their order depends on k alone, so the
// bits of an output do not depend on the other tokens.

struct QuantArgs {
  void* out; const act* x; const u8* codes; const u8* meta; const float* row_scale; const float* bias;
  i64 stride; // bytes of a row of codes of 8 bits
  int tokens, n, k, accumulate, mode, half; // mode: see common.cuh; half: rows of the gate, or 0
  int early, _;                             // early: the next kernel may begin with this one
};

constexpr int WARPS = 8; // of a team, which takes units of its own
#ifndef DEPTH // pieces in a warp's ring, teams of a block, and blocks of a multiprocessor
#define DEPTH (FORMAT::bits == 4 ? 6 : 4)
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200
#define TEAMS 2
#define BLOCKS 1
#else // a block has no room for the rings of two
#define TEAMS 1
#define BLOCKS 2
#endif
#endif

__device__ __forceinline__ int team() { return TEAMS == 1 ? 0 : warp_id() / WARPS; }
__device__ __forceinline__ int team_warp() { return TEAMS == 1 ? warp_id() : warp_id() % WARPS; }
__device__ __forceinline__ void team_sync() {
  if (TEAMS == 1) __syncthreads();
  else asm volatile("bar.sync %0, %1;" ::"r"(1 + team()), "n"(32 * WARPS) : "memory");
}

// A team's units in its order: a tile, or a gate's and its up's.
template <int TILES>
struct Units {
  int count, first, step, up; // up: tiles from a gate to its up
  __device__ __forceinline__ Units(const QuantArgs& a) {
    int units = ((TILES == 2 ? a.half : a.n) + ROWS - 1) / ROWS;
    first = blockIdx.x + team() * gridDim.x, step = gridDim.x * TEAMS, up = a.half / ROWS;
    count = first < units ? (units - first + step - 1) / step : 0;
  }
  __device__ __forceinline__ int tile(int i, int which) const { return first + step * i + which * up; }
};

// A warp's ring, and the pieces that are fetched next: one of each tile of a unit.
template <class F, int TILES>
struct Ring {
  const QuantArgs& a;
  const Units<TILES>& units;
  int pieces, unit, piece; // unit: which of the team's
  u32 to, meta_to;         // where the lane copies to in the first slot
  const u8* codes[TILES];  // what the lane copies of them
  const u8* meta[TILES];

  static constexpr int slot_bytes = TILES * F::piece_bytes, slots = DEPTH / TILES, bytes = slots * slot_bytes;

  __device__ __forceinline__ Ring(const QuantArgs& a, const Units<TILES>& units, u8* room, int pieces)
      : a(a), units(units), pieces(pieces), unit(team_warp() < pieces ? 0 : units.count), piece(team_warp()) {
    int lane = lane_id(), r = lane >> 3, column = lane & 7;
    to = shared_address(room) + (F::bits == 8 ? r * PIECE + ((column >> 1) ^ r) * 32 + (column & 1) * 16 : lane * 16);
    meta_to = shared_address(room) + F::code_bytes + lane * 16;
    asm volatile("" : "+r"(to), "+r"(meta_to)); // or they are computed again at each use
    begin();
  }

  // Finds the first pieces of a unit.
  __device__ __forceinline__ void begin() {
    piece = team_warp();
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      int tile = units.tile(unit, j), lane = lane_id();
      i64 at = (i64)tile * pieces + piece;
      if (F::bits == 8) codes[j] = a.codes + (i64)(tile * ROWS + (lane >> 3)) * a.stride + piece * PIECE + (lane & 7) * 16;
      else codes[j] = a.codes + at * F::code_bytes + lane * 16;
      meta[j] = a.meta + at * F::meta_bytes + lane * 16;
    }
  }

  // Starts to copy the next pieces, if there are any, to the slot so many bytes behind the first.
  __device__ __forceinline__ void fetch(int slot) {
    if (unit < units.count) {
#pragma unroll
      for (int j = 0; j < TILES; j++) {
        u32 at = to + slot + j * F::piece_bytes;
        if constexpr (F::bits == 8) {
#pragma unroll
          for (int i = 0; i < 4; i++) copy16(at + 4 * i * PIECE, codes[j] + 4 * i * a.stride, 16);
          codes[j] += WARPS * PIECE;
        } else {
          copy16(at, codes[j], 16);
          copy16(at + 512, codes[j] + 512, 16);
          codes[j] += WARPS * F::code_bytes;
        }
        if (lane_id() * 16 < F::meta_bytes) copy16(F::bits == 8 ? meta_to + slot + j * F::piece_bytes : at + F::code_bytes, meta[j], 16);
        meta[j] += WARPS * F::meta_bytes;
      }
      if ((piece += WARPS) >= pieces) unit++, begin();
    }
    copies_end(); // empty ones count, too
  }
};

// The weights of rows g and g + 8 in 64 columns, 32 of them after the others: see expand_quarter.
template <class F>
__device__ __forceinline__ void expand(const u8* piece, int s, u32 (&low)[2][4], u32 (&high)[2][4]) {
  if constexpr (F::bits == 8) {
#pragma unroll
    for (int j = 0; j < 2; j++) expand_quarter<F>(piece, 2 * s + j, low[j], high[j]);
  } else {
    uint4 c = *(const uint4*)(piece + s * 512 + lane_id() * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      low[0][i] = F::code::above_128(c.x, i), high[0][i] = F::code::above_128(c.y, i);
      low[1][i] = F::code::above_128(c.z, i), high[1][i] = F::code::above_128(c.w, i);
    }
  }
}

// Adds the other sums to the first: v is so many times COUNT.
template <int COPIES, int COUNT>
__device__ __forceinline__ void add_chains(float* v) {
#pragma unroll
  for (int chain = 1; chain < COPIES; chain++)
#pragma unroll
    for (int i = 0; i < COUNT; i++) v[i] += v[chain * COUNT + i];
}

// The activations of tokens g, g + 8, … that a thread multiplies: 8 of each 32 columns of a piece. They come from the
// caches, and each is read for the piece after as soon as it has been used.
template <int NT>
struct Input {
  const act* rows[NT];
  u32 first, last; // column of the thread, and the last one to read from
  uint4 x[4][NT];

  __device__ __forceinline__ Input(const act* of_first, int tokens, int k) : first(8 * (lane_id() & 3)), last(k - 8) {
#pragma unroll
    for (int j = 0; j < NT; j++) { // sums of no token are not used
      rows[j] = of_first + (i64)min(8 * j + (lane_id() >> 2), tokens - 1) * k;
      asm volatile("" : "+l"(rows[j])); // or it is computed again at each use
      __builtin_assume(__isGlobal(rows[j]));
    }
  }

  // The s-th of a piece. Columns past the last weigh nothing: any will do.
  __device__ __forceinline__ void load(int piece, int s) {
    u32 column = min(piece * PIECE + 32 * s + first, last);
#pragma unroll
    for (int j = 0; j < NT; j++) x[s][j] = *(const uint4*)(rows[j] + column);
  }
};

// How many sums a warp makes of a unit's tile at once, so that not every product waits for the one before: of all of it,
// and of a group. Two tiles do not wait for each other.
template <class F, int TILES>
struct Chains {
  static constexpr int whole = F::groups == 0 && TILES == 1 ? 2 : 1;
  static constexpr int cut = F::groups > 0 && F::span > 1 && TILES == 1 ? 2 : 1;
};

// Multiplies the pieces of a unit's tiles by the activations, the second factors.
template <class F, int NT, int TILES>
__device__ __forceinline__ void take_pieces(const u8* slot, Input<NT>& in, int next, float (&c)[Chains<F, TILES>::whole][TILES][NT][4]) {
  constexpr int WHOLE = Chains<F, TILES>::whole, CUT = Chains<F, TILES>::cut;
  const int g = lane_id() >> 2;
  float part[CUT][TILES][NT][4], sums[CUT][NT][4]; // of a group: of products, and, in all rows, of activations
#pragma unroll
  for (int s = 0; s < 4; s += 2) {
    u32 low[TILES][2][4], high[TILES][2][4];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) expand<F>(slot + tile * F::piece_bytes, s / 2, low[tile], high[tile]);
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int at = s + j;
      if (F::groups && at % F::span == 0) {
#pragma unroll
        for (int chain = 0; chain < CUT; chain++)
#pragma unroll
          for (int i = 0; i < NT; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              sums[chain][i][e] = 0;
#pragma unroll
              for (int tile = 0; tile < TILES; tile++) part[chain][tile][i][e] = 0;
            }
      }
#pragma unroll
      for (int i = 0; i < NT; i++) {
        uint4 v = in.x[at][i];
        if constexpr (F::bits == 8) F::code::activations(v.x, v.y), F::code::activations(v.z, v.w);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
          float(&to)[4] = F::groups ? part[at % CUT][tile][i] : c[at % WHOLE][tile][i];
          mma(to, low[tile][j][0], high[tile][j][0], low[tile][j][1], high[tile][j][1], v.x, v.y);
          mma(to, low[tile][j][2], high[tile][j][2], low[tile][j][3], high[tile][j][3], v.z, v.w);
        }
        if (F::bits == 4) {
          constexpr u32 ones = 0x3f803f80u;
          mma(sums[at % CUT][i], ones, ones, ones, ones, v.x, v.y);
          mma(sums[at % CUT][i], ones, ones, ones, ones, v.z, v.w);
        }
      }
      in.load(next, at);
      if (F::groups && (at + 1) % F::span == 0) {
        if (F::bits == 4) add_chains<CUT, NT * 4>(&sums[0][0][0]);
        add_chains<CUT, TILES * NT * 4>(&part[0][0][0][0]);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
          u32 low_group = group_of<F>(slot + tile * F::piece_bytes, at / F::span, g), high_group = group_of<F>(slot + tile * F::piece_bytes, at / F::span, g + 8);
#pragma unroll
          for (int i = 0; i < NT; i++) {
            float(&p)[4] = part[0][tile][i], (&sum)[4] = sums[0][i], (&to)[4] = c[0][tile][i];
            take_group<F>(low_group, {p[0], p[1]}, {sum[0], sum[1]}, to[0], to[1]);
            take_group<F>(high_group, {p[2], p[3]}, {sum[0], sum[1]}, to[2], to[3]);
          }
        }
      }
    }
  }
}

// The sums of all warps of a team: [WARPS][rows of a unit][T + 1].
template <int T, int TILES>
struct Parts {
  float* sums;

  __device__ __forceinline__ void put(const float (&c)[TILES][T / 8][4]) const {
    const int g = lane_id() >> 2, t = lane_id() & 3;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      float* mine = sums + ((team_warp() * TILES + tile) * ROWS + g) * (T + 1) + 2 * t;
#pragma unroll
      for (int j = 0; j < T / 8; j++) {
        mine[8 * j] = c[tile][j][0], mine[8 * j + 1] = c[tile][j][1];
        mine[8 * (T + 1) + 8 * j] = c[tile][j][2], mine[8 * (T + 1) + 8 * j + 1] = c[tile][j][3];
      }
    }
  }
  __device__ __forceinline__ float total(int row, int token) const { // row: of the unit
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += sums[(w * TILES * ROWS + row) * (T + 1) + token];
    return sum;
  }
};

// The outputs of a unit that a thread finishes: number threadIdx.x of the team and every 32 * WARPS-th, row by row for a token.
// What changes them is read ahead.
template <int T, int TILES>
struct Outputs {
  static constexpr int COUNT = (ROWS * T + 32 * WARPS - 1) / (32 * WARPS);
  float scale[COUNT], up_scale[COUNT], bias[COUNT], old[COUNT];

  __device__ __forceinline__ static bool find(const QuantArgs& a, const Units<TILES>& units, int unit, int first, int tokens, int i, int& r, int& token, int& row, i64& at) {
    int number = threadIdx.x % (32 * WARPS) + i * 32 * WARPS, width = TILES == 2 ? a.half : a.n;
    r = number % ROWS, token = number / ROWS, row = units.tile(unit, 0) * ROWS + r;
    at = (i64)(first + token) * width + row;
    return token < tokens && row < width;
  }

  __device__ __forceinline__ void read(const QuantArgs& a, const Units<TILES>& units, int unit, int first, int tokens) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int r, token, row;
      i64 at;
      scale[i] = up_scale[i] = FORMAT::code::unit, bias[i] = old[i] = 0;
      if (!find(a, units, unit, first, tokens, i, r, token, row, at)) continue;
      if constexpr (FORMAT::shared == ROW_SCALE) {
        scale[i] *= a.row_scale[row];
        if (TILES == 2) up_scale[i] *= a.row_scale[a.half + row];
      }
      if (a.bias) bias[i] = a.bias[row];
      if (a.accumulate) old[i] = a.mode == STORE_F32 ? ((const float*)a.out)[at] : load((const act*)a.out + at);
    }
  }

  __device__ __forceinline__ void write(const QuantArgs& a, const Units<TILES>& units, int unit, int first, int tokens, const Parts<T, TILES>& parts) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int r, token, row;
      i64 at;
      if (!find(a, units, unit, first, tokens, i, r, token, row, at)) continue;
      float sum = parts.total(r, token) * scale[i] + bias[i];
      if (TILES == 2) {
        float up = parts.total(ROWS + r, token) * up_scale[i];
        if (a.bias) up += a.bias[a.half + row];
        sum = gate_of(a.mode, sum) * up;
      }
      sum += old[i];
      if (a.mode == STORE_F32) ((float*)a.out)[at] = sum;
      else store((act*)a.out + at, sum);
    }
  }
};

// The dynamic shared memory is, for each team, its warps' rings and their sums.
template <class F, int NT, int TILES>
__device__ void quantized(const QuantArgs& a) {
  using Rings = Ring<F, TILES>;
  constexpr int T = 8 * NT, sum_bytes = 2 * ROWS * (T + 1) * 4; // of a warp
  extern __shared__ __align__(16) u8 dynamic[];
  u8* room = dynamic + team() * WARPS * (DEPTH * F::piece_bytes + sum_bytes);
  const int first = blockIdx.y * T, tokens = min(T, a.tokens - first);
  const int pieces = (a.k + PIECE - 1) / PIECE;
  const Units<TILES> units(a);
  u8* mine = room + team_warp() * Rings::bytes;
  Rings ring(a, units, mine, pieces);
  if (a.early) pdl_launch();
#pragma unroll
  for (int i = 0; i < Rings::slots; i++) ring.fetch(i * Rings::slot_bytes);

  pdl_wait();
  Input<NT> in(a.x + (i64)first * a.k, tokens, a.k); // all units want the same, one piece after another
#pragma unroll
  for (int s = 0; s < 4; s++) in.load(team_warp(), s);
  int slot = 0; // bytes
  for (int i = 0; i < units.count; i++) {
    float c[Chains<F, TILES>::whole][TILES][NT][4] = {};
    Outputs<T, TILES> outputs;
    outputs.read(a, units, i, first, tokens);
    for (int p = team_warp(); p < pieces; p += WARPS) {
      copies_wait<Rings::slots - 1>();
      __syncwarp(); // a thread multiplies what others copied
      take_pieces<F, NT, TILES>(mine + slot, in, p + WARPS < pieces ? p + WARPS : team_warp(), c);
      __syncwarp();
      ring.fetch(slot);
      slot = slot == Rings::bytes - Rings::slot_bytes ? 0 : slot + Rings::slot_bytes;
    }
    if (i + 1 == units.count) pdl_launch(); // late, see skinny.cu
    add_chains<Chains<F, TILES>::whole, TILES * NT * 4>(&c[0][0][0][0]);
    // There is room for the sums of two tiles. Those of two units have places by turns; a gate and its up take all of it.
    const Parts<T, TILES> parts{(float*)(room + WARPS * Rings::bytes) + (TILES == 1 && i % 2 ? WARPS * ROWS * (T + 1) : 0)};
    if (TILES == 2) team_sync(); // the sums of the unit before have been read
    parts.put(c[0]);
    team_sync();
    outputs.write(a, units, i, first, tokens, parts);
  }
}

KERNEL __launch_bounds__(32 * WARPS * TEAMS, BLOCKS) NAMED(quant_8)(QuantArgs a) { quantized<FORMAT, 1, 1>(a); }
KERNEL __launch_bounds__(32 * WARPS * TEAMS, BLOCKS) NAMED(quant_8_gate)(QuantArgs a) { quantized<FORMAT, 1, 2>(a); }
KERNEL __launch_bounds__(32 * WARPS * TEAMS, BLOCKS) NAMED(quant_16)(QuantArgs a) { quantized<FORMAT, 2, 1>(a); }
KERNEL __launch_bounds__(32 * WARPS * TEAMS, BLOCKS) NAMED(quant_16_gate)(QuantArgs a) { quantized<FORMAT, 2, 2>(a); }
