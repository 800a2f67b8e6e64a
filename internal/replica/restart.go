package replica

// RestartMemory replaces the memory manager by a new one that knows nothing, as if its process had died and
// come back. The scheduler finds out and recomputes what ran.
func (r *Replica) RestartMemory() error {
	r.memory.Stop()
	fresh, err := r.newMemory()
	if err != nil {
		return err
	}
	r.memory = fresh
	return fresh.Start()
}

// RestartCompute does the same to the computation manager; steps that were queued are lost. The model stays
// on the device.
func (r *Replica) RestartCompute() error {
	r.compute.Stop()
	r.compute = r.newCompute()
	return r.compute.Start()
}
