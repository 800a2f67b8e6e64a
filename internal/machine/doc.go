// Package machine tells how much of the processors a process used, and others beside it, so that measurements can say how
// quiet the machine was.
package machine
