// Command slow forwards TCP connections with a delay in each direction, for kernels that cannot delay their own
// network: slow LISTEN TARGET DELAY.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/troupe-engine/troupe/internal/link"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: slow LISTEN TARGET DELAY, as slow 127.0.0.1:9000 10.0.0.7:7422 1ms")
		os.Exit(2)
	}
	delay, err := time.ParseDuration(os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "slow:", err)
		os.Exit(2)
	}
	k, err := link.Listen(os.Args[1], os.Args[2], 1)
	if err != nil {
		fmt.Fprintln(os.Stderr, "slow:", err)
		os.Exit(1)
	}
	k.SetDelay(delay, 0)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	k.Close()
}
