// What the kernels for few queries share: how their work is laid out, and the arithmetic of a tile. A unit of work is a
// tile of 8 query rows and one part of its keys. Its sums go to memory and flash_combine merges them, so that one
// sequence fills the GPU. Where there is no room for partial results, a unit is all parts of its keys, merged in the
// same order.
//
// The grid does not depend on the lengths: each block reads them and lays out the units itself, the same way.
//
// Keys are the rows of a product and queries its columns, as a tensor core takes 16 by 8: scores are laid out as mma's
// d, a thread's being those of keys g and g+8 and query rows 2c and 2c+1.


// Tiles that the query heads of one KV head take.
__device__ __forceinline__ int head_groups(const FlashArgs& a) { return (a.heads / a.kv_heads + a.heads_per_tile - 1) / a.heads_per_tile; }

// The sum of v over the lanes up to this one.
__device__ __forceinline__ int warp_prefix(int v) {
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    int before = __shfl_up_sync(FULL, v, o);
    if (lane_id() >= o) v += before;
  }
  return v;
}

// Fills first[s] with the number of items, units of one KV head, before sequence s, and returns
// the first sequence whose items are whole. For one warp.
__device__ int lay_out(const FlashArgs& a, int* first) {
  const int per_item = a.kv_heads * head_groups(a);
  constexpr int ROUNDS = 8; // of 32 sequences, whose lengths are read at once
  int items = 0, room = 0, split = 0; // before this round's sequences
  for (int s0 = 0; s0 < a.sequences; s0 += 32 * ROUNDS) {
    int tiles[ROUNDS], parts[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      int s = s0 + 32 * i + lane_id();
      tiles[i] = parts[i] = 0;
      if (s >= a.sequences) continue;
      int start = a.query_start[s], n = a.query_start[s + 1] - start;
      if (n <= 0 || n > a.few) continue;
      int low = a.window > 0 ? max(0, a.positions[start] - a.window + 1) : 0;
      tiles[i] = (n + a.tokens_per_tile - 1) / a.tokens_per_tile;
      parts[i] = a.positions[start + n - 1] / PART - low / PART + 1;
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
      int s = s0 + 32 * i + lane_id();
      if (s0 + 32 * i >= a.sequences) break;
      int fits = room + warp_prefix(tiles[i] * parts[i]);
      bool is_split = (i64)fits * per_item <= a.capacity;
      int mine = is_split ? tiles[i] * parts[i] : tiles[i], end = items + warp_prefix(mine);
      if (s < a.sequences) first[s + 1] = end;
      split += __popc(__ballot_sync(FULL, is_split && s < a.sequences));
      items = __shfl_sync(FULL, end, 31), room = min(__shfl_sync(FULL, fits, 31), 1 << 30);
    }
  }
  if (lane_id() == 0) first[0] = 0;
  __syncwarp();
  return split;
}

struct Unit {
  Queries queries;
  Keys keys;
  bool whole; // nothing is left to merge
};

// All units, as lay_out laid them out.
struct Units {
  const int* first;
  int split, groups, count;

  __device__ __forceinline__ Units(const FlashArgs& a, const int* first, int split)
      : first(first), split(split), groups(head_groups(a)), count(first[a.sequences] * groups * a.kv_heads) {}

  __device__ __forceinline__ Unit find(const FlashArgs& a, int u) const {
    int group = a.heads / a.kv_heads, head = u % a.kv_heads, z = u / a.kv_heads % groups, item = u / a.kv_heads / groups;
    int low = 0, high = a.sequences - 1;
    while (low < high) {
      int middle = (low + high + 1) / 2;
      if (first[middle] <= item) low = middle;
      else high = middle - 1;
    }
    int s = low, start = a.query_start[s], end = a.query_start[s + 1], local = item - first[s];
    int seen = a.window > 0 ? max(0, a.positions[start] - a.window + 1) : 0; // by the sequence's first query
    int part0 = seen / PART, parts = a.positions[end - 1] / PART - part0 + 1;
    Unit unit;
    unit.whole = s >= split || parts == 1;
    int tile = unit.whole ? local : local / parts, part = unit.whole ? 0 : part0 + local % parts;
    unit.queries.token0 = start + tile * a.tokens_per_tile;
    unit.queries.tokens = min(a.tokens_per_tile, end - unit.queries.token0);
    unit.queries.head0 = head * group + z * a.heads_per_tile;
    unit.queries.heads = min(a.heads_per_tile, group - z * a.heads_per_tile);
    unit.keys.table = a.tables + (i64)clamp_index(a.slots[s], a.table_rows) * a.table_width;
    unit.keys.head = head;
    unit.keys.first = a.window > 0 ? max(0, a.positions[unit.queries.token0] - a.window + 1) : 0;
    unit.keys.last = a.positions[unit.queries.token0 + unit.queries.tokens - 1];
    if (!unit.whole) unit.keys.first = max(unit.keys.first, part * PART), unit.keys.last = min(unit.keys.last, part * PART + PART - 1);
    return unit;
  }
};

