package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// recording is a CUDA graph of launches. Its memory stays where it was: see Device.scratch.
type recording struct {
	d          *Device
	graph      uintptr // CUgraphExec
	selections uint64  // of the registry when it was made
}

// Record implements gpu.Recorder by capturing the device's stream.
func (d *Device) Record(launches func() error) (_ gpu.Recording, err error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	if d.recording {
		panic("cuda: Record within Record")
	}
	const relaxed = 2 // allocations are not part of it, and may happen
	if err := d.check("cuStreamBeginCapture", call(d.driver.cuStreamBeginCapture, d.stream, relaxed)); err != nil {
		return nil, err
	}
	d.recording = true
	r := &recording{d: d, selections: d.ops.Selections()}
	done := false
	defer func() {
		if !done { // a panic: leave the stream usable
			d.recording = false
			var graph uintptr
			call(d.driver.cuStreamEndCapture, d.stream, uintptr(unsafe.Pointer(&graph)))
		}
	}()
	err = launches()
	done, d.recording = true, false
	var graph uintptr
	status := call(d.driver.cuStreamEndCapture, d.stream, uintptr(unsafe.Pointer(&graph)))
	if err != nil {
		if graph != 0 {
			call(d.driver.cuGraphDestroy, graph)
		}
		return nil, err
	}
	if err := d.check("cuStreamEndCapture", status); err != nil {
		return nil, err
	}
	defer call(d.driver.cuGraphDestroy, graph)
	if err := d.check("cuGraphInstantiate", call(d.driver.cuGraphInstantiate, uintptr(unsafe.Pointer(&r.graph)), graph, 0)); err != nil {
		return nil, err
	}
	d.work.recordings++
	return r, nil
}

// Replay implements gpu.Recording.
func (r *recording) Replay() error {
	d := r.d
	if r.graph == 0 {
		panic("cuda: Replay of a freed recording")
	}
	if r.selections != d.ops.Selections() {
		return fmt.Errorf("%w: another implementation was selected", gpu.ErrStale)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.check("cuGraphLaunch", call(d.driver.cuGraphLaunch, r.graph, d.stream))
}

// Free implements gpu.Recording.
func (r *recording) Free() {
	d := r.d
	if r.graph == 0 {
		panic("cuda: a second Free of a recording")
	}
	if d.enter() == nil { // the end of a context frees its graphs
		call(d.driver.cuGraphExecDestroy, r.graph) // waits for a run of it
		d.leave()
	}
	r.graph = 0
	if d.work.recordings--; d.work.recordings == 0 {
		for _, b := range d.work.retired {
			d.heap.put(b)
		}
		d.work.retired = d.work.retired[:0]
	}
}

// errRecorded: what comes from the host would be recorded as it is now, or as its buffer is later.
var errRecorded = errors.New("cuda: an upload cannot be recorded")
