// Causal attention over paged keys and values (Kwon et al. 2023, arXiv:2309.06180) with an
// online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867).
//
// A block serves up to ROWS query rows of one sequence that share a KV head: a few neighbouring
// tokens times the query heads of the group. Keys come in tiles of 32 positions that start at
// multiples of 32, and a query takes its tiles in ascending order, masking what it may not see.
// So the order of its sums depends on its position alone, not on the chunk it came in.

struct AttentionArgs {
  float* out; const float* q; const float* k_pool; const float* v_pool;
  const int* tables; const int* slots; const int* query_start; const int* positions;
  int sequences, stride, q_column, heads, kv_heads, block_size, dim, table_width, table_rows, blocks, window, heads_per_block;
  float scale, soft_cap;
};

constexpr int TILE = 32;  // keys; one per lane
constexpr int ROWS = 16;  // query rows of a block
constexpr int WARPS = 4;
constexpr int WARP_ROWS = ROWS / WARPS;

// The sequence of token tile `tile`: the last s with query_start[s]/per + s <= tile. Every
// sequence has room for its tiles between one such number and the next.
__device__ int find_sequence(const int* query_start, int sequences, int per, int tile) {
  int low = 0, high = sequences - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (query_start[middle] / per + middle <= tile) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Where a warp's keys and values of a tile are: lane i < LOADS knows row warp + i * WARPS.
constexpr int LOADS = TILE / WARPS;

struct Place {
  i64 offset; // elements into either pool
  int real;   // the position is one that a query may see
};

__device__ __forceinline__ Place locate(const AttentionArgs& a, const int* table, int head, int tile, int first, int last) {
  int p = tile + warp_id() + lane_id() * WARPS;
  Place at = {0, lane_id() < LOADS && p >= first && p <= last};
  if (at.real) {
    int block = clamp_index(table[min(p / a.block_size, a.table_width - 1)], a.blocks);
    at.offset = (((i64)block * a.kv_heads + head) * a.block_size + p % a.block_size) * a.dim;
  }
  return at;
}

__device__ __forceinline__ void copy16(float* to, const float* from, int real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(real ? 16 : 0) : "memory");
}

