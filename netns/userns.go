package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNamespacesForbidden: this machine does not let this user make the
// namespaces that hosts are made of.
var ErrNamespacesForbidden = errors.New("namespaces are forbidden here")

// ForbiddenError names the rule that forbids namespaces and the way out, in
// one line.
type ForbiddenError struct {
	// Rule is what forbids them: a sysctl with its value, an AppArmor rule …
	Rule string
	// Fix is what to do about it.
	Fix string
	// Step that failed, such as "mount --make-rprivate /"; "" for the clone.
	Step string
	Err  error
}

func (e *ForbiddenError) Error() string {
	step := "clone"
	if e.Step != "" {
		step = e.Step
	}
	return fmt.Sprintf("namespaces are forbidden here by %s: %s (%s: %v)", e.Rule, e.Fix, step, e.Err)
}

func (e *ForbiddenError) Unwrap() []error { return []error{ErrNamespacesForbidden, e.Err} }

// The ways out that depend on nothing.
const (
	orRoot  = "or run as root"
	orGuest = "or use --clock=virtual, whose guest kernel needs no namespaces of this machine"
)

// ExplainForbidden turns the refusal of a clone with new namespaces, or of the
// first step inside them, into the rule that caused it. root is the machine's
// file system (os.DirFS("/")); privileged tells that no user namespace was
// asked for, since the caller had CAP_SYS_ADMIN. It reads and decides; it
// tries nothing. Errors that are no refusal come back as they are.
func ExplainForbidden(root fs.FS, privileged bool, step string, err error) error {
	f := machineFacts{root}
	e := &ForbiddenError{Step: step, Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		e.Rule, e.Fix = f.limit(errors.Is(err, unix.EUSERS))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		e.Rule, e.Fix = f.missing()
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Rule, e.Fix = f.refusal(privileged)
	default:
		return err
	}
	return e
}

type machineFacts struct{ root fs.FS }

func (f machineFacts) read(path string) string {
	b, err := fs.ReadFile(f.root, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.Trim(string(b), "\x00"))
}

func (f machineFacts) exists(path string) bool {
	_, err := fs.Stat(f.root, path)
	return err == nil
}

// limit explains ENOSPC (and EUSERS, before Linux 4.9 and at 32 levels):
// a count of namespaces is exhausted, most often because it is set to 0.
func (f machineFacts) limit(depth bool) (rule, fix string) {
	for _, kind := range []string{"user", "net", "pid", "mnt"} {
		key := "user.max_" + kind + "_namespaces"
		if n, err := strconv.Atoi(f.read("proc/sys/user/max_" + kind + "_namespaces")); err == nil && n == 0 {
			if kind == "user" {
				return key + "=0", "sudo sysctl -w user.max_user_namespaces=15000, " + orRoot + ", " + orGuest
			}
			return key + "=0", "sudo sysctl -w " + key + "=15000, " + orGuest
		}
	}
	if depth {
		return "the limit of 32 nested user namespaces", "run it further out, " + orRoot
	}
	return fmt.Sprintf("a limit on namespaces that is reached (user.max_user_namespaces=%s, user.max_net_namespaces=%s, or a smaller one of a namespace around this)",
			orUnknown(f.read("proc/sys/user/max_user_namespaces")), orUnknown(f.read("proc/sys/user/max_net_namespaces"))),
		"end other programs that hold namespaces, or raise the limit with sysctl -w"
}

// missing explains EINVAL and ENOSYS: the kernel was built without, or a
// seccomp filter pretends so.
func (f machineFacts) missing() (rule, fix string) {
	for _, ns := range []struct{ file, config string }{{"user", "CONFIG_USER_NS"}, {"net", "CONFIG_NET_NS"}, {"pid", "CONFIG_PID_NS"}} {
		if f.exists("proc/self/ns") && !f.exists("proc/self/ns/"+ns.file) {
			fix := "use a kernel that has it, " + orGuest
			if ns.file == "user" {
				fix = "run as root, or " + fix
			}
			return "the kernel, built without " + ns.config, fix
		}
	}
	if f.container() != "" || f.seccomp() {
		return f.filter(), "start it with --security-opt seccomp=unconfined, " + orGuest
	}
	return "the kernel, which does not know these namespaces", "use a newer one, " + orGuest
}

