// Operations without sums: one thread computes elements on its own.

struct FeedTokensArgs { int* out; const int* tokens; const int* slots; const int* last; int n, slot_count; };

KERNEL feed_tokens(FeedTokensArgs a) {
  i64 t = global_thread();
  if (t >= a.n) return;
  int id = a.tokens[t];
  a.out[t] = id >= 0 ? id : a.last[clamp_index(a.slots[t], a.slot_count)];
}

// embed also gathers rows: with a float32 table and scale 1 it copies bits.
struct EmbedArgs { float* out; const void* table; const int* ids; i64 elements; int vocab, hidden; float scale; };

template <class W>
__device__ void embed(const EmbedArgs& a) {
  i64 i = global_thread();
  if (i >= a.elements) return;
  int id = clamp_index(a.ids[i / a.hidden], a.vocab);
  a.out[i] = W::widen(a.table, (i64)id * a.hidden + i % a.hidden) * a.scale;
}

KERNEL embed_f32(EmbedArgs a) { embed<F32>(a); }
KERNEL embed_f16(EmbedArgs a) { embed<F16>(a); }
KERNEL embed_bf16(EmbedArgs a) { embed<BF16>(a); }

struct AddArgs { float* out; const float* x; const float* y; i64 n; };

KERNEL add(AddArgs a) {
  i64 i = global_thread();
  if (i < a.n) a.out[i] = a.x[i] + a.y[i];
}

struct SoftCapArgs { float* x; i64 n; float limit; };

KERNEL softcap(SoftCapArgs a) {
  i64 i = global_thread();
  if (i < a.n) a.x[i] = a.limit * tanhf(a.x[i] / a.limit);
}

struct ActMulArgs { float* out; const float* x; i64 n; int width; };

struct SiLU {
  static __device__ float of(float x) { return x / (1.0f + expf(-x)); }
};

// 0.5 * (1 + tanh(u)) is the sigmoid of 2u, which does not cancel for negative u.
struct GELUTanh {
  static __device__ float of(float x) {
    float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * u));
  }
};

template <class Act>
__device__ void act_mul(const ActMulArgs& a) {
  i64 i = global_thread();
  if (i >= a.n) return;
  const float* row = a.x + i / a.width * 2 * a.width;
  i64 at = i % a.width;
  a.out[i] = Act::of(row[at]) * row[a.width + at];
}

KERNEL act_mul_silu(ActMulArgs a) { act_mul<SiLU>(a); }
KERNEL act_mul_gelu_tanh(ActMulArgs a) { act_mul<GELUTanh>(a); }
