// Products of experts with many tokens each and quantized weights.

// Of warps that have TILES_OF tiles each. PAIRED: the first half of them is of the gate, see moe_quantized.cuh.
template <class F, bool PAIRED, int TILES_OF>
struct Quantized {
  static constexpr int slab = PIECE, tile_bytes = F::piece_bytes;

  // Each warp copies some tiles.
  template <class Copier>
  static __device__ __forceinline__ void copy(const Copier& from, const ExpertsArgs& a, int number, int, int, u32 address) {
    constexpr int each = TILES / WARPS, half = TILES_OF / 2;
    const u32 room = address - place<Quantized>(threadIdx.x / (slab / 8), from.chunk);
#pragma unroll
    for (int i = 0; i < each; i++) {
      const int tile = warp_id() * each + i;
      int first = from.row0 + tile * (gated(a) ? ROWS / 2 : ROWS), up = 0;
      if (PAIRED) first = from.row0 + (tile / TILES_OF * half + tile % half) * ROWS, up = tile % TILES_OF < half ? 0 : a.n;
      const Halves rows(a, first, PAIRED);
      TileSource<F> source;
      source.begin(a, from.w, rows.further(up), number);
      source.copy(a, room + tile * tile_bytes, 16);
    }
  }

  template <int M, int N>
  struct Sums {
    static_assert(M == TILES_OF && (M % 2 == 0), "pairs are of one warp");
    QuantizedSums<F, M, N> sums;

    template <bool ALL>
    __device__ __forceinline__ void take(const u8* w, const u8* x, int used) {
      if (!ALL && used <= 0) return;
      const int group = lane_id() >> 2, t = lane_id() & 3;
#pragma unroll
      for (int quarter = 0; quarter < PIECE / 32; quarter++)
        sums.template take<ALL>(w, quarter, used, [&](int n) { return *(const uint4*)(x + place<Quantized>(n * 8 + group, 4 * quarter + t)); });
    }

    __device__ __forceinline__ void put(const ExpertsArgs& a, const u8* w, const int* order, int pairs, int first, int m, int n) const {
      float c[4];
      sums.template get<PAIRED>(m, n, c);
      put_scaled(a, order, pairs, first, scales_of<F>(a, w, Halves(a, first, PAIRED)), c);
    }
  };
};

KERNEL __launch_bounds__(32 * WARPS, 3) NAMED(moe_tile_32)(ExpertsArgs a) { tile<Quantized<FORMAT, false, 2>, 2, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_tile_64)(ExpertsArgs a) { tile<Quantized<FORMAT, false, 4>, 4, 4>(a); }
#ifdef NIBBLES
KERNEL __launch_bounds__(32 * WARPS, 3) NAMED(moe_tile_32_gate)(ExpertsArgs a) { tile<Quantized<FORMAT, true, 2>, 2, 4>(a); }
KERNEL __launch_bounds__(32 * WARPS, 2) NAMED(moe_tile_64_gate)(ExpertsArgs a) { tile<Quantized<FORMAT, true, 4>, 4, 4>(a); }
#endif
