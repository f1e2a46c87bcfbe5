package trial

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/agent"
	"tcplab/lab/program"
)

// Priorities of SCHED_FIFO. That others use the machine is no part of any
// experiment, and their share of the CPU would stand in every percentile; so a
// trial runs in real time, as long as it lasts and where that is allowed. What
// stands for physics goes first, then the programs that are measured, then the
// lab, which looks on.
const (
	labPriority     = 1
	programPriority = 2
	pathPriority    = 3
)

// priority is under which real-time priority an agent is to run; 0 where it
// takes its turn with everybody else. A flooder is never late, and what a user
// brought along may not want to rest. On a single CPU who never rests would
// keep the others from it.
func priority(job agent.Job) uint32 {
	switch {
	case runtime.NumCPU() == 1 || job.Kind == program.KindExec || job.Kind == program.KindFlood:
		return 0
	case job.Role == program.RoleWire || job.Role == program.RoleMiddlebox:
		return pathPriority
	}
	return programPriority
}

// slice is the shortest turn that a thread may ask for (kernel/sched/syscalls.c,
// __setparam_fair, Linux 6.12 and later; older ones do not read it): who asks
// for little is given it soon.
const slice = 100 * time.Microsecond

// startAt starts cmd so that all its threads have a priority. All of them,
// since a thread of Go that wakes needs a processor of the runtime's, which may
// be held by another thread that waits for its CPU. Where it is refused, as to
// a plain user, cmd takes short turns: the record has what became of it. It is
// for a locked thread, which has its own policy again afterwards.
func startAt(cmd *exec.Cmd, priority uint32) error {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return cmd.Start()
	}
	if err = setPriority(0, priority); priority > 0 && err != nil {
		turns := *own
		turns.Runtime = uint64(slice)
		err = unix.SchedSetAttr(0, &turns, 0)
	}
	if err == nil {
		defer func() { _ = unix.SchedSetAttr(0, own, 0) }()
	}
	return cmd.Start() // what it starts inherits the policy of this thread
}

// setPriority puts a thread (0: this one) under SCHED_FIFO, or with priority 0
// under what everybody has.
func setPriority(tid int, priority uint32) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if priority > 0 {
		attr.Policy, attr.Priority = unix.SCHED_FIFO, priority
	}
	return unix.SchedSetAttr(tid, &attr, 0)
}

// looksOn is the lab's own process in real time: trials may run side by side in
// it, and the last of them to end gives the CPU back.
var looksOn struct {
	sync.Mutex
	trials int
}

// lookOn puts every thread of this process into real time, until the function
// that it returns is called, once. What samples, and what carries out faults,
// is then where it has to be on time; what draws and packs afterwards takes its
// turn.
func lookOn() (back func()) {
	if runtime.NumCPU() == 1 {
		return func() {}
	}
	l := &looksOn
	l.Lock()
	defer l.Unlock()
	if l.trials++; l.trials == 1 {
		setThreads(labPriority)
	}
	return func() {
		l.Lock()
		defer l.Unlock()
		if l.trials--; l.trials == 0 {
			setThreads(0)
		}
	}
}

// setThreads gives every thread of this process a priority. A thread inherits
// that of its maker, so one that came during a round is seen in the next.
func setThreads(priority uint32) {
	seen := map[int]bool{}
	for more := true; more; {
		more = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || seen[tid] {
				continue
			}
			seen[tid], more = true, true
			if setPriority(tid, priority) == unix.EPERM {
				return
			}
		}
	}
}
