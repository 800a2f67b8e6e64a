package bench

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// watch tells what share of the processors others used while something ran: what is measured beside them is not what
// a program can do.
type watch struct {
	began time.Time
	busy  time.Duration // of all processors, by everybody
	known bool
}

func beginWatch() watch {
	busy, known := machineBusy()
	return watch{time.Now(), busy, known}
}

// others returns the share, given the processor time that was one's own; 0 where the system does not say.
func (w watch) others(own time.Duration) float64 {
	busy, known := machineBusy()
	if !known || !w.known {
		return 0
	}
	all := time.Since(w.began) * time.Duration(runtime.NumCPU())
	return min(1, max(0, float64(busy-w.busy-own)/float64(max(all, 1))))
}

// machineBusy reads how long processors have not been idle from the first line of /proc/stat, in hundredths of a
// second: user, nice, system, idle, iowait, irq, softirq, steal.
func machineBusy() (time.Duration, bool) {
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
