// Attention for sequences with few queries, bound by the reading of keys and values. A block of
// four warps takes one unit after another: a tile of 8 query rows and one part of its keys. The
// unit's sums go to memory and flash_combine merges them, so one sequence fills the GPU.
//
// The grid does not depend on the lengths: each block reads them and lays out the units itself,
// the same way. Where there is no room for partial results, a unit is all parts of its keys, merged
// in the same order.
//
// Each warp has one tile of the part, and multiplies it with the queries; then each has some of the
// dimensions, and adds the part's values up in the order of the tiles. Keys are the rows of a
// product and queries its columns, as a tensor core takes 16 by 8: scores are laid out as mma's d,
// a thread's being those of keys g and g+8 and query rows 2c and 2c+1.

constexpr int WARPS = PART / TILE;
constexpr int SLICES = (DP / 16 + WARPS - 1) / WARPS; // of 16 dimensions, of a warp: warp, warp + WARPS, ...

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
__device__ int lay_out(const FlashArgs& a, int per_item, int* first) {
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

__device__ __forceinline__ Unit find_unit(const FlashArgs& a, const int* first, int split, int groups, int u) {
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

typedef float Scores[TILE / 16][4];

__device__ __forceinline__ void multiply_keys(const u32 (&q)[DP / 16][2], const u16* keys, Scores& s) {
  u32 at = shared_address(keys) + ((lane_id() & 15) * PITCH + (lane_id() >> 4) * 8) * 2;
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
  for (int d = 0; d < DP / 16; d++)
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      u32 k[4];
      load_matrices(k, at + (j * 16 * PITCH + d * 16) * 2);
      mma(s[j], k, q[d][0], q[d][1]);
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

// What the warps of a block tell one another about their tiles. A thread's rows and keys are the
// same for every warp, so each reads what its like wrote.
struct Exchange {
  uint2 weights[WARPS][TILE / 16][32]; // as mma's b, by lane; before, the tile's rows of the pools
  float2 largest[WARPS][4];            // of rows 2c and 2c+1
  float2 total[WARPS][32];             // by lane: weights of keys g, g+8, g+16, ... for rows 2c and 2c+1
  int split;
};

// A thread's share of the sums of query rows 2c and 2c+1 over a part: dimensions g and g+8 of its
// warp's slices.
struct Sums {
  float o[SLICES][4], largest[2], total[2];
};

// A part with at most half of its tiles is small: its values come together with its keys and lie where other parts
// have the keys of the other tiles. Otherwise the values take the place of the keys.
__device__ __forceinline__ bool is_small(const Keys& keys, int part) {
  return (min(keys.last, part + PART - 1) - part) / TILE - (max(keys.first, part) - part) / TILE < WARPS / 2;
}
__device__ __forceinline__ int value_room(int tile, bool small) { return small ? (tile + WARPS / 2) % WARPS : tile; }

// Sums the part of the keys that starts at position `part`. begin_part came before; s is room.
__device__ __forceinline__ void sum_part(const FlashArgs& a, const Keys& keys, int part, const u32 (&q)[DP / 16][2], const Sight& sight,
                                         u16* tiles, Exchange& x, Scores& s, Sums& sums) {
  int warp = warp_id(), lane = lane_id(), tile = part + warp * TILE;
  u16* mine = tiles + warp * HALF;
  bool active = tile <= keys.last && tile + TILE > keys.first, small = is_small(keys, part);
  float largest[2] = {-INFINITE, -INFINITE};
  if (active) {
    if (small) copies_wait<1>();
    else copies_wait<0>();
    __syncwarp();
    multiply_keys(q, mine, s);
    __syncwarp();
    if (!small) {
      load_half<32>(a, a.v_pool, mine, (const int*)x.weights[warp], lane);
      copies_end();
    }
    look(a, s, sight, tile, largest);
  }
  if (lane < 4) x.largest[warp][lane] = make_float2(largest[0], largest[1]);
  __syncthreads();
  float old[WARPS][2], base[2], unit = score_unit(a), total[2] = {0, 0};
  sums.largest[0] = sums.largest[1] = -INFINITE;
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    float2 of_tile = x.largest[i][lane & 3];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = fmaxf(sums.largest[r], r ? of_tile.y : of_tile.x), here;
      old[i][r] = rebase(sums.largest[r], most, unit, here);
      sums.largest[r] = most;
      if (i == warp) base[r] = here;
    }
  }
  if (active) {
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) s[j][e] = weight(s[j][e], unit, base[e & 1]), total[e & 1] = __fadd_rn(total[e & 1], s[j][e]);
      x.weights[warp][j][lane] = make_uint2(transpose(pack_bf16(s[j][0], s[j][1])), transpose(pack_bf16(s[j][2], s[j][3])));
    }
    copies_wait<0>();
  }
  x.total[warp][lane] = make_float2(total[0], total[1]);
  __syncthreads();
  sums.total[0] = sums.total[1] = 0;
