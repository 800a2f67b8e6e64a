package machine

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// Watch tells what share of this process' processors others used while something ran: what is measured beside them is not
// what a program can do.
type Watch struct {
	began time.Time
	busy  busy
}

// busy is for how long processors have not been idle since the machine started, together, whoever used them.
type busy struct {
	time       time.Duration
	processors int // 0: the system does not say
}

// Begin begins to watch.
func Begin() Watch { return Watch{time.Now(), allBusy()} }

// Others returns the share since then, given the processor time that was one's own; 0 where the system does not say.
func (w Watch) Others(own time.Duration) float64 {
	now := allBusy()
	if now.processors == 0 || now.processors != w.busy.processors {
		return 0
	}
	all := time.Since(w.began) * time.Duration(now.processors)
	return min(1, max(0, float64(now.time-w.busy.time-own)/float64(max(all, 1))))
}

func allBusy() busy {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return busy{}
	}
	return parseStat(string(text), usable())
}

// parseStat reads the lines of /proc/stat (proc_stat(5)) about processors that are usable. In hundredths of a second they
// have user, nice, system, idle, iowait, irq, softirq, steal.
func parseStat(text string, usable func(processor int) bool) (b busy) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 9 {
			continue
		}
		number, isOne := strings.CutPrefix(fields[0], "cpu")
		processor, err := strconv.Atoi(number)
		if !isOne || err != nil || !usable(processor) { // the first line is about all of them
			continue
		}
		b.processors++
		for i, f := range fields[1:9] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return busy{}
			}
			if i != 3 && i != 4 { // idle and waiting for a disk
				b.time += time.Duration(ticks) * (time.Second / 100)
			}
		}
	}
	return b
}
