package schemas

// Example is a journal's first batch.
func (*JournalBatch) Example() *JournalBatch {
	return &JournalBatch{Version: JournalVersion, Node: "node0", Build: "0.1.0", Number: 1, Started: 1_699_999_999_000_000_000, Entries: []JournalEntry{*(*JournalEntry)(nil).Example()}}
}

// Example is one entry.
func (*JournalEntries) Example() *JournalEntries {
	return &JournalEntries{Entries: []JournalEntry{*(*JournalEntry)(nil).Example()}}
}

// Example is the arrival of a request.
func (*JournalEntry) Example() *JournalEntry {
	return &JournalEntry{Actor: "scheduler.replica0", UnixNs: 1_700_000_000_000_000_000, MonoNs: 1_500_000, Scheduler: (*SchedulerStep)(nil).Example()}
}

// Example is the arrival of a request, which makes the scheduler ask memory.
func (*SchedulerStep) Example() *SchedulerStep {
	return &SchedulerStep{NowNs: 1_700_000_000_000_000_000, Event: EventSubmit, Submit: (*SubmitRequest)(nil).Example(),
		Reserve: (*ReserveRequest)(nil).Example(), Accepted: (*SubmitReply)(nil).Example()}
}

// Example is a first token.
func (*Emissions) Example() *Emissions {
	return &Emissions{Seq: U64{exampleSeq}, Index: I32{0}, Token: I32{261}, Finish: U8{0}}
}

// Example is a scheduler with one sequence.
func (*SchedulerCheckpoint) Example() *SchedulerCheckpoint {
	return &SchedulerCheckpoint{Info: *(*EngineInfo)(nil).Example(), ContextMax: 2048, RecoveriesMax: 3, StepTimeMaxMs: 300_000, RecentlyDoneMax: 8192, Epoch: 2, Step: 1,
		Arrivals: 1, Requests: []SubmitRequest{*(*SubmitRequest)(nil).Example()}, Seqs: []SeqCheckpoint{*(*SeqCheckpoint)(nil).Example()}}
}

// Example is a sequence with one token.
func (*SeqCheckpoint) Example() *SeqCheckpoint {
	return &SeqCheckpoint{Seq: SeqID(exampleSeq), ArrivedNs: 1_700_000_000_000_000_000, MaxTokens: 16, Output: I32{261}, Started: true, Preemptions: 1}
}

// Example asks for a checkpoint.
func (*CheckpointRequest) Example() *CheckpointRequest { return &CheckpointRequest{} }

// Example is the second epoch.
func (*CheckpointReply) Example() *CheckpointReply {
	return &CheckpointReply{Epoch: 2, NowNs: 1_700_000_000_000_000_000, Seqs: 1}
}

// Example is an acknowledged message.
func (*Delivery) Example() *Delivery {
	return &Delivery{Subject: "inf.v1.tokenizer.tokens.tokenizer0.reply", Message: U8{0x90}}
}

// Example is a chat.
func (*ClientRequest) Example() *ClientRequest {
	return &ClientRequest{Request: SeqID(exampleSeq).Request(), API: "chat", Body: `{"messages":[{"role":"user","content":"Hi"}]}`, Parts: U64{uint64(SeqID(exampleSeq).Request())}}
}

// Example is a complete answer.
func (*ClientAnswer) Example() *ClientAnswer {
	return &ClientAnswer{Request: SeqID(exampleSeq).Request(), PromptTokens: 3, OutputTokens: 16, TookNs: 21_000_000}
}
