package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// What a streamed token costs from the tokenizer's batch to the client's socket, with 16 streams at once.
func BenchmarkStreamedToken(b *testing.B) {
	const streams, tokens = 16, 60
	e := startEngine(b, recite)
	_, server := startGateway(b, e, nil)
	b.ReportAllocs()
	for b.Loop() {
		var wait sync.WaitGroup
		for range streams {
			wait.Go(func() {
				resp, err := server.Client().Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(fmt.Sprintf(`{%s,"max_tokens":%d,"stream":true}`, hello, tokens)))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
		wait.Wait()
		for len(e.submitted) > 0 {
			<-e.submitted
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*streams*tokens), "ns/token")
}

func BenchmarkEvent(b *testing.B) {
	a := newAnswer("chatcmpl-0000000000000100", 1, &job{api: chatAPI, stream: true, n: 1, model: "troupe-tiny", prompts: make([]schemas.EncodeRequest, 1)})
	s := &eventStream{}
	rows := []row{{text: " word"}}
	b.ReportAllocs()
	for b.Loop() {
		rows[0].tokens++
		events, _ := a.step(rows)
		s.add(events[0])
		s.buffer.Reset()
	}
}

func BenchmarkDeliver256Rows(b *testing.B) {
	e := startEngine(b, nil)
	g, _ := startGateway(b, e, nil)
	batch := batchOf()
	for range 256 {
		j := &job{api: completionAPI, serving: g.models.own, n: 1, prompts: make([]schemas.EncodeRequest, 1)}
		f := g.newFlight(context.Background(), g.newRequestID(), j)
		if err := g.requests.admit(f); err != nil {
			b.Fatal(err)
		}
		defer func() { f.abort(nil); f.free(); g.requests.remove(f) }()
		one := batchOf(delta{seq: f.id.Seq(0), text: " word"})
		batch.Seq, batch.Text, batch.Tokens = append(batch.Seq, one.Seq...), append(batch.Text, one.Text...), append(batch.Tokens, 0)
		batch.IDs, batch.Finish, batch.Cached = append(batch.IDs, 0), append(batch.Finish, 0), append(batch.Cached, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range batch.Tokens {
			batch.Tokens[i]++
		}
		ack, err := g.requests.deliver(batch, time.Now())
		if err != nil || len(ack.Forgotten) > 0 {
			b.Fatal(err, ack)
		}
		for _, p := range g.requests.parts {
			p.flight.take()
		}
	}
}
