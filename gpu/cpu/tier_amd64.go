package cpu

func machineTiers() []*tier { return nil }

func processorName() string { return "amd64" }

func relax() {
	for range 16 {
		spinSink.Load()
	}
}
