// Policy swaps the scheduler's policy for one of its own, shortest prompt first, and shows what that changes:
// eight prompts, the longest first, arrive within milliseconds at an engine that runs one sequence at a time.
package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/schemas"
)

// shortestFirst serves short prompts before long ones, but none waits for ever: agingNs of waiting make up
// for one token of prompt.
type shortestFirst struct{}

const agingNs = 1_000_000

func (shortestFirst) Name() string { return "shortest-first" }

// Key orders sequences: the smaller goes first, and of equal ones the earlier.
func (shortestFirst) Key(s *scheduler.Sequence, _ int64) int64 {
	return s.ArrivedNs() + int64(s.PromptTokens())*agingNs
}

func init() {
	scheduler.RegisterPolicy("shortest-first", func() scheduler.Policy { return shortestFirst{} })
}

func main() {
	for _, policy := range []string{"fcfs", "shortest-first"} {
		fmt.Printf("%-15s finished with prompts of %v words\n", policy, order(policy))
	}
}

// order serves the prompts under a policy and returns their lengths in the order in which they finished.
func order(policy string) (lengths []int) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Policy, opts.SequencesMax = "none", "none", policy, 1
	engine, err := troupe.Open(context.Background(), opts, zerolog.Nop(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	var mu sync.Mutex
	var all sync.WaitGroup
	for _, words := range []int{400, 350, 300, 250, 200, 150, 100, 50} {
		all.Go(func() {
			tokens := int64(8)
			request := troupe.GenerateRequest{Prompt: strings.Repeat(" ship", words), GenerationParams: schemas.GenerationParams{MaxTokens: &tokens}}
			for _, err := range engine.Generate(context.Background(), request) {
				if err != nil {
					log.Fatal(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			lengths = append(lengths, words)
		})
		time.Sleep(2 * time.Millisecond) // so that they arrive in this order
	}
	all.Wait()
	return lengths
}
