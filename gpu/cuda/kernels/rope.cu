// Rotary position embedding, and keys and values on their way into the paged pool.

struct RoPETableArgs { float* cos; float* sin; const int* positions; const float* inv_freq; i64 n; int half; float scale; };

// The angle is a float32 product, as in Hugging Face; cosf and sinf reduce it exactly.
KERNEL rope_table(RoPETableArgs a) {
  i64 i = global_thread();
  if (i >= a.n) return;
  float angle = __fmul_rn((float)a.positions[i / a.half], a.inv_freq[i % a.half]);
  a.cos[i] = cosf(angle) * a.scale;
  a.sin[i] = sinf(angle) * a.scale;
}

struct RoPEArgs { float* x; const float* cos; const float* sin; i64 n; int stride, column, heads, head_dim, half; };

KERNEL rope(RoPEArgs a) { // one thread per rotated pair
  i64 at = global_thread();
  if (at >= a.n) return;
  int i = at % a.half, head = at / a.half % a.heads;
  i64 t = at / a.half / a.heads;
  float* low = a.x + t * a.stride + a.column + head * a.head_dim + i;
  float u = low[0], v = low[a.half], c = a.cos[t * a.half + i], s = a.sin[t * a.half + i];
  low[0] = u * c - v * s;
  low[a.half] = v * c + u * s;
}

struct KVWriteArgs {
  const float* kv; float* k_pool; float* v_pool; const int* slots;
  i64 n; int stride, k_column, v_column, heads, block_size, dim, slot_count;
};

KERNEL kv_write(KVWriteArgs a) { // one thread per element of a key and of a value
  i64 at = global_thread();
  if (at >= a.n) return;
  int width = a.heads * a.dim, i = at % width;
  i64 t = at / width;
  int slot = a.slots[t];
  if (slot < 0 || slot >= a.slot_count) return;
  int head = i / a.dim, d = i % a.dim;
  i64 to = (((i64)(slot / a.block_size) * a.heads + head) * a.block_size + slot % a.block_size) * a.dim + d;
  const float* row = a.kv + t * a.stride;
  float k = row[a.k_column + i], v = row[a.v_column + i];
  a.k_pool[to] = k;
  a.v_pool[to] = v; // the pools may be one: then the columns are too
}
