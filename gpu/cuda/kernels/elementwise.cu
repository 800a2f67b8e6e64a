// Operations without sums: a thread computes elements on its own.

// Small copies between the host and the GPU, which as launches are in order with the others without a copy engine's hop.

constexpr int WRITE_MAX = 3968;
struct WriteArgs { u8* to; int n; int unused; u32 bytes[WRITE_MAX / 4]; };

// What comes later may read this before it waits (see attention_units.cuh): it must not begin earlier.
KERNEL write_bytes(WriteArgs a) {
  pdl_wait();
  int words = (u64)a.to % 4 == 0 ? a.n / 4 : 0;
  for (int i = threadIdx.x; i < words; i += blockDim.x) ((u32*)a.to)[i] = a.bytes[i];
  for (int i = 4 * words + threadIdx.x; i < a.n; i += blockDim.x) a.to[i] = a.bytes[i / 4] >> i % 4 * 8;
  __threadfence();
}

struct FetchArgs { u8* host; const u8* from; int n; int unused; };

KERNEL fetch_bytes(FetchArgs a) {
  pdl_begin();
  int words = ((u64)a.from | (u64)a.host) % 4 == 0 ? a.n / 4 : 0;
  for (int i = threadIdx.x; i < words; i += blockDim.x) ((u32*)a.host)[i] = ((const u32*)a.from)[i];
  for (int i = 4 * words + threadIdx.x; i < a.n; i += blockDim.x) a.host[i] = a.from[i];
}

struct CopyPart { u8* to; const u8* from; i64 bytes; };
struct CopyArgs { int n; int unused; CopyPart parts[168]; };

// blockIdx.y is the part. What comes later must not begin earlier, as with write_bytes.
KERNEL copy_parts(CopyArgs a) {
  pdl_wait();
  CopyPart p = a.parts[blockIdx.y];
  i64 vectors = ((u64)p.to | (u64)p.from) % 16 == 0 ? p.bytes / 16 : 0, threads = (i64)gridDim.x * blockDim.x;
  for (i64 i = global_thread(); i < vectors; i += threads) ((uint4*)p.to)[i] = ((const uint4*)p.from)[i];
  for (i64 i = 16 * vectors + global_thread(); i < p.bytes; i += threads) p.to[i] = p.from[i];
  __threadfence();
}

struct FeedTokensArgs { int* out; const int* tokens; const int* slots; const int* last; int n, slot_count; };

KERNEL feed_tokens(FeedTokensArgs a) {
  pdl_begin();
  i64 t = global_thread();
  if (t >= a.n) return;
  int id = a.tokens[t];
  a.out[t] = id >= 0 ? id : a.last[clamp_index(a.slots[t], a.slot_count)];
}

struct EmbedArgs { act* out; const void* table; const int* ids; i64 elements; int vocab, hidden; float scale; };

template <class W>
__device__ void embed(const EmbedArgs& a) {
  pdl_begin();
  i64 i = global_thread();
  if (i >= a.elements) return;
  int id = clamp_index(a.ids[i / a.hidden], a.vocab);
  store(a.out + i, W::widen(a.table, (i64)id * a.hidden + i % a.hidden) * a.scale);
}

KERNEL embed_f32(EmbedArgs a) { embed<F32>(a); }
KERNEL embed_f16(EmbedArgs a) { embed<F16>(a); }
KERNEL embed_bf16(EmbedArgs a) { embed<BF16>(a); }

template <class X>
__device__ void gather_rows(const EmbedArgs& a) { // copies bits; scale is not used
  pdl_begin();
  i64 i = global_thread();
  if (i >= a.elements) return;
  int row = clamp_index(a.ids[i / a.hidden], a.vocab);
  ((X*)a.out)[i] = ((const X*)a.table)[(i64)row * a.hidden + i % a.hidden];
}

KERNEL gather_rows_f32(EmbedArgs a) { gather_rows<float>(a); }
KERNEL gather_rows_act(EmbedArgs a) { gather_rows<act>(a); }

