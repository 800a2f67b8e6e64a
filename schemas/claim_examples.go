package schemas

// Example keeps a device for three sequences.
func (*ClaimRequest) Example() *ClaimRequest {
	return &ClaimRequest{Scheduler: "node-7f3a", Claim: 81985529216486895, Renew: true, Busy: 3, InOrder: true}
}

// Example is a small model on a CPU.
func (*ClaimReply) Example() *ClaimReply {
	return &ClaimReply{Replica: "gpu-1-cdef01", Node: "gpu-1", Model: "troupe-tiny", Numerics: "5d41402abc4b2a76", Device: "cpu:0", Description: "2 threads, avx512",
		VocabSize: 4096, ContextMax: 512, SequencesMax: 64, TokensStepMax: 512, BlockSize: 16, Blocks: 1024, BlockBytes: 65536, EndTokens: I32{2}}
}
