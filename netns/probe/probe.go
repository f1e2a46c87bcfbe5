// Package probe reads what the kernel says about one network namespace, and
// asks nothing of the programs inside it.
//
// It believes the kernel's own counters and socket tables, through
// descriptors opened once inside the namespace and read from anywhere
// afterwards, so that a sample costs microseconds and enters no namespace.
// An answer that is cut short or cannot be parsed is an error, never a
// smaller number. It keeps no history and no timer: when to look is the
// caller's affair.
package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Probe reads one network namespace. Its methods may be called from any
// thread and from several goroutines; they take turns.
type Probe struct {
	mu       sync.Mutex
	snmp     *os.File
	netstat  *os.File
	sockstat *os.File
	diag     *diag
	text     []byte // of the last /proc read
	census   census
}

// Open opens a probe on the network namespace of the calling thread, which
// must be locked if it is not the process's own. All descriptors are
// close-on-exec.
func Open() (*Probe, error) {
	p := &Probe{text: make([]byte, 16<<10)}
	var err error
	for _, f := range []struct {
		name string
		file **os.File
	}{{"snmp", &p.snmp}, {"netstat", &p.netstat}, {"sockstat", &p.sockstat}} {
		// thread-self, not self: the main thread may be in another namespace.
		// The open file holds the namespace (fs/proc/proc_net.c), whoever reads it.
		if *f.file, err = openProc("/proc/thread-self/net/" + f.name); err != nil {
			p.Close()
			return nil, fmt.Errorf("probe: %w; is /proc mounted?", err)
		}
	}
	if p.diag, err = openDiag(0); err != nil {
		p.Close()
		return nil, fmt.Errorf("probe: %w", err)
	}
	return p, nil
}

func openProc(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Close closes the descriptors. It may be called twice.
func (p *Probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, f := range []**os.File{&p.snmp, &p.netstat, &p.sockstat} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	if p.diag != nil {
		errs = append(errs, p.diag.close())
		p.diag = nil
	}
	return errors.Join(errs...)
}

// errClosed is what a closed probe answers.
var errClosed = errors.New("probe: it is closed")

// read gives the whole of f, in a buffer that the next read overwrites. Each
// pread at offset 0 makes the kernel write the file anew.
func (p *Probe) read(f *os.File) ([]byte, error) {
	if f == nil {
		return nil, errClosed
	}
	for {
		n, err := f.ReadAt(p.text, 0)
		if err == io.EOF {
			return p.text[:n], nil
		}
		if err != nil {
			return nil, fmt.Errorf("probe: %w", err)
		}
		// Full: there may be more.
		p.text = make([]byte, 2*len(p.text))
	}
}

// Counters gives every counter of /proc/net/snmp and netstat, named as nstat
// prints them: TcpActiveOpens, TcpExtTCPTimeouts. They count from the
// namespace's making; subtract an earlier reading. Some are gauges
// (TcpCurrEstab) or constants (IpDefaultTTL).
func (p *Probe) Counters() (map[string]int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := make(map[string]int64, 512)
	err := p.eachCounter(func(group, name []byte, v int64) {
		m[string(group)+string(name)] = v
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Sample reads the named counters into values, without allocating: for what
// is read every 100 ms. The names are nstat's, or short ones as for Counter.
// One that the kernel does not have is an error.
func (p *Probe) Sample(names []string, values []int64) error {
	if len(values) != len(names) {
		return fmt.Errorf("probe: room for %d values of %d counters", len(values), len(names))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range values {
		values[i] = unread
	}
	rank := make([]uint8, 0, 64)
	rank = append(rank, make([]uint8, len(names))...)
	err := p.eachCounter(func(group, name []byte, v int64) {
		for i, want := range names {
			if r := match(want, group, name); r > rank[i] {
				rank[i], values[i] = r, v
			}
		}
	})
	if err != nil {
		return err
	}
	for i, r := range rank {
		if r == 0 {
			return fmt.Errorf("probe: the kernel has no counter %q; nstat -az lists those it has", names[i])
		}
	}
	return nil
}

const unread = -1 << 63

func (p *Probe) eachCounter(f func(group, name []byte, v int64)) error {
	for _, file := range []*os.File{p.snmp, p.netstat} {
		text, err := p.read(file)
		if err != nil {
			return err
		}
		if err := EachCounter(text, f); err != nil {
			return fmt.Errorf("probe: %s: %w", file.Name(), err)
		}
	}
	return nil
}

// Sockstat reads /proc/net/sockstat: some 10 µs.
func (p *Probe) Sockstat() (Sockstat, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := p.read(p.sockstat)
	if err != nil {
		return Sockstat{}, err
	}
	s, err := ParseSockstat(text)
	if err != nil {
		return Sockstat{}, fmt.Errorf("probe: %s: %w", p.sockstat.Name(), err)
	}
	return s, nil
}
