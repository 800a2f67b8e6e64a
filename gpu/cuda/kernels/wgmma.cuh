// Hopper's warp-group products (wgmma): what their users share. They run in the background on matrices in shared memory
// whose rows are 128 bytes, with 16-byte pieces that are exchanged by the row's number (the hardware's 128-byte swizzle).

// What ordinary stores and copies wrote becomes visible to wgmma.
__device__ __forceinline__ void show_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A descriptor of a matrix in shared memory: groups of 8 rows are 1024 bytes apart; panels are so many where the long
// side is not the one that is summed over.
__device__ __forceinline__ u64 describe(u32 address, int panel) {
  return (u64)(address >> 4 & 0x3fff) | (u64)(panel >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// A descriptor of what lies so many bytes further.
__device__ __forceinline__ u64 further(u64 descriptor, int bytes) { return descriptor + (bytes >> 4); }

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// What is computed with d stays on its side of this.
template <int N>
__device__ __forceinline__ void pin(float (&d)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}
template <int LEFT, int N>
__device__ __forceinline__ void products_wait(float (&d)[N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
  pin(d);
}
