package schemas

// SubmitKernelRequest is an implementation of an op in the device's own language. It is compiled, held to the op's reference on
// example data and timed against the one in use, and then activated or refused. docs/kernels.md says what the kernel is given
// and what rows, columns and units are.
type SubmitKernelRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Op     string `json:"op"`
	Name   string `json:"name"` // of the implementation, a new one
	Source string `json:"source"`
	Entry  string `json:"entry"` // the kernel in the source

	Threads     int32 `json:"threads"`                // of a block
	PerBlock    int32 `json:"per_block"`              // units that a block takes
	SharedBytes int32 `json:"shared_bytes,omitempty"` // dynamic shared memory of a block
	Overlap     bool  `json:"overlap,omitempty"`      // it may start before the kernel ahead ends, since it calls pdl_wait

	// What the kernel takes; 0 is no bound. Other sizes are left to the op's first implementation.
	RowsMax      int32 `json:"rows_max,omitempty"`
	ColsMin      int32 `json:"cols_min,omitempty"`
	ColsMax      int32 `json:"cols_max,omitempty"`
	ColsMultiple int32 `json:"cols_multiple,omitempty"`

	EvenIfSlower bool `json:"even_if_slower,omitempty"`
}

// KernelVerdict is what becomes of a submitted kernel.
type KernelVerdict string

// The verdicts.
const (
	KernelActivated      KernelVerdict = "activated"        // it is the op's active implementation from the next step on
	KernelDoesNotCompile KernelVerdict = "does_not_compile" // Log says why
	KernelCrashed        KernelVerdict = "crashed"          // it ended or hung the process that tried it
	KernelWrong          KernelVerdict = "wrong"            // a case has a fault
	KernelSlower         KernelVerdict = "slower"           // it is right, and slower than the one in use
)

// SubmitKernelReply says what became of a submitted kernel, and why.
type SubmitKernelReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Op      string        `json:"op"`
	Name    string        `json:"name"`
	Verdict KernelVerdict `json:"verdict"`
	Reason  string        `json:"reason"`        // one sentence
	Log     string        `json:"log,omitempty"` // the compiler's messages; lines count from the source's first

	Against      string       `json:"against"`                 // the implementation in use until then
	Ratio        float64      `json:"ratio,omitempty"`         // geometric mean of its times over the other's, over the cases that were timed
	ErrorMax     float64      `json:"error_max,omitempty"`     // greatest of the cases
	BatchVariant bool         `json:"batch_variant,omitempty"` // a row's bits depend on the rows beside it
	Cases        []KernelCase `json:"cases,omitempty"`
}

// KernelCase is a size at which a submitted kernel was tried.
type KernelCase struct {
	_msgpack struct{} `msgpack:",as_array"`

	Rows    int32 `json:"rows"`
	Cols    int32 `json:"cols"`
	Heads   int32 `json:"heads,omitempty"`   // of rope
	HeadDim int32 `json:"dim,omitempty"`     // of rope
	Outputs int32 `json:"outputs,omitempty"` // of matmul
	Model   bool  `json:"model,omitempty"`   // the loaded model has this size: it is timed, too

	Error   float64 `json:"error"`           // greatest difference from the reference, relative to the value or the op's scale
	Allowed float64 `json:"allowed"`         // as every implementation is
	Fault   string  `json:"fault,omitempty"` // what is wrong

	TimeUs    float64 `json:"time_us,omitempty"`    // median of a launch
	AgainstUs float64 `json:"against_us,omitempty"` // the same of the implementation in use
}

// Example submits a way to gate that is simple and right.
func (*SubmitKernelRequest) Example() *SubmitKernelRequest {
	return &SubmitKernelRequest{Op: "act_mul", Name: "simple", Entry: "simple_gate", Threads: 256, PerBlock: 256,
		Source: "KERNEL simple_gate(ActMulArgs a) {\n  i64 i = global_thread();\n  if (i >= (i64)a.rows * a.cols) return;\n" +
			"  const act* row = a.x + i / a.cols * 2 * a.cols;\n  float g = load(row + i % a.cols);\n" +
			"  store(a.out + i, (a.gelu ? GELUTanh::of(g) : SiLU::of(g)) * load(row + a.cols + i % a.cols));\n}\n"}
}

// Example was right and slower.
func (*SubmitKernelReply) Example() *SubmitKernelReply {
	return &SubmitKernelReply{Op: "act_mul", Name: "simple", Verdict: KernelSlower, Reason: "it takes 1.31 times as long as portable", Against: "portable",
		Ratio: 1.31, ErrorMax: 0.004, Cases: []KernelCase{*(*KernelCase)(nil).Example()}}
}

// Example is a size of the model's.
func (*KernelCase) Example() *KernelCase {
	return &KernelCase{Rows: 8, Cols: 14336, Model: true, Error: 0.004, Allowed: 0.125, TimeUs: 3.4, AgainstUs: 2.6}
}
