package lab

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tcplab/netns/wire"
	"tcplab/results"
)

// shareFates says, for every link of every treatment's trial, which share of
// the packets that random fates were drawn for occurred in the baseline's
// trial of the same pair too.
func shareFates(r *results.Run, dir string) {
	var base *results.Arm
	for _, a := range r.Arms {
		if a.Baseline {
			base = &a
		}
	}
	if base == nil {
		return
	}
	for name, a := range r.Arms {
		if a.Baseline {
			continue
		}
		for i := range a.Trials {
			for j := range a.Trials[i].Wires {
				w := &a.Trials[i].Wires[j]
				if w.Draws == 0 {
					continue
				}
				share, err := shared(base, a.Trials[i], w.Link, dir)
				if err != nil {
					r.Warnings = append(r.Warnings, results.Warning{About: name + ", wire " + w.Link, Text: fmt.Sprintf("how many packets it shares with the baseline is not known: %v", err)})
					continue
				}
				w.SharedFates = &share
			}
		}
	}
}

func shared(base *results.Arm, t results.Trial, link, dir string) (float64, error) {
	for _, b := range base.Trials {
		if b.Pair != t.Pair {
			continue
		}
		x, err := readFates(filepath.Join(dir, b.Dir, results.FatesFile(link)))
		if err != nil {
			return 0, err
		}
		y, err := readFates(filepath.Join(dir, t.Dir, results.FatesFile(link)))
		if err != nil {
			return 0, err
		}
		return wire.Share(x, y), nil
	}
	return 0, errors.New("the baseline has no trial of this pair")
}

func readFates(name string) ([]uint64, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was drawn
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var l wire.FateLog
	if err := json.NewDecoder(zr).Decode(&l); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l.Entries(), nil
}
