package wire

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// slab holds the frames on the wire. It is mapped outside the Go heap: the
// kernel reads from it by address, and only what is used is ever touched,
// since the slot freed last is used first.
type slab struct {
	mem  []byte
	size int
	free []int32
	cap  int
}

func newSlab(slots, size int) (*slab, error) {
	mem, err := unix.Mmap(-1, 0, slots*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("wire: memory for %d frames of %d bytes: %w (lower max_frames)", slots, size, err)
	}
	s := &slab{mem: mem, size: size, free: make([]int32, slots), cap: slots}
	for i := range s.free {
		s.free[i] = int32(slots - 1 - i)
	}
	return s, nil
}

// take copies a frame in; false if there is no slot left.
func (s *slab) take(data []byte) (int32, bool) {
	n := len(s.free)
	if n == 0 {
		return 0, false
	}
	i := s.free[n-1]
	s.free = s.free[:n-1]
	copy(s.mem[int(i)*s.size:int(i+1)*s.size], data)
	return i, true
}

func (s *slab) at(i int32, n int32) []byte {
	return s.mem[int(i)*s.size : int(i)*s.size+int(n)]
}

func (s *slab) give(i int32) { s.free = append(s.free, i) }

func (s *slab) used() int { return s.cap - len(s.free) }

func (s *slab) close() error {
	if s.mem == nil {
		return nil
	}
	mem := s.mem
	s.mem = nil
	return unix.Munmap(mem)
}
