// Products of experts with few tokens each, at the speed of memory.
//
// Every warp works by itself: it takes one part of 16 rows after another, and copies them into a ring of its own in shared
// memory, DEPTH pieces of 128 columns ahead and across parts. The blocks sort the pairs themselves, each for itself: they
// are few, and a kernel of its own would take longer. The gates' kernel does that when the routing is there, the other
// one at once, since it begins when the gates' kernel has waited for the routing; and its first weights come
// while that one ends.

constexpr int WARPS = 8;  // of a block
constexpr int DEPTH = 3;  // pieces in a warp's ring
constexpr int PIECE = 128; // elements of k
constexpr int PIECE_BYTES = 2 * ROWS * PIECE;
constexpr int QUARTERS = 4; // of a piece

// Where a chunk of 16 bytes lies in its row's 256 of a piece: see skinny.cu.
__device__ __forceinline__ int place(int row, int chunk) { return row * 2 * PIECE + ((chunk ^ (row & 1) << 2) << 4); }

// What a warp does: parts number first, first + step, ….
struct Work {
  const Plan& plan;
  const u64* weights; // as in the arguments
  int rows, per_unit, count, first, step; // rows: of w or the gate, in a part

  __device__ __forceinline__ Work(const ExpertsArgs& a, const Plan& plan, const u64* weights) : plan(plan), weights(weights) {
    rows = gated(a) ? ROWS / 2 : ROWS, per_unit = (a.n + rows - 1) / rows, count = *plan.count * per_unit;
    first = warp_id() * gridDim.x + blockIdx.x, step = WARPS * gridDim.x;
  }
  __device__ __forceinline__ Part part(int number) const { return Part(plan, weights, number, per_unit, rows); }
};

// A warp's ring.
struct Ring {
  u8* pieces;   // [DEPTH][PIECE_BYTES]
  int slot;     // the oldest piece's
  int part, k0; // what is copied next
  const u8* w;  // and from where
  int row0;

  __device__ __forceinline__ Ring(u8* room, const Work& work) : pieces(room + warp_id() * DEPTH * PIECE_BYTES), slot(0), part(work.first), k0(0) {}

  // Starts copying the next piece into a slot; zeros stand past the end of k.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, const Work& work, int to) {
    if (part < work.count) {
      if (k0 == 0) {
        Part p = work.part(part);
        w = p.w, row0 = p.row0;
      }
      const int row = lane_id() >> 4, chunk = lane_id() & 15, at = k0 + chunk * 8, bytes = at < a.k ? 16 : 0;
      const u8* from = w + 2 * (i64)(bytes ? at : 0);
      u32 address = shared_address(pieces + to * PIECE_BYTES) + place(row, chunk);
#pragma unroll
      for (int r = 0; r < ROWS; r += 2) copy16(address + r * 2 * PIECE, weights_row(a, from, row0, row + r), bytes);
      if ((k0 += PIECE) >= a.k) k0 = 0, part += work.step;
    }
    copies_end(); // with nothing in it at the end, so that waits can count
  }

  // The oldest piece, once it is there.
  __device__ __forceinline__ const u8* take() const {
    copies_wait<DEPTH - 1>();
    __syncwarp();
    return pieces + slot * PIECE_BYTES;
  }

  // The oldest piece has been used: its room is for the next.
  __device__ __forceinline__ void release(const ExpertsArgs& a, const Work& work) {
    __syncwarp();
    copy(a, work, slot);
    slot = slot + 1 == DEPTH ? 0 : slot + 1;
  }
};

// A thread's activations of 32 columns, of pairs group, group + 8, ….
template <int NT>
struct Input {
  uint4 x[NT];

  __device__ __forceinline__ void load(const ExpertsArgs& a, const act* const (&from)[NT], int at) {
#pragma unroll
    for (int i = 0; i < NT; i++) x[i] = at < a.k && from[i] ? *(const uint4*)(from[i] + at) : make_uint4(0, 0, 0, 0);
  }
};

template <int NT>
__device__ __forceinline__ void take_quarter(const u8* piece, int quarter, const Input<NT>& in, float (&sums)[NT][4]) {
  const int group = lane_id() >> 2, chunk = 4 * quarter + (lane_id() & 3);
  uint4 low = *(const uint4*)(piece + place(group, chunk)), high = *(const uint4*)(piece + place(group + 8, chunk));
#pragma unroll
  for (int i = 0; i < NT; i++) {
    mma(sums[i], low.x, high.x, low.y, high.y, in.x[i].x, in.x[i].y);
    mma(sums[i], low.z, high.z, low.w, high.w, in.x[i].z, in.x[i].w);
  }
}

template <int NT>
__device__ __forceinline__ void few_part(const ExpertsArgs& a, const Work& work, const Part& part, Ring& ring) {
  constexpr int AHEAD = QUARTERS / NT; // quarters: activations come from the caches
  const int group = lane_id() >> 2, mine = (lane_id() & 3) * 8;
  const int* order = work.plan.order + part.unit.first;
  const act* x[NT];
  float sums[NT][4] = {};
#pragma unroll
  for (int i = 0; i < NT; i++) x[i] = 8 * i + group < part.unit.rows ? input_row(a, order[8 * i + group]) : nullptr;
  Input<NT> in[AHEAD];
#pragma unroll
  for (int q = 0; q < AHEAD; q++) in[q].load(a, x, mine + q * 32);
  for (int k0 = 0; k0 < a.k; k0 += PIECE) {
    const u8* piece = ring.take();
#pragma unroll
    for (int q = 0; q < QUARTERS; q++) {
      take_quarter<NT>(piece, q, in[q % AHEAD], sums);
      in[q % AHEAD].load(a, x, k0 + mine + (q + AHEAD) * 32);
    }
    ring.release(a, work);
  }
#pragma unroll
  for (int i = 0; i < NT; i++) put(a, order + 8 * i, part.unit.rows - 8 * i, part.row0, sums[i]);
}

// The dynamic shared memory is the warps' rings, the addresses of weights, a number per expert and the plan.
template <int NT>
__device__ void few(const ExpertsArgs& a) {
  extern __shared__ uint4 room[];
  u64* weights = (u64*)((u8*)room + WARPS * DEPTH * PIECE_BYTES);
  int* starts = (int*)(weights + a.expert_count);
  const Plan plan(starts + a.expert_count, a.pairs);
  if (gated(a)) pdl_wait(); // for the addresses too, which the kernel before may write
  for (int e = threadIdx.x; e < a.expert_count; e += blockDim.x) weights[e] = a.w[e];
  plan.make(a.experts, a.pairs, a.expert_count, 8 * NT, starts, 1);
  const Work work(a, plan, weights);
  Ring ring((u8*)room, work);
#pragma unroll
  for (int i = 0; i < DEPTH; i++) ring.copy(a, work, i);
  if (!gated(a)) pdl_wait();
  for (int number = work.first; number < work.count; number += work.step) {
    if (number + work.step >= work.count) pdl_launch();
    few_part<NT>(a, work, work.part(number), ring);
  }
}

KERNEL __launch_bounds__(32 * WARPS, 2) moe_few_8(ExpertsArgs a) { few<1>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) moe_few_16(ExpertsArgs a) { few<2>(a); }