// Tells flash_combine where a sequence's parts are, if they are apart.
__device__ __forceinline__ void tell_combine(const FlashArgs& a, const int* first, int split) {
  if (blockIdx.x == 0)
    for (int s = threadIdx.x; s < a.sequences; s += blockDim.x) a.plan[s] = s < split ? first[s] : -1;
}

// Loads a tile's 8 query rows as mma's b, zeros where there is nothing.
__device__ __forceinline__ void load_queries(const FlashArgs& a, const Queries& queries, u32 (&q)[DP / 16][2]) {
  bool wide = (a.dim | a.stride | a.q_column) % 2 == 0 && (u64)a.q % 4 == 0, real = queries.real(a, lane_id() / 4);
  const u16* from = a.q + (real ? queries.offset(a, lane_id() / 4) : 0) + 2 * (lane_id() & 3);
  int left = real ? a.dim - 2 * (lane_id() & 3) : 0; // elements of the row from here on
#pragma unroll
  for (int i = 0; i < DP / 8; i++) q[i / 2][i % 2] = 0;
  if (wide) {
#pragma unroll
    for (int i = 0; i < DP / 8; i++)
      if (8 * i < left) q[i / 2][i % 2] = *(const u32*)(from + 8 * i);
  } else {
#pragma unroll
    for (int i = 0; i < DP / 8; i++) q[i / 2][i % 2] = load2(from + 8 * i, 8 * i < left, 8 * i + 1 < left, false);
  }
}

// What the queries of a thread's scores see.
__device__ __forceinline__ Sight sight_of(const FlashArgs& a, const Queries& queries) {
  Sight sight;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = 2 * (lane_id() & 3) + r;
    sight.set(a, r, queries.real(a, row) ? a.positions[queries.token(a, row)] : -1);
  }
  return sight;
}

typedef float Scores[TILE / 16][4];

// Scores of N times 16 keys, the first number `from` of the tile.
template <int N>
__device__ __forceinline__ void multiply_keys(const u32 (&q)[DP / 16][2], const u16* keys, Scores& s, int from) {
  u32 at = shared_address(keys) + ((lane_id() & 15) * PITCH + (lane_id() >> 4) * 8) * 2;
#pragma unroll
  for (int j = from; j < from + N; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
  for (int d = 0; d < DP / 16; d++)
#pragma unroll
    for (int j = 0; j < N; j++) {
      u32 k[4];
      load_matrices(k, at + (j * 16 * PITCH + d * 16) * 2);
      mma(s[from + j], k, q[d][0], q[d][1]);
    }
}

// Caps scores, hides those that a row may not see, and finds the largest of each row.
__device__ __forceinline__ void look(const FlashArgs& a, Scores& s, const Sight& sight, int tile, float (&largest)[2]) {
  if (a.soft_cap > 0) {
    float in = cap_in(a), out = cap_out(a);
#pragma unroll
    for (int j = 0; j < TILE / 16; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) s[j][e] = capped(s[j][e], in, out);
  }
  if (!sight.sees_all(tile)) {
#pragma unroll
    for (int j = 0; j < TILE / 16; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (!sight.sees(e & 1, tile + 16 * j + e / 2 * 8 + lane_id() / 4)) s[j][e] = -INFINITE;
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) largest[r] = fmaxf(largest[r], fmaxf(s[j][r], s[j][2 + r]));
#pragma unroll
    for (int o = 4; o < 32; o *= 2) largest[r] = fmaxf(largest[r], __shfl_xor_sync(FULL, largest[r], o));
  }
}

// The transpose of an 8x8 matrix of 16-bit elements.
__device__ __forceinline__ u32 transpose(u32 v) {
  u32 t;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
  return t;
}


// What a tile's scores weigh, in place, given each row's base: mma's b for the values, 16 keys each. Their sums per
// thread are added to total.
__device__ __forceinline__ void weigh(Scores& s, const float (&base)[2], float unit, uint2 (&p)[TILE / 16], float (&total)[2]) {
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) s[j][e] = weight(s[j][e], unit, base[e & 1]), total[e & 1] = __fadd_rn(total[e & 1], s[j][e]);
    p[j] = make_uint2(transpose(pack_bf16(s[j][0], s[j][1])), transpose(pack_bf16(s[j][2], s[j][3])));
  }
}

