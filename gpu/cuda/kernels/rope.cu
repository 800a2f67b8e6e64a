// Rotary position embedding, and keys and values on their way into the paged pool.

struct RoPETableArgs { float* cos; float* sin; const int* positions; const float* inv_freq; i64 n; int half; float scale; };

// The angle is a float32 product, as in Hugging Face; cosf and sinf reduce it exactly.
KERNEL rope_table(RoPETableArgs a) {
  pdl_begin();
  i64 i = global_thread();
  if (i >= a.n) return;
  float angle = __fmul_rn((float)a.positions[i / a.half], a.inv_freq[i % a.half]);
  a.cos[i] = cosf(angle) * a.scale;
  a.sin[i] = sinf(angle) * a.scale;
}

KERNEL rope(RoPEArgs a) { // one thread per rotated pair
  pdl_begin();
  i64 at = global_thread();
  if (at >= a.n) return;
  int i = at % a.half, head = at / a.half % a.heads;
  i64 t = at / a.half / a.heads;
  act* low = a.x + t * a.stride + a.column + head * a.head_dim + i;
  float u = load(low), v = load(low + a.half);
  rotate(u, v, a.cos[t * a.half + i], a.sin[t * a.half + i]);
  store(low, u);
  store(low + a.half, v);
}

// Each head normalized, and then rotated: a warp per head of a token.
KERNEL rope_norm(RoPEArgs a) {
  pdl_begin();
  i64 at = (i64)blockIdx.x * (blockDim.x >> 5) + warp_id();
  if (at >= a.n) return;
  int head = at % a.heads, lane = lane_id();
  i64 t = at / a.heads;
  act* x = a.x + t * a.stride + a.column + head * a.head_dim;
  const float* weight = a.weight(head);
  float squares = 0;
  for (int i = lane; i < a.head_dim; i += 32) squares += load(x + i) * load(x + i);
  float scale = head_scale(a.norm, warp_sum(squares), a.head_dim);
  for (int i = lane; i < a.half; i += 32) {
    float u = normed(load(x + i), scale, weight[i], a.norm.offset), v = normed(load(x + i + a.half), scale, weight[i + a.half], a.norm.offset);
    rotate(u, v, a.cos[t * a.half + i], a.sin[t * a.half + i]);
    store(x + i, u);
    store(x + i + a.half, v);
  }
  for (int i = 2 * a.half + lane; i < a.head_dim; i += 32) store(x + i, normed(load(x + i), scale, weight[i], a.norm.offset));
}

KERNEL kv_write(KVWriteArgs a) { // one thread per element of a key and of a value
  pdl_begin();
  i64 at = global_thread();
  if (at >= a.n) return;
  int width = a.heads * a.dim, i = at % width;
  i64 t = at / width;
  int slot = a.slots[t];
  if (slot < 0 || slot >= a.slot_count) return;
  i64 to = pool_place(a, slot, i / a.dim, i % a.dim);
  const act* row = a.kv + t * a.stride;
  act k = row[a.k_column + i], v = row[a.v_column + i];
  a.k_pool[to] = k;
  a.v_pool[to] = v; // the pools may be one: then the columns are too
}

// Normalizes a head, of which a thread has elements i to i+7 and half + i to half + i+7, and its neighbours the others.
__device__ __forceinline__ void normalize(const RoPEArgs& r, int head, int i, float (&u)[8], float (&v)[8]) {
  const int pairs = r.half / 8;
  const u32 mask = (pairs == 32 ? FULL : (1u << pairs) - 1) << (lane_id() & ~(pairs - 1));
  float sums[4];
#pragma unroll
  for (int c = 0; c < 4; c++) {
    float low = squares_of(u[2 * c], u[2 * c + 1]), high = squares_of(v[2 * c], v[2 * c + 1]);
    for (int o = 1; o < pairs; o *= 2)
      low = __fadd_rn(low, __shfl_xor_sync(mask, low, o)), high = __fadd_rn(high, __shfl_xor_sync(mask, high, o));
    sums[c] = __fadd_rn(low, high);
  }
  float scale = head_scale(r.norm, __fadd_rn(__fadd_rn(sums[0], sums[1]), __fadd_rn(sums[2], sums[3])), r.head_dim);
  float w[8];
  load8(r.weight(head) + i, w);
#pragma unroll
  for (int j = 0; j < 8; j++) u[j] = normed(u[j], scale, w[j], r.norm.offset);
  load8(r.weight(head) + r.half + i, w);
#pragma unroll
  for (int j = 0; j < 8; j++) v[j] = normed(v[j], scale, w[j], r.norm.offset);
}

// Both at once for whole heads in multiples of 16 elements: queries are rotated in place, keys on
// their way. A thread takes 8 pairs of a head, or 8 elements of a value.
KERNEL rope_kv(RoPEKVArgs a) {
  pdl_begin();
  const RoPEArgs& r = a.rope;
  const KVWriteArgs& w = a.kv;
  int pairs = r.half / 8, units = r.heads * pairs + w.heads * 2 * pairs;
  i64 at = global_thread(), t = at / units;
  if (at >= r.n) return;
  int unit = at % units, slot = w.slots[t];
  bool real = slot >= 0 && slot < w.slot_count;
  act* row = r.x + t * r.stride;
  if (unit >= r.heads * pairs) {
    int i = (unit - r.heads * pairs) * 8;
    float v[8];
    if (!real) return;
    load8(row + w.v_column + i, v);
    store8(w.v_pool + pool_place(w, slot, i / w.dim, i % w.dim), v);
    return;
  }
  int head = unit / pairs, i = unit % pairs * 8, key = head - (w.k_column - r.column) / r.head_dim;
  act* low = row + r.column + head * r.head_dim + i;
  float u[8], v[8], c[8], s[8];
  load8(low, u);
  load8(low + r.half, v);
  load8(r.cos + t * r.half + i, c);
  load8(r.sin + t * r.half + i, s);
  if (r.norm.query) normalize(r, head, i, u, v);
#pragma unroll
  for (int j = 0; j < 8; j++) rotate(u[j], v[j], c[j], s[j]);
  act* to = low;
  if (key >= 0) {
    if (!real) return;
    to = w.k_pool + pool_place(w, slot, key, i);
  }
  store8(to, u);
  store8(to + r.half, v);
}
