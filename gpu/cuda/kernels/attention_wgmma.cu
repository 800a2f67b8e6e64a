// Attention for sequences with many queries on Hopper's warp-group products (wgmma), after Shah et
// al. 2024, arXiv:2407.08608: up to three groups of four warps have 64 query rows each, one more group
// copies tiles of keys and values to a ring in shared memory. A group multiplies the next tile's
// keys, and this tile's values, while it works out weights. Most of a group's time goes to that, each instruction waiting for
// the one before: three groups keep the tensor cores busier than two, so sums over the parts before lie in shared memory to
// leave room in registers.
//
// The products' sums have the bits of mma.sync's, so the result has those of the other kernels.
// Tiles lie in shared memory as panels of 64 dimensions, a row of a panel being 128 bytes (see wgmma.cuh).

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && DP % 64 == 0 && DP <= 128

constexpr int GROUPS = 3;       // that multiply, at most: those without query rows have nothing to do
constexpr int GROUP_ROWS = 64;  // query rows
constexpr int SLOTS = 5 * 128 / DP; // of the ring: a tile's keys or its values each
constexpr int PANEL = 64 * 128; // bytes; TILE == GROUP_ROWS == 64
constexpr int BLOCK_BYTES = DP / 64 * PANEL; // of a tile's keys, of its values, of a group's queries

// A place in the ring, and how often that was passed.
struct Turn {
  int slot, parity;

  __device__ __forceinline__ void advance(int n) {
    slot += n;
    if (slot >= SLOTS) slot -= SLOTS, parity ^= 1;
  }
};

struct Ring {
  u32 queries, tiles; // addresses
  u32 barriers;       // [2][SLOTS]: filled, used

  __device__ __forceinline__ u32 filled(Turn t) const { return barriers + t.slot * 8; }
  __device__ __forceinline__ u32 used(Turn t) const { return barriers + (SLOTS + t.slot) * 8; }
};

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives when the thread's copies until now are done.
__device__ __forceinline__ void barrier_arrive_copied(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// s = (ADD ? s : 0) + queries * keys, for 16 dimensions.
template <int ADD>
__device__ __forceinline__ void wgmma_scores(float (&s)[8][4], u64 queries, u64 keys) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, %34, 1, 1, 0, 0;"
               : "+f"(s[0][0]), "+f"(s[0][1]), "+f"(s[0][2]), "+f"(s[0][3]), "+f"(s[1][0]), "+f"(s[1][1]), "+f"(s[1][2]), "+f"(s[1][3]), "+f"(s[2][0]), "+f"(s[2][1]), "+f"(s[2][2]), "+f"(s[2][3]), "+f"(s[3][0]), "+f"(s[3][1]), "+f"(s[3][2]), "+f"(s[3][3]), "+f"(s[4][0]), "+f"(s[4][1]), "+f"(s[4][2]), "+f"(s[4][3]), "+f"(s[5][0]), "+f"(s[5][1]), "+f"(s[5][2]), "+f"(s[5][3]), "+f"(s[6][0]), "+f"(s[6][1]), "+f"(s[6][2]), "+f"(s[6][3]), "+f"(s[7][0]), "+f"(s[7][1]), "+f"(s[7][2]), "+f"(s[7][3])
               : "l"(queries), "l"(keys), "n"(ADD));
}

