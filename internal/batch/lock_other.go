//go:build !unix

package batch

import "os"

// lock does nothing: this system has no such lock. Two runs must not share an output.
func lock(*os.File) error { return nil }
