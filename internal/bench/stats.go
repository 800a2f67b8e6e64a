package bench

import (
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// quantile is the q-quantile of sorted values, 0 ≤ q ≤ 1, interpolated linearly as numpy.percentile does;
// 0 for no values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return quantile(sorted, 0.5)
}

func mean(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// deviation is the population's standard deviation, as numpy.std.
func deviation(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	m, sum := mean(values), 0.0
	for _, v := range values {
		sum += (v - m) * (v - m)
	}
	return math.Sqrt(sum / float64(len(values)))
}

// Machine says where figures come from. A high load average means that others worked there too.
type Machine struct {
	GoVersion string    `json:"go_version"`
	Platform  string    `json:"platform"`
	CPUs      int       `json:"cpus"` // that the process may use at once
	LoadStart []float64 `json:"load_average_start,omitempty"`
	LoadEnd   []float64 `json:"load_average_end,omitempty"` // over 1, 5 and 15 minutes; absent where unknown
}

func thisMachine() Machine {
	return Machine{GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.GOMAXPROCS(0), LoadStart: loadAverage()}
}

// loadAverage reads /proc/loadavg; nil where there is none.
func loadAverage() []float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return nil
	}
	load := make([]float64, 3)
	for i := range load {
		if load[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return nil
		}
	}
	return load
}
