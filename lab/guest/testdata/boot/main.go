// Command boot is a guest's init with workers that do what a guest may meet.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"tcplab/lab/guest"
	"tcplab/netns/tree"
)

func main() {
	workers := map[string]func(w tree.Worker) error{
		"sleep": func(w tree.Worker) error {
			b := make([]byte, 100)
			n, err := w.In.Read(b)
			if err != nil {
				return err
			}
			began := time.Now()
			time.Sleep(time.Hour)
			fmt.Fprintf(w.Out, "{\"read\":%q,\"slept\":%d,\"at\":%d}\n", b[:n], time.Since(began)/time.Second, began.UnixNano())
			return os.WriteFile(guest.Results+"/made", []byte("here"), 0o644)
		},
		"look": func(w tree.Worker) error {
			_, err := os.Stat("/etc/passwd")
			werr := os.WriteFile("/etc/tcplab-was-here", nil, 0o644)
			out, rerr := exec.Command("/proc/self/exe", "again").CombinedOutput()
			fmt.Fprintf(w.Out, "{\"sees\":%t,\"writes\":%t,\"child\":%q,\"mine\":%t,\"failed\":%t}\n", err == nil, werr == nil, out, os.Getenv("SOMETHING_OF_MINE") != "", rerr != nil)
			return nil
		},
		"fail":  func(w tree.Worker) error { return fmt.Errorf("no luck") },
		"panic": func(w tree.Worker) error { panic("out of luck") },
		"spin": func(w tree.Worker) error {
			for x := 0; ; x++ {
				if x < 0 {
					return nil
				}
			}
		},
		"wait": func(w tree.Worker) error { select {} },
		"eat": func(w tree.Worker) error {
			var all [][]byte
			for {
				b := make([]byte, 8<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				all = append(all, b)
				if len(all) > 1000 {
					return nil
				}
			}
		},
		"random": func(w tree.Worker) error {
			b := make([]byte, 8)
			f, err := os.Open("/dev/urandom")
			if err != nil {
				return err
			}
			if _, err := f.Read(b); err != nil {
				return err
			}
			fmt.Fprintf(w.Out, "{\"random\":\"%x\",\"now\":%d}\n", b, time.Now().UnixNano())
			return nil
		},
	}
	for name, f := range workers {
		tree.Register(name, func(_ context.Context, w tree.Worker) error { return f(w) })
	}
	guest.Main()
	fmt.Print("it runs")
}