// A thread's share of the sums of query rows 2c and 2c+1 over a part: dimensions g and g+8 of N slices of 16, the
// first number `from` and the others `step` apart.
template <int N>
struct Sums {
  float o[N][4], largest[2], total[2];

  __device__ __forceinline__ void clear() {
    largest[0] = largest[1] = -INFINITE, total[0] = total[1] = 0;
#pragma unroll
    for (int n = 0; n < N; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
  }
  // Shrinks what was summed before a tile.
  __device__ __forceinline__ void shrink(const float (&old)[2], const float (&tile_total)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) total[r] = __fmaf_rn(total[r], old[r], tile_total[r]);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) o[n][e] = __fmul_rn(o[n][e], old[e & 1]);
  }
  // The part has been summed.
  __device__ __forceinline__ void finish(float unit) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int o = 4; o < 32; o *= 2) total[r] = __fadd_rn(total[r], __shfl_xor_sync(FULL, total[r], o));
      largest[r] = __fmul_rn(largest[r], unit);
    }
  }
};

// The sums over a unit's parts, merged.
template <int N>
struct Whole {
  float o[N][4];
  Merged merged[2];

  __device__ __forceinline__ void clear() {
    merged[0].clear(), merged[1].clear();
#pragma unroll
    for (int n = 0; n < N; n++) o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0;
  }
  __device__ __forceinline__ void take(const Sums<N>& part) {
#pragma unroll
    for (int r = 0; r < 2; r++) merged[r].take(part.largest[r], part.total[r]);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) o[n][e] = merged[e & 1].of(o[n][e], part.o[n][e]);
  }
};

// Partial results: [capacity][rows of a tile][DP] sums, then as many pairs (largest, total).
__device__ __forceinline__ float2* partial_pairs(const FlashArgs& a) {
  return (float2*)(a.partial + (i64)a.capacity * a.heads_per_tile * a.tokens_per_tile * DP);
}

// Writes a thread's rows of a unit: the result, or its last part's sums.
template <int N>
__device__ __forceinline__ void write_unit(const FlashArgs& a, const Unit& unit, i64 slot, const Whole<N>& whole, const Sums<N>& part, int from, int step) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int row = 2 * (lane_id() & 3) + r;
    if (!unit.queries.real(a, row)) continue;
    if (unit.whole) {
      u16* out = a.out + ((i64)unit.queries.token(a, row) * a.heads + unit.queries.head(a, row)) * a.dim;
      float inverse = __frcp_rn(whole.merged[r].total);
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int d = (from + n * step) * 16 + half * 8 + lane_id() / 4;
          if (d < a.dim) store(out + d, mean(whole.o[n][2 * half + r], inverse));
        }
      continue;
    }
    i64 at = slot * a.heads_per_tile * a.tokens_per_tile + row;
#pragma unroll
    for (int n = 0; n < N; n++) {
      int d = (from + n * step) * 16 + lane_id() / 4;
      if (d < DP) a.partial[at * DP + d] = part.o[n][r], a.partial[at * DP + d + 8] = part.o[n][2 + r];
    }
    if (from == 0 && lane_id() < 4) partial_pairs(a)[at] = make_float2(part.largest[r], part.total[r]);
  }
}
