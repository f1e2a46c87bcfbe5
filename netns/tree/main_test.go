package tree

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcplab/netns"
	"tcplab/netns/internal/nstest"
)

// outerArg0 starts this binary as an outer process that a test may kill.
const outerArg0 = "tree.test: outer"

func TestMain(m *testing.M) {
	Register("echo", func(ctx context.Context, w Worker) error {
		_, err := io.Copy(w.Out, w.In)
		return err
	})
	Register("shell", shellWorker)
	Register("stubborn", stubbornWorker)
	Register("until-eof", func(ctx context.Context, w Worker) error {
		fmt.Fprintln(w.Out, "ready")
		<-ctx.Done() // In is never read
		fmt.Fprintln(w.Out, context.Cause(ctx))
		return nil
	})
	Register("exit-3", func(context.Context, Worker) error {
		fmt.Fprintf(os.Stderr, "first\nthree it is\n")
		os.Exit(3)
		return nil
	})
	Register("fails", func(context.Context, Worker) error { return fmt.Errorf("no such luck") })
	Register("panics", func(context.Context, Worker) error { panic("at the disco") })
	Register("nested", nestedWorker)
	Register("lab", labWorker)
	Main()
	if os.Args[0] == outerArg0 {
		os.Exit(outer())
	}
	os.Exit(nstest.Run(m))
}

func TestAllOfThisAsAPlainUser(t *testing.T) { nstest.AgainAsPlainUser(t) }

// shellWorker runs its first line of input with sh and ends.
func shellWorker(ctx context.Context, w Worker) error {
	script, err := bufio.NewReader(w.In).ReadString('\n')
	if err != nil {
		return err
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Stdout, cmd.Stderr = w.Out, os.Stderr
	cmd.Env = append(os.Environ(), "TEMP="+w.Temp, "WORKER="+fmt.Sprint(os.Getpid()))
	return cmd.Run()
}

// stubbornWorker wants to live for ever, and has children that do.
func stubbornWorker(ctx context.Context, w Worker) error {
	signal.Ignore(unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
	if err := os.WriteFile(w.Temp+"/file", nil, 0o600); err != nil {
		return err
	}
	for _, attr := range []*syscall.SysProcAttr{nil, {Setsid: true}} {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = attr
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	h, err := netns.NewHost("agent's")
	if err != nil {
		return err
	}
	if err := h.Start(exec.Command("sleep", "1000")); err != nil {
		return err
	}
	// A daemon: its parent ends, and init takes it over.
	if err := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &").Run(); err != nil {
		return err
	}
	fmt.Fprintln(w.Out, "ready")
	select {}
}

// nestedWorker forbids user namespaces to all inside its own and then asks for
// one: the limit belongs to the namespace, not to the machine.
func nestedWorker(ctx context.Context, w Worker) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	_, err := Start(ctx, "echo", Options{ForceUserNS: true})
	fmt.Fprintln(w.Out, err)
	return nil
}

// outer starts the worker that $WORKER names and reports where all is.
func outer() int {
	if binary := os.Getenv("UNEXECUTABLE"); binary != "" {
		if err := os.Chmod(binary, 0o600); err != nil {
			fmt.Println(err)
			return 2
		}
	}
	tr, err := Start(context.Background(), os.Getenv("WORKER"), Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	line, err := bufio.NewReader(tr.Out()).ReadString('\n')
	if err != nil || line != "ready\n" {
		fmt.Printf("the worker said %q, %v\n", line, err)
		return 1
	}
	json.NewEncoder(os.Stdout).Encode(outerReport{Init: tr.cmd.Process.Pid, Temp: tr.Temp})
	if err := tr.Wait(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

type outerReport struct {
	Init int
	Temp string
}

// startOuter runs an outer process of this binary and waits for its report.
func startOuter(t *testing.T, worker string) (cmd *exec.Cmd, rep outerReport, out *bufio.Reader) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Args[0] = outerArg0
	cmd.Env = append(os.Environ(), "WORKER="+worker)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewReader(pipe)
	line, err := out.ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &rep)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("outer process: %q: %v", line, err)
	}
	return cmd, rep, out
}

func start(t *testing.T, name string, opts Options) *Tree {
	t.Helper()
	if opts.Stderr == nil {
		opts.Stderr = t.Output()
	}
	tr, err := Start(t.Context(), name, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tr.Kill()
		tr.Wait()
	})
	return tr
}

// shell runs a script in a worker and returns what it printed.
func shell(t *testing.T, opts Options, script string) string {
	t.Helper()
	tr := start(t, "shell", opts)
	if _, err := io.WriteString(tr.In(), script+"\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(tr.Out())
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// treeOf is a tree's init, held by a descriptor, and its PID namespace.
type treeOf struct {
	pidfd int
	ns    string
}

func watch(t *testing.T, init int) treeOf {
	t.Helper()
	fd, err := unix.PidfdOpen(init, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		t.Fatal(err)
	}
	w := treeOf{fd, ns}
	if n := len(w.processes(t)); n < 2 {
		t.Fatalf("the tree has %d processes", n)
	}
	return w
}

// processes are those of the tree that are there, zombies apart.
func (w treeOf) processes(t *testing.T) (pids []string) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if ns, err := os.Readlink("/proc/" + p.Name() + "/ns/pid"); err != nil || ns != w.ns {
			continue
		}
		// An orphaned init stays a zombie until the machine's own reaps it.
		stat, err := os.ReadFile("/proc/" + p.Name() + "/stat")
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			pids = append(pids, p.Name())
		}
	}
	return pids
}

// nothingLeft waits for init's end and looks for what should have gone too.
func (w treeOf) nothingLeft(t *testing.T, temp string) {
	t.Helper()
	nstest.Gone(t, w.pidfd)
	if pids := w.processes(t); len(pids) > 0 {
		t.Errorf("processes left: %v", pids)
	}
	if _, err := os.Stat(temp); !os.IsNotExist(err) {
		t.Errorf("temporary folder %s is left (%v)", temp, err)
	}
}
