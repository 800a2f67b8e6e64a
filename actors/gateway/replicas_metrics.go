package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	kv "github.com/troupe-engine/troupe/internal/handover"
)

// replicasCollector counts a cluster when somebody scrapes. The waiting sequences are what to scale replicas by.
type replicasCollector struct {
	rs       *replicas
	families []replicasMetric[replicasCount]
	models   []replicasMetric[replicasLoad] // by model
	ways     *prometheus.Desc
}

type replicasMetric[C any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*C) float64
}

// replicasCount is a moment's sum over the replicas.
type replicasCount struct {
	moved, lost                          uint64
	handed, handoversFailed, handedBytes uint64
	models                               map[string]*replicasLoad
}

// replicasLoad is that over those of one model.
type replicasLoad struct{ replicas, draining, waiting, running int }

func newReplicasCollector(rs *replicas) *replicasCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefixOurs+name, help, labels, nil)
	}
	type C = replicasCount
	type L = replicasLoad
	return &replicasCollector{rs: rs, models: []replicasMetric[L]{
		{desc("replicas", "Replicas that requests can go to.", labelModel), prometheus.GaugeValue, func(l *L) float64 { return float64(l.replicas) }},
		{desc("replicas_draining", "Of these, those that take no new requests.", labelModel), prometheus.GaugeValue, func(l *L) float64 { return float64(l.draining) }},
		{desc("replicas_requests_waiting", "Sequences that wait at any replica, by their reports.", labelModel), prometheus.GaugeValue, func(l *L) float64 { return float64(l.waiting) }},
		{desc("replicas_requests_running", "Sequences that run at any replica, by their reports.", labelModel), prometheus.GaugeValue, func(l *L) float64 { return float64(l.running) }},
	}, families: []replicasMetric[C]{
		{desc("replicas_lost_total", "Replicas that were given up: silent, cut off, stuck, restarted or leaving."), prometheus.CounterValue, func(c *C) float64 { return float64(c.lost) }},
		{desc("requests_moved_total", "Requests that went on at another replica."), prometheus.CounterValue, func(c *C) float64 { return float64(c.moved) }},
		{desc("requests_handed_over_total", "Requests that went on at a replica for decode."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handed) }},
		{desc("handovers_failed_total", "Hand-overs of KV that failed; it was computed again."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handoversFailed) }},
		{desc("handed_over_bytes_total", "KV that was handed over."), prometheus.CounterValue, func(c *C) float64 { return float64(c.handedBytes) }},
	}, ways: desc("handovers_total", "Hand-overs of KV by the way in which it came.", "way")}
}

// Describe implements prometheus.Collector.
func (c *replicasCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families {
		ch <- f.desc
	}
	for _, f := range c.models {
		ch <- f.desc
	}
	ch <- c.ways
}

// Collect implements prometheus.Collector.
func (c *replicasCollector) Collect(ch chan<- prometheus.Metric) {
	count := c.rs.count()
	for _, f := range c.families {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(&count))
	}
	for model, load := range count.models {
		for _, f := range c.models {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(load), model)
		}
	}
	for _, way := range kv.Ways {
		ch <- prometheus.MustNewConstMetric(c.ways, prometheus.CounterValue, float64(c.rs.g.HandedOverBy(way)), way)
	}
}

// count lists every model that was ever known, so that one that has lost its replicas shows 0 of them.
func (rs *replicas) count() replicasCount {
	models := map[string]*replicasLoad{}
	for _, m := range rs.g.models.all() {
		models[modelLabel(m.name)] = &replicasLoad{}
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.known {
		load := models[modelLabel(r.model.name)]
		if r.info == nil || load == nil {
			continue
		}
		load.replicas++
		if r.report.Draining {
			load.draining++
		}
		load.waiting += int(r.report.Waiting)
		load.running += int(r.report.Running)
	}
	return replicasCount{moved: rs.moved, lost: rs.losses, handed: rs.handed.requests, handoversFailed: rs.handed.failed, handedBytes: rs.handed.bytes, models: models}
}
