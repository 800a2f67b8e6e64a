// Products of experts with many tokens each: 128 rows of an expert's weights by 32, 64 or 128 of its pairs in a block,
// whose rows are gathered as they are copied. Slabs of some columns of both come through STAGES places in shared memory.
//
// W is how weights are stored: the columns of a slab, what it takes of a tile, how it is copied, and how it is multiplied.

constexpr int WARPS = 4;    // of a block
constexpr int TILES = 8;    // of 16 rows of weights
constexpr int STAGES = 3;

// Where a chunk of 16 bytes of a slab's row of W::slab columns lies: the eight threads that are served together read four of
// an even and four of an odd row.
template <class W>
__device__ __forceinline__ int place(int row, int chunk) { return row * 2 * W::slab + ((chunk ^ (row & 1) << 2) << 4); }

// What a thread copies of every slab: its part of the weights, and a chunk of each COPIED-th row of PAIRS activations.
template <class W, int PAIRS>
struct Copier {
  static constexpr int ROW_BYTES = 2 * W::slab, COPIED = 32 * WARPS / (ROW_BYTES / 16); // rows that all threads copy at once
  static constexpr int STAGE_BYTES = TILES * W::tile_bytes + PAIRS * ROW_BYTES, COUNT = PAIRS / COPIED;
  const u8* w;
  const act* x[COUNT];
  int row0, chunk;
  u32 to;

  __device__ __forceinline__ Copier(const ExpertsArgs& a, const Plan& plan, const Part& part, const void* memory) : w(part.w), row0(part.row0) {
    const int row = threadIdx.x / (ROW_BYTES / 16);
    chunk = threadIdx.x % (ROW_BYTES / 16), to = shared_address(memory) + place<W>(row, chunk);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int at = row + i * COPIED;
      x[i] = at < part.unit.rows ? input_row(a, plan.order[part.unit.first + at]) : nullptr;
    }
  }

  // Starts copying a slab. Zeros stand for what there is not.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, int slab, int stage) const {
    int at = slab * W::slab + chunk * 8, bytes = at < a.k ? 16 : 0;
    if (bytes == 0) at = 0;
    u32 address = to + stage * STAGE_BYTES;
    W::copy(*this, a, slab, at, bytes, address);
    address += TILES * W::tile_bytes;
#pragma unroll
    for (int i = 0; i < COUNT; i++) copy16(address + i * COPIED * ROW_BYTES, x[i] ? x[i] + at : a.x, x[i] ? bytes : 0);
  }
};

// A warp has M tiles of rows and N times 8 pairs. The dynamic shared memory is the stages.
template <class W, int M, int N>
__device__ void tile(const ExpertsArgs& a) {
  constexpr int DOWN = TILES / M, PAIRS = WARPS / DOWN * N * 8; // warps that share pairs; pairs of the block
  typedef Copier<W, PAIRS> Copy;
  extern __shared__ uint4 room[];
  pdl_wait();
  const Plan plan(a.plan, a.pairs);
  const int tile_rows = gated(a) ? ROWS / 2 : ROWS, rows = TILES * tile_rows, per_unit = (a.n + rows - 1) / rows;
  if ((int)blockIdx.x >= *plan.count * per_unit) return; // there were as many blocks as any choice of experts could need
  const Part part(plan, a.w, blockIdx.x, per_unit, rows);
  const Copy copier(a, plan, part, room);
  const int slabs = (a.k + W::slab - 1) / W::slab, tile0 = warp_id() % DOWN * M, pair0 = warp_id() / DOWN * N * 8;
  const int used = (part.unit.rows - pair0 + 7) / 8;
  const u8* w = (const u8*)room + tile0 * W::tile_bytes;
  const u8* x = (const u8*)room + (TILES * W::tile_bytes / Copy::ROW_BYTES + pair0) * Copy::ROW_BYTES;
  typename W::template Sums<M, N> sums;
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
    if (used >= N) sums.template take<true>(w + at, x + at, N);
    else sums.template take<false>(w + at, x + at, used);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  const int* order = plan.order + part.unit.first + pair0;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) sums.put(a, part.w, order + 8 * n, part.unit.rows - pair0 - 8 * n, part.row0 + (tile0 + m) * tile_rows, m, n);
}
