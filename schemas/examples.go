package schemas

import "encoding/json"

// The examples tell one small story: request 00000a0000000100 asks for two choices of a
// three-token prompt, replica0 runs it, gateway0 streams it.
const (
	exampleRequest = RequestID(0x00000a0000000100)
	exampleSeq     = uint64(exampleRequest)
)

// Example is a completion prompt whose answer goes to gateway0.
func (*EncodeRequest) Example() *EncodeRequest {
	return &EncodeRequest{Request: exampleRequest, Prompt: "Once upon a time",
		Messages: json.RawMessage(nil), Detok: (*DetokSpec)(nil).Example()}
}

// Example asks for two choices that end at a blank line.
func (*DetokSpec) Example() *DetokSpec {
	return &DetokSpec{Gateway: "gateway0", Scheduler: "replica0", Choices: 2, Stop: []string{"\n\n"}}
}

// Example is the three tokens of the example prompt.
func (*EncodeReply) Example() *EncodeReply { return &EncodeReply{Tokens: I32{1, 403, 407}} }

// Example asks for the text of three tokens.
func (*DecodeRequest) Example() *DecodeRequest { return &DecodeRequest{Tokens: I32{1, 403, 407}} }

// Example is their text.
func (*DecodeReply) Example() *DecodeReply { return &DecodeReply{Text: "Once upon a time"} }

// Example is one step's output: a token for each choice; the second choice ends.
func (*TokenBatch) Example() *TokenBatch {
	return &TokenBatch{From: "replica0", Number: 7, Seq: U64{exampleSeq, exampleSeq + 1},
		Index: I32{4, 4}, Token: I32{261, 2}, Finish: U8{0, byte(FinishStop)}, Cached: I32{0, 2}}
}

// Example says that nobody waits for the second choice any more.
func (*Ack) Example() *Ack { return &Ack{Forgotten: U64{exampleSeq + 1}} }

// Example is a sequence whose step the device failed.
func (*SeqError) Example() *SeqError {
	return &SeqError{Seq: SeqID(exampleSeq), Error: Error{Kind: KindInternal, Op: "step", Actor: "compute.replica0", Step: 9, Detail: "the device is lost"}}
}

// Example is the text of the TokenBatch example.
func (*DeltaBatch) Example() *DeltaBatch {
	return &DeltaBatch{From: "tokenizer0", Number: 7, Seq: U64{exampleSeq, exampleSeq + 1}, Text: []string{" there", ""},
		Tokens: I32{5, 5}, IDs: I32{261, 2}, Finish: U8{0, byte(FinishStop)}, Cached: I32{0, 2}}
}

// Example is an idle tokenizer.
func (*TokenizerState) Example() *TokenizerState {
	return &TokenizerState{Model: "troupe-tiny", VocabSize: 4096, ChatReady: true, Encoded: 3, ToolFormat: "hermes", Sampling: &SamplingParams{Temperature: 0.7, TopP: 0.9}}
}

// Example is a request for two sampled choices.
func (*SubmitRequest) Example() *SubmitRequest {
	return &SubmitRequest{Request: exampleRequest, Choices: 2, Tokens: I32{1, 403, 407}, MaxTokens: 64,
		StopTokens: I32{2}, Sampling: *(*SamplingParams)(nil).Example(), Tokenizer: "tokenizer0"}
}

// Example samples at temperature 0.8 from the likeliest 95 %.
func (*SamplingParams) Example() *SamplingParams {
	return &SamplingParams{Temperature: 0.8, TopP: 0.95, Seed: 42}
}

// Example discourages repetition, reports the two likeliest tokens and asks for yes or no.
func (*SamplingRules) Example() *SamplingRules {
	return &SamplingRules{FrequencyPenalty: 0.5, RepetitionPenalty: 1.1, BiasTokens: I32{261}, BiasValues: F32{-5}, Logprobs: 3,
		Guide: (*Guide)(nil).Example()}
}

// Example allows two answers.
func (*Guide) Example() *Guide { return &Guide{Kind: "regex", Source: "yes|no"} }

