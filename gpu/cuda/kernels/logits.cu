// What happens to logits beside sampling: edits and masks ahead of it, the likeliest tokens after it.

struct LogitEdit { int row, token; float scale, add; };
struct EditLogitsArgs { float* logits; const LogitEdit* edits; int count, vocab; };

KERNEL edit_logits(EditLogitsArgs a) {
  i64 i = global_thread();
  if (i >= a.count) return;
  LogitEdit e = a.edits[i];
  float* l = a.logits + (i64)e.row * a.vocab + e.token;
  float v = *l;
  *l = (v > 0 ? __fdiv_rn(v, e.scale) : __fmul_rn(v, e.scale)) + e.add;
}

// A block per masked row.
struct MaskLogitsArgs { float* logits; const int* rows; const u32* allowed; int vocab, words; };

KERNEL mask_logits(MaskLogitsArgs a) {
  float* row = a.logits + (i64)a.rows[blockIdx.x] * a.vocab;
  const u32* allowed = a.allowed + (i64)blockIdx.x * a.words;
  for (int t = threadIdx.x; t < a.vocab; t += blockDim.x)
    if (!(allowed[t >> 5] >> (t & 31) & 1)) row[t] = -INFINITE;
}

// A block per row finds one token after the other: the largest key below the last one. Keys order as in sample.cu:
// descending value, ties to the lower id; NaN counts as -inf.
struct TopTokensArgs { int* out; const int* first; const float* logits; int* rank; int vocab, width; };

constexpr int TOP_THREADS = 1024;

__device__ __forceinline__ u64 top_key(float value, int id) {
  u32 bits = __float_as_uint((value != value ? -INFINITE : value) + 0.0f);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)bits << 32 | (u32)~id;
}

KERNEL __launch_bounds__(TOP_THREADS) top_tokens(TopTokensArgs a) {
  __shared__ u64 room[33];
  const float* row = a.logits + (i64)blockIdx.x * a.vocab;
  int* out = a.out + (i64)blockIdx.x * a.width;
  if (threadIdx.x == 0) out[0] = a.first[blockIdx.x];
  u64 last = ~0ull;
  for (int k = 1; k < a.width; k++) {
    u64 top = 0; // no key is 0
    for (int t = threadIdx.x; t < a.vocab; t += TOP_THREADS) {
      u64 key = top_key(row[t], t);
      if (key < last && key > top) top = key;
    }
    for (int o = 16; o > 0; o >>= 1) top = max(top, __shfl_xor_sync(FULL, top, o));
    if (lane_id() == 0) room[warp_id()] = top;
    __syncthreads();
    for (int w = 0; w < TOP_THREADS / 32; w++) top = max(top, room[w]);
    __syncthreads();
    if (threadIdx.x == 0) out[k] = top ? (int)~(u32)top : -1;
    last = top;
  }
  if (!a.rank) return;
  int first = a.first[blockIdx.x];
  u64 own = top_key(row[first], first), before = 0;
  for (int t = threadIdx.x; t < a.vocab; t += TOP_THREADS) before += top_key(row[t], t) > own;
  for (int o = 16; o > 0; o >>= 1) before += __shfl_xor_sync(FULL, before, o);
  if (lane_id() == 0) room[warp_id()] = before;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < TOP_THREADS / 32; w++) before += room[w];
  a.rank[blockIdx.x] = (int)before + 1;
}
