package tree

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// enterSocket is in the run's folder. A socket with a path can be reached
	// from any network namespace, and only by whom the folder lets in.
	enterSocket = "enter.sock"
	// maxFrame bounds a message; an environment may have some 2 MiB (ARG_MAX).
	maxFrame = 4 << 20
	// hangupWait is how long a command may go on after its client left.
	hangupWait = time.Second
)

// enterRequest asks for the hosts, or for a command in one of them. A command
// comes with its descriptors: one, the terminal, or three.
type enterRequest struct {
	Op   string   `json:"op"` // "hosts" or "enter"
	Host string   `json:"host,omitempty"`
	Path string   `json:"path,omitempty"` // "": a shell
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	TTY  bool     `json:"tty,omitempty"`
}

// enterReply answers it. A command has two: Started, then how it ended.
type enterReply struct {
	Error      string   `json:"error,omitempty"`
	Hosts      []string `json:"hosts,omitempty"`
	Started    bool     `json:"started,omitempty"`
	SingleUser bool     `json:"single_user,omitempty"`
	Code       int      `json:"code,omitempty"` // as a shell has it: 128 + signal
}

// ServeEnter lets Enter of another process run commands in the hosts of this
// worker, until ctx ends; then it kills those that still run, and returns nil.
// temp is the worker's folder. start starts a command in a host (it is
// Host.Start for the host of that name), and hosts lists them by name.
func ServeEnter(ctx context.Context, temp string, start func(host string, cmd *exec.Cmd) error, hosts func() []string) error {
	path, free, err := socketPath(temp)
	if err != nil {
		return fmt.Errorf("serve enter: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	free()
	if err != nil {
		return fmt.Errorf("serve enter: %w", err)
	}
	l.SetUnlinkOnClose(false) // the path may be gone, and the folder goes anyway
	s := &enterServer{temp: temp, start: start, hosts: hosts}
	var commands sync.WaitGroup
	defer commands.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("serve enter: %w", err)
		}
		commands.Go(func() { s.serve(ctx, c) })
	}
}

type enterServer struct {
	temp  string
	start func(host string, cmd *exec.Cmd) error
	hosts func() []string
}

// serve answers one client and closes the connection.
func (s *enterServer) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var req enterRequest
	files, err := readFrame(c, &req)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	switch {
	case err != nil:
	case req.Op == "hosts":
		err = writeFrame(c, enterReply{Hosts: s.hosts()})
	case req.Op == "enter":
		err = s.enter(ctx, c, req, files)
	default:
		err = fmt.Errorf("unknown request %q: is this another version of the program?", req.Op)
	}
	if err != nil {
		// If the client is gone nobody is left to be told.
		_ = writeFrame(c, enterReply{Error: err.Error()})
	}
}

