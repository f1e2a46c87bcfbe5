package triage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"tcplab/netns/tree"
)

// TestMain runs the suite where it is as root, and inside a process tree as a
// plain user, who can make namespaces nowhere else.
func TestMain(m *testing.M) {
	tree.Register("suite", func(context.Context, tree.Worker) error {
		os.Args = []string{os.Args[0], "-test.v=" + os.Getenv("SUITE_VERBOSE")}
		os.Exit(suite(m))
		return nil
	})
	tree.Main()
	if os.Geteuid() == 0 {
		os.Exit(suite(m))
	}
	verbose := "false"
	for _, a := range os.Args {
		if a == "-test.v" || a == "-test.v=true" {
			verbose = "true"
		}
	}
	tr, err := tree.Start(context.Background(), "suite", tree.Options{Env: []string{"SUITE_VERBOSE=" + verbose}})
	if err == nil {
		err = tr.Wait()
	}
	var exit *tree.ExitError
	if errors.As(err, &exit) && exit.Code > 0 {
		os.Exit(exit.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func suite(m *testing.M) int {
	started := goleak.IgnoreCurrent()
	before := descriptors()
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(started); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if n := descriptors() - before; n > 0 {
		fmt.Fprintf(os.Stderr, "%d descriptors are left open\n", n)
		return 1
	}
	return 0
}

// descriptors counts those open, but for the runtime's own poller.
func descriptors() int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // a masked /proc
	}
	n := 0
	for _, e := range es {
		if l, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && l != "anon_inode:[eventpoll]" && l != "anon_inode:[eventfd]" {
			n++
		}
	}
	return n
}
