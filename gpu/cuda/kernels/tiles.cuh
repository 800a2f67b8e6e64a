// How weights are cut where tensor cores multiply them: a tile has 16 rows, as a product m16n8k16 takes them, and a piece of a
// tile 128 columns.
constexpr int ROWS = 16, PIECE = 128;
