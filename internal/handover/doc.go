// Package handover carries KV blocks from the replica that computed them to one that goes on with them, outside of the bus:
// from device to device between processes of one machine whose devices reach each other's memory, otherwise through shared memory
// there, and over TCP between machines.
//
//	wire.go          what is said on a connection
//	server.go        the side that has the blocks: offers, listeners, what it sends
//	client.go        the side that wants them
//	device.go        a segment on the sender's device that the receiver has mapped (CUDA IPC)
//	shared_linux.go  a segment of memory that both have mapped (memfd); shared_other.go for systems without
//
// Both sides have agreed over the bus on what is handed over (schemas.OfferKV): the receiver gets a token that is good
// for one connection and a few seconds, which is all that a stranger lacks. A connection then goes one way:
//
//	receiver  "TKV1" token[32]
//	sender    [shared segment]  blocks  blocks  …  end, or sorry with the reason
//
// Blocks come in order, in frames of whole blocks with a header of 28 bytes: kind, first block, count, bytes, and CRC-32C of the
// payload and of the header. Within a payload the layers' pools follow each other, each with its part of all blocks of
// the frame. With a shared segment the payload is in one of its slots, and the receiver says with one byte each when it has
// taken it.
//
// A receiver whose device can map memory of other processes says so where it connects on the sender's machine, and the sender
// lends it a segment on its device instead, or says why not:
//
//	receiver  "TKD1" token[32]  places                    mapped (1 byte)
//	sender                              segment or a reason               mark  mark  …  end
//
// If either cannot, what follows is as above. Frames then are marks: see device.go. Whatever is wrong ends the connection; what came whole before is good, and what did not is computed again.
//
// Beside the path. In: blocks of actors/compute. Out: the same blocks. Next: actors/compute of another replica.
package handover
