// What every kernel file may use. It is put in front of each file before compilation; there are
// no other headers, so the driver and NVRTC suffice to build this.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C" __global__ void
#define INFINITE __int_as_float(0x7f800000)

constexpr u32 FULL = 0xffffffffu; // every lane of a warp

__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }
__device__ __forceinline__ int warp_id() { return threadIdx.x >> 5; }
__device__ __forceinline__ i64 global_thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int clamp_index(int i, int n) { return min(max(i, 0), n - 1); }

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
  return v;
}

// A sum over the block in an order that depends on blockDim alone. room: 33 elements in shared
// memory. Every thread gets the result.
template <class T>
__device__ T block_sum(T v, T* room) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
  __syncthreads(); // the room may still be read by an earlier call
  if (lane_id() == 0) room[warp_id()] = v;
  __syncthreads();
  if (warp_id() == 0) {
    int warps = (blockDim.x + 31) >> 5;
    v = lane_id() < warps ? room[lane_id()] : T(0);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(FULL, v, o);
    if (lane_id() == 0) room[32] = v;
  }
  __syncthreads();
  return room[32];
}

__device__ __forceinline__ float block_max(float v, float* room) {
  v = warp_max(v);
  __syncthreads();
  if (lane_id() == 0) room[warp_id()] = v;
  __syncthreads();
  if (warp_id() == 0) {
    int warps = (blockDim.x + 31) >> 5;
    v = warp_max(lane_id() < warps ? room[lane_id()] : -INFINITE);
    if (lane_id() == 0) room[32] = v;
  }
  __syncthreads();
  return room[32];
}

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies so many of 16 bytes to shared memory in the background, and zeros for the others.
__device__ __forceinline__ void copy16(u32 to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)); // no "memory": what else is read meanwhile may move
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// c += a * b for a 16x16 and b 16x8 in bfloat16. A thread's c are columns 2t, 2t+1 of row g and then of row
// g+8, where g = lane / 4 and t = lane % 4.
__device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Weights and tables are stored as one of these types and widened to float32 in registers.
// load8 reads eight consecutive elements, 16-byte aligned, past the first-level cache, which
// belongs to the activations.
__device__ __forceinline__ uint4 stream16(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

struct F32 {
  static constexpr int size = 4;
  static __device__ __forceinline__ float widen(const void* p, i64 i) { return ((const float*)p)[i]; }
  static __device__ __forceinline__ void load8(const u8* p, float (&w)[8]) {
    uint4 a = stream16(p), b = stream16(p + 16);
    u32 bits[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = __uint_as_float(bits[i]);
  }
};

struct F16 {
  static constexpr int size = 2;
  static __device__ __forceinline__ float half(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
  }
  static __device__ __forceinline__ float widen(const void* p, i64 i) { return half(((const u16*)p)[i]); }
  static __device__ __forceinline__ void load8(const u8* p, float (&w)[8]) {
    uint4 a = stream16(p);
    u32 bits[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) w[2 * i] = half((u16)bits[i]), w[2 * i + 1] = half((u16)(bits[i] >> 16));
  }
};

__device__ __forceinline__ void widen_bf16(uint4 a, float (&x)[8]) {
  u32 bits[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
  for (int i = 0; i < 4; i++) x[2 * i] = __uint_as_float(bits[i] << 16), x[2 * i + 1] = __uint_as_float(bits[i] & 0xffff0000u);
}

struct BF16 {
  static constexpr int size = 2;
  static __device__ __forceinline__ float widen(const void* p, i64 i) { return __uint_as_float((u32)((const u16*)p)[i] << 16); }
  static __device__ __forceinline__ void load8(const u8* p, float (&w)[8]) { widen_bf16(stream16(p), w); }
};

// Activations, keys and values have the device's compute type, act. load and store convert; a
// store rounds to nearest even. load8 and store8 take 16-byte aligned addresses.
#ifdef ACT_BF16
typedef u16 act;
#else
typedef float act;
#endif

__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ float load(const u16* p) { return __uint_as_float((u32)*p << 16); }
__device__ __forceinline__ void store(float* p, float v) { *p = v; }
__device__ __forceinline__ void store(u16* p, float v) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(*p) : "f"(v)); }

// Two values as bfloat16, the first in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  return v;
}

__device__ __forceinline__ void load8(const float* p, float (&x)[8]) {
  float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void load8(const u16* p, float (&x)[8]) { widen_bf16(*(const uint4*)p, x); }
__device__ __forceinline__ void store8(float* p, const float (&x)[8]) {
  *(float4*)p = make_float4(x[0], x[1], x[2], x[3]);
  *(float4*)(p + 4) = make_float4(x[4], x[5], x[6], x[7]);
}
__device__ __forceinline__ void store8(u16* p, const float (&x)[8]) {
  *(uint4*)p = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

// Programmatic dependent launch: a kernel that is launched to overlap the one before it calls
// pdl_wait before it touches memory that others write; pdl_launch lets the next one begin, as soon as all
// blocks have called it. That is safe at any time. A kernel of many large blocks calls it late: blocks that
// come while the multiprocessors are full go where there happens to be room, a few of them get most, and the
// next kernel is slow. Before Hopper neither does anything, nor do launches overlap.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_begin() {
  pdl_launch();
  pdl_wait();
}

// Gate activations.
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

// What a product of few tokens does with its sums: the last two gate them.
enum { STORE_ACT, STORE_F32, GATE_SILU, GATE_GELU_TANH };

__device__ __forceinline__ float gate_of(int mode, float sum) { return mode == GATE_SILU ? SiLU::of(sum) : GELUTanh::of(sum); }
