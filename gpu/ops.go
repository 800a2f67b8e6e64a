package gpu

// Op names an operation. The string is what people see in listings and choose by.
type Op string

// The operations a decoder needs. Shapes use T tokens in the step, S sequences in the step,
// R rows that sample, H hidden size, V vocabulary, D head dimension. Activations have the
// device's compute type unless said otherwise; indices are I32.
const (
	OpFeedTokens Op = "feed_tokens"     // FeedTokens
	OpEmbed      Op = "embed"           // Embed
	OpRMSNorm    Op = "rmsnorm"         // RMSNorm
	OpMatMul     Op = "matmul"          // MatMul
	OpRoPETable  Op = "rope_table"      // RoPETable
	OpRoPE       Op = "rope"            // RoPE
	OpKVWrite    Op = "kv_write"        // KVWrite
	OpKVCopy     Op = "kv_copy"         // KVCopy
	OpAttention  Op = "attention_paged" // Attention
	OpActMul     Op = "act_mul"         // ActMul
	OpAdd        Op = "add"             // Add
	OpGatherRows Op = "gather_rows"     // GatherRows
	OpSoftCap    Op = "softcap"         // SoftCap
	OpMoERoute   Op = "moe_route"       // MoERoute
	OpMoEExperts Op = "moe_experts"     // MoEExperts
	OpEditLogits Op = "edit_logits"     // EditLogits
	OpSample     Op = "sample"          // Sample
	OpTopTokens  Op = "top_tokens"      // TopTokens
	OpLogSoftmax Op = "log_softmax"     // LogSoftmax
)

// Ops lists every operation, in the order a step uses them.
var Ops = []Op{OpFeedTokens, OpEmbed, OpRMSNorm, OpMatMul, OpRoPETable, OpRoPE, OpKVWrite, OpKVCopy,
	OpAttention, OpActMul, OpAdd, OpGatherRows, OpSoftCap, OpMoERoute, OpMoEExperts,
	OpEditLogits, OpSample, OpTopTokens, OpLogSoftmax}

// FeedTokens resolves the step's input tokens on the device, so that a token sampled in step N
// feeds step N+1 without the host seeing it: Out[t] = Tokens[t] where that is >= 0, otherwise
// LastToken[Slots[t]].
type FeedTokens struct {
	Out       Tensor // [T] I32
	Tokens    Tensor // [T] I32, -1 where the token is still on the device
	Slots     Tensor // [T] I32, sequence slot of each token
	LastToken Tensor // [slots] I32, written by Sample
}

// Embed gathers rows: Out[t] = Table[IDs[t]] * Scale. Ids outside the table panic on the CPU
// and are clamped elsewhere; the scheduler validates them before they get here.
type Embed struct {
	Out   Tensor  // [T, H]
	Table Tensor  // [V, H], F32, F16 or BF16 and not packed, or quantized and packed
	IDs   Tensor  // [T] I32
	Scale float32 // 1, or sqrt(H) rounded as the architecture does (Gemma)
}

// RMSNorm: Out[r] = X[r] / sqrt(mean(X[r]^2) + Eps) * (Weight + Offset), rows of len(Weight).
// X may have more dimensions; every trailing len(Weight) elements are one row (QK norm).
// Out may alias X. Zhang & Sennrich 2019, arXiv:1910.07467.
type RMSNorm struct {
	Out, X Tensor
	Weight Tensor // [H] F32
	Eps    float32
	Offset float32 // 0, or 1 for Gemma, whose weights are stored around zero
}

// MatMul: Out[t, n] = sum_k X[t, k] * W[n, k] + Bias[n], plus Out's old value if Accumulate
// (the residual add). Summed in the same order for every t, whatever T.
type MatMul struct {
	Out, X     Tensor // [T, N], [T, K]; Out may also be F32
	W          Tensor // [N, K] packed
	Bias       Tensor // [N] F32, or the zero Tensor
	Accumulate bool
	// Norm, if not nil, comes first and makes X; Gate comes last and takes Out for its X. A device
	// may fuse them with the product: then X, or Out, which only lead from one to the next, hold
	// nothing of use.
	Norm *RMSNorm // Norm.Out is X
	Gate *ActMul  // Gate.X is Out; not with Accumulate
}

