// Attention for a few sequences with one token each, on Hopper: a cluster of blocks has some heads of one KV head, each
// block a part of the keys. The blocks hand their sums to one another through shared memory, and each merges some
// dimensions in the order of the parts, so no second kernel has to come and read them.
//
// It may also write the token's key and value to the pools, and rotate them and the queries before (gpu.Attention.Write).
// What it reads then of the kernel before is one row; the keys and values of earlier steps are copied while that
// kernel still runs.

struct FlashClusterArgs { FlashArgs flash; RoPEKVArgs write; int blocks, writes; }; // blocks: of a cluster, a power of two

#if __CUDA_ARCH__ >= 900

constexpr int BLOCKS_MAX = 8; // of a cluster
constexpr int SLICE_COUNT = DP / 16;
constexpr int HALF_HEAD = DP / 2;
constexpr int ROUNDS = (HALF_HEAD + 63) / 64; // a warp has two pairs of a head in each lane

// What the blocks of a cluster hand to one of them. It merges slices rank, rank + blocks, ... of the dimensions.
struct Gathered {
  float4 sums[(SLICE_COUNT + BLOCKS_MAX - 1) / BLOCKS_MAX * BLOCKS_MAX][32]; // [slice / blocks * blocks + part], by lane
  float4 pairs[BLOCKS_MAX][4]; // by part: largest and total of rows 2c and 2c+1
};

__device__ __forceinline__ void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// Stores v where `to` is, but in the shared memory of another block of the cluster.
__device__ __forceinline__ void hand(float4* to, int block, float4 v) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(to)), "r"(block));
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

__device__ __forceinline__ float2 widen2(u32 v) { return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)); }
__device__ __forceinline__ float squares_of(u32 v) {
  float2 x = widen2(v);
  return squares_of(x.x, x.y);
}

template <int N>
__device__ __forceinline__ float tree_sum(const float* x) {
  if constexpr (N == 1) return x[0];
  else return __fadd_rn(tree_sum<N / 2>(x), tree_sum<N - N / 2>(x + N / 2));
}

// A head's norm; weight is null without one.
struct Norm {
  const float* weight;
  float scale, offset;

  __device__ __forceinline__ float2 of(u32 v, int i) const { // elements i and i+1 of a head
    float2 x = widen2(v);
    if (!weight) return x;
    float2 w = *(const float2*)(weight + i);
    return make_float2(normed(x.x, scale, w.x, offset), normed(x.y, scale, w.y, offset));
  }
};

// Normalizes and rotates two neighbouring pairs of bfloat16, the first being elements i and DP/2 + i.
__device__ __forceinline__ void rotate2(u32& low, u32& high, const Norm& norm, int i, float2 cos, float2 sin) {
  float2 x = norm.of(low, i), y = norm.of(high, HALF_HEAD + i);
  float u[2] = {x.x, x.y}, v[2] = {y.x, y.y};
  rotate(u[0], v[0], cos.x, sin.x);
  rotate(u[1], v[1], cos.y, sin.y);
  low = pack_bf16(u[0], u[1]), high = pack_bf16(v[0], v[1]);
}

// Normalizes and rotates a thread's queries: dimension i and i + DP/2 are a pair.
__device__ __forceinline__ void rotate_queries(const RoPEArgs& r, int token, u32 (&q)[DP / 16][2]) {
  const int c = 2 * (lane_id() & 3);
  i64 at = (i64)token * HALF_HEAD + c;
  Norm norm = {r.norm.query};
  if (norm.weight) {
    float sums[DP / 8];
#pragma unroll
    for (int b = 0; b < DP / 8; b++) sums[b] = squares_of(q[b / 2][b % 2]);
    norm.scale = head_scale(r.norm, lanes_sum<1, 4>(tree_sum<DP / 8>(sums)), DP), norm.offset = r.norm.offset;
  }
#pragma unroll
  for (int j = 0; j < DP / 32; j++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      i64 i = at + 16 * j + 8 * e;
      rotate2(q[j][e], q[j + DP / 32][e], norm, 16 * j + 8 * e + c, *(const float2*)(r.cos + i), *(const float2*)(r.sin + i));
    }
}

