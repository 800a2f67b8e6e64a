// Sampling and log probabilities. Package gpu/ref defines the results; a draw differs from its
// definition only where two candidates differ by less than float64 rounding of log, or where the
// top-p mass, summed from float32 exponentials, is within float32 rounding of the threshold.
//
// A block per row. Nothing sorts. One pass surveys how many tokens, and how much mass, lie
// within 1, 2, 4, … nats of the largest; those that a cut needs are gathered in shared memory if
// they fit, and the cut is found by radix descent over the ranking key: by counts for top-k, by
// mass for top-p. Masses are integers in units of 2^-44, so the order in which threads add them
// cannot change a draw.

struct SampleRow { // one row of SampleArgs.params
  float temperature, top_p, min_p_log; // min_p_log: log(min_p), or -inf for off
  int top_k;
  u64 key; // noise key of (seed, position)
  int slot, unused;
};

constexpr int FEW = 64;

struct SampleArgs {
  const float* logits; const SampleRow* params; int* out; int* last; int vocab, slots;
  SampleRow few[FEW]; // in place of params, if that is null
};

constexpr int THREADS = 1024;
constexpr int CANDIDATES = 4096; // gathered at most
constexpr int DEPTHS = 8;        // 1, 2, 4, … 64 nats below the largest, and everything
constexpr u64 GOLDEN = 0x9E3779B97F4A7C15ull;
constexpr float MASS_UNIT = 17592186044416.0f; // 2^44

__device__ __forceinline__ u64 mix64(u64 z) { // SplitMix64's output function
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__device__ __forceinline__ u64 noise_bits(u64 key, int id) { return mix64(key + GOLDEN * (u64)(u32)id + GOLDEN); }

__device__ __forceinline__ double gumbel(u64 bits) {
  double u = ((double)(bits >> 12) + 0.5) * 0x1p-52;
  return -log(-log(u));
}

// The ranking key: larger is earlier, in descending order of value with ties to the lower id.
// Adding zero makes -0 equal to +0.
__device__ __forceinline__ u64 rank_key(float value, int id) {
  u32 bits = __float_as_uint(value + 0.0f);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)bits << 32 | (u32)~id;
}

__device__ __forceinline__ float rank_value(u64 key) {
  u32 bits = (u32)(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

__device__ __forceinline__ int rank_id(u64 key) { return (int)~(u32)key; }

struct Shared {
  u64 candidates[CANDIDATES];
  u64 histogram[256];
  u64 masses[DEPTHS];
  u32 counts[DEPTHS];
  u32 gathered;
  u64 key, rest; // of a descent: the prefix so far, what of the target is left
  u64 sums[33];
  double best[32];
  int best_id[32];
};

// A row with what its draw needs.
struct Draw {
  const float* row;
  int vocab;
  SampleRow p;
  float largest; // of the scaled logits
  u64 floor;     // no key below it is left
  int listed;    // candidates in Shared, or -1: the whole row is

  __device__ bool passes(float v) const { return v - largest >= p.min_p_log; }
  __device__ u64 mass(float v) const { return __float2ull_rn(expf(v - largest) * MASS_UNIT); }
};

// Calls f(logit, id) for this thread's share of a row, four loads of four logits at a time: there is one block to hide that
// they take long.
template <class F>
__device__ __forceinline__ void each_logit(const float* row, int vocab, F f) {
  const int vectors = (u64)row % 16 == 0 ? vocab / 4 : 0;
  const float4* x = (const float4*)row;
  auto four = [&](float4 v, int i) { f(v.x, 4 * i), f(v.y, 4 * i + 1), f(v.z, 4 * i + 2), f(v.w, 4 * i + 3); };
  int i = threadIdx.x;
  for (; i + 3 * THREADS < vectors; i += 4 * THREADS) {
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = x[i + j * THREADS];
#pragma unroll
    for (int j = 0; j < 4; j++) four(v[j], i + j * THREADS);
  }
  for (; i < vectors; i += THREADS) four(x[i], i);
  for (i = 4 * vectors + threadIdx.x; i < vocab; i += THREADS) f(row[i], i);
}

// Calls f(scaled logit, key) for this thread's share of what is left.
template <class F>
__device__ __forceinline__ void each_left(const Draw& d, const Shared& sh, F f) {
  if (d.listed >= 0) {
    for (int i = threadIdx.x; i < d.listed; i += THREADS) {
      u64 key = sh.candidates[i];
      if (key >= d.floor) f(rank_value(key), key);
    }
    return;
  }
  each_logit(d.row, d.vocab, [&](float logit, int id) {
    float v = logit / d.p.temperature;
    u64 key = rank_key(v, id);
    if (d.passes(v) && key >= d.floor) f(v, key);
  });
}

// The smallest key with which the measure of all keys from the top on reaches target, which is
// at least 1 and at most their total. measure(v) is an integer.
template <class Measure>
__device__ u64 descend(const Draw& d, Shared& sh, u64 target, Measure measure) {
  u64 prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) sh.histogram[threadIdx.x] = 0;
    __syncthreads();
    u64 mask = shift == 56 ? 0 : ~0ull << (shift + 8);
    each_left(d, sh, [&](float v, u64 key) {
      if ((key & mask) != prefix) return;
      u64 amount = measure(v);
      if (amount) atomicAdd(&sh.histogram[key >> shift & 255], amount);
    });
    __syncthreads();
    if (warp_id() == 0) { // lane l holds the digits from 255-8l down
      int digit = 255 - 8 * lane_id();
      u64 sum = 0;
      for (int j = 0; j < 8; j++) sum += sh.histogram[digit - j];
      u64 upto = sum;
      for (int o = 1; o < 32; o *= 2) {
        u64 other = __shfl_up_sync(FULL, upto, o);
        if (lane_id() >= o) upto += other;
      }
      u32 reached = __ballot_sync(FULL, upto >= target);
      if (lane_id() == (reached ? __ffs(reached) - 1 : 31)) {
        u64 rest = target - (upto - sum);
        for (int j = 0; j < 7 && sh.histogram[digit] < rest; j++) rest -= sh.histogram[digit--];
        sh.key = prefix | (u64)digit << shift;
        sh.rest = rest;
      }
    }
    __syncthreads();
    prefix = sh.key;
    target = sh.rest;
  }
  return prefix;
}

