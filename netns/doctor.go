package netns

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is one line of what this machine can do.
type Capability struct {
	Name   string `json:"name"`
	Answer Answer `json:"answer"`
	// Detail is what was seen: a version, a size, an error.
	Detail string `json:"detail,omitempty"`
	// Costs is what cannot be had without it, and Get how to get it; for
	// people who lack it.
	Costs string `json:"costs,omitempty"`
	Get   string `json:"get,omitempty"`
}

// Doctor tells what this machine can do for this user: facts first, then
// features, each asked for in a namespace of its own, then tools that a person
// in a host may want. It runs inside the lab's process tree, where a plain
// user is root of a user namespace. It changes nothing outside its namespaces,
// and takes some 50 ms.
func Doctor() []Capability {
	list := facts()
	for _, p := range probes() {
		a := p.answer()
		c := Capability{Name: p.what, Answer: Supported, Detail: a.detail, Costs: p.costs, Get: p.get}
		if a.err != nil {
			c.Answer, c.Detail = Undetermined, a.err.Error()
			if no, ok := a.err.(*UnsupportedError); ok {
				c.Answer, c.Detail = Unsupported, no.Reason.Error()
			}
		}
		list = append(list, c)
	}
	return append(list, tools()...)
}

// facts are what is true of every machine and worth knowing.
func facts() []Capability {
	kernel := Capability{Name: "kernel", Answer: Supported, Costs: "old kernels lack sysctls and features, which are listed here", Get: "a newer kernel, or the guest kernel"}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		kernel.Answer, kernel.Detail = Undetermined, err.Error()
	} else {
		kernel.Detail = unix.ByteSliceToString(uts.Sysname[:]) + " " + unix.ByteSliceToString(uts.Release[:]) + " " + unix.ByteSliceToString(uts.Machine[:])
	}

	who := Capability{Name: "privileges", Answer: Supported, Detail: "root",
		Costs: "programs that drop privileges (tcpdump, nginx, mosquitto) fail in hosts; net.core.rmem_max cannot be raised",
		Get:   "run as root"}
	if uids, err := os.ReadFile("/proc/self/uid_map"); err != nil {
		who.Answer, who.Detail = Undetermined, err.Error()
	} else if f := strings.Fields(string(uids)); len(f) == 3 && f[2] == "1" {
		who.Answer, who.Detail = Unsupported, "a plain user (uid "+f[1]+"), root of a user namespace in which no other user exists"
	} else if os.Geteuid() != 0 {
		who.Answer, who.Detail = Unsupported, fmt.Sprintf("a plain user (uid %d) outside a user namespace", os.Geteuid())
	}

	cpus := Capability{Name: "CPUs", Answer: Supported, Detail: fmt.Sprint(runtime.NumCPU()),
		Costs: "with one CPU client, server and wire disturb each other, and runs on the real clock are often invalid", Get: "a machine with two, or --clock=virtual"}
	if runtime.NumCPU() < 2 {
		cpus.Answer = Unsupported
	}

	cc := Capability{Name: "congestion control by default", Answer: Supported,
		Costs: "nothing: every link's routes pin what the sheet names", Get: ""}
	if name, err := readSysctl("/proc/sys/net/ipv4/tcp_congestion_control"); err != nil {
		cc.Answer, cc.Detail = Undetermined, err.Error()
	} else {
		cc.Detail = fmt.Sprintf("%s (available: %s)", name, availableCongestionControls())
	}
	return []Capability{kernel, who, cpus, cc}
}

// plainUserRule is the sysctl that forbids user namespaces to a plain user, ""
// if none does.
func plainUserRule(root fs.FS) string {
	f := machineFacts{root}
	if f.read("proc/sys/kernel/unprivileged_userns_clone") == "0" {
		return "kernel.unprivileged_userns_clone=0"
	}
	if f.read("proc/sys/user/max_user_namespaces") == "0" {
		return "user.max_user_namespaces=0"
	}
	if v := f.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns"); v != "" && v != "0" {
		return "AppArmor (kernel.apparmor_restrict_unprivileged_userns=" + v + ")"
	}
	return ""
}

// tools are programs that labs do without, and people may not want to.
func tools() []Capability {
	var list []Capability
	for _, t := range []struct{ name, costs, pkg string }{
		{"ss", "counts are not checked against ss's; triage is unaffected", "iproute2"},
		{"nstat", "counters are not checked against nstat's", "iproute2"},
		{"tcpdump", "captures are still written; look at them elsewhere", "tcpdump"},
		{"curl", "examples with curl as client do not run", "curl"},
		{"python3", "examples with python3 as server do not run", "python3"},
	} {
		c := Capability{Name: "tool " + t.name, Answer: Supported, Costs: t.costs, Get: "install the package " + t.pkg}
		path, err := exec.LookPath(t.name)
		c.Detail = path
		if err != nil {
			c.Answer, c.Detail = Unsupported, "not found in PATH"
		}
		list = append(list, c)
	}
	return list
}
