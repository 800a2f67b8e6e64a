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

// Copies the TILE rows from position `tile` of one head of a pool to shared memory; positions
// outside [first, last], and columns from dim to padded, become zero.
__device__ void load_tile(float* to, int to_stride, int padded, const float* pool, const AttentionArgs& a,
                          const int* table, int head, int tile, int first, int last) {
  for (int j = warp_id(); j < TILE; j += WARPS) {
    int p = tile + j;
    const float* from = 0;
    if (p >= first && p <= last) {
      int block = clamp_index(table[min(p / a.block_size, a.table_width - 1)], a.blocks);
      from = pool + (((i64)block * a.kv_heads + head) * a.block_size + p % a.block_size) * a.dim;
    }
    if (a.dim % 4 == 0) {
      for (int d = lane_id() * 4; d < padded; d += 128)
        *(float4*)(to + j * to_stride + d) = from ? *(const float4*)(from + d) : make_float4(0, 0, 0, 0);
    } else {
      for (int d = lane_id(); d < padded; d += 32) to[j * to_stride + d] = from && d < a.dim ? from[d] : 0.0f;
    }
  }
}

__device__ __forceinline__ float dot(const float* q, const float* k, int padded) {
  float sum = 0;
  for (int d = 0; d < padded; d += 4) {
    float4 x = *(const float4*)(q + d), y = *(const float4*)(k + d);
    sum = fmaf(x.x, y.x, sum);
    sum = fmaf(x.y, y.y, sum);
    sum = fmaf(x.z, y.z, sum);
    sum = fmaf(x.w, y.w, sum);
  }
  return sum;
}

// A row's running softmax: the sum of exp(score - largest) and of that times V, dimensions
// lane, lane+32, …
template <int N>
struct Row {
  float largest, total, sum[N];
};

// A grid of (token tiles, kv heads, groups of query heads). N = ceil(dim / 32).
template <int N>
__device__ void attend(const AttentionArgs& a) {
  extern __shared__ float4 room[];
  int padded = (a.dim + 3) & ~3, k_stride = padded + 4;
  float* q = (float*)room;             // [ROWS][padded]
  float* k = q + ROWS * padded;        // [TILE][k_stride]: lanes read one row each
  float* v = k + TILE * k_stride;      // [TILE][32 * N]: lanes read one column each
  int v_stride = 32 * N;

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
  for (int tile = first & ~(TILE - 1); tile <= last; tile += TILE) {
    __syncthreads(); // the last tile has been read
    load_tile(k, k_stride, padded, a.k_pool, a, table, blockIdx.y, tile, first, last);
    load_tile(v, v_stride, padded, a.v_pool, a, table, blockIdx.y, tile, first, last);
    __syncthreads();
    int p = tile + lane_id();
    float weight[WARP_ROWS];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
      weight[r] = 0;
      if (position[r] < tile) continue; // the whole warp: nothing to see here
      bool seen = p <= position[r] && (a.window == 0 || p > position[r] - a.window);
      float score = dot(q + (warp_id() * WARP_ROWS + r) * padded, k + lane_id() * k_stride, padded) * a.scale;
      if (a.soft_cap > 0) score = a.soft_cap * tanhf(score / a.soft_cap);
      float largest = fmaxf(rows[r].largest, warp_max(seen ? score : -INFINITE));
      if (largest == -INFINITE) continue; // every key of the tile is before the window
      weight[r] = seen ? expf(score - largest) : 0.0f;
      float old = expf(rows[r].largest - largest);
      rows[r].largest = largest;
      rows[r].total = rows[r].total * old + warp_sum(weight[r]);
#pragma unroll
      for (int i = 0; i < N; i++) rows[r].sum[i] *= old;
    }
    for (int j = 0; j < TILE; j++) {
      float value[N];
#pragma unroll
      for (int i = 0; i < N; i++) value[i] = v[j * v_stride + 32 * i + lane_id()];
#pragma unroll
      for (int r = 0; r < WARP_ROWS; r++) {
        float w = __shfl_sync(FULL, weight[r], j);
#pragma unroll
        for (int i = 0; i < N; i++) rows[r].sum[i] = fmaf(w, value[i], rows[r].sum[i]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < WARP_ROWS; r++) {
    if (position[r] < 0) continue;
    int row = warp_id() * WARP_ROWS + r, t = row % per, h = row / per;
    float* out = a.out + ((i64)(token0 + t) * a.heads + head0 + h) * a.dim;
#pragma unroll
    for (int i = 0; i < N; i++)
      if (32 * i + lane_id() < a.dim) out[32 * i + lane_id()] = rows[r].sum[i] / rows[r].total + 0.0f; // no -0: tiles past the query's may have cleared its sign
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
