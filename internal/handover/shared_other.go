//go:build !linux

package handover

import (
	"context"
	"errors"
	"net"
)

// Without memfd, blocks go by TCP.

const segmentSlots = 2

var errNoShared = errors.New("handover: there is no shared memory between processes on this system")

func machine() string { return "" }

type segment struct{}

func (*segment) slot(int) []byte              { return nil }
func (*segment) close()                       {}
func (*segment) send(*net.UnixConn) error     { return errNoShared }
func newSegment(int) (*segment, error)        { return nil, errNoShared }
func listenLocal() (*localListener, error)    { return nil, errNoShared }
func (descriptor) discard()                   {}
func (descriptor) open(int) (*segment, error) { return nil, errNoShared }

type descriptor struct{}

type localListener struct {
	*net.UnixListener
	path string
}

func readDescriptor(*net.UnixConn, []byte) (descriptor, error) { return descriptor{}, errNoShared }

func dialLocal(context.Context, string) (net.Conn, error) { return nil, errNoShared }