// o += weights * values, for 16 keys.
__device__ __forceinline__ void wgmma_values(float (&o)[8][4], const u32 (&p)[4], u64 values) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : "+f"(o[0][0]), "+f"(o[0][1]), "+f"(o[0][2]), "+f"(o[0][3]), "+f"(o[1][0]), "+f"(o[1][1]), "+f"(o[1][2]), "+f"(o[1][3]), "+f"(o[2][0]), "+f"(o[2][1]), "+f"(o[2][2]), "+f"(o[2][3]), "+f"(o[3][0]), "+f"(o[3][1]), "+f"(o[3][2]), "+f"(o[3][3]), "+f"(o[4][0]), "+f"(o[4][1]), "+f"(o[4][2]), "+f"(o[4][3]), "+f"(o[5][0]), "+f"(o[5][1]), "+f"(o[5][2]), "+f"(o[5][3]), "+f"(o[6][0]), "+f"(o[6][1]), "+f"(o[6][2]), "+f"(o[6][3]), "+f"(o[7][0]), "+f"(o[7][1]), "+f"(o[7][2]), "+f"(o[7][3])
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(values));
}
__device__ __forceinline__ void wgmma_values(float (&o)[16][4], const u32 (&p)[4], u64 values) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : "+f"(o[0][0]), "+f"(o[0][1]), "+f"(o[0][2]), "+f"(o[0][3]), "+f"(o[1][0]), "+f"(o[1][1]), "+f"(o[1][2]), "+f"(o[1][3]), "+f"(o[2][0]), "+f"(o[2][1]), "+f"(o[2][2]), "+f"(o[2][3]), "+f"(o[3][0]), "+f"(o[3][1]), "+f"(o[3][2]), "+f"(o[3][3]), "+f"(o[4][0]), "+f"(o[4][1]), "+f"(o[4][2]), "+f"(o[4][3]), "+f"(o[5][0]), "+f"(o[5][1]), "+f"(o[5][2]), "+f"(o[5][3]), "+f"(o[6][0]), "+f"(o[6][1]), "+f"(o[6][2]), "+f"(o[6][3]), "+f"(o[7][0]), "+f"(o[7][1]), "+f"(o[7][2]), "+f"(o[7][3]), "+f"(o[8][0]), "+f"(o[8][1]), "+f"(o[8][2]), "+f"(o[8][3]), "+f"(o[9][0]), "+f"(o[9][1]), "+f"(o[9][2]), "+f"(o[9][3]), "+f"(o[10][0]), "+f"(o[10][1]), "+f"(o[10][2]), "+f"(o[10][3]), "+f"(o[11][0]), "+f"(o[11][1]), "+f"(o[11][2]), "+f"(o[11][3]), "+f"(o[12][0]), "+f"(o[12][1]), "+f"(o[12][2]), "+f"(o[12][3]), "+f"(o[13][0]), "+f"(o[13][1]), "+f"(o[13][2]), "+f"(o[13][3]), "+f"(o[14][0]), "+f"(o[14][1]), "+f"(o[14][2]), "+f"(o[14][3]), "+f"(o[15][0]), "+f"(o[15][1]), "+f"(o[15][2]), "+f"(o[15][3])
               : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(values));
}

__device__ __forceinline__ void multiply_keys(float (&s)[TILE / 8][4], u64 queries, u64 keys) {
  wgmma_scores<0>(s, queries, keys);
#pragma unroll
  for (int d = 1; d < DP / 16; d++) wgmma_scores<1>(s, further(queries, d / 4 * PANEL + d % 4 * 32), further(keys, d / 4 * PANEL + d % 4 * 32));
  products_end();
}

__device__ __forceinline__ void multiply_values(Sums& sums, const u32 (&p)[TILE / 16][4], u64 values) {
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) wgmma_values(sums.o, p[j], further(values, j * 16 * 128));
  products_end();
}

__device__ __forceinline__ void weight_fragments(u32 (&p)[TILE / 16][4], const float (&s)[TILE / 8][4]) {
#pragma unroll
  for (int j = 0; j < TILE / 16; j++) weight_fragment(p[j], s, j);
}

// Adds a part's sums to those of the parts before, which lie in shared memory, each thread's where it put them.
__device__ __forceinline__ void add_part(float4* o, Sums& sums, const Merged (&merged)[2]) {
#pragma unroll
  for (int i = 0; i < DP / 8; i++) {
    float4 v = o[i * 128];
    o[i * 128] = make_float4(merged[0].of(v.x, sums.o[i][0]), merged[0].of(v.y, sums.o[i][1]), merged[1].of(v.z, sums.o[i][2]), merged[1].of(v.w, sums.o[i][3]));
  }
}

