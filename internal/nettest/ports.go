// Package nettest helps tests that need the network.
package nettest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Ports are n different ports of loopback that nobody listens on. They lie below those that kernels give to connections by
// themselves (from 32768 on Linux, 49152 elsewhere): those may be taken again before they are used.
func Ports(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range 1000 {
		port := 10000 + rand.IntN(22768)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // not before all are found: they differ
		if ports = append(ports, port); len(ports) == n {
			return ports
		}
	}
	t.Fatalf("of 1000 ports, %d are free; %d are needed", len(ports), n)
	return nil
}
