package tree

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcplab/netns"
	"tcplab/netns/internal/nstest"
)

// labWorker is two hosts on a link that can be entered.
func labWorker(ctx context.Context, w Worker) error {
	hosts := map[string]*netns.Host{}
	var names []string
	var ends [2]netns.Endpoint
	for i, name := range []string{"client", "server"} {
		h, err := netns.NewHost(name)
		if err != nil {
			return err
		}
		defer h.Close()
		hosts[name], names = h, append(names, name)
		ends[i] = netns.Endpoint{Host: h, Addr: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1))}
	}
	l, err := netns.Connect(netns.LinkConfig{Name: "wire", DirectPair: true, A: ends[0], B: ends[1]})
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		served <- ServeEnter(ctx, w.Temp,
			func(host string, cmd *exec.Cmd) error { return hosts[host].Start(cmd) },
			func() []string { return names })
	}()
	for !serves(w.Temp) {
		select {
		case err := <-served:
			return err
		case <-time.After(time.Millisecond):
		}
	}
	fmt.Fprintln(w.Out, "ready")
	return <-served
}

func serves(temp string) bool {
	_, err := askHosts(temp)
	return err == nil
}

func startLab(t *testing.T) *Tree {
	t.Helper()
	tr := start(t, "lab", Options{})
	if line, err := bufio.NewReader(tr.Out()).ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	return tr
}

func id(tr *Tree) string { return strings.TrimPrefix(filepath.Base(tr.Temp), tempPrefix) }

// enterWith enters with input on a pipe and returns what came out of two others.
func enterWith(t *testing.T, host string, argv []string, run, input string) (code int, stdout, stderr string, err error) {
	t.Helper()
	var r, w [3]*os.File
	for i := range 3 {
		var perr error
		if r[i], w[i], perr = os.Pipe(); perr != nil {
			t.Fatal(perr)
		}
	}
	text := make(chan [2]string)
	go func() {
		io.WriteString(w[0], input)
		w[0].Close()
		errs := make(chan string)
		go func() {
			b, _ := io.ReadAll(r[2])
			errs <- string(b)
		}()
		out, _ := io.ReadAll(r[1])
		text <- [2]string{string(out), <-errs}
	}()
	code, err = enter(host, argv, run, r[0], w[1], w[2])
	for _, f := range []*os.File{r[0], w[1], w[2]} {
		f.Close()
	}
	both := <-text
	r[1].Close()
	r[2].Close()
	return code, both[0], both[1], err
}

func TestEnteredCommandRunsInsideTheHost(t *testing.T) {
	tr := startLab(t)
	t.Setenv("MARK", "carried over")
	code, out, errs, err := enterWith(t, "server", []string{"sh", "-c", `ip -o -4 addr show wire; cat; pwd; echo $MARK $TCPLAB_HOST; echo oops >&2; exit 7`}, "", "typed\n")
	if err != nil || code != 7 {
		t.Fatalf("exit status %d, %v: %s", code, err, errs)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.0.0.2/24", "typed\n", dir + "\n", "carried over server\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q has no %q", out, want)
		}
	}
	if errs != "oops\n" {
		t.Errorf("standard error: %q", errs)
	}
	code, _, _, err = enterWith(t, "client", []string{"sh", "-c", "kill -TERM $$"}, id(tr), "")
	if err != nil || code != 128+int(unix.SIGTERM) {
		t.Errorf("killed by a signal: %d, %v", code, err)
	}
	code, _, _, err = enterWith(t, "client", []string{"ping", "-c1", "-W5", "10.0.0.2"}, id(tr), "")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("no ping on this machine")
	} else if err != nil || code != 0 {
		t.Errorf("ping: %d, %v", code, err)
	}
	tr.In().Close()
	if err := tr.Wait(); err != nil {
		t.Error(err)
	}
}

func TestShellWithoutATerminalReadsItsCommands(t *testing.T) {
	startLab(t)
	code, out, errs, err := enterWith(t, "client", nil, "", "echo in $TCPLAB_HOST\nexit 4\n")
	if err != nil || code != 4 || out != "in client\n" || errs != "" {
		t.Errorf("status %d, %v: %q %q", code, err, out, errs)
	}
}

