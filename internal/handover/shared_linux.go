package handover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// segmentSlots is how many frames a segment holds: one is read while the next is written.
const segmentSlots = 2

// seals keep a segment's size as both sides have mapped it: else the sender could make the receiver's reads fail with SIGBUS.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// machine tells whether two processes run on one, and under one run of its kernel.
var machine = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
})

// segment is memory that two processes have mapped, in slots of equal size.
type segment struct {
	file *os.File // the sender's; nil at the receiver
	mem  []byte
}

func (s *segment) slot(frame int) []byte {
	n := len(s.mem) / segmentSlots
	at := frame % segmentSlots * n
	return s.mem[at : at+n : at+n]
}

// newSegment makes one. It has no name, and is gone with the last process that has it.
func newSegment(slotBytes int) (*segment, error) {
	fd, err := unix.MemfdCreate("troupe-kv", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("handover: memfd: %w", err)
	}
	s := &segment{file: os.NewFile(uintptr(fd), "troupe-kv")}
	if err = unix.Ftruncate(fd, int64(slotBytes)*segmentSlots); err == nil {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err == nil {
			s.mem, err = unix.Mmap(fd, 0, slotBytes*segmentSlots, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("handover: a segment of %d bytes: %w", slotBytes*segmentSlots, err)
	}
	return s, nil
}

func (s *segment) close() {
	if s.mem != nil {
		_ = unix.Munmap(s.mem) // it was mapped
	}
	if s.file != nil {
		_ = s.file.Close() // nothing was written through it
	}
}

// send gives the other side the segment.
func (s *segment) send(conn *net.UnixConn) error {
	var buffer [headerBytes]byte
	h := header{kind: kindShared, count: segmentSlots, length: uint32(len(s.mem) / segmentSlots)}
	_, _, err := conn.WriteMsgUnix(h.encode(&buffer), unix.UnixRights(int(s.file.Fd())), nil)
	return err
}

// descriptor is a file that came over a socket; 0 is none.
type descriptor int

// readDescriptor fills b, and takes the file that comes with it, if any.
func readDescriptor(conn *net.UnixConn, b []byte) (descriptor, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	n, rightsBytes, flags, _, err := conn.ReadMsgUnix(b, rights)
	if err != nil {
		return 0, err
	}
	file := descriptor(0)
	messages, err := unix.ParseSocketControlMessage(rights[:rightsBytes])
	for i := range messages {
		files, ferr := unix.ParseUnixRights(&messages[i])
		err = errors.Join(err, ferr)
		for _, fd := range files {
			unix.CloseOnExec(fd)
			file.discard()
			file = descriptor(fd)
		}
	}
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more than one file came over the socket")
	}
	if err == nil && n < len(b) {
		err = fmt.Errorf("a header of %d bytes", n)
	}
	if err != nil {
		file.discard()
		return 0, err
	}
	return file, nil
}

func (d descriptor) discard() {
	if d != 0 {
		_ = unix.Close(int(d)) // it is not used
	}
}

// open maps a segment that the other side made. It takes the descriptor.
func (d descriptor) open(slotBytes int) (*segment, error) {
	defer d.discard()
	if d == 0 {
		return nil, errors.New("a shared segment without its file")
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(d), &stat); err != nil {
		return nil, err
	}
	got, err := unix.FcntlInt(uintptr(d), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals || stat.Size != int64(slotBytes)*segmentSlots {
		return nil, fmt.Errorf("a shared segment of %d bytes with seals %#x (%v); %d and %#x are expected", stat.Size, got, err, slotBytes*segmentSlots, seals)
	}
	mem, err := unix.Mmap(int(d), 0, slotBytes*segmentSlots, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &segment{mem: mem}, nil
}

// localListener is a unix socket for processes of this user. Its name is in no file system (unix(7), abstract), so that nothing
// is left of it when the process is killed.
type localListener struct {
	*net.UnixListener
	path string
}

func listenLocal() (*localListener, error) {
	path := "@troupe-kv-" + rand.Text()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &localListener{l, path}, nil
}

// Accept takes those of this user alone: whoever knows the name can connect.
func (l *localListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err = sameUser(conn); err == nil {
			return conn, nil
		}
		_ = conn.Close() // nothing was said
	}
}

// dialLocal connects to a listener of this user: when that has died, another user could have taken its name.
func dialLocal(ctx context.Context, path string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeMax}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := sameUser(conn.(*net.UnixConn)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// sameUser refuses the processes of other users.
func sameUser(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if own := unix.Geteuid(); int(peer.Uid) != own {
		return fmt.Errorf("handover: a process of user %d; expected one of %d", peer.Uid, own)
	}
	return nil
}