// The byte of a panelled matrix where 16 bytes of a row lie.
__device__ __forceinline__ int place(int row, int chunk) { return chunk / 8 * PANEL + row * 128 + ((chunk ^ row) & 7) * 16; }

// The last group: copies tiles, keys and values in turn, as the ring gets room for them.
__device__ void copy_tiles(const FlashArgs& a, const Keys& keys, const Ring& ring, int* rows, int thread) {
  Copier<128> copier(a, thread);
  int tile = keys.first & ~(TILE - 1);
  Turn turn = {0, 1};
  if (thread < TILE) rows[thread] = pool_row(a, keys, tile + thread);
  for (int i = 0; tile <= keys.last; i++, tile += TILE) {
    asm volatile("bar.sync 1, 128;" ::: "memory"); // the rows are known, those of the last tile but one have been read
    int from[TILE / Copier<128>::STEP];
#pragma unroll
    for (int n = 0; n < TILE / copier.STEP; n++) from[n] = rows[i % 2 * TILE + copier.row + n * copier.STEP];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 to = ring.tiles + turn.slot * BLOCK_BYTES + place(copier.row, copier.chunk);
      barrier_wait(ring.used(turn), turn.parity);
#pragma unroll
      for (int n = 0; n < TILE / copier.STEP; n++) // STEP is a multiple of 8, so that the exchange of pieces stays
        copier.copy(to + n * copier.STEP * 128, half ? a.v_pool : a.k_pool, from[n]);
      barrier_arrive_copied(ring.filled(turn));
      turn.advance(1);
    }
    if (thread < TILE) rows[(i + 1) % 2 * TILE + thread] = pool_row(a, keys, tile + TILE + thread);
  }
  copies_end();
  copies_wait<0>();
}

// Copies a group's query rows to shared memory.
__device__ void copy_queries(const FlashArgs& a, const Queries& queries, u32 to, int row0, int thread) {
  bool wide = (a.dim | a.stride | a.q_column) % 8 == 0 && (u64)a.q % 16 == 0;
  for (int i = thread; i < GROUP_ROWS * CHUNKS; i += 128) {
    int row = i / CHUNKS, d = i % CHUNKS * 8;
    bool real = queries.real(a, row0 + row);
    const u16* from = a.q + (real ? queries.offset(a, row0 + row) + d : 0);
    uint4 v = make_uint4(0, 0, 0, 0);
    if (wide && real && d < a.dim) v = *(const uint4*)from;
    if (!wide && real)
      v = make_uint4(load2(from, d < a.dim, d + 1 < a.dim, false), load2(from + 2, d + 2 < a.dim, d + 3 < a.dim, false),
                     load2(from + 4, d + 4 < a.dim, d + 5 < a.dim, false), load2(from + 6, d + 6 < a.dim, d + 7 < a.dim, false));
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to + place(row, i % CHUNKS)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
  }
  show_to_wgmma();
}

