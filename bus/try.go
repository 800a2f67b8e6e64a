package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Tried is what a message did to a copy of an actor's state. Its parts are pointers to messages, or nil.
type Tried struct {
	Reply, Effects, State any
}

// Trial tries one kind of message, given as JSON. It changes nothing but copies. Its error is what the actor would answer.
type Trial func(message json.RawMessage) (Tried, error)

// TrialOf makes a Trial of what takes a request.
func TrialOf[Req any](try func(*Req) (Tried, error)) Trial {
	return func(message json.RawMessage) (Tried, error) {
		req := new(Req)
		if err := decodeTried(message, req); err != nil {
			return Tried{}, &misfit{err}
		}
		return try(req)
	}
}

// misfit is an error of the one who tries, not of the actor that is tried.
type misfit struct{ reason *schemas.Error }

func (m *misfit) Error() string { return m.reason.Error() }

// HandleTry serves what tries messages on an actor, by verb, and what says how it is: reasons lists why it cannot do its
// work. Call before Start.
func HandleTry(a *Actor, mb Mailbox, trials map[string]Trial, reasons func() []string) {
	Handle(a, schemas.Try(a.service), mb, func(_ context.Context, req *schemas.TryRequest) (*schemas.TryReply, error) {
		return try(a, req, trials)
	})
	Handle(a, schemas.Health(a.service), mb, func(context.Context, *schemas.InfoRequest) (*schemas.ActorHealth, error) {
		why := reasons()
		return &schemas.ActorHealth{Actor: a.Name(), Healthy: len(why) == 0, Reasons: why}, nil
	})
}

// try runs a trial. A panic is a finding, and harms only the copy.
func try(a *Actor, req *schemas.TryRequest, trials map[string]Trial) (reply *schemas.TryReply, err error) {
	trial := trials[req.Verb]
	if trial == nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "try", "verb is %.40q; expected one of %s", req.Verb, strings.Join(slices.Sorted(maps.Keys(trials)), ", ")).
			WithParam("verb").WithHint("/debug/%s/examples has a message for each", a.service)
	}
	defer func() {
		if cause := recover(); cause != nil {
			reply, err = nil, schemas.Errorf(schemas.KindInternal, "try", "the copy panicked: %v", cause).WithHint("this is a bug: please report it with the message")
		}
	}()
	tried, failed := trial(req.Message)
	var wrong *misfit
	if errors.As(failed, &wrong) {
		return nil, wrong.reason
	}
	reply = &schemas.TryReply{Verb: req.Verb}
	if failed != nil {
		reply.Error = schemas.AsError(failed, req.Verb)
	}
	for _, part := range []struct {
		to   *json.RawMessage
		from any
	}{{&reply.Reply, tried.Reply}, {&reply.Effects, tried.Effects}, {&reply.State, tried.State}} {
		if from := reflect.ValueOf(part.from); !from.IsValid() || from.Kind() == reflect.Pointer && from.IsNil() {
			continue
		}
		if *part.to, err = json.Marshal(part.from); err != nil {
			return nil, schemas.Errorf(schemas.KindInternal, "try", "%T: %v", part.from, err)
		}
	}
	return reply, nil
}

// decodeTried reads a message's fields one by one, so that an error names the field.
func decodeTried(message json.RawMessage, to any) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "try", param+" "+format, args...).WithParam(param)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(message, &fields); err != nil || fields == nil {
		return bad("message", "is %.40q; expected an object", message)
	}
	v := reflect.ValueOf(to).Elem()
	known := map[string]reflect.Value{}
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			known[name] = v.Field(i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field, ok := known[name]
		if !ok {
			return bad("message."+clipName(name), "is unknown; expected one of %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		d := json.NewDecoder(bytes.NewReader(fields[name]))
		d.DisallowUnknownFields()
		if err := d.Decode(field.Addr().Interface()); err != nil && err != io.EOF {
			return misread(bad, "message."+name, err)
		}
	}
	return nil
}

// misread names the field within a field that cannot be read, as far as that is known.
func misread(bad func(param, format string, args ...any) *schemas.Error, at string, err error) *schemas.Error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		at += "." + wrong.Field
	}
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
		if plain, e := strconv.Unquote(name); e == nil {
			return bad(at+"."+clipName(plain), "is unknown")
		}
	}
	return bad(at, "cannot be read: %.200v", err)
}

func clipName(name string) string {
	if len(name) > 40 {
		return fmt.Sprintf("%.40q", name)
	}
	return name
}
