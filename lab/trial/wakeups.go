package trial

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// wakeups counts how often the threads of all programs here have gone to sleep
// so far, and so how often they woke up: in a guest that is the lab itself, its
// agents, and what they have started.
//
// A process's second thread is left out: in a Go program that is the runtime's
// monitor, which wakes up once a minute whatever the program does.
func wakeups() int64 {
	processes, err := filepath.Glob("/proc/[0-9]*/task")
	if err != nil {
		return 0
	}
	var n int64
	for _, p := range processes {
		threads, err := os.ReadDir(p)
		if err != nil {
			continue // it ended
		}
		slices.SortFunc(threads, func(a, b os.DirEntry) int {
			return cmp.Or(cmp.Compare(len(a.Name()), len(b.Name())), cmp.Compare(a.Name(), b.Name()))
		})
		for i, t := range threads {
			if i != 1 {
				n += switches(filepath.Join(p, t.Name(), "status"))
			}
		}
	}
	return n
}

// switches are a thread's voluntary context switches; 0 for one of the kernel.
func switches(status string) int64 {
	text, err := os.ReadFile(status)
	if err != nil || !strings.Contains(string(text), "VmSize:") {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
