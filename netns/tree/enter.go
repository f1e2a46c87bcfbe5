package tree

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// RunningLab is a lab of this user that runs now.
type RunningLab struct {
	// ID tells it from others: the number in its folder's name.
	ID    string
	Temp  string
	Owner Owner
	// Hosts by name; Err says why they are not known (the lab is only
	// starting, or does not serve Enter).
	Hosts []string
	Err   error
}

// askWait bounds how long a lab may take to list its hosts.
const askWait = 2 * time.Second

// Running lists this user's labs under $TMPDIR, the oldest first.
func Running() []RunningLab {
	list, err := folders()
	if err != nil {
		return nil // no folder, no labs
	}
	var labs []RunningLab
	for _, f := range list {
		if f.alive() {
			lab := RunningLab{ID: strings.TrimPrefix(filepath.Base(f.dir), tempPrefix), Temp: f.dir, Owner: f.owner}
			lab.Hosts, lab.Err = askHosts(f.dir)
			labs = append(labs, lab)
		}
		if f.file != nil {
			f.file.Close()
		}
	}
	slices.SortStableFunc(labs, func(a, b RunningLab) int { return a.Owner.Began.Compare(b.Owner.Began) })
	return labs
}

func dial(temp string) (*net.UnixConn, error) {
	path, free, err := socketPath(temp)
	if err != nil {
		return nil, err
	}
	defer free()
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

func askHosts(temp string) ([]string, error) {
	c, err := dial(temp)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(askWait)); err != nil {
		return nil, err
	}
	if err := writeFrame(c, enterRequest{Op: "hosts"}); err != nil {
		return nil, err
	}
	var r enterReply
	_, err = readFrame(c, &r)
	return r.Hosts, err
}

// Enter runs argv, or a shell if it is empty, inside a host of a running lab,
// with this process's standard input, output and error, environment and
// directory, and returns its exit status (128 + N for signal N). On a terminal
// the command gets one of its own, which follows this one's size. run chooses
// a lab by its ID; "" takes the one that has such a host. When this process
// ends, so does the command.
func Enter(host string, argv []string, run string) (exitCode int, err error) {
	return enter(host, argv, run, os.Stdin, os.Stdout, os.Stderr)
}

// EnterWith is Enter with other files than this process's own.
func EnterWith(host string, argv []string, run string, stdin, stdout, stderr *os.File) (exitCode int, err error) {
	return enter(host, argv, run, stdin, stdout, stderr)
}

func enter(host string, argv []string, run string, stdin, stdout, stderr *os.File) (int, error) {
	lab, err := chooseLab(Running(), host, run)
	if err != nil {
		return 0, err
	}
	req := enterRequest{Op: "enter", Host: host, Argv: argv, Env: os.Environ()}
	if len(argv) > 0 {
		// Looked up here, since the path is this user's; the files are the same
		// inside.
		if req.Path, err = exec.LookPath(argv[0]); err != nil {
			return 0, fmt.Errorf("enter %s: %w", host, err)
		}
	}
	if req.Dir, err = os.Getwd(); err != nil {
		return 0, fmt.Errorf("enter %s: %w", host, err)
	}
	c, err := dial(lab.Temp)
	if err != nil {
		return 0, fmt.Errorf("enter %s: lab %s does not answer: %w", host, lab.ID, err)
	}
	defer c.Close()
	var r enterReply
	if term.IsTerminal(int(stdin.Fd())) && term.IsTerminal(int(stdout.Fd())) {
		r, err = onTerminal(c, req, stdin, stdout)
	} else {
		r, err = session(c, req, nil, stdin, stdout, stderr)
	}
	if err != nil {
		return 0, fmt.Errorf("enter %s: %w", host, err)
	}
	if r.Code != 0 && r.SingleUser && len(argv) > 0 {
		if hint := singleUserHint(argv[0]); hint != "" {
			fmt.Fprintf(stderr, "tcplab: %s\n", hint)
		}
	}
	return r.Code, nil
}

// chooseLab finds the lab that is meant, or says what there is to choose from.
func chooseLab(labs []RunningLab, host, run string) (RunningLab, error) {
	if len(labs) == 0 {
		return RunningLab{}, fmt.Errorf("no lab of this user is running under %s; tcplab run NAME --hold keeps one", os.TempDir())
	}
	var have, ids, others []string
	var found RunningLab
	for _, l := range labs {
		ids = append(ids, l.ID)
		if run != "" && l.ID != run {
			continue
		}
		if l.Err != nil {
			others = append(others, fmt.Sprintf("%s: its hosts are not known (%v)", l.ID, l.Err))
			continue
		}
		others = append(others, l.ID+": "+strings.Join(l.Hosts, ", "))
		if slices.Contains(l.Hosts, host) {
			have, found = append(have, l.ID), l
		}
	}
	switch {
	case run != "" && !slices.Contains(ids, run):
		return RunningLab{}, fmt.Errorf("no lab %s is running; there are: %s", run, strings.Join(ids, ", "))
	case len(have) == 0:
		return RunningLab{}, fmt.Errorf("no running lab has a host %q; there are: %s", host, strings.Join(others, "; "))
	case len(have) > 1:
		return RunningLab{}, fmt.Errorf("several running labs have a host %q: say which run: %s", host, strings.Join(have, ", "))
	}
	return found, nil
}

