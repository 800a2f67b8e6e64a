package batch

import (
	"context"
	"errors"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Response is what an engine answered, be it an answer or an error.
type Response struct {
	Status     int // as over HTTP
	RequestID  string
	Body       []byte
	RetryAfter time.Duration // what a busy engine asks for; 0 if it does not say
}

// Transport carries requests to an engine. It is safe for concurrent use.
type Transport interface {
	// Ask sends the body of a request to one of URLs. An error means that no answer came: the engine
	// could not be reached, left, or did not finish before ctx ended.
	Ask(ctx context.Context, url string, body []byte) (*Response, error)
	// Info describes the engine; what it does not tell is zero. An error means that it is not there.
	Info(ctx context.Context) (*schemas.EngineInfo, error)
	Close()
}

// responseBytesMax bounds one answer in memory.
const responseBytesMax = 64 << 20

// errTooLarge is the error of an answer over responseBytesMax.
var errTooLarge = errors.New("batch: the answer is too large")
