// Attention for many units of work (see attention_units.cuh), at the speed of memory: each warp takes one after another
// for itself, tile by tile. Keys and values come through a ring of the warp's own, half of a tile's keys or values in each
// of STAGES places, across tiles and units, so that reading never stops.

constexpr int WARPS = 8; // of a block
constexpr int STAGES = 3;
constexpr int SLICES = DP / 16; // of 16 dimensions
constexpr int ROWS = TILE / 2;  // of a place in the ring
constexpr int PLACE = ROWS * PITCH;
constexpr int STEPS = ROWS / 16; // of 16 keys

struct Stream {
  const FlashArgs& a;
  const Units& units;
  u16* ring; // [STAGES][PLACE]
  int* rows; // [TILE]: where the tile that is copied lies in the pools
  int slot;  // the oldest place
  Unit unit; // that is copied, its number, and what is copied next: the first or last keys of a tile, then the values
  int number, tile, quarter;

  __device__ __forceinline__ Stream(const FlashArgs& a, const Units& units, u16* ring, int* rows)
      : a(a), units(units), ring(ring), rows(rows), slot(0), number(blockIdx.x * WARPS + warp_id()), tile(0), quarter(0) {
    find();
  }
  __device__ __forceinline__ static int step() { return gridDim.x * WARPS; }

  // The next unit that has keys.
  __device__ __forceinline__ void find() {
    for (; number < units.count; number += step()) {
      unit = units.find(a, number);
      tile = unit.keys.first / TILE * TILE;
      if (unit.keys.first <= unit.keys.last) break;
    }
  }

  // Copies rows that are all there, of heads without padding: each lane 16 bytes of neighbouring rows.
  __device__ __forceinline__ void copy_whole(const u16* pool, u32 to, const int* from) const {
    constexpr int GROUPS = 32 / CHUNKS > 0 ? 32 / CHUNKS : 1, EACH = ROWS / GROUPS;
    const int row = lane_id() / CHUNKS * EACH, chunk = lane_id() % CHUNKS;
    const u8* base = (const u8*)pool + chunk * 16;
    to += (row * PITCH + chunk * 8) * 2;
#pragma unroll
    for (int i = 0; i < EACH; i += 4) {
      int4 r = *(const int4*)(from + row + i);
      copy16(to + i * PITCH * 2, base + (i64)r.x * (2 * DP), 16);
      copy16(to + (i + 1) * PITCH * 2, base + (i64)r.y * (2 * DP), 16);
      copy16(to + (i + 2) * PITCH * 2, base + (i64)r.z * (2 * DP), 16);
      copy16(to + (i + 3) * PITCH * 2, base + (i64)r.w * (2 * DP), 16);
    }
  }

  // Starts copying what is next into a place.
  __device__ __forceinline__ void copy(int to) {
    if (number < units.count) {
      if (quarter == 0) {
#pragma unroll
        for (int i = 0; i < TILE; i += 32) rows[i + lane_id()] = pool_row(a, unit.keys, tile + i + lane_id());
        __syncwarp();
      }
      const u16* pool = quarter < 2 ? a.k_pool : a.v_pool;
      const int* from = rows + (quarter & 1) * ROWS;
      if (32 % CHUNKS == 0 && a.dim == DP && tile >= unit.keys.first && tile + TILE - 1 <= unit.keys.last) copy_whole(pool, shared_address(ring + to * PLACE), from);
      else load_half<32, ROWS>(a, pool, ring + to * PLACE, from, lane_id());
      if (++quarter == 4) {
        quarter = 0;
        if ((tile += TILE) > unit.keys.last) number += step(), find();
      }
    }
    copies_end(); // with nothing in it at the end, so that waits can count
  }

  // The oldest place, once what it is for is there.
  __device__ __forceinline__ const u16* take() const {
    copies_wait<STAGES - 1>();
    __syncwarp();
    return ring + slot * PLACE;
  }

  // The oldest place has been used: it is for the next.
  __device__ __forceinline__ void release() {
    __syncwarp();
    copy(slot);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
  }
};

__device__ __forceinline__ void sum_tile(const FlashArgs& a, Stream& stream, int tile, const u32 (&q)[DP / 16][2], const Sight& sight, Sums<SLICES>& sums) {
  float largest[2] = {-INFINITE, -INFINITE}, old[2], base[2], total[2] = {0, 0}, unit = score_unit(a);
  Scores s;
  uint2 p[TILE / 16];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    multiply_keys<STEPS>(q, stream.take(), s, half * STEPS);
    stream.release();
  }
  look(a, s, sight, tile, largest);
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float most = fmaxf(sums.largest[r], largest[r]);
    old[r] = rebase(sums.largest[r], most, unit, base[r]);
    sums.largest[r] = most;
  }
  weigh(s, base, unit, p, total);
  sums.shrink(old, total);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 at = shared_address(stream.take()) + (((lane_id() & 7) + (lane_id() >> 4) * 8) * PITCH + (lane_id() >> 3 & 1) * 8) * 2;
#pragma unroll
    for (int j = 0; j < STEPS; j++)
#pragma unroll
      for (int n = 0; n < SLICES; n++) {
        u32 v[4];
        load_transposed(v, at + (j * 16 * PITCH + n * 16) * 2);
        mma(sums.o[n], v, p[half * STEPS + j].x, p[half * STEPS + j].y);
      }
    stream.release();
  }
}

// The dynamic shared memory is the warps' rings, their rows and lay_out's numbers.
KERNEL __launch_bounds__(32 * WARPS, 1) FLASH(stream)(FlashArgs a) {
  extern __shared__ uint4 room[];
  u16* ring = (u16*)room + warp_id() * STAGES * PLACE;
  int* rows = (int*)((u16*)room + WARPS * STAGES * PLACE);
  int& split = rows[WARPS * TILE];
  int* first = &split + 1; // [sequences + 1]
  pdl_launch();
  if (warp_id() == 0) { // as in flash_decode, while the kernel before still runs
    int n = lay_out(a, first);
    if (lane_id() == 0) split = n;
  }
  __syncthreads();
  const Units units(a, first, split);
  Stream stream(a, units, ring, rows + warp_id() * TILE);
  pdl_wait();
  tell_combine(a, first, split);
#pragma unroll 1
  for (int i = 0; i < STAGES; i++) stream.copy(i);

  for (int u = blockIdx.x * WARPS + warp_id(); u < units.count; u += Stream::step()) {
    const Unit unit = units.find(a, u);
    u32 q[DP / 16][2];
    Sums<SLICES> sums;
    Whole<SLICES> whole;
    load_queries(a, unit.queries, q);
    const Sight sight = sight_of(a, unit.queries);
    sums.clear(), whole.clear();
    for (int tile = unit.keys.first / TILE * TILE; tile <= unit.keys.last;) {
      sums.clear();
      for (int end = (tile / PART + 1) * PART; tile < end && tile <= unit.keys.last; tile += TILE) sum_tile(a, stream, tile, q, sight, sums);
      sums.finish(score_unit(a));
      whole.take(sums);
    }
    write_unit(a, unit, u, whole, sums, 0, 1);
  }
}
