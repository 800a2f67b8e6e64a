// Package profile holds what steps cost on a device: measured over a grid of batch shapes, fitted by a model of a few
// terms, kept as a versioned JSON file. The simulator computes with it in virtual time.
//
//	shape.go     what the cost of a step depends on
//	profile.go   what a profile says
//	fit.go       terms from steps that ran
//	costs.go     the terms as schedulers take them
//	bucket/      profiles in a key-value bucket
//	pace.go      how even the pace of the steps was
//	file.go      profiles as files
//	measure/     steps of a live engine
package profile
