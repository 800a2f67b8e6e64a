// Products of experts with few tokens each and quantized weights.

// PAIRED: a tile of the gate and one of the up projection, see moe_quantized.cuh.
template <class F, bool PAIRED>
struct Quantized {
  static constexpr bool paired = PAIRED;
  static constexpr int tiles = PAIRED ? 2 : 1, span = 2 / tiles, slot_bytes = 2 * F::piece_bytes, depth = F::bits == 8 ? 3 : 5, turned = 2;

  struct Source {
    TileSource<F> of[tiles];

    __device__ __forceinline__ void begin(const ExpertsArgs& a, const Part& part) {
      const Halves rows(a, part.row0, PAIRED);
#pragma unroll
      for (int i = 0; i < tiles; i++) of[i].begin(a, part.w, rows.further(i * a.n), 0);
    }
    // Zeros are the second of the last two if there is only one.
    __device__ __forceinline__ void copy(const ExpertsArgs& a, int k0, u32 room) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        TileSource<F>& source = of[i % tiles];
        source.copy(a, room + i * F::piece_bytes, i < tiles || k0 + PIECE < a.k ? 16 : 0);
        source.next();
      }
    }
  };

  template <int NT>
  struct Sums {
    QuantizedSums<F, tiles, NT> sums;
    float2 scale; // read ahead

    __device__ __forceinline__ Sums(const ExpertsArgs& a, const Part& part) : scale(scales_of<F>(a, part.w, Halves(a, part.row0, PAIRED))) {}
    __device__ __forceinline__ void take(const u8* pieces, int quarter, const Input<NT>& in) {
      sums.template take<true>(pieces + quarter / QUARTERS * F::piece_bytes, quarter % QUARTERS, NT, [&](int n) { return in.x[n]; });
    }
    __device__ __forceinline__ void put(const ExpertsArgs& a, const int* order, int pairs, int first, int n) const {
#pragma unroll
      for (int m = 0; m < tiles; m++) {
        float c[4];
        sums.template get<PAIRED>(m, n, c);
        put_scaled(a, order, pairs, first + m * ROWS / 2, scale, c);
      }
    }
  };
};

KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_few_8)(ExpertsArgs a) { few<Quantized<FORMAT, false>, 1>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_few_16)(ExpertsArgs a) { few<Quantized<FORMAT, false>, 2>(a); }
#ifdef NIBBLES
KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_few_8_gate)(ExpertsArgs a) { few<Quantized<FORMAT, true>, 1>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_few_16_gate)(ExpertsArgs a) { few<Quantized<FORMAT, true>, 2>(a); }
#endif
