package schemas

// Example is a replica's node.
func (*NodeReport) Example() *NodeReport {
	return &NodeReport{Node: "node-7f3a", Incarnation: 81985529216486895, Version: "0.1.0", StartedMs: 1767225600000, UnixNs: 1767225660000000000,
		Actors: []ActorReport{*(*ActorReport)(nil).Example()}, Model: "troupe-tiny", Busy: 3, Roles: []string{"replica"}}
}

// Example is a scheduler.
func (*ActorReport) Example() *ActorReport {
	return &ActorReport{Service: "scheduler", Instance: "node-7f3a"}
}

// Example is a replica that runs two sequences and has gained a block of prefix.
func (*ReplicaReport) Example() *ReplicaReport {
	return &ReplicaReport{Replica: "node-7f3a", Node: "node-7f3a", Incarnation: 81985529216486895, Version: "0.1.0", Model: "troupe-tiny",
		Numerics: "5d41402abc4b2a76", BlockSize: 16, Blocks: 1024, ContextMax: 512, SequencesMax: 64, Waiting: 1, Running: 2, QueuedTokens: 40,
		FreeBlocks: 1000, Progress: 812, Since: 7, Serial: 9, Added: U64{4021837465091284}, Removed: U64{17}}
}

// Example takes requests again.
func (*DrainRequest) Example() *DrainRequest { return &DrainRequest{Resume: true} }

// Example asks for changes.
func (*PrefixRequest) Example() *PrefixRequest { return &PrefixRequest{Since: 7} }

// Example is one block gained and one lost.
func (*PrefixReply) Example() *PrefixReply {
	return &PrefixReply{Serial: 9, Added: U64{4021837465091284}, Removed: U64{17}, Available: 1000}
}

// Example is two tokens of the first of two choices; the second has ended.
func (*Resumed) Example() *Resumed { return &Resumed{Counts: I32{2, -1}, Tokens: I32{261, 403}} }
