package trial

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/lab/socket"
	"tcplab/netns"
	"tcplab/results"
)

func TestPhysicsGoesBeforeProgramsAndUsersProgramsTakeTheirTurn(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Fatal("these tests need two CPUs: on one nothing runs in real time")
	}
	for _, c := range []struct {
		job  agent.Job
		want uint32
	}{
		{agent.Job{Role: program.RoleWire}, pathPriority},
		{agent.Job{Role: program.RoleMiddlebox, Kind: "l4lb"}, pathPriority},
		{agent.Job{Role: program.RoleClient, Kind: "echo"}, programPriority},
		{agent.Job{Role: program.RoleServer, Kind: "echo"}, programPriority},
		{agent.Job{Role: program.RoleClient, Kind: program.KindFlood}, 0},
		{agent.Job{Role: program.RoleClient, Kind: program.KindExec}, 0},
		{agent.Job{Role: program.RoleServer, Kind: program.KindExec}, 0},
	} {
		if got := priority(c.job); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.job.Role, c.job.Kind, got, c.want)
		}
	}
	if pathPriority <= programPriority || programPriority <= labPriority {
		t.Error("the lab goes before what it looks at")
	}
}

// allowed is the priority that a process gets which asks for one.
func allowed(t *testing.T, priority uint32) uint32 {
	t.Helper()
	if netns.Have(netns.RealTime) != nil {
		if os.Geteuid() == 0 && os.Getenv("CI") == "true" {
			t.Fatal("root may not run in real time here: give the container CAP_SYS_NICE")
		}
		return 0
	}
	return priority
}

func TestAnAgentInheritsItsPriorityAndItsMakerKeepsItsOwn(t *testing.T) {
	defer socket.LockThread()()
	start := func(priority uint32) *unix.SchedAttr {
		cmd := exec.Command("sleep", "1000")
		if err := startAt(cmd, priority); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		attr, err := unix.SchedGetAttr(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		return attr
	}
	mine := func() *unix.SchedAttr {
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return attr
	}
	want := allowed(t, programPriority)
	if a := start(programPriority); a.Priority != want || (a.Policy == unix.SCHED_FIFO) != (want > 0) {
		t.Errorf("started at %d: %+v", programPriority, *a)
	}
	if a := mine(); a.Policy != unix.SCHED_NORMAL {
		t.Errorf("the thread that started it: %+v", *a)
	}
	// From within the lab in real time: what takes its turn does so there too.
	if want > 0 {
		if err := setPriority(0, labPriority); err != nil {
			t.Fatal(err)
		}
		if a := start(0); a.Policy != unix.SCHED_NORMAL {
			t.Errorf("started at 0 by a thread in real time: %+v", *a)
		}
		if a := mine(); a.Policy != unix.SCHED_FIFO || a.Priority != labPriority {
			t.Errorf("the thread in real time that started it: %+v", *a)
		}
		if err := setPriority(0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoMayNotRunInRealTimeTakesShortTurns(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: this thread has lost a privilege
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		if err := unix.Capget(&head, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		caps[0].Effective &^= 1 << unix.CAP_SYS_NICE
		if err := unix.Capset(&head, &caps[0]); err != nil {
			t.Error(err)
			return
		}
		own, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			return
		}
		cmd := exec.Command("sleep", "1000")
		if err := startAt(cmd, programPriority); err != nil {
			t.Error(err)
			return
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		its, err := unix.SchedGetAttr(cmd.Process.Pid, 0)
		if err != nil {
			t.Error(err)
			return
		}
		want := uint64(slice)
		if own.Runtime == 0 {
			want = 0 // before Linux 6.12 a thread has no slice of its own
		}
		if its.Policy != unix.SCHED_NORMAL || its.Nice != own.Nice || its.Runtime != want {
			t.Errorf("its attributes %+v, want slices of %v ns and all else as in %+v", *its, want, *own)
		}
		if now, err := unix.SchedGetAttr(0, 0); err != nil || now.Runtime != own.Runtime || now.Policy != own.Policy {
			t.Errorf("its maker had %+v and has %+v (%v)", *own, *now, err)
		}
	}()
	<-done
}

// priorities are those of this process's threads.
func priorities(t *testing.T) map[uint32]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	m := map[uint32]int{}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(filepath.Base(task))
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		m[attr.Priority]++
	}
	return m
}

func TestEveryThreadOfTheLabLooksOnInRealTimeUntilTheLastTrialEnds(t *testing.T) {
	want := allowed(t, labPriority)
	first := lookOn()
	second := lookOn()
	// Threads that come meanwhile, all at once in a system call.
	var blocked sync.WaitGroup
	hold := make(chan struct{})
	defer blocked.Wait()
	defer close(hold)
	for range 8 {
		blocked.Add(1)
		up := make(chan struct{})
		go func() {
			defer blocked.Done()
			defer socket.LockThread()()
			close(up)
			<-hold
		}()
		<-up
	}
	check := func(when string, want uint32) {
		t.Helper()
		p := priorities(t)
		if len(p) != 1 || p[want] < 8 {
			t.Errorf("%s: threads by priority %v, want all at %d", when, p, want)
		}
	}
	check("during two trials", want)
	first()
	check("during one", want)
	second()
	check("after both", 0)
}

func TestAThreadThatWaitsForItsCPUIsSeenToWait(t *testing.T) {
	// Two that never rest, on one CPU.
	var spin [2]*exec.Cmd
	for i := range spin {
		spin[i] = exec.Command("sh", "-c", "while :; do :; done")
		if err := spin[i].Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { spin[i].Process.Kill(); spin[i].Wait() }()
		var one unix.CPUSet
		one.Set(0)
		if err := unix.SchedSetaffinity(spin[i].Process.Pid, &one); err != nil {
			t.Fatal(err)
		}
	}
	pid := spin[0].Process.Pid
	before := waited(pid)
	for giveUp := time.Now().Add(time.Minute); waited(pid) < before+0.05; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatalf("waited %g s before and %g s after a minute", before, waited(pid))
		}
	}
	if w := waited(1 << 30); w != 0 {
		t.Errorf("nobody waited %g s", w)
	}
}

func TestWaitsForACPUThatAreALatencysSizeMakeATrialInvalid(t *testing.T) {
	used := []use{{"", "latency.p50", "p50", 0.5}}
	judge := func(waits map[string]float64) string {
		st := &stage{}
		for name, role := range map[string]string{"client": program.RoleClient, "other": program.RoleClient, "server": program.RoleServer, "wire": program.RoleWire} {
			st.procs = append(st.procs, &agent.Process{Job: agent.Job{Name: name, Role: role}})
		}
		o := &one{st: st}
		o.out.Metrics = map[string]results.Quantity{"client.latency.p50": {Value: 0.060}}
		m := &measured{waits: waits}
		r := &program.ClientResult{}
		r.OK = 100
		o.validateWaits("client", r, used, m)
		return strings.Join(m.reasons, "; ")
	}
	// 5% of 60 ms for each of 100 requests are 0.3 s.
	for _, c := range []struct {
		waits map[string]float64
		want  string
	}{
		{nil, ""},
		{map[string]float64{"server": 0.29, "client": 0.29, "other": 9, "wire": 9}, ""},
		{map[string]float64{"server": 0.4}, "server server waited for a CPU, 4 ms a request on average"},
		{map[string]float64{"client": 0.4}, "client client waited for a CPU"},
	} {
		if got := judge(c.waits); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.waits, got, c.want)
		}
	}
}
