package gateway

import (
	"github.com/prometheus/client_golang/prometheus"
)

// replicasCollector counts a cluster when somebody scrapes. The waiting sequences are what to scale replicas by.
type replicasCollector struct {
	rs       *replicas
	families []replicasMetric
}

type replicasMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s *replicasCount) float64
}

// replicasCount is a moment's sum over the replicas.
type replicasCount struct {
	replicas, draining, waiting, running int
	moved, lost                          uint64
	handed, handoversFailed, handedBytes uint64
}

func newReplicasCollector(rs *replicas) *replicasCollector {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(prefixOurs+name, help, nil, nil) }
	type C = replicasCount
	return &replicasCollector{rs, []replicasMetric{
		{desc("replicas", "Replicas that requests can go to."), prometheus.GaugeValue, func(c *C) float64 { return float64(c.replicas) }},
		{desc("replicas_draining", "Of these, those that take no new requests."), prometheus.GaugeValue, func(c *C) float64 { return float64(c.draining) }},
		{desc("replicas_requests_waiting", "Sequences that wait at any replica, by their reports."), prometheus.GaugeValue, func(c *C) float64 { return float64(c.waiting) }},
		{desc("replicas_requests_running", "Sequences that run at any replica, by their reports."), prometheus.GaugeValue, func(c *C) float64 { return float64(c.running) }},
		{desc("replicas_lost_total", "Replicas that were given up: silent, cut off, stuck, restarted or leaving."), prometheus.CounterValue, func(c *C) float64 { return float64(c.lost) }},
		{desc("requests_moved_total", "Requests that went on at another replica."), prometheus.CounterValue, func(c *C) float64 { return float64(c.moved) }},
		{desc("requests_handed_over_total", "Requests that went on at a replica for decode."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handed) }},
		{desc("handovers_failed_total", "Hand-overs of KV that failed; it was computed again."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handoversFailed) }},
		{desc("handed_over_bytes_total", "KV that was handed over."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handedBytes) }},
	}}
}

// Describe implements prometheus.Collector.
func (c *replicasCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *replicasCollector) Collect(ch chan<- prometheus.Metric) {
	count := c.rs.count()
	for _, f := range c.families {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&count))
	}
}

func (rs *replicas) count() replicasCount {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	c := replicasCount{moved: rs.moved, lost: rs.losses, handed: rs.handed.requests, handoversFailed: rs.handed.failed, handedBytes: rs.handed.bytes}
	for _, r := range rs.known {
		if r.info == nil {
			continue
		}
		c.replicas++
		if r.report.Draining {
			c.draining++
		}
		c.waiting += int(r.report.Waiting)
		c.running += int(r.report.Running)
	}
	return c
}
