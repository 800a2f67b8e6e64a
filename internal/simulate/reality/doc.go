// Package reality holds the simulator to a live engine: the same requests at the same times through both, with step
// costs that are measured in the same run, right before and after each load that is compared.
//
//	reality.go  what runs: parts of the profile and live loads in turn, repeated where others disturb them
//	compare.go  what the simulator makes of it, and how far that is from the engine
//	pace.go     how fast the machine was
//	text.go     the report for people
package reality
