package flood_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"tcplab/netns/internal/nstest"
	"tcplab/netns/tree"
)

// TestMain runs the suite where it is as root, and inside a process tree as a
// plain user, who can make namespaces nowhere else.
func TestMain(m *testing.M) {
	tree.Register("suite", func(context.Context, tree.Worker) error {
		os.Args = []string{os.Args[0], "-test.skip=^TestAllOfThisAsAPlainUser$", "-test.v=" + os.Getenv("SUITE_VERBOSE")}
		if code := nstest.Run(m); code != 0 {
			os.Exit(code)
		}
		return nil
	})
	tree.Main()
	if os.Geteuid() == 0 {
		os.Exit(nstest.Run(m))
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

func TestAllOfThisAsAPlainUser(t *testing.T) { nstest.AgainAsPlainUser(t) }
