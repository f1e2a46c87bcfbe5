package netns

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// machine is a fake root: path and content by turns.
func machine(files ...string) fs.FS {
	m := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		m[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return m
}

func TestRefusedNamespacesAreExplainedByTheRuleThatForbidsThem(t *testing.T) {
	const (
		restrict = "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
		clone    = "proc/sys/kernel/unprivileged_userns_clone"
		maxUser  = "proc/sys/user/max_user_namespaces"
		maxNet   = "proc/sys/user/max_net_namespaces"
		current  = "proc/self/attr/apparmor/current"
		status   = "proc/self/status"
		filtered = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	)
	for name, c := range map[string]struct {
		root       fs.FS
		err        error
		step       string
		privileged bool
		says       []string
		not        []string
	}{
		"Debian's old switch": {
			root: machine(clone, "0\n", maxUser, "15000\n"), err: unix.EPERM,
			says: []string{"kernel.unprivileged_userns_clone=0", "sudo sysctl -w kernel.unprivileged_userns_clone=1", "run as root", "--clock=virtual"},
		},
		"Ubuntu 24.04, the clone itself": {
			root: machine(clone, "1\n", restrict, "1\n", maxUser, "63371\n", current, "unconfined\n"), err: unix.EPERM,
			says: []string{"AppArmor", "kernel.apparmor_restrict_unprivileged_userns=1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "userns,", "/etc/apparmor.d/tcplab", "run as root", "--clock=virtual"},
		},
		"Ubuntu 24.04, the first mount": {
			root: machine(clone, "1\n", restrict, "1\n", maxUser, "63371\n"), err: unix.EACCES, step: "mount --make-rprivate /",
			says: []string{"kernel.apparmor_restrict_unprivileged_userns=1", "mount --make-rprivate /: permission denied"},
		},
		"Ubuntu with a profile that is not loaded": {
			root: machine(restrict, "1\n", "etc/apparmor.d/usr.bin.tcplab", "profile"), err: unix.EPERM,
			says: []string{"/etc/apparmor.d/usr.bin.tcplab", "apparmor_parser -r"},
		},
		"Ubuntu with the restriction off": {
			root: machine(restrict, "0\n"), err: unix.EPERM,
			not: []string{"AppArmor (kernel"},
		},
		"confined by a profile of its own": {
			root: machine(current, "snap.code.code (enforce)\n"), err: unix.EACCES,
			says: []string{"the AppArmor profile snap.code.code", "unconfined"},
		},
		"confined, but only complaining": {
			root: machine(current, "thing (complain)\n"), err: unix.EPERM,
			not: []string{"profile thing"},
		},
		"the count set to zero": {
			root: machine(maxUser, "0\n", maxNet, "1000\n"), err: unix.ENOSPC,
			says: []string{"user.max_user_namespaces=0", "sudo sysctl -w user.max_user_namespaces=", "run as root"},
		},
		"network namespaces set to zero, root too": {
			root: machine(maxUser, "1000\n", maxNet, "0\n"), err: unix.ENOSPC, privileged: true,
			says: []string{"user.max_net_namespaces=0", "sysctl -w user.max_net_namespaces="}, not: []string{"run as root"},
		},
		"the count reached": {
			root: machine(maxUser, "7\n", maxNet, "9\n"), err: unix.ENOSPC,
			says: []string{"user.max_user_namespaces=7", "user.max_net_namespaces=9", "raise"},
		},
		"nested too deeply": {
			root: machine(maxUser, "1000\n"), err: unix.EUSERS,
			says: []string{"32 nested"},
		},
		"a kernel without user namespaces": {
			root: machine("proc/self/ns/net", "", "proc/self/ns/pid", ""), err: unix.EINVAL,
			says: []string{"CONFIG_USER_NS", "run as root"},
		},
		"a kernel without network namespaces": {
			root: machine("proc/self/ns/user", "", "proc/self/ns/pid", ""), err: unix.EINVAL,
			says: []string{"CONFIG_NET_NS"}, not: []string{"run as root"},
		},
		"Docker's seccomp filter": {
			root: machine(".dockerenv", "", status, filtered, current, "docker-default (enforce)\n"), err: unix.EPERM,
			says: []string{"docker-default", "--security-opt seccomp=unconfined"},
		},
		"Docker without AppArmor": {
			root: machine(".dockerenv", "", status, filtered), err: unix.EPERM,
			says: []string{"seccomp filter of the Docker container", "--privileged"},
		},
		"Docker on Ubuntu: the container's rule is the nearer one": {
			root: machine(".dockerenv", "", restrict, "1\n", status, filtered), err: unix.EPERM,
			says: []string{"seccomp filter of the Docker container"}, not: []string{"sysctl -w"},
		},
		"Podman's filter pretends there is no such call": {
			root: machine("run/.containerenv", "", status, filtered), err: unix.ENOSYS,
			says: []string{"seccomp filter of the Podman container"},
		},
		"a service's own filter": {
			root: machine(status, filtered), err: unix.EPERM,
			says: []string{"a seccomp filter of this process"},
		},
		"SELinux": {
			root: machine("sys/fs/selinux/enforce", "1"), err: unix.EACCES,
			says: []string{"SELinux", "audit log"},
		},
		"root in a container": {
			root: machine(".dockerenv", "", status, filtered), err: unix.EPERM, privileged: true,
			says: []string{"Docker", "--privileged"}, not: []string{"run as root"},
		},
		"root, and nobody knows why": {
			root: machine(), err: unix.EPERM, privileged: true,
			says: []string{"though this is root", "dmesg"}, not: []string{"run as root"},
		},
		"nobody knows why": {
			root: machine(clone, "1\n", maxUser, "1000\n"), err: unix.EPERM,
			says: []string{"could not be found", "chroot", "run as root"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := ExplainForbidden(c.root, c.privileged, c.step, c.err)
			if !errors.Is(err, ErrNamespacesForbidden) || !errors.Is(err, c.err) {
				t.Errorf("%v is not both the sentinel and the cause", err)
			}
			text := err.Error()
			for _, s := range c.says {
				if !strings.Contains(text, s) {
					t.Errorf("%q\ndoes not say %q", text, s)
				}
			}
			for _, s := range c.not {
				if strings.Contains(text, s) {
					t.Errorf("%q\nsays %q", text, s)
				}
			}
			if strings.ContainsAny(text, "\n\x00") {
				t.Errorf("not one line: %q", text)
			}
		})
	}
}

func TestErrorThatIsNoRefusalIsNotExplained(t *testing.T) {
	for _, err := range []error{unix.ENOMEM, unix.EAGAIN, errors.New("other")} {
		if got := ExplainForbidden(machine(), false, "", err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestRootIsToldWhatAPlainUserWouldMeet(t *testing.T) {
	for _, c := range []struct {
		root fs.FS
		want string
	}{
		{machine("proc/sys/kernel/unprivileged_userns_clone", "0\n"), "kernel.unprivileged_userns_clone=0"},
		{machine("proc/sys/user/max_user_namespaces", "0\n"), "user.max_user_namespaces=0"},
		{machine("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n"), "AppArmor (kernel.apparmor_restrict_unprivileged_userns=1)"},
		{machine("proc/sys/user/max_user_namespaces", "100\n"), ""},
	} {
		if got := plainUserRule(c.root); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
