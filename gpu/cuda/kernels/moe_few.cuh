// Products of experts with few tokens each, at the speed of memory.
//
// Every warp works by itself: it takes one part of 16 rows after another, and copies them into a ring of its own in shared
// memory, some pieces of 128 columns ahead and across parts. The blocks sort the pairs themselves, each for itself: they
// are few, and a kernel of its own would take longer. The gates' kernel does that when the routing is there, the other
// one at once, since it begins when the gates' kernel has waited for the routing; and its first weights come
// while that one ends.
//
// W is how weights are stored: the pieces of its ring, from where and how they are copied, and how they are multiplied.

constexpr int WARPS = 8;  // of a block

// What a warp does: parts number first, first + step, ….
template <class W>
struct Work {
  const Plan& plan;
  const u64* weights; // as in the arguments
  int rows, per_unit, count, first, step; // rows: of w or the gate, in a part

  __device__ __forceinline__ Work(const ExpertsArgs& a, const Plan& plan, const u64* weights) : plan(plan), weights(weights) {
    rows = gated(a) && !W::paired ? ROWS / 2 : ROWS, per_unit = (a.n + rows - 1) / rows, count = *plan.count * per_unit;
    // Few parts go to the first warps of a block. Those of the two blocks of a multiprocessor should not wait for the same of its
    // four schedulers.
    const int warp = W::turned && blockIdx.x >= gridDim.x / 2 ? (warp_id() + WARPS - W::turned) % WARPS : warp_id();
    first = warp * gridDim.x + blockIdx.x, step = WARPS * gridDim.x;
  }
  __device__ __forceinline__ Part part(int number) const { return Part(plan, weights, number, per_unit, rows); }
};

// A warp's ring.
template <class W>
struct Ring {
  u8* pieces;   // [W::depth][W::slot_bytes]
  int slot;     // the oldest pieces'
  int part, k0; // what is copied next
  typename W::Source from;

  __device__ __forceinline__ Ring(u8* room, const Work<W>& work) : pieces(room + warp_id() * W::depth * W::slot_bytes), slot(0), part(work.first), k0(0) {}

  // Starts copying the next W::span pieces into a slot.
  __device__ __forceinline__ void copy(const ExpertsArgs& a, const Work<W>& work, int to) {
    if (part < work.count) {
      if (k0 == 0) from.begin(a, work.part(part));
      from.copy(a, k0, shared_address(pieces + to * W::slot_bytes));
      if ((k0 += W::span * PIECE) >= a.k) k0 = 0, part += work.step;
    }
    copies_end(); // with nothing in it at the end, so that waits can count
  }

  // The oldest pieces, once they are there.
  __device__ __forceinline__ const u8* take() const {
    copies_wait<W::depth - 1>();
    __syncwarp();
    return pieces + slot * W::slot_bytes;
  }

  // The oldest pieces have been used: their room is for the next.
  __device__ __forceinline__ void release(const ExpertsArgs& a, const Work<W>& work) {
    __syncwarp();
    copy(a, work, slot);
    slot = slot + 1 == W::depth ? 0 : slot + 1;
  }
};

template <class W, int NT>
__device__ __forceinline__ void few_part(const ExpertsArgs& a, const Work<W>& work, const Part& part, Ring<W>& ring) {
  constexpr int AHEAD = QUARTERS / NT; // quarters: activations come from the caches
  const int group = lane_id() >> 2, mine = (lane_id() & 3) * 8;
  const int* order = work.plan.order + part.unit.first;
  const act* x[NT];
  typename W::template Sums<NT> sums(a, part);
#pragma unroll
  for (int i = 0; i < NT; i++) x[i] = 8 * i + group < part.unit.rows ? input_row(a, order[8 * i + group]) : nullptr;
  Input<NT> in[AHEAD];
#pragma unroll
  for (int q = 0; q < AHEAD; q++) in[q].load(x, mine + q * 32, a.k);
  for (int k0 = 0; k0 < a.k; k0 += W::span * PIECE) {
    const u8* pieces = ring.take();
#pragma unroll
    for (int q = 0; q < W::span * QUARTERS; q++) {
      sums.take(pieces, q, in[q % AHEAD]);
      in[q % AHEAD].load(x, k0 + mine + (q + AHEAD) * 32, a.k);
    }
    ring.release(a, work);
  }
#pragma unroll
  for (int i = 0; i < NT; i++) sums.put(a, order + 8 * i, part.unit.rows - 8 * i, part.row0, i);
}

// The dynamic shared memory is the warps' rings, the addresses of weights, a number per expert and the plan.
template <class W, int NT>
__device__ void few(const ExpertsArgs& a) {
  extern __shared__ uint4 room[];
  u64* weights = (u64*)((u8*)room + WARPS * W::depth * W::slot_bytes);
  int* starts = (int*)(weights + a.expert_count);
  const Plan plan(starts + a.expert_count, a.pairs);
  if (gated(a)) pdl_wait(); // for the addresses too, which the kernel before may write
  for (int e = threadIdx.x; e < a.expert_count; e += blockDim.x) weights[e] = a.w[e];
  plan.make(a.experts, a.pairs, a.expert_count, 8 * NT, starts, 1);
  const Work<W> work(a, plan, weights);
  Ring<W> ring((u8*)room, work);
#pragma unroll
  for (int i = 0; i < W::depth; i++) ring.copy(a, work, i);
  if (!gated(a)) pdl_wait();
  for (int number = work.first; number < work.count; number += work.step) {
    if (number + work.step >= work.count) pdl_launch();
    few_part<W, NT>(a, work, work.part(number), ring);
  }
}
