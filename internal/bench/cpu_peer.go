package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// peer is llama.cpp's llama-bench, and llama-batched-bench where that is beside it.
type peer struct {
	bench, batched string
	threads        int
	version        string
}

// peerTime bounds one run of a peer.
const peerTime = 10 * time.Minute

// newPeer takes what --peer does: llama-bench=PATH.
func newPeer(ctx context.Context, spec string, threads int) (*peer, error) {
	path, ok := strings.CutPrefix(spec, "llama-bench=")
	if !ok {
		return nil, fmt.Errorf("bench: the peer is %q, want llama-bench=PATH", spec)
	}
	p := &peer{bench: path, threads: threads}
	text, _, err := p.output(ctx, path, "--version")
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	p.version = strings.TrimSpace("llama.cpp " + first)
	beside := filepath.Join(filepath.Dir(path), "llama-batched-bench")
	if _, err := os.Stat(beside); err == nil {
		p.batched = beside
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p, nil
}

// run returns the tokens per second of a test, or 0 if the peer has no program for it, and the processor time it took.
func (p *peer) run(ctx context.Context, file string, t *CPUTest) (rate float64, used time.Duration, err error) {
	number := strconv.Itoa
	if t.Sequences > 1 {
		if p.batched == "" {
			return 0, 0, nil
		}
		text, used, err := p.output(ctx, p.batched, "-m", file, "-t", number(p.threads), "-npp", number(t.Depth), "-ntg", number(t.Tokens),
			"-npl", number(t.Sequences), "-c", number(t.Sequences*(t.Depth+t.Tokens+1)), "-ub", number(cpuStepTokens), "--output-format", "jsonl")
		if err != nil {
			return 0, 0, err
		}
		rate, err = readBatched(text)
		return rate, used, err
	}
	prompt, decode := t.Tokens, 0
	if t.Kind == "decode" {
		prompt, decode = 0, t.Tokens
	}
	text, used, err := p.output(ctx, p.bench, "-m", file, "-t", number(p.threads), "-p", number(prompt), "-n", number(decode), "-d", number(t.Depth),
		"-ub", number(cpuStepTokens), "-r", "1", "-o", "json")
	if err != nil {
		return 0, 0, err
	}
	rate, err = readBench(text)
	return rate, used, err
}

// readBench reads what llama-bench -o json prints for one test.
func readBench(text []byte) (float64, error) {
	var list []struct {
		Rate float64 `json:"avg_ts"`
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) != 1 || list[0].Rate <= 0 {
		return 0, fmt.Errorf("bench: llama-bench printed no list of one test with avg_ts, but %.200q", text)
	}
	return list[0].Rate, nil
}

// readBatched reads what llama-batched-bench --output-format jsonl prints for one test.
func readBatched(text []byte) (float64, error) {
	for line := range bytes.Lines(text) {
		var r struct {
			Rate float64 `json:"speed_tg"`
		}
		if json.Unmarshal(line, &r) == nil && r.Rate > 0 {
			return r.Rate, nil
		}
	}
	return 0, fmt.Errorf("bench: llama-batched-bench printed no line with speed_tg, but %.200q", text)
}

// output runs a program and returns what it prints and the processor time it took; its error has the last of what
// it said.
func (p *peer) output(ctx context.Context, path string, args ...string) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		text := said.Bytes()
		const tailBytes = 400
		return nil, 0, fmt.Errorf("bench: %s: %w: %s", path, err, text[max(0, len(text)-tailBytes):])
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if out.Len() == 0 { // --version goes to standard error
		return said.Bytes(), used, nil
	}
	return out.Bytes(), used, nil
}