#pragma unroll
  for (int n = 0; n < SLICES; n++) sums.o[n][0] = sums.o[n][1] = sums.o[n][2] = sums.o[n][3] = 0;
  u32 at = shared_address(tiles) + (((lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8 + warp * 16) * 2;
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    float2 of_tile = x.total[i][lane];
    sums.total[0] = __fmaf_rn(sums.total[0], old[i][0], of_tile.x), sums.total[1] = __fmaf_rn(sums.total[1], old[i][1], of_tile.y);
#pragma unroll
    for (int n = 0; n < SLICES; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums.o[n][e] = __fmul_rn(sums.o[n][e], old[i][e & 1]);
    if (part + i * TILE > keys.last || part + (i + 1) * TILE <= keys.first) continue;
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      uint2 p = x.weights[i][j][lane];
#pragma unroll
      for (int n = 0; n < SLICES; n++) {
        if (DP / 16 % WARPS != 0 && n * WARPS + warp >= DP / 16) continue;
        u32 v[4];
        load_transposed(v, at + (value_room(i, small) * HALF + j * 16 * PITCH + n * WARPS * 16) * 2);
        mma(sums.o[n], v, p.x, p.y);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
#pragma unroll
    for (int o = 4; o < 32; o *= 2) sums.total[r] = __fadd_rn(sums.total[r], __shfl_xor_sync(FULL, sums.total[r], o));
    sums.largest[r] = __fmul_rn(sums.largest[r], unit);
  }
}

// The rows of the pools that a thread looks up for its warp's tile of a part.
struct Rows { int row[TILE / 32]; };

__device__ __forceinline__ Rows look_up(const FlashArgs& a, const Keys& keys, int part) {
  Rows r;
#pragma unroll
  for (int i = 0; i < TILE / 32; i++) r.row[i] = pool_row(a, keys, part + warp_id() * TILE + 32 * i + lane_id());
  return r;
}

// Starts copying a warp's tile of keys.
__device__ __forceinline__ void begin_part(const FlashArgs& a, const Keys& keys, int part, const Rows& looked_up, u16* tiles, Exchange& x) {
  int warp = warp_id(), tile = part + warp * TILE, *rows = (int*)x.weights[warp];
  if (tile > keys.last || tile + TILE <= keys.first) return;
#pragma unroll
  for (int i = 0; i < TILE / 32; i++) rows[32 * i + lane_id()] = looked_up.row[i];
  __syncwarp();
  load_half<32>(a, a.k_pool, tiles + warp * HALF, rows, lane_id());
  copies_end();
  if (is_small(keys, part)) {
    load_half<32>(a, a.v_pool, tiles + value_room(warp, true) * HALF, rows, lane_id());
    copies_end();
  }
}

// Partial results: [capacity][rows of a tile][DP] sums, then as many pairs (largest, total).
__device__ __forceinline__ float2* partial_pairs(const FlashArgs& a) {
  return (float2*)(a.partial + (i64)a.capacity * a.heads_per_tile * a.tokens_per_tile * DP);
}

__device__ __forceinline__ void write_partial(const FlashArgs& a, const Sums& sums, int r, i64 slot, int row) {
  i64 at = slot * a.heads_per_tile * a.tokens_per_tile + row;
#pragma unroll
  for (int n = 0; n < SLICES; n++) {
    int d = (n * WARPS + warp_id()) * 16 + lane_id() / 4;
    if (d < DP) a.partial[at * DP + d] = sums.o[n][r], a.partial[at * DP + d + 8] = sums.o[n][2 + r];
  }
  if (threadIdx.x < 4) partial_pairs(a)[at] = make_float2(sums.largest[r], sums.total[r]);
}

__device__ __forceinline__ void write_row(const FlashArgs& a, const float (&o)[SLICES][4], float total, int r, int token, int head) {
  u16* out = a.out + ((i64)token * a.heads + head) * a.dim;
  float inverse = __frcp_rn(total);
#pragma unroll
  for (int n = 0; n < SLICES; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int d = (n * WARPS + warp_id()) * 16 + half * 8 + lane_id() / 4;
      if (d < a.dim) store(out + d, mean(o[n][2 * half + r], inverse));
    }
}

KERNEL __launch_bounds__(32 * WARPS) FLASH(decode)(FlashArgs a) {
  extern __shared__ uint4 room[];
  u16* tiles = (u16*)room; // [WARPS][HALF]
  Exchange& x = *(Exchange*)(tiles + WARPS * HALF);
  int* first = (int*)(&x + 1); // [sequences + 1]
  pdl_launch();
  // Lengths and tables were there before the step's first kernel, so they can be read while the kernel before
  // this one, which writes queries and keys, still runs. A unit's are looked up while the keys of the one before come.
  int groups = (a.heads / a.kv_heads + a.heads_per_tile - 1) / a.heads_per_tile;
  if (warp_id() == 0) x.split = lay_out(a, a.kv_heads * groups, first);
  __syncthreads();
  int units = first[a.sequences] * groups * a.kv_heads;
  Unit next;
  Rows rows;
  auto look_ahead = [&](int u) {
    if (u >= units) return;
    next = find_unit(a, first, x.split, groups, u);
    rows = look_up(a, next.keys, next.keys.first / PART * PART);
  };
  look_ahead(blockIdx.x);
  pdl_wait();
  if (blockIdx.x == 0) // for flash_combine: where a sequence's parts are, if they are apart
    for (int s = threadIdx.x; s < a.sequences; s += blockDim.x) a.plan[s] = s < x.split ? first[s] : -1;

  for (int u = blockIdx.x; u < units; u += gridDim.x) {
    const Unit unit = next;
    u32 q[DP / 16][2];
    Sight sight;
    Scores s;
    Sums sums = {}; // of no keys
    Merged merged[2];
    float o[SLICES][4] = {};
    merged[0].clear(), merged[1].clear();
    sums.largest[0] = sums.largest[1] = -INFINITE;
    for (int part = unit.keys.first / PART * PART; part <= unit.keys.last; part += PART) {
      begin_part(a, unit.keys, part, rows, tiles, x);
      if (part <= unit.keys.first) { // the keys are on their way
        load_queries(a, unit.queries, q);
#pragma unroll
        for (int r = 0; r < 2; r++) {
          int row = 2 * (lane_id() & 3) + r;
          sight.set(a, r, unit.queries.real(a, row) ? a.positions[unit.queries.token(a, row)] : -1);
        }
      }
      if (part + PART <= unit.keys.last) rows = look_up(a, unit.keys, part + PART);
      else look_ahead(u + gridDim.x);
      sum_part(a, unit.keys, part, q, sight, tiles, x, s, sums);
#pragma unroll
      for (int r = 0; r < 2; r++) merged[r].take(sums.largest[r], sums.total[r]);
#pragma unroll
      for (int n = 0; n < SLICES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[n][e] = merged[e & 1].of(o[n][e], sums.o[n][e]);
      __syncthreads(); // the tiles have been used
    }
    if (unit.keys.first > unit.keys.last) look_ahead(u + gridDim.x); // a part that its queries do not see: none was summed
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int row = 2 * (lane_id() & 3) + r;
      if (!unit.queries.real(a, row)) continue;
      if (unit.whole) write_row(a, o, merged[r].total, r, unit.queries.token(a, row), unit.queries.head(a, row));
      else write_partial(a, sums, r, u, row);
    }
  }
}

// The sequence of a token: the last s with query_start[s] <= token.
__device__ int sequence_of(const FlashArgs& a, int token) {
  int guess = min(token, a.sequences - 1); // every sequence has one token
  if (a.query_start[guess] <= token && token < a.query_start[guess + 1]) return guess;
  int low = 0, high = a.sequences - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (a.query_start[middle] <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

constexpr int HEADS = 4;                                          // of a block of flash_combine
constexpr int VECTOR = DP % 128 == 0 ? 4 : DP % 64 == 0 ? 2 : 1; // neighbouring dimensions of a lane
constexpr int VECTORS = DP / 32 / VECTOR;                         // of those, 32 * VECTOR apart
constexpr int AHEAD = DP > 128 ? 4 : 8;                           // parts that are read at once

struct alignas(4 * VECTOR) Values { float v[VECTOR]; };

// Merges the parts of each row that flash_decode split: grid (tokens, heads / HEADS), a warp for each head. A lane
// reads one part's pair and works out how that joins those before it.
KERNEL __launch_bounds__(32 * HEADS) FLASH(combine)(FlashArgs a) {
  pdl_launch();
  int token = blockIdx.x, head = blockIdx.y * HEADS + warp_id(), s = sequence_of(a, token), start = a.query_start[s], end = a.query_start[s + 1];
  int group = a.heads / a.kv_heads, groups = (group + a.heads_per_tile - 1) / a.heads_per_tile, kv_head = head / group;
  int seen = a.window > 0 ? max(0, a.positions[start] - a.window + 1) : 0; // by the sequence's first query
  int part0 = seen / PART, parts = a.positions[max(end - 1, 0)] / PART - part0 + 1, mine = a.positions[token] / PART - part0 + 1;
  pdl_wait(); // also where nothing is done: the kernel after this one waits for it alone
  if (head >= a.heads || token >= end || end - start > a.few || parts == 1 || a.plan[s] < 0) return;
  int tile = (token - start) / a.tokens_per_tile, row = (token - start) % a.tokens_per_tile * a.heads_per_tile + head % group % a.heads_per_tile;
  i64 slot = ((i64)(a.plan[s] + tile * parts) * groups + head % group / a.heads_per_tile) * a.kv_heads + kv_head;
  i64 rows = a.heads_per_tile * a.tokens_per_tile, at = slot * rows + row, step = (i64)groups * a.kv_heads * rows;
  const float2* pairs = partial_pairs(a) + at;
  const float* x = a.partial + at * DP + lane_id() * VECTOR;

  Values sum[VECTORS] = {};
  float total = 0, most = -INFINITE; // most: of the parts before
  for (int p = 0; p < mine; p += AHEAD) {
    float2 pair = lane_id() < AHEAD && p + lane_id() < mine ? pairs[(p + lane_id()) * step] : make_float2(-INFINITE, 0);
    Values value[AHEAD][VECTORS] = {};
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
#pragma unroll
      for (int j = 0; j < VECTORS; j++)
        if (p + i < mine) value[i][j] = *(const Values*)(x + (p + i) * step * DP + j * 32 * VECTOR);
    Merged merged;
    float through = fmaxf(most, pair.x); // the largest up to and with this lane's part
#pragma unroll
    for (int o = 1; o < 32; o *= 2) through = fmaxf(through, __shfl_up_sync(FULL, through, o)); // lanes < o get their own
    merged.largest = __shfl_up_sync(FULL, through, 1), merged.total = 0;
    if (lane_id() == 0) merged.largest = most;
    merged.take(pair.x, pair.y);
    most = __shfl_sync(FULL, through, 31);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (p + i >= mine) break;
      Merged next;
      next.old = __shfl_sync(FULL, merged.old, i), next.fresh = __shfl_sync(FULL, merged.fresh, i);
      total = next.of(total, __shfl_sync(FULL, pair.y, i));
#pragma unroll
      for (int j = 0; j < VECTORS; j++)
#pragma unroll
        for (int e = 0; e < VECTOR; e++) sum[j].v[e] = next.of(sum[j].v[e], value[i][j].v[e]);
    }
  }
  u16* out = a.out + ((i64)token * a.heads + head) * a.dim;
#pragma unroll
  for (int j = 0; j < VECTORS; j++)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
      int d = (j * 32 + lane_id()) * VECTOR + e;
      if (d < a.dim) store(out + d, mean(sum[j].v[e], __frcp_rn(total)));
    }
}
