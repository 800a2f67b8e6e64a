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
  int sequences, stride, q_column, heads, kv_heads, block_size, dim, table_width, table_rows, blocks, window, tokens_per_block;
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

// The products of up to WARP_ROWS queries with this lane's key; each is four chains of
// multiply-adds, added in pairs.
__device__ __forceinline__ void dots(const float* q, const float* k, int padded, const bool (&live)[WARP_ROWS], float (&out)[WARP_ROWS]) {
  float4 sum[WARP_ROWS];
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) sum[r] = make_float4(0, 0, 0, 0);
  for (int d = 0; d < padded; d += 4) {
    float4 y = *(const float4*)(k + d);
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
      if (!live[r]) continue;
      float4 x = *(const float4*)(q + r * padded + d);
      sum[r].x = fmaf(x.x, y.x, sum[r].x);
      sum[r].y = fmaf(x.y, y.y, sum[r].y);
      sum[r].z = fmaf(x.z, y.z, sum[r].z);
      sum[r].w = fmaf(x.w, y.w, sum[r].w);
    }
  }
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) out[r] = (sum[r].x + sum[r].y) + (sum[r].z + sum[r].w);
}

// A row's running softmax: the sum of exp(score - largest) and of that times V, dimensions
// lane, lane+32, …
template <int N>
struct Row {
  float largest, total, sum[N];
};

// Adds a tile to the rows of a warp: q is the first row, k this lane's key, v its first column.
template <int N>
__device__ __forceinline__ void take_tile(const AttentionArgs& a, const float* q, const float* k, const float* v, int padded,
                                          int tile, const int (&position)[WARP_ROWS], Row<N> (&rows)[WARP_ROWS]) {
  int p = tile + lane_id();
  bool live[WARP_ROWS]; // the same in the whole warp: the row has something to see here
  float score[WARP_ROWS], weight[WARP_ROWS];
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) live[r] = position[r] >= tile && (a.window == 0 || position[r] - a.window < tile + TILE - 1);
  dots(q, k, padded, live, score);
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) {
    if (!live[r]) continue;
    bool seen = p <= position[r] && (a.window == 0 || p > position[r] - a.window);
    float s = score[r] * a.scale;
    if (a.soft_cap > 0) s = a.soft_cap * tanhf(s / a.soft_cap);
    float largest = fmaxf(rows[r].largest, warp_max(seen ? s : -INFINITE));
    weight[r] = seen ? expf(s - largest) : 0.0f;
    float old = expf(rows[r].largest - largest);
    rows[r].largest = largest;
    rows[r].total = rows[r].total * old + warp_sum(weight[r]);
#pragma unroll
    for (int i = 0; i < N; i++) rows[r].sum[i] *= old;
  }
#pragma unroll 4
  for (int j = 0; j < TILE; j++) {
    float value[N];
#pragma unroll
    for (int i = 0; i < N; i++) value[i] = v[j * 32 * N + 32 * i];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
      if (!live[r]) continue;
      float w = __shfl_sync(FULL, weight[r], j);
#pragma unroll
      for (int i = 0; i < N; i++) rows[r].sum[i] = fmaf(w, value[i], rows[r].sum[i]);
    }
  }
}

// A grid of (token tiles, kv heads, groups of query heads). N = ceil(dim / 32).
template <int N>
__device__ void attend(const AttentionArgs& a) {
  constexpr int STAGES = N <= 4 ? 2 : 1; // with two, a tile is copied while another is used
  extern __shared__ float4 room[];
  const int padded = (a.dim + 3) & ~3, k_stride = padded + 4, v_stride = 32 * N;
  float* const q = (float*)room;                           // [ROWS][padded]
  float* const k = q + ROWS * padded;                      // [STAGES][TILE][k_stride]: lanes read one row each
  float* const v = k + STAGES * TILE * k_stride;           // [STAGES][TILE][32 * N]: lanes read one column each

  int per = a.tokens_per_block, s = find_sequence(a.query_start, a.sequences, per, blockIdx.x);
  int start = a.query_start[s], end = a.query_start[s + 1];
  int token0 = start + (blockIdx.x - (start / per + s)) * per;
  if (token0 >= end) return;
  int tokens = min(per, end - token0);
  int group = a.heads / a.kv_heads, heads_here = ROWS / per;
  int head0 = blockIdx.y * group + blockIdx.z * heads_here;
  heads_here = min(heads_here, (int)(blockIdx.y + 1) * group - head0);
  const int* table = a.tables + (i64)clamp_index(a.slots[s], a.table_rows) * a.table_width;

  for (int i = threadIdx.x; i < ROWS * padded; i += blockDim.x) {
    int row = i / padded, d = i % padded, t = row % per, h = row / per;
    bool real = t < tokens && h < heads_here && d < a.dim;
    q[i] = real ? a.q[(i64)(token0 + t) * a.stride + a.q_column + (head0 + h) * a.dim + d] : 0.0f;
  }

  Row<N> rows[WARP_ROWS];
  int position[WARP_ROWS];
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) {
    int row = warp_id() * WARP_ROWS + r, t = row % per, h = row / per;
    position[r] = t < tokens && h < heads_here ? a.positions[token0 + t] : -1;
    rows[r].largest = -INFINITE, rows[r].total = 0;
#pragma unroll
    for (int i = 0; i < N; i++) rows[r].sum[i] = 0;
  }
  int last = a.positions[token0 + tokens - 1];
  int first = a.window > 0 ? max(0, a.positions[token0] - a.window + 1) : 0;
  int tile = first & ~(TILE - 1), stage = 0;
  Place place = locate(a, table, blockIdx.y, tile, first, last);
  load_tile(k, k_stride, v, v_stride, padded, a, place);
  place = locate(a, table, blockIdx.y, tile + TILE, first, last);
  for (; tile <= last; tile += TILE) {
    int next = STAGES == 2 ? stage ^ 1 : 0;
    if (STAGES == 2) {
      load_tile(k + next * TILE * k_stride, k_stride, v + next * TILE * v_stride, v_stride, padded, a, place);
      place = locate(a, table, blockIdx.y, tile + 2 * TILE, first, last);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads(); // the tile is here, and so are the queries
    take_tile<N>(a, q + warp_id() * WARP_ROWS * padded, k + stage * TILE * k_stride + lane_id() * k_stride,
                 v + stage * TILE * v_stride + lane_id(), padded, tile, position, rows);
    __syncthreads(); // the tile has been used
    if (STAGES == 1) {
      load_tile(k, k_stride, v, v_stride, padded, a, place);
      place = locate(a, table, blockIdx.y, tile + 2 * TILE, first, last);
    }
    stage = next;
  }
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) {
    if (position[r] < 0) continue;
    int row = warp_id() * WARP_ROWS + r, t = row % per, h = row / per;
    float* out = a.out + ((i64)(token0 + t) * a.heads + head0 + h) * a.dim;
#pragma unroll
    for (int i = 0; i < N; i++)
      if (32 * i + lane_id() < a.dim) out[32 * i + lane_id()] = rows[r].sum[i] / rows[r].total;
  }
}

#define ATTENTION(N) \
  KERNEL __launch_bounds__(32 * WARPS) attention_##N(AttentionArgs a) { attend<N>(a); }

ATTENTION(1)
ATTENTION(2)
ATTENTION(3)
ATTENTION(4)
ATTENTION(6)
ATTENTION(8)
