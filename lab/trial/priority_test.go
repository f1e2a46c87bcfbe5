package trial

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/lab/agent"
	"tcplab/lab/program"
	"tcplab/netns"
	"tcplab/results"
)

func TestUsersProgramsAndFloodersAreAsTheyWouldBeAnywhere(t *testing.T) {
	for _, c := range []struct {
		job  agent.Job
		want bool
	}{
		{agent.Job{Role: program.RoleWire}, true},
		{agent.Job{Role: program.RoleMiddlebox, Kind: "l4lb"}, true},
		{agent.Job{Role: program.RoleClient, Kind: "echo"}, true},
		{agent.Job{Role: program.RoleServer, Kind: "echo"}, true},
		{agent.Job{Role: program.RoleClient, Kind: program.KindFlood}, false},
		{agent.Job{Role: program.RoleClient, Kind: program.KindExec}, false},
		{agent.Job{Role: program.RoleServer, Kind: program.KindExec}, false},
	} {
		if got := goesFirst(c.job); got != c.want {
			t.Errorf("%s %s: %v", c.job.Role, c.job.Kind, got)
		}
	}
}

// privileged tells whether this process may go before others.
func privileged(t *testing.T) bool {
	t.Helper()
	ok := netns.Have(netns.Priority) == nil
	if !ok && os.Geteuid() == 0 && os.Getenv("CI") == "true" {
		t.Fatal("root may not go before others here: give the container CAP_SYS_NICE")
	}
	return ok
}

// started are the attributes of a process that startFirst started, and those
// of its maker before and after. With may false the maker may not go before
// others.
func started(t *testing.T, may bool) (its, before, after unix.SchedAttr) {
	t.Helper()
	done := make(chan error)
	go func() {
		done <- func() error {
			runtime.LockOSThread() // for good, since this thread may lose a privilege
			if !may {
				head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var caps [2]unix.CapUserData
				if err := unix.Capget(&head, &caps[0]); err != nil {
					return err
				}
				caps[0].Effective &^= 1 << unix.CAP_SYS_NICE
				if err := unix.Capset(&head, &caps[0]); err != nil {
					return err
				}
			}
			b, err := unix.SchedGetAttr(0, 0)
			if err != nil {
				return err
			}
			cmd := exec.Command("sleep", "1000")
			if err := startFirst(cmd); err != nil {
				return err
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			i, err := unix.SchedGetAttr(cmd.Process.Pid, 0)
			if err != nil {
				return err
			}
			a, err := unix.SchedGetAttr(0, 0)
			if err != nil {
				return err
			}
			its, before, after = *i, *b, *a
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return its, before, after
}

func TestAnAgentGoesFirstAndItsMakerIsAsBefore(t *testing.T) {
	for _, may := range []bool{true, false} {
		its, before, after := started(t, may)
		want := before
		if may && privileged(t) {
			want.Nice = first
		}
		if before.Runtime != 0 { // before Linux 6.12 a thread has no slice of its own
			want.Runtime = uint64(slice)
		}
		if its.Policy != unix.SCHED_NORMAL || its.Nice != want.Nice || its.Runtime != want.Runtime {
			t.Errorf("allowed %v: %+v, want %+v", may, its, want)
		}
		if after != before {
			t.Errorf("allowed %v: its maker had %+v and has %+v", may, before, after)
		}
	}
}

func TestTheLabsSessionGoesFirstUntilTheLastTrialEnds(t *testing.T) {
	weight := func() string {
		b, err := os.ReadFile(autogroup)
		if errors.Is(err, fs.ErrNotExist) {
			return "" // a kernel without
		}
		if err != nil {
			t.Fatal(err)
		}
		_, w, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		return w
	}
	before := weight()
	want := before
	if before != "" && privileged(t) {
		want = "nice -20"
	}
	one, other := goFirst(), goFirst()
	if got := weight(); got != want {
		t.Errorf("during two trials %q, want %q", got, want)
	}
	one()
	if got := weight(); got != want {
		t.Errorf("during the other %q, want %q", got, want)
	}
	other()
	if got := weight(); got != before {
		t.Errorf("afterwards %q, before %q", got, before)
	}
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
	// A quarter of 60 ms for each of 100 requests are 1.5 s.
	for _, c := range []struct {
		waits map[string]float64
		want  string
	}{
		{nil, ""},
		{map[string]float64{"server": 1.4, "client": 9, "other": 9, "wire": 9}, ""},
		{map[string]float64{"server": 1.6}, "server server waited for a CPU, 16 ms a request on average"},
	} {
		if got := judge(c.waits); (got == "") != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.waits, got, c.want)
		}
	}
}
