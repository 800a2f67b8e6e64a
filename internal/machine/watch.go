package machine

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Watch tells what share of the processors others used while something ran: what is measured beside them is not what
// a program can do.
type Watch struct {
	began time.Time
	busy  time.Duration // of all processors, by everybody
	known bool
}

// Begin begins to watch.
func Begin() Watch {
	busy, known := allBusy()
	return Watch{time.Now(), busy, known}
}

// Others returns the share since then, given the processor time that was one's own; 0 where the system does not say.
func (w Watch) Others(own time.Duration) float64 {
	busy, known := allBusy()
	if !known || !w.known {
		return 0
	}
	all := time.Since(w.began) * time.Duration(runtime.NumCPU())
	return min(1, max(0, float64(busy-w.busy-own)/float64(max(all, 1))))
}

// allBusy reads how long processors have not been idle from the first line of /proc/stat, in hundredths of a
// second: user, nice, system, idle, iowait, irq, softirq, steal.
func allBusy() (time.Duration, bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	var ticks int64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, false
		}
		if i != 3 && i != 4 { // idle and waiting for a disk
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / 100), true
}