struct AddArgs { act* out; const act* x; const act* y; i64 n; };

KERNEL add(AddArgs a) {
  pdl_begin();
  i64 i = global_thread();
  if (i < a.n) store(a.out + i, load(a.x + i) + load(a.y + i));
}

// out = bias, plus out's old value if accumulate, in rows of `cols`: what a product is added to.
struct AddBiasArgs { void* out; const float* bias; i64 n; int cols, accumulate, out_f32; };

template <class O>
__device__ void add_bias(const AddBiasArgs& a) {
  i64 i = global_thread();
  if (i >= a.n) return;
  O* out = (O*)a.out + i;
  float v = a.bias[i % a.cols];
  store(out, a.accumulate ? v + load(out) : v);
}

KERNEL add_bias(AddBiasArgs a) {
  pdl_begin();
  if (a.out_f32) add_bias<float>(a);
  else add_bias<act>(a);
}

struct SoftCapArgs { void* x; i64 n; float limit; };

template <class X>
__device__ void softcap(const SoftCapArgs& a) {
  pdl_begin();
  i64 i = global_thread();
  X* x = (X*)a.x + i;
  if (i < a.n) store(x, a.limit * tanhf(load(x) / a.limit));
}

KERNEL softcap_f32(SoftCapArgs a) { softcap<float>(a); }
KERNEL softcap_act(SoftCapArgs a) { softcap<act>(a); }

struct ActMulArgs { act* out; const act* x; i64 n; int width; };

template <class Act>
__device__ void act_mul(const ActMulArgs& a) {
  pdl_begin();
  i64 i = global_thread();
  if (i >= a.n) return;
  const act* row = a.x + i / a.width * 2 * a.width;
  i64 at = i % a.width;
  store(a.out + i, Act::of(load(row + at)) * load(row + a.width + at));
}

// The same for widths that are a multiple of 8, eight elements a thread.
template <class Act>
__device__ void act_mul8(const ActMulArgs& a) {
  pdl_begin();
  i64 i = global_thread() * 8;
  if (i >= a.n) return;
  const act* row = a.x + i / a.width * 2 * a.width;
  i64 at = i % a.width;
  float gate[8], up[8];
  load8(row + at, gate);
  load8(row + a.width + at, up);
#pragma unroll
  for (int j = 0; j < 8; j++) gate[j] = Act::of(gate[j]) * up[j];
  store8(a.out + i, gate);
}

KERNEL act_mul_silu(ActMulArgs a) { act_mul<SiLU>(a); }
KERNEL act_mul_gelu_tanh(ActMulArgs a) { act_mul<GELUTanh>(a); }
KERNEL act_mul_silu_8(ActMulArgs a) { act_mul8<SiLU>(a); }
KERNEL act_mul_gelu_tanh_8(ActMulArgs a) { act_mul8<GELUTanh>(a); }

// Weights out of nothing: element i is a sum of four uniform integers, near normal, times scale.
// Package gpu/ref defines it; integers make it the same everywhere.
struct RandomArgs { void* out; u64 seed; i64 n; int cols; float scale; i64 stride; }; // stride: elements of a row

__device__ __forceinline__ float random_weight(u64 seed, i64 i, float scale) {
  u64 z = seed + 0x9E3779B97F4A7C15ull * (u64)(i + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  int sum = (int)(z & 0xffff) + (int)(z >> 16 & 0xffff) + (int)(z >> 32 & 0xffff) + (int)(z >> 48) - 131070;
  return __fmul_rn((float)sum, scale);
}

template <class O>
__device__ void random_weights(const RandomArgs& a) {
  pdl_wait(); // and no early launch: products copy weights before they wait
  for (i64 i = global_thread(); i < a.n; i += (i64)gridDim.x * blockDim.x)
    store((O*)a.out + i / a.cols * a.stride + i % a.cols, random_weight(a.seed, i, a.scale));
}

KERNEL random_weights_f32(RandomArgs a) { random_weights<float>(a); }
KERNEL random_weights_bf16(RandomArgs a) { random_weights<u16>(a); }
