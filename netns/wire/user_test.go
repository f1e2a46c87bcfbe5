package wire

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stepEnv says which part of the plain user's test this process plays.
const stepEnv = "WIRE_TEST_STEP"

// reexec runs this test again in another process.
func reexec(t *testing.T, step string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), stepEnv+"="+step, "GOCOVERDIR=")
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%s: %v\n%s", step, err, out)
	}
}

func TestAPlainUserHasAWire(t *testing.T) {
	const nobody = 65534
	switch os.Getenv(stepEnv) {
	case "": // whoever runs the tests
		if os.Getuid() != 0 {
			if os.Getenv("CI") == "true" {
				t.Fatal("CI runs as root")
			}
			t.Skip("it is a plain user who runs all of the tests")
		}
		reexec(t, "plain", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	case "plain": // uid 65534, without any capability
		if os.Getuid() != nobody {
			t.Fatalf("uid %d", os.Getuid())
		}
		reexec(t, "inside", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
		})
	case "inside": // root in a user namespace of its own
		r := newRig(t, Symmetric(Direction{Delay: time.Millisecond}))
		transfer(t, r, 9, 8<<20)
		k := r.wire.Counters()
		noErrors(t, k)
		if *k.TowardsB.RingDropped != 0 || *k.TowardsB.BytesIn < 8<<20 {
			t.Errorf("towards b: %s", toJSON(t, k.TowardsB))
		}
		if p := r.wire.Policy(); p != "other" {
			t.Errorf("a plain user has policy %q", p)
		}
	}
}
