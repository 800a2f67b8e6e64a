package batch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// SyncEvery is how often the output is forced to the disk while it grows, and when a run ends. A process that
// is killed loses nothing that was written; a machine that loses power loses at most the lines of this time,
// which the next run asks again.
const SyncEvery = time.Second

// openInput opens a file that can be read twice.
func openInput(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, invalid("input", "%v", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file; a batch reads its input twice, so copy it to a file first")
	}
	if err != nil {
		_ = f.Close()
		return nil, invalid("input", "%s: %v", name, err)
	}
	return f, nil
}

// openOutput opens or creates the output and keeps other runs from it until it is closed.
func openOutput(name string, input *os.File) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, invalid("output", "%v", err)
	}
	if err := checkOutput(f, name, input); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func checkOutput(f *os.File, name string, input *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return schemas.AsError(err, "open "+name)
	}
	if !info.Mode().IsRegular() {
		return invalid("output", "%s is not a regular file", name).WithHint("an output is read again to go on after an interruption")
	}
	in, err := input.Stat()
	if err != nil {
		return schemas.AsError(err, "open input")
	}
	if os.SameFile(info, in) {
		return invalid("output", "%s is the input", name).WithHint("name another file with -o")
	}
	if err := lock(f); err != nil {
		return schemas.Errorf(schemas.KindUnavailable, opPlan, "%s is in use by another run (%v)", name, err).WithParam("output")
	}
	// Another run may have replaced the file between opening and locking it.
	now, err := os.Stat(name)
	if err != nil || !os.SameFile(info, now) {
		return schemas.Errorf(schemas.KindUnavailable, opPlan, "%s was replaced by another run", name).WithParam("output").WithHint("try again")
	}
	return nil
}

// prepare makes the output ready to be appended to: without a torn last line and without the failed lines that
// are asked again. It returns the file to write to.
func (p *plan) prepare(output *os.File) (*os.File, error) {
	if p.again > 0 {
		return p.rewrite(output)
	}
	if p.torn {
		if err := output.Truncate(p.tail); err != nil {
			return nil, schemas.AsError(err, "drop the torn last line of "+p.cfg.Output)
		}
	}
	return output, syncDir(p.cfg.Output) // the file may be new
}

// rewrite replaces the output, in one step, by a copy without the failed lines.
func (p *plan) rewrite(output *os.File) (_ *os.File, err error) {
	const op = "leave out failed lines"
	temp, err := os.OpenFile(p.cfg.Output+".retry", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return nil, schemas.AsError(err, op)
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	if err := lock(temp); err != nil {
		return nil, schemas.AsError(err, op)
	}
	if err := p.copyGood(output, temp); err != nil {
		return nil, schemas.AsError(err, op)
	}
	if err := temp.Sync(); err != nil {
		return nil, schemas.AsError(err, op)
	}
	if err := os.Rename(temp.Name(), p.cfg.Output); err != nil {
		return nil, schemas.AsError(err, op)
	}
	_ = output.Close() // the old file is no longer named
	return temp, syncDir(p.cfg.Output)
}

func (p *plan) copyGood(from io.ReadSeeker, to io.Writer) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := newLineReader(from, outputLineBytesMax)
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) || err == nil && !l.whole {
			return nil
		}
		if err != nil {
			return err
		}
		_, _, flag, ok := parseAnswered(l)
		if !ok {
			return fmt.Errorf("%s:%d changed while it was read", p.cfg.Output, l.number)
		}
		if flag == answeredFailed {
			continue
		}
		if _, err := to.Write(append(l.text, '\n')); err != nil {
			return err
		}
	}
}

// syncDir makes a file's name as durable as its content.
func syncDir(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return schemas.AsError(err, "sync directory")
	}
	defer d.Close()
	_ = d.Sync() // some file systems cannot; the content is safe all the same
	return nil
}