func (s *enterServer) enter(ctx context.Context, c *net.UnixConn, req enterRequest, files []*os.File) error {
	if hosts := s.hosts(); !slices.Contains(hosts, req.Host) {
		return fmt.Errorf("no host %q in this lab; there are: %s", req.Host, strings.Join(hosts, ", "))
	}
	want := 3
	if req.TTY {
		want = 1
	}
	if len(files) != want {
		return fmt.Errorf("got %d descriptors, want %d", len(files), want)
	}
	cmd := &exec.Cmd{Path: req.Path, Args: req.Argv, Dir: req.Dir,
		Env: append(req.Env, "TCPLAB_HOST="+req.Host)}
	if req.Path == "" {
		if err := s.shell(cmd, req.Host, req.TTY); err != nil {
			return err
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[0], files[0]
	// A process group or session of its own, so that all of it can be ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if req.TTY {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	} else {
		cmd.Stdout, cmd.Stderr = files[1], files[2]
	}
	if err := s.start(req.Host, cmd); err != nil {
		return fmt.Errorf("host %s: start %s: %w", req.Host, cmd.Path, err)
	}
	// The child has its own by now; ours would keep the client's pipes and
	// terminal from ending with it.
	for _, f := range files {
		f.Close()
	}
	if err := writeFrame(c, enterReply{Started: true}); err != nil {
		err = errors.Join(err, endGroup(cmd, nil))
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	left := make(chan struct{})
	go func() {
		// A client sends nothing more: this ends when it has gone.
		io.Copy(io.Discard, c)
		close(left)
	}()
	select {
	case err := <-exited:
		err = writeFrame(c, enterReply{Code: exitCode(cmd, err), SingleUser: singleUser()})
		c.CloseWrite()
		<-left
		return err
	case <-left:
	case <-ctx.Done():
	}
	return endGroup(cmd, exited)
}

// endGroup ends a command whose client has left, as a closed terminal would,
// and kills it when that does not help.
func endGroup(cmd *exec.Cmd, exited <-chan error) error {
	if exited == nil {
		c := make(chan error, 1)
		go func() { c <- cmd.Wait() }()
		exited = c
	}
	group := -cmd.Process.Pid
	_ = unix.Kill(group, unix.SIGHUP)
	_ = unix.Kill(group, unix.SIGCONT)
	select {
	case <-exited:
	case <-time.After(hangupWait):
		_ = unix.Kill(group, unix.SIGKILL)
		<-exited
	}
	// What the command left behind in its group is ended too.
	_ = unix.Kill(group, unix.SIGKILL)
	return nil
}

// shell makes cmd a shell: on a terminal an interactive one whose prompt names
// the host, else one that reads commands.
func (s *enterServer) shell(cmd *exec.Cmd, host string, tty bool) error {
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh"}
	if !tty {
		return nil
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune("$`\\!'\"/", r) || r < ' ' {
			return '_'
		}
		return r
	}, host)
	for _, bash := range []string{"/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"} {
		if _, err := os.Stat(bash); err != nil {
			continue
		}
		// The user's own bashrc would set the prompt again.
		rc := filepath.Join(s.temp, "enter-"+name+".bashrc")
		text := "if [ -r ~/.bashrc ]; then . ~/.bashrc; fi\nunset PROMPT_COMMAND\nPS1='[" + name + "] \\w \\$ '\n"
		if err := os.WriteFile(rc, []byte(text), 0o600); err != nil {
			return fmt.Errorf("host %s: prepare a shell: %w", host, err)
		}
		cmd.Path, cmd.Args = bash, []string{"bash", "--rcfile", rc, "-i"}
		return nil
	}
	cmd.Args = append(cmd.Args, "-i")
	cmd.Env = append(cmd.Env, "PS1=["+name+"] # ", "ENV=")
	return nil
}

// exitCode is the status as a shell gives it, 255 where there is none.
func exitCode(cmd *exec.Cmd, err error) int {
	if cmd.ProcessState == nil {
		return 255
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// singleUser tells whether only one user exists here: a plain user's tree.
func singleUser() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	f := strings.Fields(string(b))
	return err == nil && len(f) == 3 && f[2] == "1"
}

// socketPath is a path to the socket in dir that fits into a sockaddr_un (108
// bytes), by way of an open descriptor where TMPDIR is long.
func socketPath(dir string) (path string, free func(), err error) {
	path = filepath.Join(dir, enterSocket)
	if len(path) < 108 {
		return path, func() {}, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, enterSocket), func() { unix.Close(fd) }, nil
}

// writeFrame sends v as JSON after its length, with descriptors on the length.
func writeFrame(c *net.UnixConn, v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d bytes is too long (the environment?)", len(body))
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := c.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err = c.Write(body)
	return err
}

// readFrame reads one frame into v. The descriptors are the caller's to close,
// also when there is an error.
func readFrame(c *net.UnixConn, v any) (files []*os.File, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, m := range msgs {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				for _, fd := range fds {
					files = append(files, os.NewFile(uintptr(fd), "entered"))
				}
			}
		}
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > maxFrame {
		return files, fmt.Errorf("message of %d bytes is too long", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return files, err
	}
	// Only now: who is still writing would not get to read the reply.
	if flags&unix.MSG_CTRUNC != 0 {
		return files, errors.New("more than three descriptors")
	}
	return files, json.Unmarshal(body, v)
}
