// Causal attention over paged bfloat16 keys and values on tensor cores: what the kernels for few
// queries (attention_decode.cu) and for many (attention_prefill.cu) share, which is all of the
// arithmetic. Dao 2023, arXiv:2307.08691; for few queries also "flash-decoding", Dao et al. 2023.
//
// The order of a query's sums depends on its position alone: the keys of a sequence are divided
// into parts of PART positions and these into tiles of TILE, both counted from position 0. A part
// is summed tile by tile with an online softmax that starts afresh, and the parts are merged in
// order. So a query's result has the same bits from any kernel, in any batch and chunk.
//
// DP is the head dimension, padded with zeros to a multiple of 16.

// KERNEL FLASH(kind) is the kernel flash_kind_DP.
#define FLASH_NAME(KIND, WIDTH) flash_##KIND##_##WIDTH
#define FLASH_OF(KIND, WIDTH) FLASH_NAME(KIND, WIDTH)
#define FLASH(KIND) FLASH_OF(KIND, DP)

constexpr int TILE = DP <= 128 ? 64 : 32; // keys
constexpr int PART = 4 * TILE;            // keys
constexpr int PITCH = DP + 8;             // elements of a row in shared memory: no bank conflicts
constexpr int CHUNKS = DP / 8;            // of 16 bytes in a row
constexpr int HALF = TILE * PITCH;        // elements of a tile's keys, or of its values
constexpr float LOG2_E = 1.4426950408889634f;

struct FlashArgs {
  u16* out; const u16* q; const u16* k_pool; const u16* v_pool;
  const int* tables; const int* slots; const int* query_start; const int* positions;
  float* partial; int* plan;
  int sequences, tokens, stride, q_column, heads, kv_heads, block_size, dim, table_width, table_rows, blocks, window;
  int heads_per_tile, tokens_per_tile; // a tile of query rows: so many heads of one KV head's, so many neighbouring tokens
  int few;      // sequences with up to so many tokens are flash_decode's, the others flash_prefill's
  int capacity; // partial results that there is room for
  float scale, soft_cap;
};

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma(d, a[0], a[1], a[2], a[3], b0, b1); }

// Where the keys that a group of threads loads come from.
struct Keys {
  const int* table;
  int head;        // of the pools
  int first, last; // positions that some query may see
};

// The row of the pools, in units of heads of keys, that holds position p, or -1 if nobody sees it.
__device__ __forceinline__ int pool_row(const FlashArgs& a, const Keys& keys, int p) {
  if (p < keys.first || p > keys.last) return -1;
  int block = clamp_index(keys.table[min(p / a.block_size, a.table_width - 1)], a.blocks);
  return (block * a.kv_heads + keys.head) * a.block_size + p % a.block_size;
}

// What a thread copies of each tile, if rows divide evenly among the threads: 16 bytes, the same
// of every STEP-th row.
template <int THREADS>
struct Copier {
  static constexpr int STEP = THREADS / CHUNKS;
  int row, chunk, bytes; // bytes: 0 past the head dimension
  i64 offset;            // bytes, in a row of a pool
  int pitch;             // bytes, of a pool's rows

  __device__ __forceinline__ Copier(const FlashArgs& a, int thread) {
    row = thread / CHUNKS, chunk = thread % CHUNKS;
    bool real = chunk * 8 < a.dim;
    bytes = real ? 16 : 0, offset = real ? chunk * 16 : 0, pitch = a.dim * 2;
  }
  // Copies the thread's piece of row number `from` of the pool, or zeros if that is negative.
  __device__ __forceinline__ void copy(u32 to, const u16* pool, int from) const {
    copy16(to, (const u8*)pool + offset + (i64)max(from, 0) * pitch, from >= 0 ? bytes : 0);
  }
};

// Starts copying keys or values, of a tile if nothing else is said: row i from the pool's row rows[i]. Rows that nobody
// sees and columns past the head dimension become zeros.
template <int THREADS, int ROWS = TILE>
__device__ __forceinline__ void load_half(const FlashArgs& a, const u16* pool, u16* half, const int* rows, int thread) {
  u32 to = shared_address(half);
  if (a.dim % 8 != 0) {
    for (int i = thread; i < ROWS * DP; i += THREADS) {
      int row = i / DP, column = i % DP, from = rows[row];
      half[row * PITCH + column] = from >= 0 && column < a.dim ? pool[(i64)from * a.dim + column] : (u16)0;
    }
  } else if (THREADS % CHUNKS == 0) {
    Copier<THREADS> copier(a, thread);
    to += (copier.row * PITCH + copier.chunk * 8) * 2;
    rows += copier.row;
#pragma unroll
    for (int i = 0; i < ROWS; i += copier.STEP) copier.copy(to + i * PITCH * 2, pool, rows[i]);
  } else {
#pragma unroll 4
    for (int i = thread; i < ROWS * CHUNKS; i += THREADS) {
      int row = i / CHUNKS, column = i % CHUNKS * 8, from = rows[row];
      bool real = from >= 0 && column < a.dim;
      copy16(to + (row * PITCH + column) * 2, pool + (real ? (i64)from * a.dim + column : 0), real ? 16 : 0);
    }
  }
}

