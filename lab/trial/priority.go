package trial

import (
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/agent"
	"tcplab/lab/program"
)

// That others use the machine is no part of any experiment, and their share of
// the CPU would stand in every percentile. So what is measured, and what
// measures it, goes before them as long as a trial lasts, in so far as the
// kernel allows it. It stays within the fair class. In real time a program that
// does not rest takes its CPU from everybody, from the lab that would end it and
// from the thread that it waits for: runs came to a stand, and the machine with
// them.
const (
	// first is the nice value of those who go before.
	first = -20
	// slice is the shortest turn that a thread may ask for (__setparam_fair,
	// kernel/sched/syscalls.c, Linux 6.12 and later; older ones do not read it).
	// Who asks for little is given it soon, and nobody has to allow it.
	slice = 100 * time.Microsecond
)

// goesFirst tells whether an agent goes before others. A flooder is never
// late, and what a user brought along is as it would be anywhere.
func goesFirst(job agent.Job) bool {
	return job.Kind != program.KindExec && job.Kind != program.KindFlood
}

// startFirst starts cmd with short turns and, where that is allowed, before
// others: all its threads, since one that wakes also needs a processor of the
// Go runtime, which another may hold that waits for its CPU. It is for a locked
// thread, which has its own attributes again afterwards.
func startFirst(cmd *exec.Cmd) error {
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return cmd.Start()
	}
	its := *own
	its.Nice, its.Runtime = first, uint64(slice)
	if err = unix.SchedSetAttr(0, &its, 0); err != nil {
		its.Nice = own.Nice
		err = unix.SchedSetAttr(0, &its, 0)
	}
	if err == nil {
		defer func() { _ = unix.SchedSetAttr(0, own, 0) }()
	}
	return cmd.Start() // what it starts inherits the attributes of this thread
}

// trials are those that go before others now. They may run side by side in one
// process, and the last of them to end takes its place in the queue again.
var trials struct {
	sync.Mutex
	running int
}

// autogroup is the weight of this session against others, where the kernel
// shares the CPU out by session first and by nice only within one (sched(7)).
// Writing a negative value takes CAP_SYS_NICE.
const autogroup = "/proc/self/autogroup"

// goFirst puts the lab's own session, which its agents are in too, before
// others until the function that it returns is called, once. Where it is
// refused, or where there are no such groups, nothing changes.
func goFirst() (back func()) {
	trials.Lock()
	defer trials.Unlock()
	if trials.running++; trials.running == 1 {
		_ = os.WriteFile(autogroup, []byte("-20"), 0)
	}
	return func() {
		trials.Lock()
		defer trials.Unlock()
		if trials.running--; trials.running == 0 {
			_ = os.WriteFile(autogroup, []byte("0"), 0)
		}
	}
}
