package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/gguf"
)

// cpuType is a type of drawn weights: of matrices, and of the embedding table that is the output projection too.
type cpuType struct {
	matrices, table gguf.Type
	device          gpu.DType
	fileType        uint32 // general.file_type
}

var cpuTypes = map[string]cpuType{
	"bf16": {gguf.BF16, gguf.BF16, gpu.BF16, 32},
	"f16":  {gguf.F16, gguf.F16, gpu.F16, 1},
	"q8_0": {gguf.Q8_0, gguf.Q8_0, gpu.Q8_0, 7},
	"q4_0": {gguf.Q4_0, gguf.Q8_0, gpu.Q4_0, 2},
	"q4_1": {gguf.Q4_1, gguf.Q8_0, gpu.Q4_1, 3},
}

// CPUTypes lists the types that weights can be drawn in.
func CPUTypes() []string { return slices.Sorted(maps.Keys(cpuTypes)) }

// drawFile writes a model of a shape of the Llama family with drawn weights and no vocabulary, which llama.cpp reads
// too, unless the file is there. Rotary scaling is left out: it costs no time.
func drawFile(ctx context.Context, path, shape, kind string) (drawn bool, err error) {
	if _, err := os.Stat(path); err == nil {
		return false, nil
	}
	files, err := fs.Sub(shapeFiles, "shapes/"+shape)
	if err != nil {
		return false, err
	}
	s, err := model.ReadSpec(files)
	if err != nil {
		return false, err
	}
	if s.Architecture != "LlamaForCausalLM" || !s.TiedEmbeddings {
		return false, fmt.Errorf("bench: weights are drawn for Llamas with tied embeddings, and %s is another model", shape)
	}
	part := path + ".part"
	f, err := os.Create(part)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(part))) }()
	out := bufio.NewWriterSize(f, 1<<20)
	if err := drawModel(ctx, out, s, cpuTypes[kind], shape); err != nil {
		return false, errors.Join(err, f.Close())
	}
	if err := errors.Join(out.Flush(), f.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(part, path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// drawModel writes the file's content.
func drawModel(ctx context.Context, out *bufio.Writer, s *model.Spec, t cpuType, name string) error {
	number := func(key string, n int) gguf.Pair { return gguf.Pair{Key: key, Value: gguf.Uint32Value(uint32(n))} }
	real := func(key string, x float32) gguf.Pair {
		return gguf.Pair{Key: key, Value: gguf.Float32Value(math.Float32bits(x))}
	}
	text := func(key, s string) gguf.Pair { return gguf.Pair{Key: key, Value: gguf.TextValue(s)} }
	meta := []gguf.Pair{text("general.architecture", "llama"), text("general.name", name), number("general.file_type", int(t.fileType)),
		number("llama.block_count", len(s.Layers)), number("llama.context_length", s.ContextMax), number("llama.embedding_length", s.HiddenSize),
		number("llama.feed_forward_length", s.Layers[0].Intermediate), number("llama.attention.head_count", s.Heads),
		number("llama.attention.head_count_kv", s.KVHeads), number("llama.rope.dimension_count", s.HeadDim), number("llama.vocab_size", s.VocabSize),
		real("llama.attention.layer_norm_rms_epsilon", s.NormEps), real("llama.rope.freq_base", 10000), text("tokenizer.ggml.model", "no_vocab")}
	var tensors []gguf.Info
	add := func(name string, kind gguf.Type, dims ...int) {
		tensors = append(tensors, gguf.Info{Name: name, Type: kind, Dims: dims})
	}
	h, f := s.HiddenSize, s.Layers[0].Intermediate
	add("token_embd.weight", t.table, h, s.VocabSize)
	add("output_norm.weight", gguf.F32, h)
	for i := range s.Layers {
		layer := fmt.Sprintf("blk.%d.", i)
		add(layer+"attn_norm.weight", gguf.F32, h)
		add(layer+"attn_q.weight", t.matrices, h, s.QueryWidth())
		add(layer+"attn_k.weight", t.matrices, h, s.KVWidth())
		add(layer+"attn_v.weight", t.matrices, h, s.KVWidth())
		add(layer+"attn_output.weight", t.matrices, s.QueryWidth(), h)
		add(layer+"ffn_norm.weight", gguf.F32, h)
		add(layer+"ffn_gate.weight", t.matrices, h, f)
		add(layer+"ffn_up.weight", t.matrices, h, f)
		add(layer+"ffn_down.weight", t.matrices, f, h)
	}
	w, err := gguf.NewWriter(out, meta, tensors)
	if err != nil {
		return err
	}
	for _, info := range tensors {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := drawTensor(w, info); err != nil {
			return err
		}
	}
	return w.Close()
}

// drawTensor writes a matrix some rows at a time, or a norm that changes nothing.
func drawTensor(w *gguf.Writer, info gguf.Info) error {
	k := info.Dims[0]
	if len(info.Dims) == 1 {
		var ones []byte
		for range k {
			ones = binary.LittleEndian.AppendUint32(ones, math.Float32bits(1))
		}
		_, err := w.Write(ones)
		return err
	}
	const chunkRows = 512
	size := info.Type.Bytes(k)
	chunk := make([]byte, chunkRows*size)
	for row := 0; row < info.Dims[1]; row += chunkRows {
		rows := chunk[:min(chunkRows, info.Dims[1]-row)*size]
		if err := drawInto(rows, info.Name, info.Type, k, row); err != nil {
			return err
		}
		if _, err := w.Write(rows); err != nil {
			return err
		}
	}
	return nil
}

// drawInto fills out with the rows of a drawn matrix from first on, each of k elements with the standard deviation
// 1/sqrt(k), the same for a name on every machine.
func drawInto(out []byte, name string, kind gguf.Type, k, first int) error {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	seed, scale := h.Sum64(), ref.RandomScale(float32(1/math.Sqrt(float64(k))))
	size := kind.Bytes(k)
	rows := len(out) / size
	workers := min(runtime.GOMAXPROCS(0), rows)
	errs := make([]error, workers)
	var done sync.WaitGroup
	for w := range workers {
		done.Go(func() {
			values := make([]float32, k)
			for row := rows * w / workers; row < rows*(w+1)/workers; row++ {
				for i := range values {
					values[i] = float32(ref.RandomWeight(seed, (first+row)*k+i)) * scale
				}
				if _, err := gguf.Quantize(kind, out[row*size:row*size:(row+1)*size], values); err != nil {
					errs[w] = err
				}
			}
		})
	}
	done.Wait()
	return errors.Join(errs...)
}
