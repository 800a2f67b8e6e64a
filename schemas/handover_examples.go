package schemas

// Example takes over two blocks from another replica.
func (*KVFetchRequest) Example() *KVFetchRequest {
	return &KVFetchRequest{From: "node-7f3a", Tokens: I32{1, 523, 88, 19}}
}

// Example is two blocks through shared memory.
func (*KVFetchReply) Example() *KVFetchReply {
	return &KVFetchReply{Held: 1, Blocks: 2, Bytes: 65536, Way: "shared memory", TookNs: 412000}
}

// Example asks for all blocks but the first.
func (*KVOfferRequest) Example() *KVOfferRequest {
	return &KVOfferRequest{Tokens: I32{1, 523, 88, 19}, First: 1, Identity: "5d41402abc4b2a76 f32 2x[16 2 16 8]"}
}

// Example is two blocks, to be had in two ways.
func (*KVOfferReply) Example() *KVOfferReply {
	return &KVOfferReply{Blocks: 2, Token: U8{7, 1, 255}, Machine: "5d41402abc4b2a76", Socket: "@troupe-kv-4GWQH2", TCP: []string{"10.0.0.7:7433"}}
}

// Example fills the second of two blocks; the first has been computed meanwhile.
func (*KVImportRequest) Example() *KVImportRequest {
	return &KVImportRequest{Epoch: 3, Step: 812, Ticket: 7, Blocks: I32{-1, 40}, Serial: 2}
}

// Example looks for a prefix.
func (*KVFindRequest) Example() *KVFindRequest { return &KVFindRequest{Tokens: I32{1, 523, 88, 19}} }

// Example is a prefix of two blocks.
func (*KVFindReply) Example() *KVFindReply {
	return &KVFindReply{Epoch: 3, Step: 812, Blocks: I32{4, 9}, Serials: U64{17, 18}}
}

// Example adopts the second and third block of a prefix.
func (*KVAdoptRequest) Example() *KVAdoptRequest {
	return &KVAdoptRequest{Tokens: I32{1, 523, 88, 19}, First: 1, Count: 2, Ticket: 7}
}

// Example is a prefix of which two blocks came.
func (*KVAdoptReply) Example() *KVAdoptReply { return &KVAdoptReply{Held: 3, Adopted: 2} }