// session sends the request with the command's descriptors and waits for its
// end. started, if not nil, is called once the command runs.
func session(c *net.UnixConn, req enterRequest, started func(), files ...*os.File) (enterReply, error) {
	if err := writeFrame(c, req, files...); err != nil {
		return enterReply{}, err
	}
	for {
		var r enterReply
		if _, err := readFrame(c, &r); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return enterReply{}, errors.New("ended by a signal")
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
				err = errors.New("the lab ended")
			}
			return enterReply{}, err
		}
		switch {
		case r.Error != "":
			return r, errors.New(r.Error)
		case !r.Started:
			return r, nil
		case started != nil:
			started()
		}
	}
}

// drainWait bounds how long output is awaited after the command's end when
// something it left behind keeps its terminal open.
const drainWait = 200 * time.Millisecond

// onTerminal gives the command a terminal of its own and joins it to the
// user's, which is raw meanwhile: control characters are the command's.
func onTerminal(c *net.UnixConn, req enterRequest, stdin, stdout *os.File) (r enterReply, err error) {
	ours, theirs, err := openTerminal()
	if err != nil {
		return r, fmt.Errorf("open a terminal for it: %w", err)
	}
	defer ours.Close()
	defer theirs.Close()
	if err := inheritSize(ours, stdin); err != nil {
		return r, fmt.Errorf("size of the terminal: %w", err)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)

	state, err := term.MakeRaw(int(stdin.Fd()))
	if err != nil {
		return r, fmt.Errorf("set the terminal: %w", err)
	}
	defer func() { err = errors.Join(err, term.Restore(int(stdin.Fd()), state)) }()

	// Told to go, leave the terminal as it was: the lab ends the command.
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(told)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-told:
			c.Close()
		case <-ended:
		}
	}()

	stopR, stopW, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer stopR.Close()
	var input, output sync.WaitGroup
	req.TTY = true
	r, err = session(c, req, func() {
		theirs.Close() // so that ours ends with the command's
		input.Go(func() { relayInput(ours, stdin, stopR) })
		input.Go(func() { followSize(ours, stdin, resized) })
		output.Go(func() { io.Copy(stdout, ours) }) // EIO is its end
	}, theirs)
	// Input and output both: the command may have left unread what was typed.
	err = errors.Join(err, ours.SetDeadline(time.Now().Add(drainWait)))
	output.Wait()
	stopW.Close()
	signal.Stop(resized)
	close(resized)
	input.Wait()
	return r, err
}

// openTerminal makes a terminal. Reads and writes of ours have deadlines; theirs
// blocks, as a program expects of its terminal.
func openTerminal() (ours, theirs *os.File, err error) {
	master, theirs, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer master.Close()
	// The library leaves both blocking (its ioctl uses File.Fd), and does so
	// again at each call: so none comes after this.
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), theirs, nil
}

// inheritSize gives a terminal the size of another.
func inheritSize(to, from *os.File) error {
	size, err := unix.IoctlGetWinsize(int(from.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return err
	}
	return setSize(to, size)
}

func setSize(to *os.File, size *unix.Winsize) error {
	raw, err := to.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = raw.Control(func(fd uintptr) { setErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	return errors.Join(err, setErr)
}

// relayInput copies what the user types until stop's other end is closed. It
// never reads ahead of that: what is typed then is the shell's outside.
func relayInput(to *os.File, stdin, stop *os.File) {
	buf := make([]byte, 4096)
	for {
		fds := []unix.PollFd{{Fd: int32(stdin.Fd()), Events: unix.POLLIN}, {Fd: int32(stop.Fd())}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := stdin.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// followSize passes the size of the user's terminal on at each SIGWINCH. A
// size that cannot be set leaves the command with the last one.
func followSize(to, stdin *os.File, resized <-chan os.Signal) {
	for range resized {
		_ = inheritSize(to, stdin)
	}
}

// singleUserHint is what to know about a program that failed where root is
// the only user.
func singleUserHint(program string) string {
	const only = "only one user, root, exists inside a lab that a plain user started"
	switch filepath.Base(program) {
	case "tcpdump":
		return only + ": tcpdump cannot drop its privileges; try tcpdump -Z root, or run the lab as root"
	case "nginx", "mosquitto", "haproxy", "dnsmasq", "named", "sshd", "su", "sudo", "runuser", "setpriv", "chronyd", "ntpd", "unbound", "memcached", "redis-server", "postgres":
		return only + ": " + filepath.Base(program) + " wants another; tell it to stay root, or run the lab as root"
	}
	return ""
}
