package scheduler

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func questionTo(n int, subject string) *Question {
	r := (*schemas.RankRequest)(nil).Example()
	r.Seq = make(schemas.U64, n)
	return &Question{Request: r, Subject: subject, Limit: 2 * time.Second}
}

// TestWhatPoliciesMayAnswer: any bytes are an order or an error of the right kind.
func TestWhatPoliciesMayAnswer(t *testing.T) {
	node, err := bus.Start(bus.Options{Listen: "127.0.0.1:0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	good, err := schemas.MarshalMap(&schemas.RankReply{Number: 7, Order: schemas.I32{1, 0}})
	if err != nil {
		t.Fatal(err)
	}
	refusal := func(code string) nats.Header {
		return nats.Header{micro.ErrorCodeHeader: {code}, micro.ErrorHeader: {"no"}}
	}
	for name, c := range map[string]struct {
		header nats.Header
		data   []byte
		kind   schemas.Kind // "" is an order
		want   string
	}{
		"msgpack":               {nil, good, "", ""},
		"JSON":                  {nats.Header{"Content-Type": {"application/json"}}, []byte(`{"number":7,"order":[1,0]}`), "", ""},
		"JSON without a header": {nil, []byte(` {"number":7,"order":[1,0]}`), "", ""},
		"JSON and more":         {nil, []byte(`{"number":7,"order":[1,0]}{}`), schemas.KindInvalid, "data after the message"},
		"an unknown field":      {nil, []byte(`{"number":7,"ordre":[1,0]}`), schemas.KindInvalid, "unknown field"},
		"nothing":               {nil, nil, schemas.KindInvalid, "cannot be read"},
		"a hostile length":      {nil, []byte("\xdd\xff\xff\xff\xff"), schemas.KindInvalid, "cannot be read"},
		"too much":              {nil, make([]byte, 5000), schemas.KindInvalid, "5000 bytes; expected at most"},
		"a refusal":             {refusal("400"), nil, schemas.KindInvalid, "error 400: no"},
		"a failure":             {refusal("503"), nil, schemas.KindInternal, "error 503: no"},
		"a code that is none":   {refusal("x"), nil, schemas.KindInternal, "error x: no"},
	} {
		sub, err := node.Conn().Subscribe("lab.rank", func(m *nats.Msg) {
			reply := nats.NewMsg(m.Reply)
			if c.header != nil {
				reply.Header = c.header
			}
			reply.Data = c.data
			_ = node.Conn().PublishMsg(reply)
		})
		if err != nil {
			t.Fatal(err)
		}
		o := Ask(t.Context(), node.Conn(), questionTo(2, "lab.rank"))
		switch {
		case c.kind == "" && (o.Error != nil || CheckOrder(o.Reply, 7, 2) != nil):
			t.Errorf("%s: %+v, %v", name, o.Reply, o.Error)
		case c.kind != "" && (o.Error == nil || o.Reply != nil || o.Error.Kind != c.kind || !strings.Contains(o.Error.Detail, c.want)):
			t.Errorf("%s: %+v, %v; want %s: %s", name, o.Reply, o.Error, c.kind, c.want)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	if o := Ask(t.Context(), node.Conn(), questionTo(2, "lab.rank")); o.Error == nil || o.Error.Kind != schemas.KindUnavailable {
		t.Errorf("nobody listens, but %+v", o)
	}
	if _, err := node.Conn().Subscribe("lab.silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	q := questionTo(2, "lab.silent")
	q.Limit = 5 * time.Millisecond
	if o := Ask(t.Context(), node.Conn(), q); o.Error == nil || o.Error.Kind != schemas.KindTimeout || o.TripNs < 5e6 || o.TripNs > 1e9 {
		t.Errorf("nobody answers, but %+v", o)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if o := Ask(gone, node.Conn(), questionTo(2, "lab.silent")); o.Error == nil {
		t.Error("the wait does not end with its context")
	}
}

// TestAQuestionInJSON is what a person reads with nats sub.
func TestAQuestionInJSON(t *testing.T) {
	text, err := json.Marshal((*schemas.RankRequest)(nil).Example())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"version":1`, `"deadline_ms":[2147483647,4000,900]`, `"seq":["00000a0000000100"`, `"state":[1,0,0]`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
}

func FuzzRankReply(f *testing.F) {
	good, err := schemas.MarshalMap(&schemas.RankReply{Number: 7, Order: schemas.I32{1, 0}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"number":7,"order":[1,0]}`))
	f.Add([]byte("\x82\xa6number\x07\xa5order\x92\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		reply := &schemas.RankReply{}
		err := (&bus.Outside{Op: "rank", ReplyBytesMax: rankReplyBytes}).Read(&nats.Msg{Data: data}, reply)
		if err == nil && CheckOrder(reply, 7, 2) == nil && reply.Order[0]+reply.Order[1] != 1 {
			t.Fatalf("%v is taken for an order", reply.Order)
		}
	})
}
