package compute

import "sync"

// weightsDigest is the checkpoint's digest as far as it is known.
type weightsDigest struct {
	once  sync.Once
	mu    sync.Mutex
	value string
	done  bool
}

// weightsState returns the digest, or that it is being computed: the first who asks begins that.
func (a *Actor) weightsState() (digest string, pending bool) {
	if a.cfg.Weights == nil {
		return "", false
	}
	w := &a.weights
	w.once.Do(func() {
		a.stopped.Go(func() {
			digest, err := a.cfg.Weights(a.ctx)
			if err != nil && a.ctx.Err() == nil {
				a.log.Warn().Err(err).Msg("the weights' digest is not known: recordings will not name it")
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.value, w.done = digest, true
		})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value, !w.done
}