// The least mass that top-p keeps of total.
__device__ __forceinline__ u64 mass_target(float top_p, u64 total) {
  return min(max(__double2ull_ru((double)top_p * (double)total), 1ull), total);
}

// Counts the tokens that pass min-p, and their mass, by depth.
__device__ void survey(const Draw& d, Shared& sh) {
  u32 counts[DEPTHS] = {};
  u64 masses[DEPTHS] = {};
  each_logit(d.row, d.vocab, [&](float logit, int) {
    float v = logit / d.p.temperature;
    if (!d.passes(v)) return;
    u64 mass = d.p.top_p < 1 ? d.mass(v) : 0;
#pragma unroll
    for (int i = 0; i < DEPTHS; i++) {
      bool within = i == DEPTHS - 1 || d.largest - v <= (float)(1 << i);
      counts[i] += within;
      masses[i] += within ? mass : 0;
    }
  });
  if (threadIdx.x < DEPTHS) sh.counts[threadIdx.x] = 0, sh.masses[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < DEPTHS; i++) {
    u32 count = __reduce_add_sync(FULL, counts[i]);
    u64 mass = masses[i];
    for (int o = 16; o > 0; o >>= 1) mass += __shfl_xor_sync(FULL, mass, o);
    if (lane_id() == 0) atomicAdd(&sh.counts[i], count), atomicAdd(&sh.masses[i], mass);
  }
  __syncthreads();
}

// Lists the tokens of the least depth that is enough, if they fit.
template <class Enough>
__device__ void gather(Draw& d, Shared& sh, Enough enough) {
  int depth = 0;
  while (depth < DEPTHS - 1 && !enough(depth)) depth++;
  if (sh.counts[depth] > CANDIDATES) return;
  if (threadIdx.x == 0) sh.gathered = 0;
  __syncthreads();
  each_logit(d.row, d.vocab, [&](float logit, int id) {
    float v = logit / d.p.temperature;
    if (d.passes(v) && (depth == DEPTHS - 1 || d.largest - v <= (float)(1 << depth))) sh.candidates[atomicAdd(&sh.gathered, 1u)] = rank_key(v, id);
  });
  __syncthreads();
  d.listed = (int)sh.counts[depth];
}

// Applies top-k and top-p: raises the floor to the last key, in rank order, that they leave.
__device__ void cut(Draw& d, Shared& sh) {
  bool by_count = d.p.top_k > 0 && d.p.top_k < d.vocab;
  if (!by_count && !(d.p.top_p < 1)) return;
  survey(d, sh);
  u64 total = sh.masses[DEPTHS - 1];
  by_count = by_count && (u32)d.p.top_k < sh.counts[DEPTHS - 1];
  if (by_count) {
    gather(d, sh, [&](int depth) { return sh.counts[depth] >= (u32)d.p.top_k; });
    d.floor = descend(d, sh, d.p.top_k, [](float) { return 1ull; });
    total = 0;
    each_left(d, sh, [&](float v, u64) { total += d.mass(v); });
    total = block_sum(total, sh.sums);
  }
  if (d.p.top_p < 1) {
    u64 target = mass_target(d.p.top_p, total);
    if (!by_count) gather(d, sh, [&](int depth) { return sh.masses[depth] >= target; });
    d.floor = descend(d, sh, target, [&](float v) { return d.mass(v); });
  }
}