func TestEnteringWhatIsNotThereSaysWhatIs(t *testing.T) {
	if _, err := Enter("client", nil, ""); err == nil || !strings.Contains(err.Error(), "--hold") {
		t.Errorf("without a lab: %v", err)
	}
	one, two := startLab(t), startLab(t)
	for _, c := range []struct {
		host, run string
		argv      []string
		says      []string
	}{
		{"router", id(one), nil, []string{`"router"`, "client, server"}},
		{"router", "", nil, []string{`"router"`, id(one), id(two)}},
		{"client", "", nil, []string{"several", id(one), id(two)}},
		{"client", "99", nil, []string{"no lab 99", id(one)}},
		{"client", id(one), []string{"no-such-program"}, []string{"no-such-program", "not found"}},
		{"client", id(one), []string{"/etc/passwd"}, []string{"/etc/passwd", "permission denied"}},
	} {
		_, _, _, err := enterWith(t, c.host, c.argv, c.run, "")
		if err == nil {
			t.Errorf("%s in %q: no error", c.host, c.run)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q does not say %q", err, s)
			}
		}
	}
	labs := Running()
	var ids []string
	for _, l := range labs {
		ids = append(ids, l.ID)
		if !slices.Equal(l.Hosts, []string{"client", "server"}) || l.Err != nil || l.Owner.PID != os.Getpid() || len(l.Owner.Command) == 0 {
			t.Errorf("%+v", l)
		}
	}
	slices.Sort(ids)
	want := []string{id(one), id(two)}
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("running: %v, want %v", ids, want)
	}
	// One is enough to be chosen unasked.
	one.Kill()
	one.Wait()
	if code, _, _, err := enterWith(t, "client", []string{"true"}, "", ""); err != nil || code != 0 {
		t.Errorf("the other one: %d, %v", code, err)
	}
}

func TestLabThatServesNobodyIsListedWithItsReason(t *testing.T) {
	tr := start(t, "until-eof", Options{})
	labs := Running()
	if len(labs) != 1 || labs[0].ID != id(tr) || labs[0].Err == nil {
		t.Errorf("%+v", labs)
	}
	if _, _, _, err := enterWith(t, "client", nil, "", ""); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("got %v", err)
	}
}

func TestEnteredCommandEndsWithItsLab(t *testing.T) {
	tr := startLab(t)
	done := make(chan error, 1)
	go func() {
		_, _, _, err := enterWith(t, "client", []string{"sh", "-c", "echo started > " + tr.Temp + "/mark; exec sleep 1000"}, "", "")
		done <- err
	}()
	waitFor(t, tr.Temp+"/mark")
	tr.In().Close()
	if err := tr.Wait(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the lab ended") {
		t.Errorf("got %v", err)
	}
}

// waitFor waits until a file is there.
func waitFor(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s does not appear", path)
}

func TestEnteredCommandEndsWithItsClient(t *testing.T) {
	tr := startLab(t)
	// A client that dies: here, one that hangs up.
	c, err := dial(tr.Temp)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	script := "trap '' HUP TERM; sleep 1000 & echo > " + tr.Temp + "/mark; wait"
	req := enterRequest{Op: "enter", Host: "client", Path: "/bin/sh", Argv: []string{"sh", "-c", script}, Env: os.Environ(), Dir: "/"}
	if err := writeFrame(c, req, null, null, null); err != nil {
		t.Fatal(err)
	}
	waitFor(t, tr.Temp+"/mark")
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", tr.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	w := treeOf{ns: ns}
	if n := len(w.processes(t)); n != 4 { // init, worker, sh, sleep
		t.Errorf("%d processes", n)
	}
	c.Close()
	for deadline := time.Now().Add(20 * time.Second); len(w.processes(t)) != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes after the client's end", len(w.processes(t)))
		}
	}
}

