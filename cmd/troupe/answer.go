package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// answer is one generated text and how long it took.
type answer struct {
	ID           string         `json:"id"`
	Text         string         `json:"text"`
	FinishReason string         `json:"finish_reason"`
	Usage        *schemas.Usage `json:"usage"`
	TTFTMs       float64        `json:"ttft_ms"`                  // from the request to the first text
	TokensPerSec float64        `json:"output_tokens_per_second"` // after the first; 0 of fewer than rateTokensMin
}

// rateTokensMin is how many tokens have a speed: a few may come in one piece, microseconds apart.
const rateTokensMin = 16

// stream sends a request over NATS and writes its answer to w, which may be nil, as it comes.
func stream(ctx context.Context, client *troupe.Client, r troupe.GenerateRequest, w io.Writer) (*answer, error) {
	a, began := &answer{}, time.Now()
	var first time.Duration
	var text strings.Builder
	safe := isTerminal(w)
	for d, err := range client.Generate(ctx, r) {
		if err != nil {
			return a, err
		}
		if a.ID = d.ID; d.Text != "" && first == 0 {
			first = time.Since(began)
		}
		text.WriteString(d.Text)
		if w != nil {
			out := d.Text
			if safe {
				out = printable(out)
			}
			if _, err := io.WriteString(w, out); err != nil {
				return a, err
			}
		}
		if d.Finish != "" {
			a.FinishReason = d.Finish
		}
		if d.Usage != nil {
			a.Usage = d.Usage
		}
	}
	a.Text, a.TTFTMs = text.String(), milliseconds(first)
	if a.Usage == nil {
		return a, schemas.Errorf(schemas.KindUnavailable, "generate", "the answer ended without its usage")
	}
	// The first token's time is the prompt's; the rest is the speed of decoding.
	if spent := time.Since(began) - first; a.Usage.CompletionTokens >= rateTokensMin && spent > 0 {
		a.TokensPerSec = float64(a.Usage.CompletionTokens-1) / spent.Seconds()
	}
	return a, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// summary is the line under an answer.
func (a *answer) summary() string {
	speed := ""
	if a.TokensPerSec > 0 {
		speed = fmt.Sprintf(" · %.0f tok/s", a.TokensPerSec)
	}
	return fmt.Sprintf("%d tokens%s · first token after %.1f ms", a.Usage.CompletionTokens, speed, a.TTFTMs)
}