// Example is the first sampled token, which was also the likeliest.
func (*TokenLogprobs) Example() *TokenLogprobs {
	return &TokenLogprobs{Row: 0, Start: 3, Width: 3, Tokens: I32{261, 261, 403}, Values: F32{-0.25, -0.25, -2.5}}
}

// Example is the same with its text.
func (*TextLogprobs) Example() *TextLogprobs {
	return &TextLogprobs{Logprobs: *(*TokenLogprobs)(nil).Example(), Bytes: [][]byte{[]byte(" a"), []byte(" a"), []byte(" the")}}
}

// Example is a tiny hidden state.
func (*Embedding) Example() *Embedding { return &Embedding{Row: 0, Values: F32{0.6, 0, -0.8}} }

// Example are the rules of the example request's first choice.
func (*SlotRules) Example() *SlotRules {
	return &SlotRules{Slot: 0, Rules: *(*SamplingRules)(nil).Example(), Tokens: I32{1, 403, 407}, Prompt: 3,
		MinTokens: 1, StopTokens: I32{2}, MaxTokens: 64}
}

// Example asks for yes or no.
func (*CompileRequest) Example() *CompileRequest {
	return &CompileRequest{Guide: *(*Guide)(nil).Example(), MaxTokens: 8}
}

// Example is a compiled expression.
func (*CompileReply) Example() *CompileReply {
	return &CompileReply{MinTokens: 2, TookNs: 1500000, Bytes: 65536}
}

// Example says that three sequences are ahead.
func (*SubmitReply) Example() *SubmitReply { return &SubmitReply{Waiting: 3} }

// Example cancels the first choice.
func (*CancelRequest) Example() *CancelRequest {
	return &CancelRequest{Seq: U64{exampleSeq}, Finish: FinishCancel}
}

// Example confirms one cancellation.
func (*CancelReply) Example() *CancelReply { return &CancelReply{Cancelled: 1} }

// Example asks; there is nothing to say.
func (*InfoRequest) Example() *InfoRequest { return &InfoRequest{} }

// Example is a single-node engine with the default model.
func (*EngineInfo) Example() *EngineInfo {
	return &EngineInfo{Model: "troupe-tiny", Replica: "replica0", VocabSize: 4096, ContextMax: 2048, SequencesMax: 64,
		WaitingMax: 1024, BlockSize: 16, Blocks: 4096, TokensStepMax: 512, Policy: "fcfs",
		Policies: []string{"fcfs", "priority"}, Device: "cpu:0", EndTokens: I32{2}, PipelineDepth: 2}
}

// Example is a scheduler in the middle of the example request.
func (*SchedulerState) Example() *SchedulerState {
	return &SchedulerState{Epoch: 1, Step: 9, InFlight: 1, Policy: "fcfs", Running: 2, Tokens: 9, Prefilled: 3,
		Ledger: *(*Ledger)(nil).Example(), Seqs: []SeqState{*(*SeqState)(nil).Example()}}
}

// Example is the first choice, five tokens in.
func (*SeqState) Example() *SeqState {
	return &SeqState{Seq: SeqID(exampleSeq), Phase: "decode", Slot: 0, Prompt: 3, Output: 5, Computed: 8, AgeMs: 12}
}

// Example chooses the priority policy.
func (*PolicyRequest) Example() *PolicyRequest { return &PolicyRequest{Name: "priority"} }

// Example confirms it.
func (*PolicyReply) Example() *PolicyReply {
	return &PolicyReply{Active: "priority", Policies: []string{"fcfs", "priority"}}
}

// Example is a device on which 512 tokens take 24 ms.
func (*StepCosts) Example() *StepCosts {
	return &StepCosts{Profile: "troupe-tiny on cpu", Tokens: I32{1, 512}, TokensNs: []int64{200_000, 24_000_000}, Sampled: I32{1, 64}, SampledNs: []int64{10_000, 400_000},
		RowNs: 2000, DecodePs: 90_000, PrefillPs: 12_000}
}

// Example admits the request's first choice and asks for its prefill.
func (*ReserveRequest) Example() *ReserveRequest {
	return &ReserveRequest{Epoch: 1, Step: 1, Admit: []Admission{*(*Admission)(nil).Example()}, TokensMax: 512,
		Seq: U64{exampleSeq}, WantMax: I32{3}, MayPreempt: U8{0}}
}

