package quantizer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// Options say what Run does.
type Options struct {
	Type       string   // one of Types
	Keep       []string // patterns (path.Match) of tensors that stay as they are
	Requantize bool     // also what is quantized already
	Force      bool     // replace a file that exists
	Progress   func(Progress)
}

// Progress is how far Run is.
type Progress struct {
	Tensors, TensorsDone int
	Bytes, BytesDone     int64 // of the source's tensors
}

// Result is what Run made.
type Result struct {
	Path      string         `json:"path"`
	Type      string         `json:"type"`
	BytesIn   int64          `json:"bytes_in"` // of all tensors
	BytesOut  int64          `json:"bytes_out"`
	FileBytes int64          `json:"file_bytes"`
	Tensors   map[string]int `json:"tensors"` // by type
	Kept      int            `json:"kept"`    // tensors that stayed as they were
}

// Run quantizes the model in files, a directory or a checkpoint.Dir, to the file out. That appears under its name
// when it is complete, or not at all; what exists is replaced only if Options.Force.
func Run(ctx context.Context, files fs.FS, out string, o Options) (result *Result, err error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	if err := o.mayWrite(out); err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	s, err := open(files)
	if err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	list, err := o.plan(s)
	if err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*.part")
	if err != nil {
		return nil, fmt.Errorf("quantize: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("quantize: %w", err)
			_, _ = temporary.Close(), os.Remove(temporary.Name()) // the first error is the one to tell
		}
	}()
	r, err := o.write(ctx, s, list, temporary)
	if err != nil {
		return nil, err
	}
	info, err := temporary.Stat()
	if err != nil {
		return nil, err
	}
	r.Path, r.FileBytes = out, info.Size()
	return r, o.publish(temporary, out)
}

// mayWrite fails if out exists and must not be replaced.
func (o *Options) mayWrite(out string) error {
	info, err := os.Lstat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory, want the name of a file", out)
	case !o.Force:
		return fmt.Errorf("%s: %w; --force replaces it", out, fs.ErrExist)
	}
	return nil
}

// publish gives the complete file its name.
func (o *Options) publish(temporary *os.File, out string) error {
	const mode = 0o644 // CreateTemp's is for the owner alone
	if err := errors.Join(temporary.Chmod(mode), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if o.Force {
		return os.Rename(temporary.Name(), out)
	}
	// A link, unlike a rename, replaces nothing that appeared in the meantime.
	err := os.Link(temporary.Name(), out)
	switch {
	case errors.Is(err, fs.ErrExist):
		return o.mayWrite(out)
	case err != nil: // a file system without links
		if err := o.mayWrite(out); err != nil {
			return err
		}
		return os.Rename(temporary.Name(), out)
	}
	return os.Remove(temporary.Name())
}

// write makes the file's content.
func (o *Options) write(ctx context.Context, s *source, list []gguf.Info, file *os.File) (*Result, error) {
	const bufferBytes = 1 << 20
	buffered := bufio.NewWriterSize(file, bufferBytes)
	w, err := gguf.NewWriter(buffered, o.meta(s), list)
	if err != nil {
		return nil, err
	}
	r := &Result{Type: o.Type, Tensors: map[string]int{}}
	p := Progress{Tensors: len(list)}
	for i := range s.tensors {
		p.Bytes += int64(len(s.tensors[i].data))
	}
	r.BytesIn = p.Bytes
	report := func() {
		if o.Progress != nil {
			o.Progress(p)
		}
	}
	for i := range list {
		t, to := &s.tensors[i], list[i].Type
		if err := gguf.CheckScales(t.Type, t.data); err != nil {
			return nil, t.fail(err)
		}
		err := convert(t, to, func(in int, out []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.BytesDone += int64(in)
			r.BytesOut += int64(len(out))
			report()
			_, err := w.Write(out)
			return err
		})
		if err != nil {
			return nil, t.fail(err)
		}
		if to == t.Type {
			r.Kept++
		}
		r.Tensors[to.String()]++
		p.TensorsDone++
		report()
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return r, buffered.Flush()
}

// meta is the source's metadata with what is true of the result.
func (o *Options) meta(s *source) []gguf.Pair {
	own := []gguf.Pair{{Key: "general.file_type", Value: gguf.Uint32Value(kinds[o.Type].fileType)},
		{Key: "general.quantization_version", Value: gguf.Uint32Value(2)}}
	var list []gguf.Pair
	for _, p := range s.meta {
		if p.Key != own[0].Key && p.Key != own[1].Key {
			list = append(list, p)
		}
	}
	return append(list, own...)
}

// chunkElements are converted at once: whole rows, at least one.
const chunkElements = 1 << 20

// convert calls emit with the elements of t as another type, some rows at a time, and with the bytes of t they
// were made of.
func convert(t *tensor, to gguf.Type, emit func(in int, out []byte) error) error {
	if len(t.data) == 0 {
		return nil
	}
	k := 1
	if len(t.Dims) > 0 {
		k = t.Dims[0]
	}
	from, size := t.Type.Bytes(k), to.Bytes(k)
	rows := len(t.data) / from
	step := min(rows, max(1, chunkElements/k))
	var out []byte
	if to != t.Type {
		out = make([]byte, step*size)
	}
	for row := 0; row < rows; row += step {
		n := min(step, rows-row)
		in := t.data[row*from:][:n*from]
		if to == t.Type {
			if err := emit(len(in), in); err != nil {
				return err
			}
			continue
		}
		if err := gguf.ConvertRows(out[:n*size], to, in, t.Type, k, gguf.QuantizeFit); err != nil {
			return err
		}
		if err := emit(len(in), out[:n*size]); err != nil {
			return err
		}
	}
	return nil
}