// argmax of value + noise over what is left, ties to the lower id.
//
// Most tokens cannot win, and their noise needs no logarithm: with u the token's uniform,
// value + gumbel > best needs 1-u < exp(value-best) = exp(value-largest) * exp(largest-best).
// The slack covers the rounding of float32, so the winner is that of computing all of them.
__device__ int race(const Draw& d, Shared& sh) {
  const float slack = 1.0002f;
  double best = -INFINITE;
  float bound = INFINITE; // slack * exp(largest - best)
  int id = -1;
  auto take = [&](double v, int i) {
    if (i < 0 || (id >= 0 && (v < best || (v == best && i > id)))) return;
    best = v, id = i;
  };
  each_left(d, sh, [&](float v, u64 key) {
    u64 bits = noise_bits(d.p.key, rank_id(key));
    float chance = (float)(u32)(~bits >> 32) * 0x1p-32f; // 1-u, rounded down before the slack
    if (!(chance <= expf(v - d.largest) * bound)) return;
    take((double)v + gumbel(bits), rank_id(key));
    bound = slack * expf((float)(d.largest - best));
  });
  for (int o = 16; o > 0; o >>= 1) {
    double v = __shfl_xor_sync(FULL, best, o);
    int i = __shfl_xor_sync(FULL, id, o);
    take(v, i);
  }
  if (lane_id() == 0) sh.best[warp_id()] = best, sh.best_id[warp_id()] = id;
  __syncthreads();
  for (int w = 0; w < THREADS / 32; w++) take(sh.best[w], sh.best_id[w]);
  return id;
}

__device__ int draw(const float* row, int vocab, const SampleRow& p, Shared& sh) {
  u64 top = 0;
  int nan = 0;
  each_logit(row, vocab, [&](float v, int id) {
    nan |= v != v;
    top = max(top, rank_key(v, id));
  });
  if (__syncthreads_or(nan)) return -1;
  for (int o = 16; o > 0; o >>= 1) top = max(top, __shfl_xor_sync(FULL, top, o));
  if (lane_id() == 0) sh.sums[warp_id()] = top;
  __syncthreads();
  for (int w = 0; w < THREADS / 32; w++) top = max(top, sh.sums[w]);
  __syncthreads(); // sums may be used again
  if (!(p.temperature > 0)) return rank_id(top);
  Draw d = {row, vocab, p, rank_value(top) / p.temperature, 0, -1}; // division keeps the order
  if (isinf(d.largest)) return rank_id(top);
  cut(d, sh);
  return race(d, sh);
}

KERNEL __launch_bounds__(THREADS) sample(SampleArgs a) {
  __shared__ Shared sh;
  pdl_begin();
  SampleRow p = a.params ? a.params[blockIdx.x] : a.few[blockIdx.x];
  int id = draw(a.logits + (i64)blockIdx.x * a.vocab, a.vocab, p, sh);
  if (threadIdx.x == 0) {
    a.out[blockIdx.x] = id;
    a.last[clamp_index(p.slot, a.slots)] = max(0, id);
  }
}

struct LogSoftmaxArgs { float* out; const float* logits; const int* ids; int vocab, per_row; };

KERNEL __launch_bounds__(THREADS) log_softmax(LogSoftmaxArgs a) {
  __shared__ float room[33];
  __shared__ double sums[33];
  pdl_begin();
  const float* row = a.logits + (i64)blockIdx.x * a.vocab;
  float largest = -INFINITE;
  each_logit(row, a.vocab, [&](float v, int) { largest = fmaxf(largest, v); });
  largest = block_max(largest, room);
  double total = 0;
  each_logit(row, a.vocab, [&](float v, int) { total += exp((double)v - largest); });
  double log_total = log(block_sum(total, sums));
  for (int j = threadIdx.x; j < a.per_row; j += THREADS) {
    i64 at = (i64)blockIdx.x * a.per_row + j;
    int id = a.ids[at];
    a.out[at] = id < 0 ? -INFINITE : (float)((double)row[clamp_index(id, a.vocab)] - largest - log_total);
  }
}
