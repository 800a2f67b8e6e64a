// Attention for few units of work (see attention_units.cuh): a block takes one after another, part by part.

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
      sum_part<false>(a, unit.keys, part, q, sight, tiles, tiles, x, sums);
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
