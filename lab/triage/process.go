package triage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mostReads bounds how many descriptors are looked at in search of owners: at
// some 1.5 µs each, a third of a second.
const mostReads = 200_000

// Named finds the processes of the sockets in question by their descriptors in
// /proc, as far as this user may look, and puts them into the sample.
func (s *Sample) Named(proc string) {
	want := map[uint32]bool{}
	for _, i := range s.Questionable() {
		want[i] = true
	}
	if len(want) == 0 {
		return
	}
	dirs, err := os.ReadDir(proc)
	if err != nil {
		s.Unnamed, s.UnnamedWhy = len(want), err.Error()
		return
	}
	var pids []int
	for _, d := range dirs {
		if pid, err := strconv.Atoi(d.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	refused, reads := 0, 0
	found := map[uint32]*Process{}
	for _, pid := range pids {
		if len(want) == 0 || reads > mostReads {
			break
		}
		dir := proc + "/" + strconv.Itoa(pid)
		fds, err := readNames(dir + "/fd")
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				refused++
			}
			continue
		}
		reads += len(fds)
		var mine []uint32
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/fd/" + fd)
			if err != nil {
				continue
			}
			inode, ok := socketInode(link)
			if ok && want[inode] {
				delete(want, inode)
				mine = append(mine, inode)
			}
		}
		if mine == nil {
			continue
		}
		p := &Process{PID: pid, Name: comm(dir), Files: len(fds), FileLimit: fileLimit(dir)}
		for _, inode := range mine {
			found[inode] = p
		}
	}
	for i := range s.Sockets {
		if k := &s.Sockets[i]; k.Inode != 0 {
			k.Owner = found[k.Inode]
		}
	}
	s.Unnamed = len(want)
	switch {
	case s.Unnamed == 0:
	case refused > 0:
		s.UnnamedWhy = fmt.Sprintf("the descriptors of %s may be read by root only", processes(refused))
	case reads > mostReads:
		s.UnnamedWhy = "there are too many descriptors to look through"
	default:
		s.UnnamedWhy = "they belong to no process that is visible here (of another PID namespace, or the kernel's own)"
	}
}

func processes(n int) string {
	if n == 1 {
		return "1 other process"
	}
	return count(n) + " other processes"
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// socketInode takes the number out of "socket:[12345]".
func socketInode(link string) (uint32, bool) {
	rest, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 32)
	return uint32(n), err == nil
}

func comm(dir string) string {
	b, err := os.ReadFile(dir + "/comm")
	if err != nil {
		return "?"
	}
	return printable(string(bytes.TrimSpace(b)))
}

// printable takes out of a name what a program could have put there to move a
// terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}

// fileLimit is a process's soft limit of descriptors; 0: unknown or none.
func fileLimit(dir string) int {
	b, err := os.ReadFile(dir + "/limits")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.Atoi(f[0])
				return n
			}
		}
	}
	return 0
}

// Namespaces lists the network namespaces that have a process, the caller's
// own first, and counts the processes whose namespace may not be seen.
func Namespaces(proc string) (list []Namespace, refused int, err error) {
	own, err := os.Readlink(proc + "/self/ns/net")
	if err != nil {
		return nil, 0, err
	}
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return nil, 0, err
	}
	by := map[string]*Namespace{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		link, err := os.Readlink(proc + "/" + d.Name() + "/ns/net")
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				refused++
			}
			continue
		}
		n := by[link]
		if n == nil {
			n = &Namespace{Link: link, PID: pid, Own: link == own}
			by[link] = n
		}
		n.PID = min(n.PID, pid)
		n.Processes++
	}
	for _, n := range by {
		n.describe(proc)
		list = append(list, *n)
	}
	slices.SortFunc(list, func(x, y Namespace) int {
		if x.Own != y.Own {
			if x.Own {
				return -1
			}
			return 1
		}
		return cmp.Compare(x.PID, y.PID)
	})
	return list, refused, nil
}

// Namespace is a network namespace with its processes.
type Namespace struct {
	Link      string `json:"namespace"` // net:[4026531840]
	Own       bool   `json:"own,omitempty"`
	PID       int    `json:"pid"` // the first of its processes
	Processes int    `json:"processes"`
	Name      string `json:"name"` // of the first process
	Container string `json:"container,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Hostname  string `json:"hostname,omitempty"` // of the container: in a pod, the pod's name
}

// String names it as people know it.
func (n Namespace) String() string {
	var what []string
	switch {
	case n.Own:
		what = append(what, "this host")
	case n.Pod != "" && n.Hostname != "":
		what = append(what, "pod "+n.Hostname)
	case n.Pod != "":
		what = append(what, "pod "+n.Pod)
	case n.Container != "" && n.Hostname != "":
		what = append(what, "container "+n.Container+" ("+n.Hostname+")")
	case n.Container != "":
		what = append(what, "container "+n.Container)
	}
	if n.Container != "" && n.Pod != "" {
		what = append(what, "container "+n.Container)
	}
	what = append(what, fmt.Sprintf("%s, pid %d", n.Name, n.PID))
	return n.Link + ": " + strings.Join(what, ", ")
}

// describe finds out who lives in it.
func (n *Namespace) describe(proc string) {
	dir := proc + "/" + strconv.Itoa(n.PID)
	n.Name = comm(dir)
	if n.Own {
		return
	}
	if b, err := os.ReadFile(dir + "/cgroup"); err == nil {
		n.Container, n.Pod = cgroupNames(string(b))
	}
	n.Hostname = hostname(proc, dir)
}

// hostname is the name that a process's UTS namespace has, where that is not
// the caller's. It is asked of the kernel and not of a file in the container,
// which could lead anywhere.
func hostname(proc, dir string) string {
	own, err := os.Readlink(proc + "/self/ns/uts")
	theirs, err2 := os.Readlink(dir + "/ns/uts")
	if err != nil || err2 != nil || own == theirs {
		return ""
	}
	f, err := os.Open(dir + "/ns/uts")
	if err != nil {
		return ""
	}
	defer f.Close()
	result := make(chan string)
	go func() {
		// Never unlocked: the thread is in another namespace and ends with
		// its goroutine.
		runtime.LockOSThread()
		var u unix.Utsname
		if unix.Setns(int(f.Fd()), unix.CLONE_NEWUTS) != nil || unix.Uname(&u) != nil {
			result <- ""
			return
		}
		result <- printable(unix.ByteSliceToString(u.Nodename[:]))
	}()
	return <-result
}

// cgroupNames finds a container's and a pod's number in /proc/PID/cgroup, as
// docker, containerd and CRI-O write them there: 64 hexadecimal digits, and
// podUID in a folder of kubepods.
func cgroupNames(text string) (container, pod string) {
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '/' || r == '\n' }) {
		part = strings.TrimSuffix(strings.TrimSuffix(part, ".scope"), ".slice")
		if i := strings.LastIndex(part, "pod"); i >= 0 && len(part)-i == 3+36 && strings.HasPrefix(part, "kubepods") || strings.HasPrefix(part, "pod") && len(part) == 3+36 {
			pod = strings.ReplaceAll(part[strings.LastIndex(part, "pod")+3:], "_", "-")
		}
		for _, word := range strings.FieldsFunc(part, func(r rune) bool { return r == '-' || r == ':' }) {
			if len(word) == 64 && strings.Trim(word, "0123456789abcdef") == "" {
				container = word[:12]
			}
		}
	}
	return container, pod
}
