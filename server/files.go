package server

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// openFiles counts what the process has open, as the kernel lists it. The
// list costs time for each entry, so it is read again only when there may be
// more than were ever seen. nil counts nothing.
type openFiles struct {
	fd   int // of /proc/self/fd: once there is no descriptor left, it could not be opened
	most int64
	at   int64 // so many connections were open when they were counted
	buf  []byte
}

func newOpenFiles() *openFiles {
	fd, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &openFiles{fd: fd, at: -1, buf: make([]byte, 16<<10)}
}

func (d *openFiles) close() {
	if d != nil {
		unix.Close(d.fd)
	}
}

// seen gives the most so far; connections are open now.
func (d *openFiles) seen(connections int64) int64 {
	if d == nil {
		return 0
	}
	if connections > d.at {
		d.at = connections
		d.count()
	}
	return d.most
}

// count lists them, the list's own included: it counts against the limit too.
func (d *openFiles) count() {
	if d == nil {
		return
	}
	if _, err := unix.Seek(d.fd, 0, 0); err != nil {
		return
	}
	n := int64(0)
	for {
		size, err := unix.Getdents(d.fd, d.buf)
		if err != nil || size <= 0 {
			break
		}
		n += entries(d.buf[:size])
	}
	d.most = max(d.most, n)
}

// entries counts the numbers in a block of struct linux_dirent64: . and .. are
// none.
func entries(b []byte) int64 {
	const length, name = 16, 19 // offsets of d_reclen and d_name
	n := int64(0)
	for len(b) > name {
		size := int(binary.NativeEndian.Uint16(b[length:]))
		if size <= name || size > len(b) {
			break
		}
		if b[name] != '.' {
			n++
		}
		b = b[size:]
	}
	return n
}
