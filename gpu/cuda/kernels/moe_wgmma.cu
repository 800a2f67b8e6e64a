// Products of experts with many tokens each on Hopper's warp-group products: 128 rows of an expert's weights by up to 256
// of its pairs in a block. Two groups of four warps have 64 rows each. All threads copy: slabs of 64 columns, of as many
// pairs as the unit has, in steps of N, come through a ring of places in shared memory, and while one is multiplied the
// next is set going.
//
// The hardware sums 16 elements that lie together at once, while an order of sums (see moe.cuh) takes 4 of each of 32
// elements' chunks of 8. So slabs are copied in pieces of 8 bytes, which are brought into that order on the way.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int THREADS = 256;
constexpr int GROUP_ROWS = 64;  // of weights, of a group of warps
constexpr int W_ROWS = 128;     // of weights, of the block
constexpr int SLAB = 64;        // elements of k
constexpr int SLAB_BYTES = 128; // of a row
constexpr int ROOM = 208 * 1024; // of the ring
constexpr int STAGES_MAX = 8;
constexpr int PIECES = SLAB_BYTES / 8;
constexpr int COPIED = THREADS / PIECES; // rows that all threads copy at once

// Starts copying 8 bytes, or zeros.
__device__ __forceinline__ void copy8(u32 to, const void* from, int bytes) {
  asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

// Where a piece of a slab's row belongs: of 32 elements the first halves of the chunks come first. The row is one of the
// first eight of a swizzle.
__device__ __forceinline__ int place(int row, int piece) {
  int to = (piece & 8) | (piece & 1) << 2 | (piece & 6) >> 1;
  return row * SLAB_BYTES + (((to >> 1) ^ (row & 7)) << 4) + (to & 1) * 8;
}

#define D4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define D16(i) D4(i), D4(i + 1), D4(i + 2), D4(i + 3)
#define D32(i) D16(i), D16(i + 4)
#define R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R48 R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define R64 R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define R80 R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define R96 R80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define R128 R96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// c += weights * activations, 64 rows by N pairs, for 16 of k.
#define PRODUCT(N, REGISTERS, W, X, ...)                                                                                     \
  __device__ __forceinline__ void product(float (&c)[N / 8][4], u64 w, u64 x) {                                               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, %" #W ", %" #X ", 1, 1, 1, 0, 0;" \
                 : __VA_ARGS__ : "l"(w), "l"(x));                                                                             \
  }
PRODUCT(64, R32, 32, 33, D32(0))
PRODUCT(96, R48, 48, 49, D32(0), D16(8))
PRODUCT(128, R64, 64, 65, D32(0), D32(8))
PRODUCT(160, R80, 80, 81, D32(0), D32(8), D16(16))
PRODUCT(192, R96, 96, 97, D32(0), D32(8), D32(16))
PRODUCT(256, R128, 128, 129, D32(0), D32(8), D32(16), D32(24))

// What a thread copies of every slab: a piece of each COPIED-th row of weights and of N activations.
template <int N>
struct Copier {
  static constexpr int STAGE_BYTES = (W_ROWS + N) * SLAB_BYTES, COUNT = N / COPIED;
  const u8* w;
  const act* x[COUNT];
  int row0, row, piece;
  u32 to;

  __device__ __forceinline__ Copier(const ExpertsArgs& a, const Plan& plan, const Part& part, u32 room) : w(part.w), row0(part.row0) {
    row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES, to = room + place(row, piece);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int at = row + i * COPIED;
      x[i] = at < part.unit.rows ? input_row(a, plan.order[part.unit.first + at]) : nullptr;
    }
  }

  // Starts copying a slab. Zeros stand for what there is not.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, int slab, int stage) const {
    static_assert(COPIED == ROWS, "a thread copies the same row of each tile");
    int at = slab * SLAB + piece * 4, bytes = at < a.k ? 8 : 0, rows = gated(a) ? ROWS / 2 : ROWS;
    if (bytes == 0) at = 0;
    u32 address = to + stage * STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < W_ROWS / ROWS; i++) copy8(address + i * ROWS * SLAB_BYTES, weights_row(a, w + 2 * (i64)at, row0 + i * rows, row), bytes);
    address += W_ROWS * SLAB_BYTES;
#pragma unroll
    for (int i = 0; i < COUNT; i++) copy8(address + i * COPIED * SLAB_BYTES, x[i] ? x[i] + at : a.x, x[i] ? bytes : 0);
  }
};