// Two neighbouring elements at p, the first in the low half; the second may lie past the head.
__device__ __forceinline__ u32 load2(const u16* p, bool first, bool second, bool wide) {
  if (wide) return first ? *(const u32*)p : 0;
  return (first ? (u32)p[0] : 0) | (second ? (u32)p[1] << 16 : 0);
}

// The query rows of a tile: row i is head head0 + i % heads_per_tile of token
// token0 + i / heads_per_tile.
struct Queries {
  int token0, tokens, head0, heads;

  __device__ __forceinline__ bool real(const FlashArgs& a, int row) const {
    return row / a.heads_per_tile < tokens && row % a.heads_per_tile < heads;
  }
  __device__ __forceinline__ int token(const FlashArgs& a, int row) const { return token0 + row / a.heads_per_tile; }
  __device__ __forceinline__ int head(const FlashArgs& a, int row) const { return head0 + row % a.heads_per_tile; }
  __device__ __forceinline__ i64 offset(const FlashArgs& a, int row) const { // in q
    return (i64)token(a, row) * a.stride + a.q_column + (i64)head(a, row) * a.dim;
  }
};

// What a thread's two rows see.
struct Sight {
  int first[2], last[2]; // positions; last is -1 for a row that does not exist

  __device__ __forceinline__ void set(const FlashArgs& a, int r, int position) {
    last[r] = position;
    first[r] = a.window > 0 ? max(0, position - a.window + 1) : 0;
  }
  __device__ __forceinline__ bool sees(int r, int p) const { return p >= first[r] && p <= last[r]; }
  __device__ __forceinline__ bool sees_all(int tile) const {
    return tile >= max(first[0], first[1]) && tile + TILE - 1 <= min(last[0], last[1]);
  }
};

// What a score's unit is, in powers of two. Capped scores have that already.
__device__ __forceinline__ float score_unit(const FlashArgs& a) { return a.soft_cap > 0 ? 1.0f : a.scale * LOG2_E; }

// cap * tanh(score * scale / cap), as an exponent of two; tanh(x) = 1 - 2 / (exp(2x) + 1).
__device__ __forceinline__ float capped(float score, float in, float out) {
  return __fmul_rn(out, __fsub_rn(1.0f, __fdividef(2.0f, __fadd_rn(exp2_fast(__fmul_rn(score, in)), 1.0f))));
}
__device__ __forceinline__ float cap_in(const FlashArgs& a) { return __fdiv_rn(2.0f * LOG2_E * a.scale, a.soft_cap); }
__device__ __forceinline__ float cap_out(const FlashArgs& a) { return a.soft_cap * LOG2_E; }

// How a row's sums go on when its largest score grows to `largest`: the old ones shrink by the
// result, and a score s weighs 2^(s * unit - base).
__device__ __forceinline__ float rebase(float before, float largest, float unit, float& base) {
  base = largest == -INFINITE ? 0.0f : __fmul_rn(largest, unit); // nothing was seen yet
  return largest == before ? 1.0f : exp2_fast(__fmaf_rn(before, unit, -base));
}
__device__ __forceinline__ float weight(float score, float unit, float base) { return exp2_fast(__fmaf_rn(score, unit, -base)); }

// A row's sums over the parts before, and how the next part joins them: every sum x becomes
// old * x + fresh * (the part's).
struct Merged {
  float largest, total, old, fresh;

  __device__ __forceinline__ void clear() { largest = -INFINITE, total = 0; }
  __device__ __forceinline__ void take(float part_largest, float part_total) {
    float most = fmaxf(largest, part_largest);
    old = most == largest ? 1.0f : exp2_fast(__fsub_rn(largest, most)); // both may be -infinite
    fresh = most == part_largest ? 1.0f : exp2_fast(__fsub_rn(part_largest, most));
    largest = most;
    total = __fmaf_rn(total, old, __fmul_rn(part_total, fresh));
  }
  __device__ __forceinline__ float of(float sum, float part) const { return __fmaf_rn(sum, old, __fmul_rn(part, fresh)); }
};

// No -0: whether tiles past the query's came by must not show.
__device__ __forceinline__ float mean(float sum, float inverse_total) { return __fadd_rn(__fmul_rn(sum, inverse_total), 0.0f); }
