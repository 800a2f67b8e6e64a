// Products of experts with few tokens each and bfloat16 weights.

struct Plain {
  static constexpr bool paired = false;
  static constexpr int turned = 0, depth = 3, span = 1, slot_bytes = PIECE_BYTES;

  struct Source {
    const u8* w;
    int row0;

    __device__ __forceinline__ void begin(const ExpertsArgs&, const Part& part) { w = part.w, row0 = part.row0; }

    // Zeros stand past the end of k.
    __device__ __forceinline__ void copy(const ExpertsArgs& a, int k0, u32 room) {
      const int row = lane_id() >> 4, chunk = lane_id() & 15, at = k0 + chunk * 8, bytes = at < a.k ? 16 : 0;
      const u8* from = w + 2 * (i64)(bytes ? at : 0);
      u32 address = room + place(row, chunk);
#pragma unroll
      for (int r = 0; r < ROWS; r += 2) copy16(address + r * 2 * PIECE, weights_row(a, from, row0, row + r), bytes);
    }
  };

  template <int NT>
  struct Sums {
    float c[NT][4] = {};

    __device__ __forceinline__ Sums(const ExpertsArgs&, const Part&) {}
    __device__ __forceinline__ void take(const u8* piece, int quarter, const Input<NT>& in) { take_quarter<NT>(piece, quarter, in, c); }
    __device__ __forceinline__ void put(const ExpertsArgs& a, const int* order, int pairs, int first, int i) const { ::put(a, order, pairs, first, c[i]); }
  };
};

KERNEL __launch_bounds__(32 * WARPS, 2) moe_few_8(ExpertsArgs a) { few<Plain, 1>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) moe_few_16(ExpertsArgs a) { few<Plain, 2>(a); }
