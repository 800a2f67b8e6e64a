package cuda

import (
	"encoding/binary"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/prequant/prequanttest"
)

// TestGoldensPrequantized: a checkpoint that is quantized has the logits of its dequantized form, whether many tokens are
// computed at once or few. Many round activations to 8-bit floats where the weights are such.
func TestGoldensPrequantized(t *testing.T) {
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	const tolerance, tolerance8 = 3e-2, 8e-2
	for _, name := range prequanttest.Cases {
		t.Run(name, func(t *testing.T) {
			files := os.DirFS(filepath.Join("..", "..", "internal", "prequant", "testdata", name))
			plain, err := prequanttest.Dequantized(files)
			if err != nil {
				t.Fatal(err)
			}
			want, got := logitsOf(t, d, plain, 24), [][]float32{logitsOf(t, d, files, 24), logitsOf(t, d, files, 6), logitsOf(t, d, files, 1)}
			for i, limit := range []float64{tolerance8, tolerance, tolerance} {
				off := relativeError(got[i], want)
				t.Logf("%d: %.2g", i, off)
				if !(off <= limit) {
					t.Errorf("with steps of %d tokens, logits differ by %g of their size, allowed %g", []int{24, 6, 1}[i], off, limit)
				}
			}
		})
	}
}

// relativeError is the root mean square of got-want, as a share of want's.
func relativeError(got, want []float32) float64 {
	var off, size float64
	for i, w := range want {
		off += math.Pow(float64(got[i])-float64(w), 2)
		size += float64(w) * float64(w)
	}
	return math.Sqrt(off / size)
}

// logitsOf runs the model in files over 24 tokens, some at a time, and returns the logits of all.
func logitsOf(t *testing.T, d gpu.Device, files fs.FS, step int) (logits []float32) {
	t.Helper()
	const tokens, blockSize = 24, 8
	m, err := model.Load(d, files, model.Options{SequencesMax: 1, TokensPerStepMax: tokens, ContextMax: tokens, BlockSize: blockSize, KVBlocks: tokens / blockSize}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.SetBlocks(0, 0, []int32{0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	for from := 0; from < tokens; from += step {
		in := model.StepInput{Slots: []int32{0}, QueryStart: []int32{0, int32(step)}, TokenSlots: make([]int32, step)}
		for i := range step {
			p := int32(from + i)
			in.Tokens = append(in.Tokens, 7*p%prequanttest.Vocabulary)
			in.Positions, in.SlotMapping, in.LogitRows = append(in.Positions, p), append(in.SlotMapping, p), append(in.LogitRows, int32(i))
		}
		out, err := m.Forward(&in)
		if err != nil {
			t.Fatal(err)
		}
		raw := make([]byte, out.Bytes())
		if err := d.Download(raw, out); err != nil {
			t.Fatal(err)
		}
		for ; len(raw) > 0; raw = raw[4:] {
			logits = append(logits, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
		}
	}
	return logits
}