template <int N>
__device__ __forceinline__ void multiply_slab(float (&c)[N / 8][4], u64 w, u64 x) {
  products_begin();
#pragma unroll
  for (int i = 0; i < SLAB / 16; i++) product(c, further(w, i * 32), further(x, i * 32));
  products_end();
}

// A part with up to N pairs.
template <int N>
__device__ __forceinline__ void tile(const ExpertsArgs& a, const Plan& plan, const Part& part, u32 room) {
  typedef Copier<N> Copy;
  constexpr int FIT = ROOM / Copy::STAGE_BYTES, STAGES = FIT < STAGES_MAX ? FIT : STAGES_MAX;
  static_assert(STAGES >= 4 && Copy::STAGE_BYTES % 1024 == 0, "a slab is multiplied, one has been, and some are copied");
  const Copy copier(a, plan, part, room);
  const int slabs = (a.k + SLAB - 1) / SLAB, group = __shfl_sync(FULL, warp_id() / 4, 0);
  const u64 w = describe(room + group * GROUP_ROWS * SLAB_BYTES, 0), x = describe(room + W_ROWS * SLAB_BYTES, 0);
  float c[N / 8][4] = {};
#pragma unroll
  for (int s = 0; s < STAGES - 2; s++) {
    if (s < slabs) copier.copy(a, s, s);
    copies_end();
  }
  for (int s = 0, stage = 0; s < slabs; s++) {
    copies_wait<STAGES - 3>();
    show_to_wgmma();
    __syncthreads(); // the slab is there, and all have multiplied the one before the last
    multiply_slab<N>(c, further(w, stage * Copy::STAGE_BYTES), further(x, stage * Copy::STAGE_BYTES));
    int next = s + STAGES - 2;
    if (next < slabs) copier.copy(a, next, stage < 2 ? stage + STAGES - 2 : stage - 2);
    copies_end();
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); // the one before
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  products_wait<0>(c);
  const int first = part.row0 + warp_id() * (gated(a) ? ROWS / 2 : ROWS);
  const int* order = plan.order + part.unit.first;
#pragma unroll
  for (int n = 0; n < N / 8; n++) put(a, order + 8 * n, part.unit.rows - 8 * n, first, c[n]);
}

// The dynamic shared memory is the ring and what it takes to begin at a multiple of 1024 bytes.
KERNEL __launch_bounds__(THREADS, 1) moe_wgmma(ExpertsArgs a) {
  extern __shared__ uint4 memory[];
  pdl_wait();
  const Plan plan(a.plan, a.pairs);
  const int rows = W_ROWS / ROWS * (gated(a) ? ROWS / 2 : ROWS), per_unit = (a.n + rows - 1) / rows;
  if ((int)blockIdx.x >= *plan.count * per_unit) return; // there were as many blocks as any choice of experts could need
  const Part part(plan, a.w, blockIdx.x, per_unit, rows);
  const u32 room = (shared_address(memory) + 1023) & ~1023;
  if (part.unit.rows <= 64) tile<64>(a, plan, part, room);
  else if (part.unit.rows <= 96) tile<96>(a, plan, part, room);
  else if (part.unit.rows <= 128) tile<128>(a, plan, part, room);
  else if (part.unit.rows <= 160) tile<160>(a, plan, part, room);
  else if (part.unit.rows <= 192) tile<192>(a, plan, part, room);
  else tile<256>(a, plan, part, room);
}

#else

// On other GPUs moe_tile does this; the host never starts it.
KERNEL moe_wgmma(ExpertsArgs) { asm volatile("trap;"); }

#endif
