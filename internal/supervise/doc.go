// Package supervise keeps a child process of the same program running: it starts it, tells it what it needs over a pipe,
// notices when it ends, is silent or says that it cannot go on, and starts it again, later each time. The child ends when
// its parent does, however that ends.
//
// Beside the path of a request: `troupe serve --isolate` runs its replica so. In: what the child is to run. Out: a process
// that runs it. Next: internal/replica, in the child.
package supervise
