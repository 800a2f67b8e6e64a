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