// A token's key, not rotated yet, and its value, of one KV head: lane i has elements 2i and 2i+1 of their halves.
struct Fresh {
  u32 key[ROUNDS][2], value[ROUNDS][2];
  float2 cos[ROUNDS], sin[ROUNDS];

  static __device__ __forceinline__ int element(int round) { return 64 * round + 2 * lane_id(); }

  __device__ __forceinline__ void load(const RoPEKVArgs& w, int token, int head) {
    const u16* row = w.kv.kv + (i64)token * w.kv.stride + head * DP;
#pragma unroll
    for (int n = 0; n < ROUNDS; n++) {
      int i = element(n);
      if (i >= HALF_HEAD) break;
      const u16 *k = row + w.kv.k_column + i, *v = row + w.kv.v_column + i;
      key[n][0] = *(const u32*)k, key[n][1] = *(const u32*)(k + HALF_HEAD);
      value[n][0] = *(const u32*)v, value[n][1] = *(const u32*)(v + HALF_HEAD);
      cos[n] = *(const float2*)(w.rope.cos + (i64)token * HALF_HEAD + i), sin[n] = *(const float2*)(w.rope.sin + (i64)token * HALF_HEAD + i);
    }
  }
  __device__ __forceinline__ void rotate(const RoPEArgs& r) {
    Norm norm = {r.norm.key};
    if (norm.weight) {
      constexpr int LANES = HALF_HEAD < 64 ? HALF_HEAD / 2 : 32; // that have something
      float low = 0, high = 0;
#pragma unroll
      for (int n = 0; n < ROUNDS; n++) { // two at most
        float l = lanes_sum<4, LANES>(squares_of(key[n][0])), h = lanes_sum<4, LANES>(squares_of(key[n][1]));
        low = n == 0 ? l : __fadd_rn(low, l), high = n == 0 ? h : __fadd_rn(high, h);
      }
      norm.scale = head_scale(r.norm, lanes_sum<1, 4>(__fadd_rn(low, high)), DP), norm.offset = r.norm.offset;
    }
#pragma unroll
    for (int n = 0; n < ROUNDS; n++)
      if (element(n) < HALF_HEAD) rotate2(key[n][0], key[n][1], norm, element(n), cos[n], sin[n]);
  }
  static __device__ __forceinline__ void store(const u32 (&from)[ROUNDS][2], u16* to) {
#pragma unroll
    for (int n = 0; n < ROUNDS; n++) {
      int i = element(n);
      if (i < HALF_HEAD) *(u32*)(to + i) = from[n][0], *(u32*)(to + HALF_HEAD + i) = from[n][1];
    }
  }
};

