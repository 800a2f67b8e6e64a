// Sampling and log probabilities. Package gpu/ref defines the results; what follows is exact
// except where two candidates differ by less than float64 rounding of exp and log, or where the
// top-p mass is within V * 2^-45 of the threshold.
//
// A block per row. Nothing sorts: a cut is found by radix descent over the ranking key, with
// counts for top-k and masses for top-p. Masses are integers in units of 2^-44, so the order in
// which threads add them cannot change a draw.

struct SampleRow { // one row of SampleArgs.params
  float temperature, top_p, min_p_log; // min_p_log: log(min_p), or -inf for off
  int top_k;
  u64 key; // noise key of (seed, position)
  int slot, unused;
};

struct SampleArgs { const float* logits; const SampleRow* params; int* out; int* last; int vocab, slots; };

constexpr int THREADS = 512;
constexpr u64 GOLDEN = 0x9E3779B97F4A7C15ull;
constexpr double MASS_UNIT = 17592186044416.0; // 2^44

__device__ __forceinline__ u64 mix64(u64 z) { // SplitMix64's output function
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

__device__ __forceinline__ double gumbel(u64 key, int id) {
  u64 bits = mix64(key + GOLDEN * (u64)(u32)id + GOLDEN);
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

// The float whose rank_key has the given upper half.
__device__ __forceinline__ float rank_value(u64 key) {
  u32 bits = (u32)(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

struct Shared {
  u64 histogram[256];
  u64 key, before; // of a descent: the prefix so far, what lies ahead of it
  u64 sums[33];
  float room[33];
  double best[32];
  int best_id[32];
};

// The largest key of the block; all threads get it.
__device__ u64 block_largest(u64 key, Shared& sh) {
  for (int o = 16; o > 0; o >>= 1) {
    u64 other = __shfl_xor_sync(FULL, key, o);
    if (other > key) key = other;
  }
  __syncthreads();
  if (lane_id() == 0) sh.sums[warp_id()] = key;
  __syncthreads();
  for (int i = 0; i < THREADS / 32; i++)
    if (sh.sums[i] > key) key = sh.sums[i];
  __syncthreads();
  return key;
}

// The smallest key with which the measure of all keys from the top, down to floor, reaches
// target (at least 1, at most their total). measure(key) is an integer, zero for a key that
// does not take part.
template <class Measure>
__device__ u64 descend(const float* row, const SampleArgs& a, float temperature, u64 floor, u64 target, Shared& sh, Measure measure) {
  u64 prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += THREADS) sh.histogram[i] = 0;
    __syncthreads();
    u64 mask = shift == 56 ? 0 : ~0ull << (shift + 8);
    for (int i = threadIdx.x; i < a.vocab; i += THREADS) {
      u64 key = rank_key(row[i] / temperature, i);
      if (key < floor || (key & mask) != prefix) continue;
      u64 amount = measure(key);
      if (amount) atomicAdd(&sh.histogram[key >> shift & 255], amount);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      for (; digit > 0 && sh.histogram[digit] < target; digit--) target -= sh.histogram[digit];
      sh.key = prefix | (u64)digit << shift;
      sh.before = target;
    }
    __syncthreads();
    prefix = sh.key;
    target = sh.before;
  }
  return prefix;
}

// The last key, in rank order, that min-p, top-k and top-p leave.
__device__ u64 cut(const float* row, const SampleArgs& a, const SampleRow& p, float largest, Shared& sh) {
  u64 floor = 0;
  if (p.min_p_log > -INFINITE) { // the lowest value that passes; values in between fail alike
    u64 lowest = ~0ull;
    for (int i = threadIdx.x; i < a.vocab; i += THREADS) {
      float v = row[i] / p.temperature;
      if (v - largest >= p.min_p_log) lowest = min(lowest, rank_key(v, i));
    }
    floor = ~block_largest(~lowest, sh);
  }
  if (p.top_k > 0 && p.top_k < a.vocab) {
    u64 count = 0;
    for (int i = threadIdx.x; i < a.vocab; i += THREADS) count += rank_key(row[i] / p.temperature, i) >= floor;
    count = block_sum(count, sh.sums);
    if (count > (u64)p.top_k) floor = descend(row, a, p.temperature, floor, p.top_k, sh, [](u64) { return 1ull; });
  }
  if (p.top_p < 1) {
    auto mass = [&](u64 key) { return __double2ull_rn(exp((double)rank_value(key) - largest) * MASS_UNIT); };
    u64 total = 0;
    for (int i = threadIdx.x; i < a.vocab; i += THREADS) {
      u64 key = rank_key(row[i] / p.temperature, i);
      if (key >= floor) total += mass(key);
    }
    total = block_sum(total, sh.sums);
    u64 target = __double2ull_ru((double)p.top_p * (double)total);
    floor = descend(row, a, p.temperature, floor, min(max(target, 1ull), total), sh, mass);
  }
  return floor;
}

// argmax of value + noise over the keys from floor on, ties to the lower id.
__device__ int race(const float* row, const SampleArgs& a, const SampleRow& p, u64 floor, Shared& sh) {
  double best = -INFINITE;
  int id = -1;
  for (int i = threadIdx.x; i < a.vocab; i += THREADS) {
    float scaled = row[i] / p.temperature;
    if (rank_key(scaled, i) < floor) continue;
    double v = (double)scaled + gumbel(p.key, i);
    if (v > best) best = v, id = i;
  }
  auto take = [&](double v, int i) {
    if (i >= 0 && (id < 0 || v > best || (v == best && i < id))) best = v, id = i;
  };
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

__device__ int draw(const float* row, const SampleArgs& a, const SampleRow& p, Shared& sh) {
  u64 top = 0;
  int nan = 0;
  for (int i = threadIdx.x; i < a.vocab; i += THREADS) {
    float v = row[i];
    nan |= v != v;
    u64 key = rank_key(v, i);
    if (key > top) top = key;
  }
  if (__syncthreads_or(nan)) return -1;
  top = block_largest(top, sh);
  int greedy = (int)~(u32)top;
  if (!(p.temperature > 0)) return greedy;
  float largest = rank_value(top) / p.temperature; // division keeps the order
  if (isinf(largest)) return greedy;
  return race(row, a, p, cut(row, a, p, largest, sh), sh);
}

KERNEL __launch_bounds__(THREADS) sample(SampleArgs a) {
  __shared__ Shared sh;
  SampleRow p = a.params[blockIdx.x];
  int id = draw(a.logits + (i64)blockIdx.x * a.vocab, a, p, sh);
  if (threadIdx.x == 0) {
    a.out[blockIdx.x] = id;
    a.last[clamp_index(p.slot, a.slots)] = max(0, id);
  }
}

struct LogSoftmaxArgs { float* out; const float* logits; const int* ids; int vocab, per_row; };

KERNEL __launch_bounds__(THREADS) log_softmax(LogSoftmaxArgs a) {
  __shared__ float room[33];
  __shared__ double sums[33];
  const float* row = a.logits + (i64)blockIdx.x * a.vocab;
  float largest = -INFINITE;
  for (int i = threadIdx.x; i < a.vocab; i += THREADS) largest = fmaxf(largest, row[i]);
  largest = block_max(largest, room);
  double total = 0;
  for (int i = threadIdx.x; i < a.vocab; i += THREADS) total += exp((double)row[i] - largest);
  double log_total = log(block_sum(total, sums));
  for (int j = threadIdx.x; j < a.per_row; j += THREADS) {
    i64 at = (i64)blockIdx.x * a.per_row + j;
    a.out[at] = (float)((double)row[clamp_index(a.ids[at], a.vocab)] - largest - log_total);
  }
}
