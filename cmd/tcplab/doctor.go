package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"tcplab/lab"
	"tcplab/lab/guest"
	"tcplab/lab/guest/kernel"
	"tcplab/netns"
	"tcplab/netns/tree"
)

// doctorWorker is the entry point that asks the kernel, inside the tree.
const doctorWorker = "doctor"

func doctorWork(_ context.Context, w tree.Worker) error {
	return json.NewEncoder(w.Out).Encode(netns.Doctor())
}

type doctorCmd struct {
	JSON bool `help:"As JSON."`
}

func (d doctorCmd) Run() error {
	t, err := tree.Start(context.Background(), doctorWorker, tree.Options{})
	if err != nil {
		return &lab.Error{Code: lab.ExitLacks, Err: err}
	}
	var caps []netns.Capability
	derr := json.NewDecoder(t.Out()).Decode(&caps)
	t.In().Close()
	if err := t.Wait(); err != nil {
		return err
	}
	if derr != nil && !errors.Is(derr, io.EOF) {
		return derr
	}
	caps = append(caps, guestCapability())
	if d.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", " ")
		return e.Encode(caps)
	}
	width := 0
	for _, c := range caps {
		width = max(width, len(c.Name))
	}
	for _, c := range caps {
		fmt.Printf("%s %-*s  %s\n", mark(c.Answer), width, c.Name, c.Detail)
		if c.Answer == netns.Supported {
			continue
		}
		for _, l := range []struct{ head, text string }{{"without it", c.Costs}, {"get it", c.Get}} {
			if l.text != "" {
				fmt.Printf("%s   %s: %s\n", strings.Repeat(" ", width), l.head, l.text)
			}
		}
	}
	return nil
}

// guestCapability is whether guests run here, and whether to the bit.
func guestCapability() netns.Capability {
	c := netns.Capability{Name: "guest-kernel", Answer: netns.Unsupported,
		Costs: "what takes minutes and hours runs scaled down, on the real clock, and no run repeats to the bit"}
	k, err := kernel.Find()
	if err != nil {
		c.Detail, c.Get = err.Error(), "make kernel"
		return c
	}
	memory, not, err := guest.Check()
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	c.Answer, c.Detail = netns.Supported, fmt.Sprintf("Linux %s (build %s), its memory in %s; runs repeat to the bit", k.Version, k.ID, memory)
	if not != "" {
		c.Detail = fmt.Sprintf("Linux %s (build %s), its memory in %s; runs do not repeat to the bit: %s", k.Version, k.ID, memory, not)
	}
	return c
}

func mark(a netns.Answer) string {
	switch a {
	case netns.Supported:
		return "yes"
	case netns.Unsupported:
		return "no "
	}
	return " ? "
}