// Starts copying a tile to shared memory; rows that are not real, and columns from dim to
// padded, become zero.
__device__ void load_tile(float* k, int k_stride, float* v, int v_stride, int padded, const AttentionArgs& a, Place place) {
#pragma unroll
  for (int i = 0; i < LOADS; i++) {
    i64 offset = __shfl_sync(FULL, place.offset, i);
    int real = __shfl_sync(FULL, place.real, i), j = warp_id() + i * WARPS;
    if (a.dim % 4 == 0) {
      for (int d = lane_id() * 4; d < padded; d += 128) {
        copy16(k + j * k_stride + d, a.k_pool + offset + d, real);
        copy16(v + j * v_stride + d, a.v_pool + offset + d, real);
      }
    } else {
      for (int d = lane_id(); d < padded; d += 32) {
        k[j * k_stride + d] = real && d < a.dim ? a.k_pool[offset + d] : 0.0f;
        v[j * v_stride + d] = real && d < a.dim ? a.v_pool[offset + d] : 0.0f;
      }
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// The products of a warp's first LIVE queries with this lane's key; each is four chains of
// multiply-adds, added in pairs. Neighbouring queries of a warp lie WARPS rows apart.
template <int LIVE>
__device__ __forceinline__ void dots(const float* q, const float* k, int padded, float (&out)[LIVE]) {
  float4 sum[LIVE];
#pragma unroll
  for (int r = 0; r < LIVE; r++) sum[r] = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int d = 0; d < padded; d += 4) {
    float4 y = *(const float4*)(k + d);
#pragma unroll
    for (int r = 0; r < LIVE; r++) {
      float4 x = *(const float4*)(q + r * WARPS * padded + d);
      sum[r].x = fmaf(x.x, y.x, sum[r].x);
      sum[r].y = fmaf(x.y, y.y, sum[r].y);
      sum[r].z = fmaf(x.z, y.z, sum[r].z);
      sum[r].w = fmaf(x.w, y.w, sum[r].w);
    }
  }
#pragma unroll
  for (int r = 0; r < LIVE; r++) out[r] = (sum[r].x + sum[r].y) + (sum[r].z + sum[r].w);
}

// A row's running softmax: the sum of exp(score - largest) and of that times V, dimensions
// lane, lane+32, …
template <int N>
struct Row {
  float largest, total, sum[N];
};

// Adds a tile to the rows of a warp: q is the first row, k this lane's key, v its first column.
// A tile in which a row sees nothing leaves it as it was, but for the sign of a zero.
template <int N, int LIVE>
__device__ __forceinline__ void take_tile(const AttentionArgs& a, const float* q, const float* k, const float* v, int padded,
                                          int p, const int (&position)[LIVE], Row<N> (&rows)[LIVE]) {
  float score[LIVE], weight[LIVE];
  dots<LIVE>(q, k, padded, score);
#pragma unroll
  for (int r = 0; r < LIVE; r++) {
    bool seen = p <= position[r] && (a.window == 0 || p > position[r] - a.window);
    float s = __fmul_rn(score[r], a.scale); // never fused: all instantiations must agree
    if (a.soft_cap > 0) s = a.soft_cap * tanhf(s / a.soft_cap);
    float largest = fmaxf(rows[r].largest, warp_max(seen ? s : -INFINITE));
    float base = largest == -INFINITE ? 0.0f : largest; // nothing was seen yet
    weight[r] = seen ? expf(s - base) : 0.0f;
    float old = expf(rows[r].largest - base);
    rows[r].largest = largest;
    rows[r].total = fmaf(rows[r].total, old, warp_sum(weight[r]));
#pragma unroll
    for (int i = 0; i < N; i++) rows[r].sum[i] *= old;
  }
#pragma unroll 8
  for (int j = 0; j < TILE; j++) {
    float value[N];
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = v[j * 32 * N + 32 * i];
#pragma unroll
    for (int r = 0; r < LIVE; r++) {
      float w = __shfl_sync(FULL, weight[r], j);
#pragma unroll
      for (int i = 0; i < N; i++) rows[r].sum[i] = fmaf(w, value[i], rows[r].sum[i]);
    }
  }
}

// What a block works on.
struct Span {
  int token0, tokens; // of the sequence
  int head0, heads;   // query heads
  const int* table;
};

// Attends with the first LIVE rows of each warp; row number row is head row % heads_here of
// token row / heads_here, so that the rows of the first tokens spread over the warps.
template <int N, int LIVE>
__device__ void attend(const AttentionArgs& a, const Span& span, float* q) {
  constexpr int STAGES = N <= 4 ? 2 : 1; // with two, a tile is copied while another is used
  const int padded = (a.dim + 3) & ~3, k_stride = padded + 4, v_stride = 32 * N, kv_head = blockIdx.y;
  float* const k = q + ROWS * padded;             // [STAGES][TILE][k_stride]: lanes read one row each
  float* const v = k + STAGES * TILE * k_stride;  // [STAGES][TILE][32 * N]: lanes read one column each

  Row<N> rows[LIVE];
  int position[LIVE];
#pragma unroll
  for (int r = 0; r < LIVE; r++) {
    int t = (r * WARPS + warp_id()) / a.heads_per_block, h = (r * WARPS + warp_id()) % a.heads_per_block;
    position[r] = t < span.tokens && h < span.heads ? a.positions[span.token0 + t] : -1;
    rows[r].largest = -INFINITE, rows[r].total = 0;
#pragma unroll
    for (int i = 0; i < N; i++) rows[r].sum[i] = 0;
  }
  int last = a.positions[span.token0 + span.tokens - 1];
  int first = a.window > 0 ? max(0, a.positions[span.token0] - a.window + 1) : 0;
  int tile = first & ~(TILE - 1), stage = 0;
  Place place = locate(a, span.table, kv_head, tile, first, last);
  load_tile(k, k_stride, v, v_stride, padded, a, place);
  place = locate(a, span.table, kv_head, tile + TILE, first, last);
  for (; tile <= last; tile += TILE) {
    int next = STAGES == 2 ? stage ^ 1 : 0;
    if (STAGES == 2) {
      load_tile(k + next * TILE * k_stride, k_stride, v + next * TILE * v_stride, v_stride, padded, a, place);
      place = locate(a, span.table, kv_head, tile + 2 * TILE, first, last);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads(); // the tile is here, and so are the queries
    take_tile<N, LIVE>(a, q + warp_id() * padded, k + stage * TILE * k_stride + lane_id() * k_stride,
                       v + stage * TILE * v_stride + lane_id(), padded, tile + lane_id(), position, rows);
    __syncthreads(); // the tile has been used
    if (STAGES == 1) {
      load_tile(k, k_stride, v, v_stride, padded, a, place);
      place = locate(a, span.table, kv_head, tile + 2 * TILE, first, last);
    }
    stage = next;
  }
#pragma unroll
  for (int r = 0; r < LIVE; r++) {
    if (position[r] < 0) continue;
    int t = (r * WARPS + warp_id()) / a.heads_per_block, h = (r * WARPS + warp_id()) % a.heads_per_block;
    float* out = a.out + ((i64)(span.token0 + t) * a.heads + span.head0 + h) * a.dim;
#pragma unroll
    for (int i = 0; i < N; i++) // no -0: whether tiles past the query's came by must not show
      if (32 * i + lane_id() < a.dim) out[32 * i + lane_id()] = rows[r].sum[i] / rows[r].total + 0.0f;
  }
}

// A grid of (token tiles, kv heads, groups of query heads). N = ceil(dim / 32).
template <int N>
__device__ void attention(const AttentionArgs& a) {
  extern __shared__ float4 room[];
  float* const q = (float*)room; // [ROWS][padded]
  const int padded = (a.dim + 3) & ~3;

  int per = ROWS / a.heads_per_block, s = find_sequence(a.query_start, a.sequences, per, blockIdx.x);
  int start = a.query_start[s], end = a.query_start[s + 1], group = a.heads / a.kv_heads;
  Span span;
  span.token0 = start + (blockIdx.x - (start / per + s)) * per;
  if (span.token0 >= end) return;
  span.tokens = min(per, end - span.token0);
  span.head0 = blockIdx.y * group + blockIdx.z * a.heads_per_block;
  span.heads = min(a.heads_per_block, (int)(blockIdx.y + 1) * group - span.head0);
  span.table = a.tables + (i64)clamp_index(a.slots[s], a.table_rows) * a.table_width;

  for (int i = threadIdx.x; i < ROWS * padded; i += blockDim.x) {
    int row = i / padded, d = i % padded, t = row / a.heads_per_block, h = row % a.heads_per_block;
    bool real = t < span.tokens && h < span.heads && d < a.dim;
    q[i] = real ? a.q[(i64)(span.token0 + t) * a.stride + a.q_column + (span.head0 + h) * a.dim + d] : 0.0f;
  }
  if (span.tokens * a.heads_per_block <= WARPS) attend<N, 1>(a, span, q); // decode
  else attend<N, WARP_ROWS>(a, span, q);
}

// A module has the kernel of one WIDTH, in units of 32 dimensions.
#define ATTENTION(N) \
  KERNEL __launch_bounds__(32 * WARPS) attention_##N(AttentionArgs a) { attention<N>(a); }
#define ATTENTION_OF(WIDTH) ATTENTION(WIDTH)

ATTENTION_OF(WIDTH)