func TestBadRequestsAreAnsweredWithAnError(t *testing.T) {
	tr := startLab(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for says, try := range map[string]struct {
		req   enterRequest
		files []*os.File
	}{
		"descriptors":         {enterRequest{Op: "enter", Host: "client"}, []*os.File{null}},
		"unknown request":     {enterRequest{Op: "dance"}, []*os.File{null, null, null}},
		"no host":             {enterRequest{Op: "enter", Host: "nobody"}, nil},
		"more than three des": {enterRequest{Op: "enter", Host: "client"}, []*os.File{null, null, null, null, null, null, null, null}},
	} {
		c, err := dial(tr.Temp)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFrame(c, try.req, try.files...); err != nil {
			t.Fatal(err)
		}
		var r enterReply
		if _, err := readFrame(c, &r); err != nil || !strings.Contains(r.Error, says) {
			t.Errorf("want %q, got %+v, %v", says, r, err)
		}
		c.Close()
	}
	// Garbage and a length that lies end the connection, not the lab.
	for _, garbage := range []string{"", "ab", "\xff\xff\xff\xff", "\x10\x00\x00\x00short"} {
		c, err := dial(tr.Temp)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, garbage)
		c.Close()
	}
	if hosts, err := askHosts(tr.Temp); err != nil || len(hosts) != 2 {
		t.Errorf("afterwards: %v, %v", hosts, err)
	}
}

// TestOnATerminalTheCommandHasOneOfItsOwn plays the user: it types at one end
// of a terminal whose other end is given to enter.
func TestOnATerminalTheCommandHasOneOfItsOwn(t *testing.T) {
	t.Setenv("HISTFILE", "/dev/null") // the shell is the tester's own
	startLab(t)
	user, terminal, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer terminal.Close()
	if err := setSize(user, &unix.Winsize{Row: 33, Col: 101}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := enter("client", nil, "", terminal, terminal, terminal)
		done <- result{code, err}
	}()
	screen := &screen{t: t, from: user}
	screen.until("[client]")
	fmt.Fprintf(user, "stty size; tty | cut -c1-9; ps -o tty= -p $$\r")
	screen.until("33 101")
	screen.until("/dev/pts/")
	// A change of size reaches it, without a signal from a real terminal.
	if err := setSize(user, &unix.Winsize{Row: 44, Col: 102}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(user, "while [ \"$(stty size)\" != '44 102' ]; do sleep 0.01; done; echo resi''zed\r")
	screen.until("resized")
	// Control characters are the command's, not ours. It says something first,
	// when it has the terminal: before, an interrupt could still be the shell's.
	fmt.Fprintf(user, "sh -c 'echo run\"\"ning; exec sleep 1000'\r")
	screen.until("running")
	fmt.Fprintf(user, "\x03")
	screen.until("[client]")
	// What goes on in the background does not keep the user waiting.
	fmt.Fprintf(user, "(trap '' HUP; exec setsid sleep 1000) & exit 5\r")
	r := <-done
	if r.err != nil || r.code != 5 {
		t.Errorf("exit status %d, %v", r.code, r.err)
	}
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if *after != *before {
		t.Error("the terminal is not as it was")
	}
}

// screen is what the user sees.
type screen struct {
	t    *testing.T
	from *os.File
	seen string
}

// until reads on until s is seen, and forgets all up to there.
func (s *screen) until(want string) {
	s.t.Helper()
	if err := s.from.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 1024)
	for {
		if i := strings.Index(s.seen, want); i >= 0 {
			s.seen = s.seen[i+len(want):]
			return
		}
		n, err := s.from.Read(buf)
		s.seen += string(buf[:n])
		if err != nil {
			s.t.Fatalf("waiting for %q: %v; the screen shows %q", want, err, s.seen)
		}
	}
}

func TestSocketInALongFolderIsServedAndFound(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	startLab(t)
	if code, _, _, err := enterWith(t, "client", []string{"true"}, "", ""); err != nil || code != 0 {
		t.Errorf("%d, %v", code, err)
	}
}

func TestHintForProgramsThatWantAnotherUser(t *testing.T) {
	if h := singleUserHint("/usr/sbin/tcpdump"); !strings.Contains(h, "-Z root") || !strings.Contains(h, "only one user") {
		t.Error(h)
	}
	if h := singleUserHint("ss"); h != "" {
		t.Error(h)
	}
	startLab(t)
	// As a plain user, a program of such a name that fails brings the hint.
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/nginx", []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	code, _, errs, err := enterWith(t, "client", []string{"nginx"}, "", "")
	if err != nil || code != 1 || strings.Contains(errs, "only one user") != nstest.PlainUser() {
		t.Errorf("%d, %v: %q", code, err, errs)
	}
}