// Example introduces the first choice.
func (*Admission) Example() *Admission {
	return &Admission{Seq: SeqID(exampleSeq), Tokens: I32{1, 403, 407}}
}

// Example grants it the first block.
func (*ReserveReply) Example() *ReserveReply {
	return &ReserveReply{Step: 1, Granted: I32{3}, Start: I32{0}, Cached: I32{0}, BlockFrom: I32{0}, BlockCount: I32{1},
		Blocks: I32{0}, Free: 4095, Total: 4096}
}

// Example is a pool with one block in use.
func (*MemoryState) Example() *MemoryState {
	return &MemoryState{Epoch: 1, Step: 1, BlockSize: 16, Total: 4096, Free: 4095, Used: 1, Seqs: 1, QueryTokens: 3,
		Policy: "lru", BytesPer: 65536, Tables: []SeqTable{*(*SeqTable)(nil).Example()}}
}

// Example is the first choice's block.
func (*SeqTable) Example() *SeqTable {
	return &SeqTable{Seq: SeqID(exampleSeq), Placed: 3, Blocks: I32{0}}
}

// Example is the plan of the first step: prefill three tokens in slot 0 and sample.
func (*StepPlan) Example() *StepPlan {
	return &StepPlan{Epoch: 1, Step: 1, InitSlot: I32{0}, InitTemperature: F32{0.8}, InitTopP: F32{0.95}, InitTopK: I32{0},
		InitMinP: F32{0}, InitSeed: U64{42}, Seq: U64{exampleSeq}, Slot: I32{0}, Start: I32{0}, Count: I32{3},
		Known: I32{3}, Sample: U8{1}, Tokens: I32{1, 403, 407}, BlockFrom: I32{0}, BlockCount: I32{1}, Blocks: I32{0}}
}

// Example says that this step is alone on the device.
func (*PlanReply) Example() *PlanReply { return &PlanReply{Queued: 1} }

// Example is the first sampled token.
func (*StepResult) Example() *StepResult {
	return &StepResult{Epoch: 1, Step: 1, Row: I32{0}, Token: I32{261}, Ledger: *(*Ledger)(nil).Example()}
}

// Example is a 1 ms step.
func (*Ledger) Example() *Ledger {
	return &Ledger{Schedule: 3000, Memory: 1500, Launch: 500, Upload: 2000, Device: 990000, Idle: 1000, Emit: 2000, Steps: 1}
}

// Example is the default model on two threads.
func (*ComputeState) Example() *ComputeState {
	return &ComputeState{Model: "troupe-tiny", Parameters: 3500000, Device: "cpu:0", Description: "2 threads, avx512",
		Tensors: 60, Bytes: 7000000, KV: []TensorHandle{*(*TensorHandle)(nil).Example()}, Epoch: 1, Step: 9,
		Ledger: *(*Ledger)(nil).Example(), Kernels: []KernelInfo{*(*KernelInfo)(nil).Example()}}
}

// Example is a layer's key pool.
func (*TensorHandle) Example() *TensorHandle {
	return &TensorHandle{Node: "node0", Device: "cpu:0", ID: 12, Generation: 1, DType: "f32",
		Shape: []int64{4096, 2, 16, 32}, Owner: "replica0"}
}

// Example is the active matrix product on an AVX-512 machine.
func (*KernelInfo) Example() *KernelInfo {
	return &KernelInfo{Op: "matmul", Name: "avx512", Doc: "16-row panels, assembly", Active: true}
}

// Example chooses the pure-Go matrix product.
func (*KernelsRequest) Example() *KernelsRequest { return &KernelsRequest{Op: "matmul", Select: "go"} }

// Example lists one kernel.
func (*KernelsReply) Example() *KernelsReply {
	return &KernelsReply{Kernels: []KernelInfo{*(*KernelInfo)(nil).Example()}}
}

// Example is a refused temperature.
func (*Error) Example() *Error {
	return &Error{Kind: KindInvalid, Op: "sampling", Actor: "gateway.gateway0", Param: "temperature",
		Detail: "temperature is -1; expected 0 to 100", Hint: "omit it for the model's default"}
}