// refusal explains EPERM and EACCES, the most specific rule first.
func (f machineFacts) refusal(privileged bool) (rule, fix string) {
	if privileged {
		if c := f.confinement(); c != "" {
			return "the AppArmor profile " + c, "start it unconfined (in containers: --security-opt apparmor=unconfined --security-opt seccomp=unconfined), " + orGuest
		}
		if f.container() != "" || f.seccomp() {
			return f.filter(), "start it with --privileged, " + orGuest
		}
		return "a security module or filter, though this is root", "look into the kernel's log (dmesg), " + orGuest
	}
	if f.read("proc/sys/kernel/unprivileged_userns_clone") == "0" {
		return "kernel.unprivileged_userns_clone=0", "sudo sysctl -w kernel.unprivileged_userns_clone=1, " + orRoot + ", " + orGuest
	}
	// Ubuntu since 23.10, on by default since 24.04: the namespace is made,
	// but without any capability in it, or refused where the profile
	// unprivileged_userns is not loaded. A container has a rule nearer by.
	if v := f.read("proc/sys/kernel/apparmor_restrict_unprivileged_userns"); v != "" && v != "0" && f.container() == "" {
		rule = "AppArmor (kernel.apparmor_restrict_unprivileged_userns=" + v + ", as on Ubuntu 24.04)"
		sysctl := "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
		if p := f.profile(); p != "" {
			return rule, fmt.Sprintf("/%s has a profile for tcplab, so check that it is loaded (sudo apparmor_parser -r /%s) and names this program's path, or %s, %s, %s", p, p, sysctl, orRoot, orGuest)
		}
		return rule, fmt.Sprintf("%s, or give this program a profile with the rule \"userns,\" in /etc/apparmor.d/tcplab, %s, %s", sysctl, orRoot, orGuest)
	}
	if c := f.confinement(); c != "" {
		return "the AppArmor profile " + c, "start it unconfined (in containers: --security-opt apparmor=unconfined --security-opt seccomp=unconfined), " + orGuest
	}
	if f.container() != "" || f.seccomp() {
		return f.filter(), "start it with --security-opt seccomp=unconfined or --privileged, " + orGuest
	}
	if f.read("sys/fs/selinux/enforce") == "1" {
		return "SELinux, perhaps (it is enforcing, and nothing else was found)", "look for user_namespace in the audit log, " + orRoot + ", " + orGuest
	}
	return "a rule that could not be found (no sysctl, AppArmor profile or seccomp filter explains it; in a chroot they are always refused)", "run as root, " + orGuest
}

// filter names the seccomp filter that container engines install.
func (f machineFacts) filter() string {
	if c := f.container(); c != "" {
		return "the seccomp filter of " + c
	}
	return "a seccomp filter of this process"
}

func (f machineFacts) container() string {
	switch {
	case f.exists(".dockerenv"):
		return "the Docker container"
	case f.exists("run/.containerenv"):
		return "the Podman container"
	case f.exists("var/run/secrets/kubernetes.io"):
		return "the Kubernetes pod"
	}
	return ""
}

func (f machineFacts) seccomp() bool {
	for line := range strings.Lines(f.read("proc/self/status")) {
		if v, ok := strings.CutPrefix(line, "Seccomp:"); ok {
			return strings.TrimSpace(v) == "2" // SECCOMP_MODE_FILTER
		}
	}
	return false
}

// confinement is the AppArmor profile of this process where it enforces one.
func (f machineFacts) confinement() string {
	current := f.read("proc/self/attr/apparmor/current")
	if current == "" && f.exists("sys/kernel/security/apparmor") {
		current = f.read("proc/self/attr/current")
	}
	name, mode, _ := strings.Cut(current, " ")
	if mode != "(enforce)" {
		return ""
	}
	return name
}

// profile is the path of an AppArmor profile made for this program.
func (f machineFacts) profile() string {
	matches, err := fs.Glob(f.root, "etc/apparmor.d/*tcplab*")
	if err != nil || len(matches) == 0 {
		return ""
	}
	return matches[0]
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
