package memory

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/troupe-engine/troupe/schemas"
)

// TestStories runs testdata/*.txt. Commands:
//
//	pool blocks=4 size=2 [cache=off]
//	reserve step=1 [epoch=1] [release=(a,b)] [learn=(a:7,8 b:9)] [admit=(a:1,2,3 b:1,2,3/fork=a/salt=5)]
//	        [rows=(a:3 b:1!)] [budget=N] [victims=(b,a)]
//	state
//
// Sequences are letters. A row is sequence:want, with ! if it may preempt.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var core *Core
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "pool":
				var err error
				if core, err = NewCore(storyConfig(d)); err != nil {
					return "error: " + err.Error() + "\n"
				}
				return ""
			case "reserve":
				req := storyRequest(t, d)
				reply, err := core.Reserve(req)
				if cerr := core.Check(); cerr != nil {
					d.Fatalf(t, "%v", cerr)
				}
				if err != nil {
					return "error: " + err.Error() + "\n"
				}
				return printReply(req, reply)
			case "state":
				return printState(core.State())
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func storyConfig(d *datadriven.TestData) Config {
	cfg := Config{Blocks: 8, BlockSize: 2}
	for _, arg := range d.CmdArgs {
		n, _ := strconv.Atoi(strings.Join(arg.Vals, ""))
		switch arg.Key {
		case "blocks":
			cfg.Blocks = int32(n)
		case "size":
			cfg.BlockSize = int32(n)
		case "cache":
			cfg.PrefixCacheOff = arg.Vals[0] == "off"
		case "eviction":
			cfg.Eviction = arg.Vals[0]
		}
	}
	return cfg
}

func storyRequest(t *testing.T, d *datadriven.TestData) *schemas.ReserveRequest {
	req := &schemas.ReserveRequest{Epoch: 1, TokensMax: 1000}
	for _, arg := range d.CmdArgs {
		switch text := strings.Join(arg.Vals, ","); arg.Key {
		case "step":
			req.Step = schemas.StepID(number(t, d, text))
		case "epoch":
			req.Epoch = schemas.Epoch(number(t, d, text))
		case "budget":
			req.TokensMax = number(t, d, text)
		case "release":
			req.Release = letters(text)
		case "victims":
			req.Victims = letters(text)
		case "learn":
			for _, f := range strings.Fields(text) {
				name, ids, _ := strings.Cut(f, ":")
				tokens := numbers(t, d, ids)
				req.LearnSeq = append(req.LearnSeq, letter(name))
				req.LearnCount = append(req.LearnCount, int32(len(tokens)))
				req.LearnTokens = append(req.LearnTokens, tokens...)
			}
		case "admit":
			for _, f := range strings.Fields(text) {
				req.Admit = append(req.Admit, admission(t, d, f))
			}
		case "rows":
			for _, f := range strings.Fields(text) {
				name, want, _ := strings.Cut(f, ":")
				mayPreempt := byte(strings.Count(want, "!"))
				req.Seq = append(req.Seq, letter(name))
				req.WantMax = append(req.WantMax, number(t, d, strings.TrimSuffix(want, "!")))
				req.MayPreempt = append(req.MayPreempt, mayPreempt)
			}
		case "may_preempt": // to break the column
			req.MayPreempt = schemas.U8{byte(number(t, d, text))}
		case "learn_count": // to break the column
			req.LearnCount = numbers(t, d, text)
		case "want_max": // to break the column
			req.WantMax = numbers(t, d, text)
		default:
			d.Fatalf(t, "unknown argument %s", arg.Key)
		}
	}
	return req
}

// admission reads a:1,2,3/fork=b/salt=4.
func admission(t *testing.T, d *datadriven.TestData, text string) schemas.Admission {
	parts := strings.Split(text, "/")
	name, ids, _ := strings.Cut(parts[0], ":")
	a := schemas.Admission{Seq: schemas.SeqID(letter(name)), Tokens: numbers(t, d, ids)}
	for _, p := range parts[1:] {
		switch key, value, _ := strings.Cut(p, "="); key {
		case "fork":
			a.Fork = schemas.SeqID(letter(value))
		case "salt":
			a.Salt = uint64(number(t, d, value))
		default:
			d.Fatalf(t, "admission %s: unknown part %s", text, p)
		}
	}
	return a
}

func letter(s string) uint64 { return uint64(s[0]) }

func letters(s string) (ids schemas.U64) {
	for f := range strings.SplitSeq(s, ",") {
		ids = append(ids, letter(f))
	}
	return ids
}

func number(t *testing.T, d *datadriven.TestData, s string) int32 {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return int32(n)
}

func numbers(t *testing.T, d *datadriven.TestData, s string) (ns schemas.I32) {
	for f := range strings.SplitSeq(s, ",") {
		if f != "" {
			ns = append(ns, number(t, d, f))
		}
	}
	return ns
}

// printReply writes a line per row and one for the rest, leaving out what is zero.
func printReply(req *schemas.ReserveRequest, r *schemas.ReserveReply) string {
	var b strings.Builder
	blocks := r.Blocks
	for i, id := range req.Seq {
		fmt.Fprintf(&b, "%c: ", rune(id))
		if r.Granted[i] == 0 {
			fmt.Fprintf(&b, "no, at %d\n", r.Start[i])
			continue
		}
		fmt.Fprintf(&b, "%d at %d", r.Granted[i], r.Start[i])
		if r.Cached[i] > 0 {
			fmt.Fprintf(&b, " cached %d", r.Cached[i])
		}
		if n := r.BlockCount[i]; n > 0 {
			fmt.Fprintf(&b, " table[%d:]=%v", r.BlockFrom[i], []int32(blocks[:n]))
			blocks = blocks[n:]
		}
		b.WriteByte('\n')
	}
	for _, id := range r.Preempted {
		fmt.Fprintf(&b, "preempted %c\n", rune(id))
	}
	for i := 0; i < len(r.Copies); i += 2 {
		fmt.Fprintf(&b, "copy %d to %d\n", r.Copies[i], r.Copies[i+1])
	}
	fmt.Fprintf(&b, "free %d evictable %d of %d\n", r.Free, r.Evictable, r.Total)
	return b.String()
}

func printState(s *schemas.MemoryState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d step %d: %d blocks of %d tokens: free %d cached %d used %d shared %d findable %d\n",
		s.Epoch, s.Step, s.Total, s.BlockSize, s.Free, s.Cached, s.Used, s.Shared, s.PrefixHashed)
	fmt.Fprintf(&b, "hits %d/%d evictions %d copies %d preemptions %d policy %s\n",
		s.HitTokens, s.QueryTokens, s.Evictions, s.Copies, s.Preemptions, s.Policy)
	for _, t := range s.Tables {
		fmt.Fprintf(&b, "%c: %d placed in %v\n", rune(t.Seq), t.Placed, []int32(t.Blocks))
	}
	return b.String()
}
