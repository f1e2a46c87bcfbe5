package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// MissingError names what a build needs and this machine lacks.
type MissingError struct {
	Packages []string // Debian's names
	Why      string   // why they were not installed
}

func (e *MissingError) Error() string {
	msg := fmt.Sprintf("building the guest kernel needs these packages (Debian's names): %s", strings.Join(e.Packages, " "))
	if e.Why != "" {
		msg += "; " + e.Why
	}
	if slices.Contains(e.Packages, sourcePackage) {
		msg += ". Without that package, " + SourceEnv + " names the unpacked source of Linux 6.12, or its .tar.xz"
	}
	return msg
}

const sourcePackage = "linux-source-6.12"

// missing is what has to be installed, in Debian's names.
func missing(ctx context.Context, own string) []string {
	var need []string
	add := func(p string) {
		if !slices.Contains(need, p) {
			need = append(need, p)
		}
	}
	if own == "" {
		if _, err := os.Stat(debianSource); err != nil {
			add(sourcePackage)
		}
	}
	for _, t := range []struct{ tool, in string }{
		{"make", "make"}, {"gcc", "gcc"}, {"ld", "binutils"}, {"strip", "binutils"}, {"flex", "flex"},
		{"bison", "bison"}, {"bc", "bc"}, {"xz", "xz-utils"}, {"patch", "patch"}, {"sh", "dash"}, {"sed", "sed"}, {"awk", "mawk"},
	} {
		if _, err := exec.LookPath(t.tool); err != nil {
			add(t.in)
		}
	}
	// A compiler without the C library's headers is common.
	if !slices.Contains(need, "gcc") {
		c := exec.CommandContext(ctx, "gcc", "-E", "-include", "stdlib.h", "-x", "c", "/dev/null")
		if err := c.Run(); err != nil && ctx.Err() == nil {
			add("libc6-dev")
		}
	} else {
		add("libc6-dev")
	}
	return need
}

// provide installs what is missing, as root on Debian and its like.
func provide(ctx context.Context, own string, say func(Progress)) error {
	need := missing(ctx, own)
	if len(need) == 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	if os.Geteuid() != 0 {
		return &MissingError{Packages: need, Why: "as root on Debian they are installed by this command"}
	}
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return &MissingError{Packages: need, Why: "this is no Debian, so they are not installed by this command"}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return &MissingError{Packages: need, Why: "there is no apt-get to install them with"}
	}
	say(Progress{Step: "installing " + strings.Join(need, " ")})
	env := append(environment(os.TempDir()), "DEBIAN_FRONTEND=noninteractive")
	// Lists may be stale or absent; if they cannot be had, the install says so.
	_, _ = run(ctx, "", env, nil, "apt-get", "update", "-qq")
	tail, err := run(ctx, "", env, nil, "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, need...)...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &MissingError{Packages: need, Why: "apt-get could not install them: " + strings.Join(excerpt(tail, 4), "; ")}
	}
	if left := missing(ctx, own); len(left) > 0 {
		return &MissingError{Packages: left, Why: "still missing after apt-get install"}
	}
	return nil
}
