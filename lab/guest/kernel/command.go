package kernel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// environment is all that a build sees of the user's: make's own variables,
// compiler flags and locales would change the binary, or break the build.
func environment(tmp string) []string {
	env := []string{
		"LC_ALL=C", "TMPDIR=" + tmp,
		// linux_banner (init/version-timestamp.c): the same source gives the same bits.
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_USER=tcplab", "KBUILD_BUILD_HOST=guest", "KBUILD_BUILD_VERSION=1",
	}
	for _, k := range []string{"PATH", "HOME", "http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// kept lines of a command's output: enough for a compiler's complaint.
const tailLines = 400

// run starts a command in a process group of its own, so that all of a build
// ends with it, hands each line to hear, and returns the last ones.
func run(ctx context.Context, dir string, env []string, hear func(line string), name string, args ...string) ([]string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = dir, env
	// If this process is killed the build ends too: make stops its compilers.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c.Stdout, c.Stderr = w, w
	// The death signal is that of the thread that forked (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = c.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	var tail []string
	in := bufio.NewReader(r)
	for {
		line, rerr := in.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			if hear != nil {
				hear(line)
			}
			if tail = append(tail, line); len(tail) > 2*tailLines {
				tail = slices.Delete(tail, 0, len(tail)-tailLines)
			}
		}
		if rerr != nil {
			break // io.EOF: all of the group have closed it
		}
	}
	err = c.Wait()
	if ctx.Err() != nil {
		return tail, ctx.Err()
	}
	return tail, err
}

// excerpt is what of a failed command's output says why: n lines from its
// first error on, or its last ones.
func excerpt(tail []string, n int) []string {
	at := slices.IndexFunc(tail, func(s string) bool {
		return strings.Contains(s, "error:") || strings.Contains(s, "undefined reference") || strings.Contains(s, "***") || strings.HasPrefix(s, "E: ")
	})
	if at < 0 {
		at = max(0, len(tail)-n)
	} else if at > 0 && strings.Contains(tail[at-1], ": In function") {
		at--
	}
	return tail[at:min(len(tail), at+n)]
}

// output is what a command prints, for its version.
func output(ctx context.Context, name string, args ...string) string {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = environment(os.TempDir())
	out, err := c.Output()
	if err != nil && !errors.Is(err, io.EOF) {
		return "unknown"
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	return string(first)
}
