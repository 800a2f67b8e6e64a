package bus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// Outside is a program in any language that answers questions of the engine over NATS, such as a policy: msgpack maps or JSON
// both ways, and errors as NATS services have them.
type Outside struct {
	Op            string // in errors
	Subject       string
	JSON          bool          // ask in JSON
	Limit         time.Duration // for an answer
	ReplyBytesMax int
}

// AskOutside puts a question and waits for the answer. What it returns is unchecked but for its size and form. The error is
// KindUnavailable if nobody listens, KindTimeout if no answer came within the limit.
func AskOutside[Req, Resp any](ctx context.Context, conn *nats.Conn, o Outside, req *Req) (*Resp, *schemas.Error) {
	m := nats.NewMsg(o.Subject)
	var err error
	written := msgpackEncoding
	if o.JSON {
		written = jsonEncoding
		m.Data, err = written.encode(req)
	} else {
		m.Data, err = schemas.MarshalMap(req) // a map by field name: whoever reads it has no schemas
	}
	m.Header.Set(headerContentType, written.contentType())
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, o.Op, "encode the question: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	reply, err := conn.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, schemas.Errorf(schemas.KindUnavailable, o.Op, "nobody answers on %s", o.Subject)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return nil, schemas.Errorf(schemas.KindTimeout, o.Op, "no answer on %s within %s", o.Subject, o.Limit)
	case err != nil:
		return nil, schemas.Errorf(schemas.KindUnavailable, o.Op, "%s: %v", o.Subject, err)
	}
	r := new(Resp)
	if invalid := o.Read(reply, r); invalid != nil {
		return nil, invalid
	}
	return r, nil
}

// Read takes an answer, or the error it is.
func (o *Outside) Read(m *nats.Msg, r any) *schemas.Error {
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" || m.Header.Get(micro.ErrorHeader) != "" {
		status, err := strconv.Atoi(code)
		if err != nil {
			status = 500
		}
		kind := schemas.KindOfStatus(status)
		if kind == schemas.KindTimeout || kind == schemas.KindUnavailable { // these are said of it, not by it
			kind = schemas.KindInternal
		}
		return schemas.Errorf(kind, o.Op, "the policy answers with error %.20s: %.200s", code, m.Header.Get(micro.ErrorHeader))
	}
	if len(m.Data) > o.ReplyBytesMax {
		return schemas.Errorf(schemas.KindInvalid, o.Op, "the answer is %d bytes; expected at most %d", len(m.Data), o.ReplyBytesMax)
	}
	err := errors.New("it is empty")
	if len(m.Data) > 0 {
		err = encodingOf(m.Header.Get(headerContentType), m.Data).decode(m.Data, r)
	}
	if err != nil {
		return schemas.Errorf(schemas.KindInvalid, o.Op, "the answer cannot be read: %.200v", err)
	}
	return nil
}

// OutsideSubject is where such a program is asked: prefix and the name, if that is plain, otherwise the subject that it is. It must not
// be one on which others listen. param is what errors call it.
func OutsideSubject(prefix, name, param string) (string, error) {
	subject := name
	if !strings.Contains(subject, ".") {
		subject = prefix + name
	}
	tail, ours := strings.CutPrefix(subject, prefix)
	why := ""
	switch {
	case name == "" || ours && tail == "":
		why = "is empty"
	case strings.ContainsAny(subject, "*> \t\r\n\x00") || strings.Contains(subject, "..") || strings.HasPrefix(subject, ".") || strings.HasSuffix(subject, "."):
		why = "is no plain subject"
	case !ours && (strings.HasPrefix(subject, "inf.") || strings.HasPrefix(subject, "tap.") || strings.HasPrefix(subject, "peek.") ||
		strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "_")):
		why = "belongs to others"
	default:
		return subject, nil
	}
	return "", schemas.Errorf(schemas.KindInvalid, "policy", "the policy's subject %.80q %s", name, why).WithParam(param).
		WithHint("choose a NAME, for %sNAME, or a subject of your own", prefix)
}
