package triage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestContainersAndPodsAreNamedByTheirCgroups(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	pod := "6f4c2b1e-8f0d-4b57-9d3a-0a1b2c3d4e5f"
	for text, want := range map[string][2]string{
		"0::/system.slice/docker-" + id + ".scope\n": {id[:12], ""},
		"12:memory:/docker/" + id + "\n0::/\n":       {id[:12], ""},
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(pod, "-", "_") + ".slice/cri-containerd-" + id + ".scope\n": {id[:12], pod},
		"11:cpu:/kubepods/besteffort/pod" + pod + "/" + id + "\n":                                                          {id[:12], pod},
		"0::/kubepods.slice/kubepods-pod" + strings.ReplaceAll(pod, "-", "_") + ".slice/crio-" + id + ".scope/container\n": {id[:12], pod},
		"0::/user.slice/user-1000.slice/session-2.scope\n":                                                                 {"", ""},
		"0::/system.slice/podman.service\n":                                                                                {"", ""},
		"":                                                                                                                 {"", ""},
	} {
		if c, p := cgroupNames(text); c != want[0] || p != want[1] {
			t.Errorf("%q: container %q, pod %q", text, c, p)
		}
	}
}

func TestANamespaceIsCalledWhatPeopleKnow(t *testing.T) {
	for _, c := range []struct {
		n    Namespace
		want string
	}{
		{Namespace{Link: "net:[1]", Own: true, PID: 1, Name: "systemd"}, "net:[1]: this host, systemd, pid 1"},
		{Namespace{Link: "net:[2]", PID: 5, Name: "nginx", Container: "abc", Hostname: "web-1"}, "net:[2]: container abc (web-1), nginx, pid 5"},
		{Namespace{Link: "net:[2]", PID: 5, Name: "pause", Container: "abc", Pod: "u-i-d", Hostname: "web-1"}, "net:[2]: pod web-1, container abc, pause, pid 5"},
		{Namespace{Link: "net:[2]", PID: 5, Name: "sleep"}, "net:[2]: sleep, pid 5"},
	} {
		if got := c.n.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestAProcessCannotMoveTheTerminalsCursorByItsName(t *testing.T) {
	if got := printable("a\x1b[2Jb\n\x7f"); got != "a?[2Jb??" {
		t.Errorf("%q", got)
	}
}

// Processes whose descriptors may not be read are counted, and the others
// named all the same.
func TestProcessesAreNamedByTheirDescriptors(t *testing.T) {
	proc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("17/comm", "leaky\n")
	write("17/limits", "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 4096                 files     \n")
	write("self", "")
	if err := os.MkdirAll(filepath.Join(proc, "17/fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"0": "/dev/null", "3": "socket:[1001]", "4": "socket:[1002]", "5": "pipe:[7]"} {
		if err := os.Symlink(to, filepath.Join(proc, "17/fd", name)); err != nil {
			t.Fatal(err)
		}
	}
	s := Sample{Sockets: []Socket{{State: CloseWait, Inode: 1001}, {State: CloseWait, Inode: 1003}, {State: Established, Inode: 1002}}}
	s.Named(proc)
	if p := s.Sockets[0].Owner; p == nil || *p != (Process{PID: 17, Name: "leaky", Files: 4, FileLimit: 1024}) {
		t.Errorf("%+v", p)
	}
	if s.Sockets[1].Owner != nil || s.Unnamed != 1 || !strings.Contains(s.UnnamedWhy, "no process that is visible here") {
		t.Errorf("%d unnamed: %s", s.Unnamed, s.UnnamedWhy)
	}
}