// A group that multiplies.
__device__ void attend(const FlashArgs& a, const Work& work, const Ring& ring, float4* before, int group) {
  int row0 = group * GROUP_ROWS + warp_id() % 4 * ROWS;
  u64 queries = describe(ring.queries + group * BLOCK_BYTES, PANEL), tiles = describe(ring.tiles, PANEL);
  copy_queries(a, work.queries, ring.queries + group * BLOCK_BYTES, group * GROUP_ROWS, threadIdx.x % 128);
  before += group * DP / 8 * 128 + threadIdx.x % 128;
#pragma unroll
  for (int i = 0; i < DP / 8; i++) before[i * 128] = make_float4(0, 0, 0, 0);
  asm volatile("bar.sync %0, 128;" ::"r"(2 + group) : "memory");
  Sight sight;
  Sums sums;
  Merged merged[2];
  work.look(a, row0, sight);
  merged[0].clear(), merged[1].clear();
  sums.clear_values(), sums.clear_weights();

  float s[TILE / 8][4], old[2];
  u32 p[TILE / 16][4];
  int tile = work.keys.first & ~(TILE - 1);
  Turn key = {0, 0}, value = {1, 0};
  barrier_wait(ring.filled(key), key.parity);
  show_to_wgmma();
  products_begin();
  multiply_keys(s, queries, tiles);
  products_wait<0>(s);
  if (lane_id() == 0) barrier_arrive(ring.used(key));
  take_scores(a, s, sums, sight, tile, old);
  for (; tile + TILE <= work.keys.last; tile += TILE) {
    bool part_ends = (tile + TILE) % PART == 0;
    key.advance(2);
    weight_fragments(p, s);
    barrier_wait(ring.filled(value), value.parity);
    barrier_wait(ring.filled(key), key.parity);
    show_to_wgmma();
    products_begin();
    multiply_keys(s, queries, further(tiles, key.slot * BLOCK_BYTES));
    multiply_values(sums, p, further(tiles, value.slot * BLOCK_BYTES));
    if (part_ends) { // the next tile starts afresh
      end_part(a, sums.largest, sums.total, merged);
      sums.clear_weights();
    }
    products_wait<1>(s);
    if (lane_id() == 0) barrier_arrive(ring.used(key));
    take_scores(a, s, sums, sight, tile + TILE, old);
    pin(s); // while the values are multiplied
    if (part_ends) {
      products_wait<0>(sums.o);
      if (lane_id() == 0) barrier_arrive(ring.used(value));
      add_part(before, sums, merged);
      sums.clear_values();
    } else {
      products_wait<0>(sums.o);
      if (lane_id() == 0) barrier_arrive(ring.used(value));
      shrink(sums, old);
    }
    value.advance(2);
  }
  weight_fragments(p, s);
  barrier_wait(ring.filled(value), value.parity);
  show_to_wgmma();
  products_begin();
  multiply_values(sums, p, further(tiles, value.slot * BLOCK_BYTES));
  end_part(a, sums.largest, sums.total, merged);
  products_wait<0>(sums.o);
#pragma unroll
  for (int i = 0; i < DP / 8; i++) {
    float4 v = before[i * 128];
    sums.o[i][0] = merged[0].of(v.x, sums.o[i][0]), sums.o[i][1] = merged[0].of(v.y, sums.o[i][1]);
    sums.o[i][2] = merged[1].of(v.z, sums.o[i][2]), sums.o[i][3] = merged[1].of(v.w, sums.o[i][3]);
  }
  work.write(a, row0, sums.o, merged);
}

KERNEL __launch_bounds__(128 * (GROUPS + 1), 1) FLASH(wgmma)(FlashArgs a) {
  extern __shared__ uint4 room[];
  pdl_wait();
  Work work(a);
  if (work.queries.tokens == 0) return;
  Ring ring;
  ring.queries = (shared_address(room) + 1023) & ~1023;
  ring.tiles = ring.queries + GROUPS * BLOCK_BYTES;
  u32 at = ring.tiles + SLOTS * BLOCK_BYTES;
  float4* before = (float4*)((u8*)room + (at - shared_address(room)));
  ring.barriers = at + GROUPS * DP / 8 * 128 * 16;
  int* rows = (int*)((u8*)room + (ring.barriers - shared_address(room)) + 2 * SLOTS * 8); // [2][TILE]
  int groups = (work.queries.tokens * a.heads_per_tile + GROUP_ROWS - 1) / GROUP_ROWS; // with rows
  if (threadIdx.x == 0) {
    for (Turn i = {0, 0}; i.slot < SLOTS; i.slot++) barrier_init(ring.filled(i), 128), barrier_init(ring.used(i), 4 * groups);
  }
  __syncthreads();
  int group = __shfl_sync(FULL, warp_id() / 4, 0); // that it is the same for a warp is worth knowing
  if (group == GROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    copy_tiles(a, work.keys, ring, rows, threadIdx.x % 128);
  } else if (group < groups) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
    attend(a, work, ring, before, group);
  }
}

#else

// On other GPUs flash_prefill does this; the host never starts it.
KERNEL FLASH(wgmma)(FlashArgs) { asm volatile("trap;"); }

#endif
