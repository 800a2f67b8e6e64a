package gpu

import (
	"context"
	"fmt"
	"unicode/utf8"
)

// KernelSource is an implementation of an op that somebody submits while the engine runs: a kernel in the
// device's own language, and how it is launched. What the kernel is given, and what its rows, columns and units
// are, depends on the op; see docs/kernels.md.
type KernelSource struct {
	Op     Op     `json:"op"`
	Name   string `json:"name"` // of the implementation
	Source string `json:"source"`
	Entry  string `json:"entry"` // the kernel in Source

	Threads     int  `json:"threads"`      // of a block
	PerBlock    int  `json:"per_block"`    // units that a block takes; the grid has as many blocks as all units need
	SharedBytes int  `json:"shared_bytes"` // dynamic shared memory of a block
	Overlap     bool `json:"overlap"`      // it calls pdl_wait before it touches memory, so it may start before the kernel ahead ends

	// What it takes; 0 is no bound. Other sizes are left to the op's first implementation.
	RowsMax      int `json:"rows_max"`
	ColsMin      int `json:"cols_min"`
	ColsMax      int `json:"cols_max"`
	ColsMultiple int `json:"cols_multiple"` // columns are a multiple of it; if it is more than 1, what is read lies on 16 bytes
}

// Limits of a KernelSource.
const (
	KernelSourceBytesMax = 256 << 10
	KernelNameBytesMax   = 64
	KernelThreadsMax     = 1024
	KernelSharedBytesMax = 227 << 10 // of any GPU so far
	kernelCountMax       = 1 << 24
)

// Validate names the first field that makes no sense on any device.
func (k *KernelSource) Validate() error {
	bad := func(field string, value any, want string) error {
		return &KernelFieldError{Field: field, Text: fmt.Sprintf("%s is %v; expected %s", field, value, want)}
	}
	switch {
	case !plainName(k.Name):
		return bad("name", fmt.Sprintf("%.80q", k.Name), fmt.Sprintf("1 to %d letters, digits, -, _ and dots, the first a letter", KernelNameBytesMax))
	case !identifier(k.Entry):
		return bad("entry", fmt.Sprintf("%.80q", k.Entry), "the name of a kernel in the source")
	case len(k.Source) == 0 || len(k.Source) > KernelSourceBytesMax || !utf8.ValidString(k.Source):
		return bad("source", fmt.Sprintf("%d bytes", len(k.Source)), fmt.Sprintf("1 to %d bytes of UTF-8", KernelSourceBytesMax))
	case k.Threads < 32 || k.Threads > KernelThreadsMax || k.Threads%32 != 0:
		return bad("threads", k.Threads, fmt.Sprintf("a multiple of 32 up to %d", KernelThreadsMax))
	case k.PerBlock < 1 || k.PerBlock > kernelCountMax:
		return bad("per_block", k.PerBlock, fmt.Sprintf("1 to %d units", kernelCountMax))
	case k.SharedBytes < 0 || k.SharedBytes > KernelSharedBytesMax:
		return bad("shared_bytes", k.SharedBytes, fmt.Sprintf("0 to %d", KernelSharedBytesMax))
	case k.ColsMax != 0 && k.ColsMax < max(k.ColsMin, k.ColsMultiple):
		return bad("cols_max", k.ColsMax, fmt.Sprintf("0, or at least cols_min (%d) and cols_multiple (%d)", k.ColsMin, k.ColsMultiple))
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"rows_max", k.RowsMax}, {"cols_min", k.ColsMin}, {"cols_max", k.ColsMax}, {"cols_multiple", k.ColsMultiple}} {
		if f.value < 0 || f.value > kernelCountMax {
			return bad(f.name, f.value, fmt.Sprintf("0 to %d", kernelCountMax))
		}
	}
	return nil
}

// KernelFieldError is a field of a KernelSource that makes no sense.
type KernelFieldError struct{ Field, Text string }

func (e *KernelFieldError) Error() string { return "gpu: " + e.Text }

func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c == '-' || c == '.' || c >= '0' && c <= '9' {
			if i == 0 {
				return false
			}
		} else if !letter(c) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= KernelNameBytesMax
}

func identifier(s string) bool {
	for i := range len(s) {
		if c := s[i]; !letter(c) && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= KernelNameBytesMax
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }

// Takes reports whether k is launched for so many rows and columns.
func (k *KernelSource) Takes(rows, cols int) bool {
	return (k.RowsMax == 0 || rows <= k.RowsMax) && cols >= k.ColsMin && (k.ColsMax == 0 || cols <= k.ColsMax) && cols%max(1, k.ColsMultiple) == 0
}

// KernelShape is a size of an op's arguments.
type KernelShape struct {
	Rows    int  `json:"rows"`              // of RMSNorm.X, or tokens
	Cols    int  `json:"cols"`              // RMSNorm: a row of X; ActMul: of Out; RoPE: of Cos; MatMul: K
	Heads   int  `json:"heads,omitempty"`   // RoPE
	HeadDim int  `json:"dim,omitempty"`     // RoPE
	Outputs int  `json:"outputs,omitempty"` // MatMul: N
	Model   bool `json:"model,omitempty"`   // the loaded model has it
}

// KernelCase is how a kernel did at a shape.
type KernelCase struct {
	Shape   KernelShape `json:"shape"`
	Error   float64     `json:"error"`            // the greatest, relative to the larger of the value and a scale that the op has
	Allowed float64     `json:"allowed"`          // as the conformance suite does
	Fault   string      `json:"fault,omitempty"`  // what is wrong; "" if nothing is
	Varies  bool        `json:"varies,omitempty"` // a row by itself gets other bits than among others
}

// KernelTrial is what came of compiling and trying a KernelSource.
type KernelTrial struct {
	Log   string       `json:"log,omitempty"`   // the compiler's messages about a source that does not compile
	Ended string       `json:"ended,omitempty"` // why the trial came to no end: the kernel crashed, or took too long
	Cases []KernelCase `json:"cases,omitempty"`
	Code  []byte       `json:"code,omitempty"` // for Load; empty unless it compiled
}

// Submitter is a Device that takes kernels in source.
type Submitter interface {
	// Submittable reports, as an error, why kernels of op cannot be submitted: ErrNotSupported.
	Submittable(op Op) error
	// Try compiles k and holds it to the op's reference at shapes, in a process of its own on the same GPU, since
	// a kernel can ruin or hang the process that runs it. It ends that process when ctx ends. It may be called
	// from anywhere. Errors say that there was no trial; what the trial found is in the KernelTrial.
	Try(ctx context.Context, k *KernelSource, shapes []KernelShape) (*KernelTrial, error)
	// Load makes a kernel from what Try compiled. Like launches, it belongs to the device's executor.
	Load(k *KernelSource, code []byte) (LoadedKernel, error)
}

// LoadedKernel is a submitted kernel on the device. It belongs to the device's executor.
type LoadedKernel interface {
	// Launch executes the kernel's op with it, whichever implementation is selected.
	Launch(args any) error
	// Register makes it an implementation of its op; see Implementation.BatchVariant. It is not selected.
	Register(doc string, batchVariant bool) error
	// Unload releases a kernel that was not registered.
	Unload() error
}
