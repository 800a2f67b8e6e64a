// Mixture of experts: routing, and the experts' products over the tokens that chose them. A
// pair is a token and one of its choices; pair p belongs to token p / top_k.

struct MoERouteArgs { const act* logits; int* experts; float* weights; int tokens, expert_count, top_k, normalize; };

// A logit as a number that orders like it; 0 is less than any, and stands for NaN. Both zeros are the same.
__device__ __forceinline__ u32 ordered(float v) {
  u32 bits = __float_as_uint(v + 0.0f);
  return v != v ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float of_ordered(u32 key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

__device__ __forceinline__ u32 warp_max(u32 v) {
  u32 r;
  asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(r) : "r"(v));
  return r;
}

// A warp per token. Selection compares logits, which softmax does not reorder.
KERNEL moe_route(MoERouteArgs a) {
  pdl_begin();
  int t = blockIdx.x * (blockDim.x >> 5) + warp_id(), lane = lane_id();
  if (t >= a.tokens) return;
  const act* row = a.logits + (i64)t * a.expert_count;
  int* chosen = a.experts + (i64)t * a.top_k;
  float* weights = a.weights + (i64)t * a.top_k;
  float largest = 0, total = 0;
  u32 last = FULL;
  int last_id = -1;
  for (int j = 0; j < a.top_k; j++) { // the next in descending order, ties to the lower expert
    u32 best = 0;
    int id = -1;
    for (int e = lane; e < a.expert_count; e += 32) {
      u32 v = ordered(load(row + e));
      bool after = v < last || (v == last && e > last_id);
      if (after && v > best) best = v, id = e;
    }
    last = warp_max(best);
    last_id = ~(int)warp_max(best == last ? ~(u32)id : 0); // the lowest; that of a lane without any is -1, whose complement is 0
    float logit = of_ordered(last);
    if (last == 0) last_id = 0, logit = __int_as_float(0x7fc00000); // only NaN is left: keep it visible
    if (j == 0) largest = logit;
    if (lane == 0) chosen[j] = last_id;
    total += expf(logit - largest);
  }
  if (!a.normalize) {
    float sum = 0;
    for (int e = lane; e < a.expert_count; e += 32) sum += expf(load(row + e) - largest);
    total = warp_sum(sum);
  }
  __syncwarp();
  for (int j = lane; j < a.top_k; j += 32) weights[j] = expf(load(row + chosen[j]) - largest) / total;
}

// Lists the pairs of each expert: expert e has order[starts[e]] to order[starts[e+1]-1], in
// ascending order. One block; thread e counts for expert e.
struct MoESortArgs { const int* experts; int* starts; int* order; int pairs, expert_count; };

KERNEL moe_sort(MoESortArgs a) {
  pdl_begin();
  for (int e = threadIdx.x; e < a.expert_count; e += blockDim.x) {
    int count = 0;
    for (int p = 0; p < a.pairs; p++) count += a.experts[p] == e;
    a.starts[e + 1] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    a.starts[0] = 0;
    for (int e = 0; e < a.expert_count; e++) a.starts[e + 1] += a.starts[e];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.expert_count; e += blockDim.x) {
    int at = a.starts[e];
    for (int p = 0; p < a.pairs; p++)
      if (a.experts[p] == e) a.order[at++] = p;
  }
}

// out[p] = w[expert of p] * x[p / divisor] for every pair.
struct GroupedArgs {
  void* out; const act* x; const u64* w; const int* starts; const int* order;
  i64 stride; // bytes of a row of each w
  int n, k, divisor, out_f32;
};

template <class W, bool VECTOR>
__device__ void grouped(const GroupedArgs& a) {
  pdl_wait();
  constexpr int R = 4;
  int row0 = (blockIdx.x * WARPS + warp_id()) * R;
  if (row0 >= a.n) return;
  const u8* w = (const u8*)a.w[blockIdx.y];
  int to = a.starts[blockIdx.y + 1];
  for (int at = a.starts[blockIdx.y]; at < to;) {
    const int* pairs = a.order + at;
    int left = to - at;
    auto row_of = [&](int t) { return a.x + (i64)(pairs[t] / a.divisor) * a.k; };
    auto store = [&](int row, int t, float sum) { 
      i64 at = (i64)pairs[t] * a.n + row;
      if (a.out_f32) ::store((float*)a.out + at, sum);
      else ::store((act*)a.out + at, sum);
    };
    if (left == 1) {
      multiply<W, 1, R, VECTOR>(w, a.stride, a.n, a.k, row0, 1, row_of, store);
      at += 1;
    } else if (left <= 4) {
      multiply<W, 4, R, VECTOR>(w, a.stride, a.n, a.k, row0, left, row_of, store);
      at += left;
    } else {
      multiply<W, 8, R, VECTOR>(w, a.stride, a.n, a.k, row0, min(left, 8), row_of, store);
      at += min(left, 8);
    }
  }
}

#define GROUPED(name, W)                                                                    \
  KERNEL __launch_bounds__(32 * WARPS, 2) moe_##name(GroupedArgs a) { grouped<W, true>(a); } \
  KERNEL __launch_bounds__(32 * WARPS, 2) moe_##name##_odd(GroupedArgs a) { grouped<W, false>(a); }

GROUPED(f32, F32)
GROUPED(f16, F16)
GROUPED(bf16, BF16)

// out[t] += sum of weight * product over the token's pairs, in order of expert index. A row of blocks
// per token.
struct MoECombineArgs { act* out; const float* products; const int* experts; const float* weights; int hidden, top_k; };

KERNEL moe_combine(MoECombineArgs a) {
  extern __shared__ int ranked[]; // [top_k] the token's choices by expert index
  pdl_begin();
  i64 t = blockIdx.x;
  const int* experts = a.experts + t * a.top_k;
  for (int j = threadIdx.x; j < a.top_k; j += blockDim.x) {
    int rank = 0;
    for (int i = 0; i < a.top_k; i++) rank += experts[i] < experts[j] || (experts[i] == experts[j] && i < j);
    ranked[rank] = j;
  }
  __syncthreads();
  for (int h = blockIdx.y * blockDim.x + threadIdx.x; h < a.hidden; h += gridDim.y * blockDim.x) {
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < a.top_k; i++) {
      i64 pair = t * a.top_k + ranked[i];
      sum += a.weights[pair] * a.products[pair * a.hidden + h];
    }
    store(a.out + t * a.hidden + h, load(a.out + t * a.hidden + h) + sum);
  }
}