// RoPETable computes, once per step, Cos[t, i] = cos(Positions[t] * InvFreq[i]) * Scale and Sin
// likewise, in float32.
type RoPETable struct {
	Cos, Sin  Tensor  // [T, D_rot/2] F32
	Positions Tensor  // [T] I32
	InvFreq   Tensor  // [D_rot/2] F32
	Scale     float32 // attention scaling of YaRN-like schemes, otherwise 1
}

// RoPE rotates the first 2*len(cos row) elements of each head in place, in the rotate-half
// convention of Hugging Face. X is a [T, Stride] matrix whose columns
// [Column, Column+Heads*HeadDim) hold the heads, so Q and K rotate inside a fused QKV row.
// Su et al. 2021, arXiv:2104.09864.
type RoPE struct {
	X        Tensor // [T, Stride]
	Column   int
	Heads    int
	HeadDim  int
	Cos, Sin Tensor    // [T, D_rot/2] F32
	Norm     *HeadNorm // if not nil, it comes first
}

// HeadNorm is an RMSNorm of each head: x / sqrt(mean(x^2) + Eps) * (Weight + Offset).
type HeadNorm struct {
	Query, Key  Tensor // [HeadDim] F32: Weight of the first Queries heads, and of those after them
	Queries     int
	Eps, Offset float32
}

// KVWrite stores this step's keys and values in the paged pool:
// KPool[SlotMapping[t] / block, h, SlotMapping[t] % block] = K[t, h].
type KVWrite struct {
	KV               Tensor // [T, Stride]: a fused QKV row
	KColumn, VColumn int
	KPool, VPool     Tensor // [blocks, kv_heads, block_size, D]
	SlotMapping      Tensor // [T] I32: block * block_size + offset in block; -1 writes nothing
	RoPE             *RoPE  // if not nil, it comes first; its X is KV, whose keys then hold nothing of use
}

// KVCopy copies whole blocks inside the pools (copy-on-write): block Pairs[2i] to Pairs[2i+1].
type KVCopy struct {
	Pools []Tensor // every layer's K and V pool
	Pairs []int32  // host memory: source, destination, source, destination, …
}

// Attention is causal attention over paged keys and values. Token t of sequence s, at position
// Positions[t], attends to positions [max(0, p-Window+1), p] of its own sequence. For every query the
// sum runs in key order, whatever the chunking, so prefill in chunks equals prefill at once.
// Kwon et al. 2023, arXiv:2309.06180.
type Attention struct {
	Out          Tensor // [T, heads*D]
	Q            Tensor // [T, Stride]: a fused QKV row, heads at QColumn
	QColumn      int
	Heads        int
	KPool, VPool Tensor // [blocks, kv_heads, block_size, D]
	BlockTables  Tensor // [slots, blocks_per_sequence_max] I32
	Slots        Tensor // [S] I32: row of BlockTables of each sequence
	QueryStart   Tensor // [S+1] I32: sequence s owns tokens [QueryStart[s], QueryStart[s+1])
	Positions    Tensor // [T] I32
	Scale        float32
	SoftCap      float32 // 0, or c for scores c*tanh(s/c) (Gemma 2)
	Window       int     // 0, or the sliding window in tokens, the query's own included
	// What the host knows of the contents of Positions and QueryStart, to divide the work by; 0 is
	// unknown.
	ContextMax int // every position is below it
	QueryMax   int // no sequence has more tokens
	// Write, if not nil, comes first. Its KV is Q, whose contents are of no use afterwards. What else the queries see was
	// written by an earlier step, so a device may read that before the launches before this one are done.
	Write *KVWrite
}

// Activation is the gate's nonlinearity.
type Activation uint8

// Gate activations.
const (
	SiLU     Activation = iota // x * sigmoid(x)
	GELUTanh                   // the tanh approximation
)

// ActMul: Out[t, i] = act(X[t, i]) * X[t, F+i], gate and up fused in one row.
type ActMul struct {
	Out Tensor // [T, F]
	X   Tensor // [T, 2F]
	Act Activation
}

// Add: Out = A + B elementwise; Out may alias either.
type Add struct{ Out, A, B Tensor }

