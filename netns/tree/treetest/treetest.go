// Package treetest runs the tests of packages that make namespaces, and no
// more than that. It holds that root runs them where it is, and that a plain
// user, who can make namespaces nowhere else, runs them inside a process tree;
// what may not be left behind is the same for both.
package treetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"tcplab/netns/internal/nstest"
	"tcplab/netns/tree"
)

const verboseEnv = "TREETEST_VERBOSE"

// Main is a package's TestMain: it ends the process.
func Main(m *testing.M) {
	tree.Register("suite", func(context.Context, tree.Worker) error {
		os.Args = []string{os.Args[0], "-test.v=" + os.Getenv(verboseEnv)}
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
	tr, err := tree.Start(context.Background(), "suite", tree.Options{Env: []string{nstest.Plain, verboseEnv + "=" + verbose}})
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
	os.Exit(0)
}
