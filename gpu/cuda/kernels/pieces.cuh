// What products of few tokens share that stream bfloat16 weights through rings of pieces in shared memory: see
// tiles.cuh. A thread's 16 bytes of a row are the operands of two products m16n8k16 as they come from memory: which k an
// operand stands for does not matter as long as weights and activations agree.

constexpr int PIECE_BYTES = 2 * ROWS * PIECE;
constexpr int QUARTERS = 4; // of a piece: 32 elements, what a thread's 16 bytes of a row belong to

// Where a chunk of 16 bytes lies in its row's 256 of a piece: the eight threads that are served together read
// half a line of an even and of an odd row, which must not be the same banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * 2 * PIECE + ((chunk ^ (row & 1) << 2) << 4); }

// A thread's activations for a quarter of a piece, of rows group, group + 8, …; zeros for null.
template <int NT>
struct Input {
  uint4 x[NT];

  __device__ __forceinline__ void load(const act* const (&from)[NT], int at, int k) {
#pragma unroll
    for (int i = 0; i < NT; i++) x[i] = at < k && from[i] ? *(const uint4*)(from[i] + at) : make_uint4(0, 0, 0, 0);
  }
};

template <int NT>
__device__ __forceinline__ void take_quarter(const u8* piece, int quarter, const Input<NT>& in, float (&sums)[NT][4]) {
  const int group = lane_id() >> 2, chunk = 4 * quarter + (lane_id() & 3);
  uint4 low = *(const uint4*)(piece + place(group, chunk)), high = *(const uint4*)(piece + place(group + 8, chunk));
#pragma unroll
  for (int i = 0; i < NT; i++) {
    mma(sums[i], low.x, high.x, low.y, high.y, in.x[i].x, in.x[i].y);
    mma(sums[i], low.z, high.z, low.w, high.w, in.x[i].z, in.x[i].w);
  }
}
