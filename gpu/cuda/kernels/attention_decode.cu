// Attention for few units of work (see attention_units.cuh): a block takes one after another, its warps a tile of
// a part each. Each warp multiplies its tile's keys with the queries; then each has some of the dimensions, and adds
// the part's values up in the order of the tiles.

constexpr int WARPS = PART / TILE;
constexpr int SLICES = (DP / 16 + WARPS - 1) / WARPS; // of 16 dimensions, of a warp: warp, warp + WARPS, ...

// What the warps of a block tell one another about their tiles. A thread's rows and keys are the
// same for every warp, so each reads what its like wrote.
struct Exchange {
  uint2 weights[WARPS][TILE / 16][32]; // as mma's b, by lane; before, the tile's rows of the pools
  float2 largest[WARPS][4];            // of rows 2c and 2c+1
  float2 total[WARPS][32];             // by lane: weights of keys g, g+8, g+16, ... for rows 2c and 2c+1
  int split;
};

// Sums the part of the keys that starts at position `part`. begin_part came before.
__device__ __forceinline__ void sum_part(const FlashArgs& a, const Keys& keys, int part, const u32 (&q)[DP / 16][2], const Sight& sight,
                                         u16* tiles, Exchange& x, Sums<SLICES>& sums) {
  int warp = warp_id(), lane = lane_id(), tile = part + warp * TILE;
  u16* mine = tiles + warp * HALF;
  bool active = tile <= keys.last && tile + TILE > keys.first;
  float largest[2] = {-INFINITE, -INFINITE};
  Scores s;
  if (active) {
    copies_wait<0>();
    __syncwarp();
    multiply_keys<TILE / 16>(q, mine, s, 0);
    __syncwarp();
    load_half<32>(a, a.v_pool, mine, (const int*)x.weights[warp], lane); // where the keys were
    copies_end();
    look(a, s, sight, tile, largest);
  }
  if (lane < 4) x.largest[warp][lane] = make_float2(largest[0], largest[1]);
  __syncthreads();
  float old[WARPS][2], base[2], unit = score_unit(a), total[2] = {0, 0};
  sums.clear();
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
    uint2 p[TILE / 16];
    weigh(s, base, unit, p, total);
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) x.weights[warp][j][lane] = p[j];
    copies_wait<0>();
  }
  x.total[warp][lane] = make_float2(total[0], total[1]);
  __syncthreads();
  u32 at = shared_address(tiles) + (((lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8 + warp * 16) * 2;
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    float2 of_tile = x.total[i][lane];
    sums.shrink(old[i], {of_tile.x, of_tile.y});
    if (part + i * TILE > keys.last || part + (i + 1) * TILE <= keys.first) continue;
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      uint2 p = x.weights[i][j][lane];
#pragma unroll
      for (int n = 0; n < SLICES; n++) {
        if (DP / 16 % WARPS != 0 && n * WARPS + warp >= DP / 16) continue;
        u32 v[4];
        load_transposed(v, at + (i * HALF + j * 16 * PITCH + n * WARPS * 16) * 2);
        mma(sums.o[n], v, p.x, p.y);
      }
    }
  }
  sums.finish(unit);
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
}

KERNEL __launch_bounds__(32 * WARPS) FLASH(decode)(FlashArgs a) {
  extern __shared__ uint4 room[];
  u16* tiles = (u16*)room; // [WARPS][HALF]
  Exchange& x = *(Exchange*)(tiles + WARPS * HALF);
  int* first = (int*)(&x + 1); // [sequences + 1]
  pdl_launch();
  // Lengths and tables were there before the step's first kernel, so they can be read while the kernel before
  // this one, which writes queries and keys, still runs. A unit's are looked up while the keys of the one before come.
  if (warp_id() == 0) x.split = lay_out(a, first);
  __syncthreads();
  const Units units(a, first, x.split);
  Unit next;
  Rows rows;
  auto look_ahead = [&](int u) {
    if (u >= units.count) return;
    next = units.find(a, u);
    rows = look_up(a, next.keys, next.keys.first / PART * PART);
  };
  look_ahead(blockIdx.x);
  pdl_wait();
  tell_combine(a, first, x.split);

  for (int u = blockIdx.x; u < units.count; u += gridDim.x) {
    const Unit unit = next;
    u32 q[DP / 16][2];
    Sight sight;
    Sums<SLICES> sums;
    Whole<SLICES> whole;
    sums.clear(), whole.clear();
    for (int part = unit.keys.first / PART * PART; part <= unit.keys.last; part += PART) {
      begin_part(a, unit.keys, part, rows, tiles, x);
      if (part <= unit.keys.first) { // the keys are on their way
        load_queries(a, unit.queries, q);
        sight = sight_of(a, unit.queries);
      }
      if (part + PART <= unit.keys.last) rows = look_up(a, unit.keys, part + PART);
      else look_ahead(u + gridDim.x);
      sum_part(a, unit.keys, part, q, sight, tiles, x, sums);
      whole.take(sums);
      __syncthreads(); // the tiles have been used
    }
    if (unit.keys.first > unit.keys.last) look_ahead(u + gridDim.x); // a part that its queries do not see: none was summed
    write_unit(a, unit, u, whole, sums, warp_id(), WARPS);
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
