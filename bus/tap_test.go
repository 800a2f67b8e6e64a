package bus

import (
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
)

// wantSequence checks that mirrored messages are numbered without a gap.
func wantSequence(t *testing.T, messages []*nats.Msg) {
	t.Helper()
	var last uint64
	for i, m := range messages {
		n, err := strconv.ParseUint(m.Header.Get(HeaderTapSequence), 10, 64)
		if err != nil || m.Header.Get(HeaderTapTime) == "" || m.Header.Get(HeaderTapNode) == "" {
			t.Fatalf("%s: headers %v", m.Subject, m.Header)
		}
		if i > 0 && n != last+1 {
			t.Errorf("%s: sequence number %d follows %d", m.Subject, n, last)
		}
		last = n
	}
}
