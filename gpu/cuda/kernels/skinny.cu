// Products of few tokens with bfloat16 weights, on the tensor cores, at the speed of memory.
//
// A tile is 16 rows of W for up to 8 * NT tokens; a block takes one tile after another. Its warps divide k
// between them: warp w takes the pieces of 128 elements w, w + WARPS, …. Each warp copies its pieces of W into
// a ring of its own in shared memory, STAGES pieces ahead and across tiles, so that enough bytes are under way
// at any time; it waits for nobody but at the end of a tile. A thread's 16 bytes of a row are the operands
// of two products m16n8k16 as they come from memory: which k an operand stands for does not matter as long as
// weights and activations agree. The order of the sums depends on k alone, so the bits of an output do not
// depend on the other tokens.
//
// Pairs of rows can be gated, a tile's 16 rows being 8 gate rows and the 8 up rows that belong to them.

struct SkinnyArgs {
  void* out; const act* x; const u8* w; const float* bias;
  i64 stride; // bytes of a row of w
  int tokens, n, k, accumulate, mode; // n: rows of w, or of the gate; mode: see common.cuh
};

constexpr int WARPS = 8;           // of a block
constexpr int STAGES = 2;          // pieces in a warp's ring
constexpr int STEP = WARPS * PIECE; // elements of k in a round of all warps

// How the product is cut into tiles: of_tokens neighbours share rows of W.
struct Tiling {
  int rows, of_tokens, count; // rows: of W or of the gate

  __device__ __forceinline__ Tiling(const SkinnyArgs& a, int tokens_max) {
    rows = a.mode >= GATE_SILU ? ROWS / 2 : ROWS;
    of_tokens = (a.tokens + tokens_max - 1) / tokens_max;
    count = (a.n + rows - 1) / rows * of_tokens;
  }
};

struct Tile {
  int row0, first, tokens; // of W or of the gate; the first token and how many

  __device__ __forceinline__ Tile(const SkinnyArgs& a, const Tiling& tiling, int number, int tokens_max) {
    row0 = number / tiling.of_tokens * tiling.rows;
    first = number % tiling.of_tokens * tokens_max, tokens = min(tokens_max, a.tokens - first);
  }
};

// A warp's ring.
struct Ring {
  u8* pieces;    // [STAGES][PIECE_BYTES]
  int slot;      // the oldest piece's
  int tile, k0;  // what is copied next

  __device__ __forceinline__ Ring(u8* room) : pieces(room + warp_id() * STAGES * PIECE_BYTES), slot(0), tile(blockIdx.x), k0(0) {}

  // Starts copying the next piece into a slot; zeros stand past the end of k.
  __device__ __forceinline__ void copy(const SkinnyArgs& a, const Tiling& tiling, int to) {
    if (tile < tiling.count) {
      int row0 = tile / tiling.of_tokens * tiling.rows + (lane_id() >> 4);
      int at = k0 + warp_id() * PIECE + (lane_id() & 15) * 8, bytes = at < a.k ? 16 : 0;
      const u8* from = a.w + 2 * (i64)(bytes ? at : 0);
      u32 address = shared_address(pieces + to * PIECE_BYTES) + place(lane_id() >> 4, lane_id() & 15);
#pragma unroll
      for (int r = 0; r < ROWS; r += 2) {
        int row = min(row0 + r, a.n - 1);
        if (a.mode >= GATE_SILU) row = r < ROWS / 2 ? row : a.n + min(row0 + r - ROWS / 2, a.n - 1);
        copy16(address + r * 2 * PIECE, from + row * a.stride, bytes);
      }
      if ((k0 += STEP) >= a.k) k0 = 0, tile += gridDim.x;
    }
    copies_end(); // with nothing in it at the end, so that waits can count
  }

  // The oldest piece, once it is there.
  __device__ __forceinline__ const u8* take() const {
    copies_wait<STAGES - 1>();
    __syncwarp();
    return pieces + slot * PIECE_BYTES;
  }

  // The oldest piece has been used: its room is for the next.
  __device__ __forceinline__ void release(const SkinnyArgs& a, const Tiling& tiling) {
    __syncwarp();
    copy(a, tiling, slot);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
  }
};

// Multiplies the warp's pieces of a tile.
template <int NT>
__device__ __forceinline__ void multiply(const SkinnyArgs& a, const Tiling& tiling, const Tile& tile, Ring& ring, float (&sums)[NT][4]) {
  constexpr int AHEAD = QUARTERS / NT; // quarters: activations come from the caches
  const int group = lane_id() >> 2, mine = warp_id() * PIECE + (lane_id() & 3) * 8;
  const act* x[NT];
#pragma unroll
  for (int i = 0; i < NT; i++) {
    int t = 8 * i + group;
    x[i] = t < tile.tokens ? a.x + (i64)(tile.first + t) * a.k : nullptr;
    sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
  }
  Input<NT> in[AHEAD];
#pragma unroll
  for (int q = 0; q < AHEAD; q++) in[q].load(x, mine + q * 32, a.k);
  for (int k0 = 0; k0 < a.k; k0 += STEP) { // whole warps: a product needs all of its threads
    const u8* piece = ring.take();
#pragma unroll
    for (int q = 0; q < QUARTERS; q++) {
      take_quarter<NT>(piece, q, in[q % AHEAD], sums);
      int next = q + AHEAD;
      in[q % AHEAD].load(x, k0 + mine + next / QUARTERS * STEP + next % QUARTERS * 32, a.k);
    }
    ring.release(a, tiling);
  }
}

