//go:build soak

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tcplab/lab"
	"tcplab/results"
)

// Every wire that there is carries the same experiment:
//
//	go test -tags soak -run CongestionOnEveryWire -timeout 40m ./cmd/tcplab [-update]
//
// -update writes its table into docs/congestion.md. A wire that this machine
// does not have has a row that says so.

const (
	wiresDocument = "../../docs/congestion.md"
	wiresBegin    = "<!-- table: written by TestCongestionOnEveryWire -->\n"
	wiresEnd      = "\n<!-- end of table -->"
	wiresTries    = 3 // on the real clock a busy machine makes a run invalid
)

var wireArms = []string{"cubic", "bbr", "cubic_clean", "bbr_clean"}

func TestCongestionOnEveryWire(t *testing.T) {
	b := newBench(t)
	rows := []string{"| kernel | wire | " + strings.Join(wireArms, " | ") + " |", "|---|---|" + strings.Repeat("---|", len(wireArms))}
	for _, on := range []struct{ kernel, wire string }{{"host", "netem"}, {"host", "userspace"}, {"guest", "netem"}, {"guest", "userspace"}} {
		args := []string{"--kernel=" + on.kernel, "--profile=full", "--pairs=3", "--only", strings.Join(wireArms, ","), "--set", "links.wan.wire.kind=" + on.wire}
		cells, lacks := []string(nil), ""
		for try := 0; try < wiresTries && cells == nil && lacks == ""; try++ {
			cmd, out := b.runOf("congestion", args...)
			var errs strings.Builder
			cmd.Stderr = &errs
			err := cmd.Run()
			code := 0
			if e, ok := err.(*exec.ExitError); ok {
				code = e.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			switch code {
			case lab.ExitPass:
				cells = wireCells(t, b)
			case lab.ExitLacks:
				lacks = "not on this machine: " + lastLine(errs.String())
			case lab.ExitInvalid:
				t.Logf("%s, %s, try %d: invalid: %s", on.kernel, on.wire, try+1, verdictOf(out.Bytes()))
			default:
				t.Errorf("%s, %s: exit code %d: %s\n%s", on.kernel, on.wire, code, verdictOf(out.Bytes()), lastLine(errs.String()))
			}
		}
		switch {
		case lacks != "":
			cells = append([]string{lacks}, slices.Repeat([]string{""}, len(wireArms)-1)...)
		case cells == nil:
			cells = append([]string{fmt.Sprintf("no valid run of %d: the machine was too busy", wiresTries)}, slices.Repeat([]string{""}, len(wireArms)-1)...)
		}
		rows = append(rows, "| "+on.kernel+" | "+on.wire+" | "+strings.Join(cells, " | ")+" |")
	}
	table := strings.Join(rows, "\n") + "\n"
	t.Log("\n" + table)
	if !*update || t.Failed() {
		return
	}
	text, err := os.ReadFile(wiresDocument)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), wiresBegin)
	_, after, ok2 := strings.Cut(rest, wiresEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", wiresDocument)
	}
	if err := os.WriteFile(wiresDocument, []byte(before+wiresBegin+"\n"+table+wiresEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wireCells are the goodputs of the latest run's trials that count: the median
// with the range.
func wireCells(t *testing.T, b *bench) []string {
	t.Helper()
	r, err := results.Load(filepath.Join(b.results, "congestion", "latest"))
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, arm := range wireArms {
		var vs []float64
		for _, x := range r.Arms[arm].Trials {
			if x.Validity.Valid {
				vs = append(vs, x.Metrics["flow.goodput"].Value/1e6)
			}
		}
		slices.Sort(vs)
		if len(vs) == 0 {
			t.Fatalf("%s has no trial that counts", arm)
		}
		cells = append(cells, fmt.Sprintf("%.3g (%.3g–%.3g)", vs[len(vs)/2], vs[0], vs[len(vs)-1]))
	}
	return cells
}

func verdictOf(out []byte) string {
	var r results.Run
	if err := json.Unmarshal(out, &r); err != nil {
		return err.Error()
	}
	return string(r.Verdict) + ": " + r.Because
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "tcplab: ")
}
