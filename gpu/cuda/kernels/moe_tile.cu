// Products of experts with many tokens each: 128 rows of an expert's weights by 32, 64 or 128 of its pairs in a block,
// whose rows are gathered as they are copied. Slabs of 64 columns of both come through STAGES places in shared memory.

constexpr int WARPS = 4;    // of a block
constexpr int TILES = 8;    // of 16 rows of weights
constexpr int STAGES = 3;
constexpr int SLAB = 64;    // elements of k
constexpr int SLAB_BYTES = 2 * SLAB;
constexpr int COPIED = 32 * WARPS / (SLAB_BYTES / 16); // rows that all threads copy at once

struct PlanArgs { const int* experts; int* plan; int pairs, expert_count, rows, _; };

// Sorts the pairs for moe_tile: one block. The dynamic shared memory is a number per expert.
KERNEL moe_plan(PlanArgs a) {
  extern __shared__ int starts[];
  pdl_begin();
  Plan(a.plan, a.pairs).make(a.experts, a.pairs, a.expert_count, a.rows, starts, blockDim.x / 32);
}

// Where a chunk of 16 bytes lies in a slab: the eight threads that are served together read four of an even and four of
// an odd row.
__device__ __forceinline__ int place(int row, int chunk) { return row * SLAB_BYTES + ((chunk ^ (row & 1) << 2) << 4); }

// What a thread copies of every slab: a chunk of each COPIED-th row of weights and of PAIRS activations.
template <int PAIRS>
struct Copier {
  static constexpr int STAGE_BYTES = (TILES * ROWS + PAIRS) * SLAB_BYTES, COUNT = PAIRS / COPIED;
  const u8* w;
  const act* x[COUNT];
  int row0, chunk;
  u32 to;

  __device__ __forceinline__ Copier(const ExpertsArgs& a, const Plan& plan, const Part& part, const void* room) : w(part.w), row0(part.row0) {
    const int row = threadIdx.x / (SLAB_BYTES / 16);
    chunk = threadIdx.x % (SLAB_BYTES / 16), to = shared_address(room) + place(row, chunk);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int at = row + i * COPIED;
      x[i] = at < part.unit.rows ? input_row(a, plan.order[part.unit.first + at]) : nullptr;
    }
  }

  // Starts copying a slab. Zeros stand for what there is not.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, int slab, int stage) const {
    static_assert(COPIED == ROWS, "a thread copies the same row of each tile");
    int at = slab * SLAB + chunk * 8, bytes = at < a.k ? 16 : 0;
    if (bytes == 0) at = 0;
    u32 address = to + stage * STAGE_BYTES;
    const int row = threadIdx.x / (SLAB_BYTES / 16), rows = gated(a) ? ROWS / 2 : ROWS;
#pragma unroll
    for (int i = 0; i < TILES; i++) copy16(address + i * ROWS * SLAB_BYTES, weights_row(a, w + 2 * (i64)at, row0 + i * rows, row), bytes);
    address += TILES * ROWS * SLAB_BYTES;
#pragma unroll
    for (int i = 0; i < COUNT; i++) copy16(address + i * COPIED * SLAB_BYTES, x[i] ? x[i] + at : a.x, x[i] ? bytes : 0);
  }
};

// Multiplies a warp's part of a slab: M tiles of rows by N times 8 pairs, of which the first `used` are real.
template <int M, int N, bool ALL>
__device__ __forceinline__ void take_slab(const u8* w, const u8* x, int used, float (&c)[M][N][4]) {
  const int group = lane_id() >> 2;
#pragma unroll
  for (int half = 0; half < SLAB / 32; half++) {
    const int chunk = 4 * half + (lane_id() & 3);
    uint4 low[M], high[M];
#pragma unroll
    for (int m = 0; m < M; m++) low[m] = *(const uint4*)(w + place(m * ROWS + group, chunk)), high[m] = *(const uint4*)(w + place(m * ROWS + group + 8, chunk));
#pragma unroll
    for (int n = 0; n < N; n++) {
      if (!ALL && n >= used) break;
      uint4 in = *(const uint4*)(x + place(n * 8 + group, chunk));
#pragma unroll
      for (int m = 0; m < M; m++) mma(c[m][n], low[m].x, high[m].x, low[m].y, high[m].y, in.x, in.y);
#pragma unroll
      for (int m = 0; m < M; m++) mma(c[m][n], low[m].z, high[m].z, low[m].w, high[m].w, in.z, in.w);
    }
  }
}

// A warp has M tiles of rows and N times 8 pairs. The dynamic shared memory is the stages.
template <int M, int N>
__device__ void tile(const ExpertsArgs& a) {
  constexpr int DOWN = TILES / M, PAIRS = WARPS / DOWN * N * 8; // warps that share pairs; pairs of the block
  typedef Copier<PAIRS> Copy;
  extern __shared__ uint4 room[];
  pdl_wait();
  const Plan plan(a.plan, a.pairs);
  const int tile_rows = gated(a) ? ROWS / 2 : ROWS, rows = TILES * tile_rows, per_unit = (a.n + rows - 1) / rows;
  if ((int)blockIdx.x >= *plan.count * per_unit) return; // there were as many blocks as any choice of experts could need
  const Part part(plan, a.w, blockIdx.x, per_unit, rows);
  const Copy copier(a, plan, part, room);
  const int slabs = (a.k + SLAB - 1) / SLAB, tile0 = warp_id() % DOWN * M, pair0 = warp_id() / DOWN * N * 8;
  const int used = (part.unit.rows - pair0 + 7) / 8;
  const u8* w = (const u8*)room + tile0 * ROWS * SLAB_BYTES;
  const u8* x = (const u8*)room + (TILES * ROWS + pair0) * SLAB_BYTES;
  float c[M][N][4] = {};
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < slabs) copier.copy(a, s, s);
    copies_end();
  }
  int stage = 0;
  for (int s = 0; s < slabs; s++) {
    copies_wait<STAGES - 2>();
    __syncthreads(); // the slab is there, and the one before is used by nobody
    int next = s + STAGES - 1;
    if (next < slabs) copier.copy(a, next, stage == 0 ? STAGES - 1 : stage - 1);
    copies_end();
    int at = stage * Copy::STAGE_BYTES;
    if (used >= N) take_slab<M, N, true>(w + at, x + at, N, c);
    else take_slab<M, N, false>(w + at, x + at, used, c);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  const int* order = plan.order + part.unit.first + pair0;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) put(a, order + 8 * n, part.unit.rows - pair0 - 8 * n, part.row0 + (tile0 + m) * tile_rows, c[m][n]);
}

KERNEL __launch_bounds__(32 * WARPS, 3) moe_tile_32(ExpertsArgs a) { tile<2, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 3) moe_tile_64(ExpertsArgs a) { tile<4, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) moe_tile_128(ExpertsArgs a) { tile<4, 8>(a); }
