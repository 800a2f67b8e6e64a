// Package replay runs recorded actors again and tells where they decide differently.
//
//	scheduler.go  a scheduler's core is told what it was told, and each of its decisions compared with the recorded one
//	memory.go     the same for the memory manager that worked for it
//	engine.go     scheduler, memory and compute together, with the model: every token is computed again
//	explain.go    two decisions and their difference in words
//	into.go       the recorded requests are sent to a running engine, and its answers compared
//
// A replay starts at a checkpoint of the recording (schemas.SchedulerCheckpoint) and goes on to the next gap, where it
// waits for another.
package replay