// The sums of all warps of a block: [WARPS][ROWS][T + 1].
template <int T>
struct Parts {
  float* sums;

  __device__ __forceinline__ void put(const float (&s)[T / 8][4]) const {
    const int group = lane_id() >> 2, column = 2 * (lane_id() & 3);
    float* mine = sums + (warp_id() * ROWS + group) * (T + 1) + column;
#pragma unroll
    for (int i = 0; i < T / 8; i++) {
      mine[8 * i] = s[i][0], mine[8 * i + 1] = s[i][1];
      mine[8 * (T + 1) + 8 * i] = s[i][2], mine[8 * (T + 1) + 8 * i + 1] = s[i][3];
    }
  }

  __device__ __forceinline__ float total(int row, int t) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += sums[(w * ROWS + row) * (T + 1) + t];
    return sum;
  }
};

// The outputs of a tile that a thread writes: number threadIdx.x and every 32 * WARPS-th, row by row for a token.
// What is added to them is read ahead.
template <int T>
struct Outputs {
  static constexpr int COUNT = (ROWS * T + 32 * WARPS - 1) / (32 * WARPS);
  float old[COUNT], bias[COUNT];

  __device__ __forceinline__ static bool find(const SkinnyArgs& a, const Tile& tile, int i, int& r, int& t, i64& at) {
    int rows = a.mode >= GATE_SILU ? ROWS / 2 : ROWS, number = threadIdx.x + i * 32 * WARPS;
    r = number % rows, t = number / rows;
    at = (i64)(tile.first + t) * a.n + tile.row0 + r;
    return t < tile.tokens && tile.row0 + r < a.n;
  }

  __device__ __forceinline__ void read(const SkinnyArgs& a, const Tile& tile) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int r, t;
      i64 at;
      old[i] = bias[i] = 0;
      if (!find(a, tile, i, r, t, at)) continue;
      if (a.accumulate) old[i] = a.mode == STORE_F32 ? ((const float*)a.out)[at] : load((const act*)a.out + at);
      if (a.bias) bias[i] = a.bias[tile.row0 + r];
    }
  }

  __device__ __forceinline__ void write(const SkinnyArgs& a, const Tile& tile, const Parts<T>& parts) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      int r, t;
      i64 at;
      if (!find(a, tile, i, r, t, at)) continue;
      float sum = parts.total(r, t) + bias[i];
      if (a.mode >= GATE_SILU) {
        float up = parts.total(r + ROWS / 2, t);
        if (a.bias) up += a.bias[a.n + tile.row0 + r];
        sum = up * gate_of(a.mode, sum);
      }
      if (a.accumulate) sum += old[i];
      if (a.mode == STORE_F32) ((float*)a.out)[at] = sum;
      else store((act*)a.out + at, sum);
    }
  }
};

// The dynamic shared memory is the warps' rings and their sums.
template <int NT>
__device__ void skinny(const SkinnyArgs& a) {
  constexpr int T = 8 * NT;
  extern __shared__ uint4 room[];
  const Tiling tiling(a, T);
  Ring ring((u8*)room);
  Parts<T> parts{(float*)((u8*)room + WARPS * STAGES * PIECE_BYTES)};

  // The weights do not depend on the kernel before: the first of them come while it ends.
  for (int i = 0; i < STAGES; i++) ring.copy(a, tiling, i);
  pdl_wait();
  for (int i = blockIdx.x; i < tiling.count; i += gridDim.x) {
    Tile tile(a, tiling, i, T);
    Outputs<T> outputs;
    float sums[NT][4];
    outputs.read(a, tile);
    multiply<NT>(a, tiling, tile, ring, sums);
    // Not earlier: blocks of the next kernel that came while there is much to read would go where there happens to be
    // room, and a few multiprocessors would get most of them.
    if (i + gridDim.x >= tiling.count) pdl_launch();
    __syncthreads(); // the parts of the tile before have been read
    parts.put(sums);
    __syncthreads();
    outputs.write(a, tile, parts);
  }
}

KERNEL __launch_bounds__(32 * WARPS, 2) skinny_1(SkinnyArgs a) { skinny<1>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) skinny_2(SkinnyArgs a) { skinny<2>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) skinny_4(SkinnyArgs a) { skinny<4>(a); }
