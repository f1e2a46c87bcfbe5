package triage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns/conntrack"
	"tcplab/netns/probe"
)

// Source looks at one network namespace. It only reads.
type Source struct {
	Probe   *probe.Probe
	Sysctls map[string]string
	// Tracker reads the connection tracker; nil where there is none to ask.
	Tracker func() (*Conntrack, error)

	files []*os.File
	ct    *conntrack.Conn
}

// ErrRefused says that the kernel does not list sockets here.
var ErrRefused = errors.New("the kernel does not list sockets here (inet_diag)")

// Open opens a source on the network namespace of the calling thread, which
// must be locked if it is not the process's own. It may be read from anywhere
// afterwards.
func Open() (*Source, error) {
	p, err := probe.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	s := &Source{Probe: p, Sysctls: ReadSysctls()}
	s.openTracker()
	return s, nil
}

// ReadSysctls reads what a diagnosis looks at, in the namespace of the calling
// thread. What a kernel does not have, or does not show, is absent.
func ReadSysctls() map[string]string {
	m := map[string]string{}
	for _, key := range sysctls {
		if b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/")); err == nil {
			m[key] = strings.Join(strings.Fields(string(b)), " ")
		}
	}
	return m
}

// openTracker opens the tracker's files, which anybody may read; where the
// kernel has none of them, its netlink interface, which takes privileges.
func (s *Source) openTracker() {
	open := func(name string) *os.File {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil
		}
		f := os.NewFile(uintptr(fd), name)
		s.files = append(s.files, f)
		return f
	}
	// The files hold their namespace, whoever reads them (fs/proc/proc_net.c).
	stat := open("/proc/thread-self/net/stat/nf_conntrack")
	entries := open("/proc/sys/net/netfilter/nf_conntrack_count")
	most := open("/proc/sys/net/netfilter/nf_conntrack_max")
	if stat != nil {
		s.Tracker = func() (*Conntrack, error) {
			b, err := readAt(stat)
			if err != nil {
				return nil, err
			}
			c, err := ParseConntrackStat(b)
			if err != nil {
				return nil, err
			}
			for _, f := range []struct {
				file *os.File
				to   *int64
			}{{entries, &c.Entries}, {most, &c.Max}} {
				if f.file == nil {
					continue
				}
				if b, err := readAt(f.file); err == nil {
					*f.to, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
				}
			}
			return &c, nil
		}
		return
	}
	if _, err := os.Stat("/proc/sys/net/netfilter"); errors.Is(err, fs.ErrNotExist) {
		s.Tracker = func() (*Conntrack, error) { return &Conntrack{}, nil } // nothing is tracked here
		return
	}
	if c, err := conntrack.Open(); err == nil {
		s.ct = c
		s.Tracker = func() (*Conntrack, error) { return FromTracker(c) }
	}
}

// FromTracker reads the tracker's counters by netlink.
func FromTracker(c *conntrack.Conn) (*Conntrack, error) {
	n, err := c.Counters()
	if err != nil {
		return nil, err
	}
	entries, most, err := c.Size()
	return &Conntrack{Entries: entries, Max: most, Invalid: n.Invalid, Drop: n.Drop, EarlyDrop: n.EarlyDrop, InsertFailed: n.InsertFailed}, err
}

func readAt(f *os.File) ([]byte, error) {
	b := make([]byte, 16<<10)
	n := 0
	for {
		k, err := f.ReadAt(b[n:], int64(n))
		n += k
		if k == 0 || err != nil {
			if n == 0 && err != nil && !errors.Is(err, fs.ErrClosed) {
				return nil, err
			}
			return b[:n], nil
		}
		if n == len(b) {
			b = append(b, make([]byte, len(b))...)
		}
	}
}

// ParseConntrackStat adds up the lines of /proc/net/stat/nf_conntrack, one a
// CPU, in hexadecimal under a line of names. The first column, the entries, is
// the same in each.
func ParseConntrackStat(text []byte) (Conntrack, error) {
	var c Conntrack
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	names := strings.Fields(lines[0])
	if len(names) == 0 || names[0] != "entries" {
		return c, fmt.Errorf("%.40q is not the first line of /proc/net/stat/nf_conntrack", lines[0])
	}
	for _, line := range lines[1:] {
		values := strings.Fields(line)
		if len(values) != len(names) {
			return c, fmt.Errorf("%d values under %d names", len(values), len(names))
		}
		for i, name := range names {
			v, err := strconv.ParseUint(values[i], 16, 64)
			if err != nil || v > 1<<62 {
				return c, fmt.Errorf("%s: %.20q is no hexadecimal number", name, values[i])
			}
			switch name {
			case "entries":
				c.Entries = int64(v)
			case "invalid":
				c.Invalid += int64(v)
			case "drop":
				c.Drop += int64(v)
			case "early_drop":
				c.EarlyDrop += int64(v)
			case "insert_failed":
				c.InsertFailed += int64(v)
			}
		}
	}
	return c, nil
}

// Sample looks once. at is the time on a clock of the caller's, above 0. info
// asks for tcp_info as well: the second of two looks needs it, the first does
// not, and it is what costs with many sockets.
func (s *Source) Sample(at time.Duration, info bool) (Sample, error) {
	out := Sample{At: at, Sysctls: s.Sysctls, Known: Known{Timers: true, Owners: true, Info: info}}
	var err error
	if out.Counters, err = s.Probe.Counters(); err != nil {
		return out, err
	}
	st, err := s.Probe.Sockstat()
	if err != nil {
		return out, err
	}
	out.Sockstat = &st
	if s.Tracker == nil {
		out.NoConntrack = "the tracker's counters cannot be read here without root"
	} else if out.Conntrack, err = s.Tracker(); err != nil {
		out.Conntrack, out.NoConntrack = nil, "the tracker's counters cannot be read here: "+err.Error()
	}
	list, err := s.Probe.Dump(probe.DumpOptions{Info: info})
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	out.Sockets = make([]Socket, len(list))
	for i := range list {
		out.Sockets[i] = fromDiag(&list[i])
	}
	return out, nil
}

// fromDiag takes what a diagnosis needs of inet_diag's answer.
func fromDiag(p *probe.Socket) Socket {
	s := Socket{Src: p.Src, Dst: p.Dst, State: p.State, Timer: Timer(p.Timer), Retrans: p.Retrans, Expires: p.Expires,
		RQueue: p.RQueue, WQueue: p.WQueue, UID: p.UID, Inode: p.Inode, Cookie: p.Cookie}
	if i := p.Info; i != nil && p.State != Listen {
		us, ms := time.Microsecond, time.Millisecond
		s.Info = &Info{Backoff: i.Backoff, RTO: time.Duration(i.Rto) * us, RTT: time.Duration(i.Rtt) * us,
			LastSent: time.Duration(i.Last_data_sent) * ms, LastReceived: time.Duration(i.Last_data_recv) * ms, LastAck: time.Duration(i.Last_ack_recv) * ms,
			Window: i.Snd_wnd, WindowKnown: i.Size >= sizeWithWindow}
	}
	return s
}

// sizeWithWindow is how long a tcp_info is that has tcpi_snd_wnd (Linux 5.4).
const sizeWithWindow = 232

// Close closes what was opened.
func (s *Source) Close() {
	if s.Probe != nil {
		s.Probe.Close()
	}
	for _, f := range s.files {
		f.Close()
	}
	if s.ct != nil {
		s.ct.Close()
	}
}