// GatherRows: Out[r] = X[Rows[r]].
type GatherRows struct {
	Out, X Tensor // [R, H], [T, H]; both F32 or both of the compute type
	Rows   Tensor // [R] I32
}

// SoftCap: X = Cap * tanh(X / Cap) in place.
type SoftCap struct {
	X   Tensor
	Cap float32
}

// MoERoute chooses TopK experts per token. Probabilities are softmax(Logits); the chosen ones,
// in descending order with ties to the lower expert, are divided by their sum if Normalize.
type MoERoute struct {
	Logits    Tensor // [T, E]
	Experts   Tensor // [T, TopK] I32
	Weights   Tensor // [T, TopK] F32
	Normalize bool
}

// MoEExperts: Out[t] += sum_j Weights[t, j] * Down[e](act(Gate[e] x) * Up[e] x), e = Experts[t, j],
// summed in order of expert index.
type MoEExperts struct {
	Out, X           Tensor   // [T, H]
	GateUp           []Tensor // per expert, packed [2F, H]
	Down             []Tensor // per expert, packed [H, F]
	Experts, Weights Tensor   // [T, TopK]
	Act              Activation
	Hidden, Scratch  Tensor // [T*TopK, 2F], [T*TopK, F] work space
}

// EditLogits changes logits in place ahead of Sample: first the edits, then the masks.
type EditLogits struct {
	Logits Tensor      // [R, V] F32
	Edits  []LogitEdit // host memory; at most one for a (row, token)
	Masks  []LogitMask // host memory; at most one for a row
}

// LogitEdit changes one logit: l = (l / Scale if l > 0, else l * Scale) + Add. Penalties and biases are such; -Inf as Add
// takes a token out.
type LogitEdit struct {
	Row, Token int32
	Scale      float32 // 1 leaves as it is
	Add        float32
}

// LogitMask makes the logits of a row -Inf but for the allowed tokens.
type LogitMask struct {
	Row     int32
	Allowed []uint32 // [(V+31)/32]: bit t%32 of word t/32 is token t
}

// SampleParams is what one row needs to sample. A row of Sample.Params in host memory.
type SampleParams struct {
	Temperature float32 // 0 is greedy
	TopP        float32 // 1 is off
	MinP        float32 // 0 is off
	TopK        int32   // 0 is off
	Seed        uint64
	Position    int32 // position of the token being sampled; (Seed, Position) keys the noise
	Slot        int32 // LastToken[Slot] receives the token
}

// Sample draws one token per row. Greedy takes the largest logit, ties to the lowest id.
// Otherwise logits are divided by Temperature, tokens with probability below MinP times the
// largest are dropped, then all but the TopK largest, then the smallest tail whose removal
// leaves at least TopP of the remaining mass; the token is argmax(logit + gumbel(Seed, Position, id))
// over those left (Gumbel-max, so the draw does not depend on summation order). A row with a NaN
// logit yields -1 in Out, and 0 in LastToken so that a step already launched behind it stays in
// range. Package gpu/ref defines ties, thresholds and the noise exactly.
type Sample struct {
	Logits    Tensor         // [R, V] F32
	Params    []SampleParams // host memory, len R
	Out       Tensor         // [R] I32
	LastToken Tensor         // [slots] I32
}

// TopTokens: Out[r, 0] = First[r], and Out[r, 1:] are the tokens with the largest logits of row r in descending order, ties to
// the lower id, as many as Out has room for. NaN counts as the smallest; a vocabulary that is too small leaves -1. Rank, if it is
// given, becomes the place of First[r] in that order among all tokens, from 1.
type TopTokens struct {
	Out    Tensor // [R, 1+K] I32, K at most TopTokensMax
	First  Tensor // [R] I32
	Logits Tensor // [R, V] F32
	Rank   Tensor // [R] I32, or none
}

// TopTokensMax bounds K of TopTokens.
const TopTokensMax = 32

// LogSoftmax: for each row r, Out[r, j] = log_softmax(Logits[r])[IDs[r, j]], accumulated in float64.
type LogSoftmax struct {
	Out    Tensor // [R, J] F32
	Logits Tensor // [R, V] F32
	IDs    Tensor // [R, J] I32; -1 yields -Inf
}
