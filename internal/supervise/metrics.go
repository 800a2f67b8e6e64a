package supervise

import "github.com/prometheus/client_golang/prometheus"

var (
	upDesc       = prometheus.NewDesc("troupe_replica_process_up", "1 if the replica's process is there and ready (isolate).", nil, nil)
	restartsDesc = prometheus.NewDesc("troupe_replica_process_restarts_total",
		"Times that the replica's process ended and was started again, by reason: exit, signal, device_lost, error, silent, start.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Supervisor) Describe(ch chan<- *prometheus.Desc) { ch <- upDesc; ch <- restartsDesc }

// Collect implements prometheus.Collector.
func (s *Supervisor) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := 0.0
	if s.up {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up)
	for _, r := range reasons {
		ch <- prometheus.MustNewConstMetric(restartsDesc, prometheus.CounterValue, float64(s.restarts[r]), r)
	}
}