KERNEL __launch_bounds__(32 * WARPS, 1) FLASH(cluster)(FlashClusterArgs b) {
  const FlashArgs& a = b.flash;
  extern __shared__ uint4 room[];
  u16 *tiles = (u16*)room, *values = tiles + WARPS * HALF; // [WARPS][HALF] each
  Gathered& gathered = *(Gathered*)(values + WARPS * HALF);
  Exchange& x = *(Exchange*)(&gathered + 1);
  cluster_arrive_relaxed();
  pdl_launch();
  int warp = warp_id(), lane = lane_id(), rank = blockIdx.x % b.blocks, tile_of_rows = blockIdx.x / b.blocks;
  int groups = head_groups(a), head = tile_of_rows % a.kv_heads, z = tile_of_rows / a.kv_heads % groups, s = tile_of_rows / a.kv_heads / groups;
  int token = a.query_start[s], position = a.query_start[s + 1] > token ? a.positions[token] : -1; // -1: no token
  int seen = a.window > 0 ? max(0, position - a.window + 1) : 0, part0 = seen / PART;
  int parts = position < 0 ? 0 : min(position / PART - part0 + 1, b.blocks), part = (part0 + rank) * PART, tile = part + warp * TILE;
  Unit unit;
  unit.whole = true;
  unit.queries = {token, position >= 0, head * (a.heads / a.kv_heads) + z * a.heads_per_tile, min(a.heads_per_tile, a.heads / a.kv_heads - z * a.heads_per_tile)};
  unit.keys = {a.tables + (i64)clamp_index(a.slots[s], a.table_rows) * a.table_width, head, max(seen, part), min(position, part + PART - 1)};
  bool active = rank < parts && tile <= unit.keys.last && tile + TILE > unit.keys.first;
  if (!b.writes) pdl_wait();
  if (active) {
    Keys before = unit.keys; // of this step
    if (b.writes) before.last = min(before.last, position - 1);
    int* rows = (int*)x.weights[warp];
#pragma unroll
    for (int i = 0; i < TILE; i += 32) rows[i + lane] = pool_row(a, before, tile + i + lane);
    __syncwarp();
    load_half<32>(a, a.k_pool, tiles + warp * HALF, rows, lane);
    load_half<32>(a, a.v_pool, values + warp * HALF, rows, lane);
    copies_end();
  }
  if (b.writes) pdl_wait();

  Sums<SLICES> sums;
  sums.clear();
  if (rank < parts) {
    u32 q[DP / 16][2];
    load_queries(a, unit.queries, q);
    if (b.writes) {
      bool fresh = active && position >= tile && position < tile + TILE;
      Fresh own;
      if (fresh) own.load(b.write, token, head);
      rotate_queries(b.write.rope, token, q);
      copies_wait<0>(); // which put zeros where the token's key and value go
      __syncwarp();
      if (fresh) {
        own.rotate(b.write.rope);
        int at = warp * HALF + (position - tile) * PITCH, slot = b.write.kv.slots[token];
        Fresh::store(own.key, tiles + at);
        Fresh::store(own.value, values + at);
        if (z == 0 && slot >= 0 && slot < b.write.kv.slot_count) {
          Fresh::store(own.key, b.write.kv.k_pool + pool_place(b.write.kv, slot, head, 0));
          Fresh::store(own.value, b.write.kv.v_pool + pool_place(b.write.kv, slot, head, 0));
        }
      }
    }
    copies_wait<0>();
    __syncwarp();
    sum_part<true>(a, unit.keys, part, q, sight_of(a, unit.queries), tiles, values, x, sums);
  }
  cluster_wait(); // all blocks run
  if (rank < parts) {
#pragma unroll
    for (int n = 0; n < SLICES; n++) {
      int slice = n * WARPS + warp;
      if (slice >= SLICE_COUNT) break;
      float4* to = &gathered.sums[slice / b.blocks * b.blocks + rank][lane];
      hand(to, slice % b.blocks, make_float4(sums.o[n][0], sums.o[n][1], sums.o[n][2], sums.o[n][3]));
    }
    for (int to = warp; to < min(b.blocks, SLICE_COUNT); to += WARPS)
      if (lane < 4) hand(&gathered.pairs[rank][lane], to, make_float4(sums.largest[0], sums.largest[1], sums.total[0], sums.total[1]));
  }
  __syncwarp();
  cluster_arrive();
  cluster_wait();
  if (parts == 0) return;
  for (int slice = rank + warp * b.blocks; slice < SLICE_COUNT; slice += WARPS * b.blocks) {
    Whole<1> whole;
    whole.clear();
    for (int p = 0; p < parts; p++) {
      float4 o = gathered.sums[slice / b.blocks * b.blocks + p][lane], pair = gathered.pairs[p][lane & 3];
      Sums<1> of_part = {{{o.x, o.y, o.z, o.w}}, {pair.x, pair.y}, {pair.z, pair.w}};
      whole.take(of_part);
    }
    write_unit(a, unit, 0, whole, Sums<1>{}, slice, 1);
  }
}

#else

// On other GPUs flash_decode does this; the host never starts it.
KERNEL FLASH(cluster)(FlashClusterArgs) { asm volatile("trap;"); }

#endif
