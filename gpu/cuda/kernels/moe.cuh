// Mixture of experts on the tensor cores: what the kernels for few tokens of an expert (moe_few.cuh) and for many
// (moe_tile.cuh) share. A pair is a token and one of its choices.
//
// Every output is summed over k in one order, 32 elements after another and each of these as two products m16n8k16,
// whichever kernel computes it and whatever the batch. Of 32 elements thread t of four has the 8 from 8t on, 16 bytes:
// its operands of both products as they come from memory. Which k an operand stands for does not matter as long
// as weights and activations agree.
//
// Weights are the first operand. A tile of them has 16 rows; where gates are wanted these are 8 of the gate and the 8 of
// the up projection that belong to them, so that a thread has both sums of an output.

// out[p] = w[expert of p] * x[p / divisor] for every pair p, as float32, or gated as activations.
struct ExpertsArgs {
  void* out; const act* x; const u64* w; const int* experts;
  int* plan; // see Plan: moe_few makes its own
  i64 stride; // bytes of a row of each w
  int pairs, expert_count, n, k, divisor, mode; // n: rows of w, or of the gate; mode: see common.cuh, not STORE_ACT
  i64 meta;   // of each w, if it is quantized: where behind its codes that lies which rows or groups share
};

__device__ __forceinline__ bool gated(const ExpertsArgs& a) { return a.mode >= GATE_SILU; }

// Some of an expert's pairs: those that one pass over its weights is for.
struct Unit {
  int expert;
  int first, rows; // which of the order, and how many
  int start, of;   // the expert's first unit and how many it has
};

// The pairs by expert, and what is to be done: [count, order of pairs, units]
struct Plan {
  int* count;  // of units
  int* order;  // [pairs]
  Unit* units; // an expert's are neighbours

  __device__ __forceinline__ Plan(int* room, int pairs) : count(room), order(room + 1), units((Unit*)(room + 1 + pairs)) {}

  // Made by all threads of a block. rows: of a unit at most; starts: [expert_count] room. Only so many warps place pairs:
  // one does so in ascending order, so that blocks which each make the plan agree what a unit is. In which order more
  // warps place them is chance, and nothing else depends on it.
  __device__ void make(const int* experts, int pairs, int expert_count, int rows, int* starts, int warps) const {
    for (int e = threadIdx.x; e < expert_count; e += blockDim.x) starts[e] = 0;
    __syncthreads();
    for (int from = warp_id() * 32; from < pairs; from += blockDim.x) take(experts, from + lane_id(), pairs, expert_count, starts);
    __syncthreads();
    if (warp_id() == 0) list(expert_count, rows, starts);
    __syncthreads();
    if (warp_id() < warps)
      for (int from = warp_id() * 32; from < pairs; from += warps * 32) {
        int p = from + lane_id(), at = take(experts, p, pairs, expert_count, starts);
        if (p < pairs) order[at] = p;
        __syncwarp();
      }
    __syncthreads();
  }

 private:
  // Counts a warp's pairs, those of an expert at once, and returns where in its expert's this one comes.
  static __device__ __forceinline__ int take(const int* experts, int p, int pairs, int expert_count, int* starts) {
    int expert = p < pairs ? clamp_index(experts[p], expert_count) : -1, at = 0;
    u32 same = __match_any_sync(FULL, expert);
    int first = __ffs(same) - 1;
    if (expert >= 0 && lane_id() == first) at = atomicAdd(&starts[expert], __popc(same));
    return __shfl_sync(FULL, at, first) + __popc(same & ((1u << lane_id()) - 1));
  }

  // By one warp: counts become where each expert's pairs start, and units are listed.
  __device__ void list(int expert_count, int rows, int* starts) const {
    int pairs_before = 0, units_before = 0;
    for (int from = 0; from < expert_count; from += 32) {
      int e = from + lane_id(), pairs = e < expert_count ? starts[e] : 0, of = (pairs + rows - 1) / rows;
      int pairs_to = pairs, units_to = of; // sums over the lanes up to this one
#pragma unroll
      for (int o = 1; o < 32; o *= 2) {
        int p = __shfl_up_sync(FULL, pairs_to, o), u = __shfl_up_sync(FULL, units_to, o);
        if (lane_id() >= o) pairs_to += p, units_to += u;
      }
      int first = pairs_before + pairs_to - pairs, start = units_before + units_to - of;
      for (int i = 0; i < of; i++) units[start + i] = Unit{e, first + i * rows, min(rows, pairs - i * rows), start, of};
      if (e < expert_count) starts[e] = first;
      pairs_before += __shfl_sync(FULL, pairs_to, 31), units_before += __shfl_sync(FULL, units_to, 31);
    }
    if (lane_id() == 0) *count = units_before;
  }
};

// The work's parts: so many rows of an expert's weights for one of its units. Units that share rows are neighbours.
struct Part {
  Unit unit;
  const u8* w; // the expert's
  int row0;    // of w, or of the gate

  __device__ __forceinline__ Part(const Plan& plan, const u64* weights, int number, int per_unit, int rows) {
    Unit some = plan.units[number / per_unit]; // the expert's numbers begin at per_unit times its first unit
    int mine = number - some.start * per_unit;
    unit = plan.units[some.start + mine % some.of], row0 = mine / some.of * rows, w = (const u8*)weights[some.expert];
  }
};

// Row number r of the tile of w that begins at a row. Past the last row the last one stands in, and is not stored.
__device__ __forceinline__ const u8* weights_row(const ExpertsArgs& a, const u8* w, int first, int r) {
  int row = min(first + (gated(a) ? r & 7 : r), a.n - 1);
  if (gated(a) && r >= 8) row += a.n;
  return w + row * a.stride;
}

__device__ __forceinline__ const act* input_row(const ExpertsArgs& a, int pair) { return a.x + (i64)(pair / a.divisor) * a.k; }

// Stores what a thread has of a tile's products with 8 pairs, `pairs` of which are real.
__device__ __forceinline__ void put(const ExpertsArgs& a, const int* order, int pairs, int first, const float (&c)[4]) {
  const int row = first + (lane_id() >> 2), column = 2 * (lane_id() & 3);
#pragma unroll
  for (int j = 0; j < 2; j++) {
    if (column + j >= pairs || row >= a.n) continue;
    i64 at = (i64)order[column + j] * a.n + row;
    if (gated(a)) {
      store((act*)a.out + at, c[2 + j] * gate_of(a.mode, c[j]));
    } else {
      ((float*)a.out)[at] = c[j];
      if (row + 8 < a.n) ((float*)a.out)[at + 8] = c[2 + j];
    }
  }
}
