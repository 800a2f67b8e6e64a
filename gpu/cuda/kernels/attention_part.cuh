// How a block sums a part of the keys, its warps a tile each: each warp multiplies its tile's keys with the queries;
// then each has some of the dimensions, and adds the part's values up in the order of the tiles.

constexpr int WARPS = PART / TILE;
constexpr int SLICES = (DP / 16 + WARPS - 1) / WARPS; // of 16 dimensions, of a warp: warp, warp + WARPS, ...

// What the warps of a block tell one another about their tiles. A thread's rows and keys are the
// same for every warp, so each reads what its like wrote.
struct Exchange {
  uint2 weights[WARPS][TILE / 16][32]; // as mma's b, by lane; before, the tile's rows of the pools
  float2 largest[WARPS][4];            // of rows 2c and 2c+1
  float2 total[WARPS][32];             // by lane: weights of keys g, g+8, g+16, ... for rows 2c and 2c+1
  int split;
};

// Sums the part of the keys that starts at position `part`, whose copies each warp has begun. Values that are not APART
// come after the keys, to where those were, and their rows are where x.weights will be.
template <bool APART>
__device__ __forceinline__ void sum_part(const FlashArgs& a, const Keys& keys, int part, const u32 (&q)[DP / 16][2], const Sight& sight,
                                         u16* tiles, u16* values, Exchange& x, Sums<SLICES>& sums) {
  int warp = warp_id(), lane = lane_id(), tile = part + warp * TILE;
  u16* mine = tiles + warp * HALF;
  bool active = tile <= keys.last && tile + TILE > keys.first;
  float largest[2] = {-INFINITE, -INFINITE};
  Scores s;
  if (active) {
    copies_wait<0>();
    __syncwarp();
    multiply_keys<TILE / 16>(q, mine, s, 0);
    if (!APART) {
      __syncwarp();
      load_half<32>(a, a.v_pool, mine, (const int*)x.weights[warp], lane);
      copies_end();
    }
    look(a, s, sight, tile, largest);
  }
  if (lane < 4) x.largest[warp][lane] = make_float2(largest[0], largest[1]);
  __syncthreads();
  float old[WARPS][2], base[2], unit = score_unit(a), total[2] = {0, 0};
  sums.clear();
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    float2 of_tile = x.largest[i][lane & 3];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = fmaxf(sums.largest[r], r ? of_tile.y : of_tile.x), here;
      old[i][r] = rebase(sums.largest[r], most, unit, here);
      sums.largest[r] = most;
      if (i == warp) base[r] = here;
    }
  }
  if (active) {
    uint2 p[TILE / 16];
    weigh(s, base, unit, p, total);
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) x.weights[warp][j][lane] = p[j];
    copies_wait<0>();
  }
  x.total[warp][lane] = make_float2(total[0], total[1]);
  __syncthreads();
  u32 at = shared_address(values) + (((lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8 + warp * 16) * 2;
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    float2 of_tile = x.total[i][lane];
    sums.shrink(old[i], {of_tile.x, of_tile.y});
    if (part + i * TILE > keys.last || part + (i + 1) * TILE <= keys.first) continue;
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      uint2 p = x.weights[i][j][lane];
#pragma unroll
      for (int n = 0; n < SLICES; n++) {
        if (DP / 16 % WARPS != 0 && n * WARPS + warp >= DP / 16) continue;
        u32 v[4];
        load_transposed(v, at + (i * HALF + j * 16 * PITCH + n * WARPS * 16) * 2);
        mma(sums.o[n], v, p.x, p.y);
      }
    }
  }
  sums.finish(unit);
}
