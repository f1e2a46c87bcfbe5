package plots

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"tcplab/results"
)

// armNames gives the arms of a run in the order of every table and figure:
// the baseline, then the sheet's order.
func armNames(r *results.Run) []string {
	names := sortedKeys(r.Arms)
	sort.SliceStable(names, func(i, j int) bool {
		a, b := r.Arms[names[i]], r.Arms[names[j]]
		if a.Baseline != b.Baseline {
			return a.Baseline
		}
		return a.Position < b.Position
	})
	return names
}

// baseline is the arm that the others are compared with; "" when there is
// none.
func baseline(r *results.Run) string {
	for _, n := range armNames(r) {
		if r.Arms[n].Baseline {
			return n
		}
	}
	return ""
}

// trials gives all trials in the order in which they were run.
func trials(r *results.Run) []results.Trial {
	var all []results.Trial
	for _, n := range armNames(r) {
		all = append(all, r.Arms[n].Trials...)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Number < all[j].Number })
	return all
}

// splitMetric takes OWNER.METRIC[@FAULT] apart; an owner may hold dots.
func splitMetric(key string) (owner, metric string) {
	for i := 0; i < len(key); i++ {
		if key[i] != '.' {
			continue
		}
		name, _, _ := strings.Cut(key[i+1:], "@")
		if _, ok := results.LookupMetric(name); ok {
			return key[:i], key[i+1:]
		}
	}
	owner, metric, _ = strings.Cut(key, ".")
	return owner, metric
}

// A program is a client process and the host that it runs in.
type program struct{ name, host string }

// programs finds the clients of a run, in the order of the record.
func programs(r *results.Run) []program {
	var ps []program
	known := map[string]bool{}
	for _, t := range trials(r) {
		for _, a := range t.Agents {
			if a.Role == "client" && !known[a.Name] {
				known[a.Name] = true
				if a.Kind != "flood" { // it has no requests and no connections: nothing to put beside the others'
					ps = append(ps, program{a.Name, a.Host})
				}
			}
		}
	}
	// A record without agents still has its metrics.
	owners := map[string]bool{}
	for _, n := range armNames(r) {
		for k := range r.Arms[n].Metrics {
			owner, metric := splitMetric(k)
			if i, ok := results.LookupMetric(metric); ok && i.Owner == results.OwnerClient && !known[owner] {
				owners[owner] = true
			}
		}
	}
	for _, o := range sortedKeys(owners) {
		ps = append(ps, program{o, o})
	}
	return ps
}

// hosts finds the hosts that have a metric or series of their own: those of
// clients first.
func hosts(r *results.Run) []string {
	var hs []string
	known := map[string]bool{}
	add := func(h string) {
		if h != "" && !known[h] {
			known[h] = true
			hs = append(hs, h)
		}
	}
	for _, p := range programs(r) {
		add(p.host)
	}
	for _, t := range trials(r) {
		for _, h := range t.Hosts {
			add(h.Name)
		}
		for _, a := range t.Agents {
			if a.Role == "server" {
				add(a.Host)
			}
		}
	}
	owners := map[string]bool{}
	for _, n := range armNames(r) {
		for k := range r.Arms[n].Metrics {
			owner, metric := splitMetric(k)
			if i, ok := results.LookupMetric(metric); ok && i.Owner == results.OwnerHost {
				owners[owner] = true
			}
		}
	}
	for _, o := range sortedKeys(owners) {
		add(o)
	}
	return hs
}

var rangeNumbers = regexp.MustCompile(`^\s*(\d+)\s+(\d+)\s*$`)

// portRange is how many ephemeral ports host had in trial t; the sheet's own
// number where the trial does not say.
func portRange(r *results.Run, t results.Trial, host string) (float64, bool) {
	const key = "net.ipv4.ip_local_port_range"
	v := r.Environment.Sysctls[key]
	for _, h := range t.Hosts {
		if h.Name == host && h.Sysctls[key] != "" {
			v = h.Sysctls[key]
		}
	}
	if m := rangeNumbers.FindStringSubmatch(v); m != nil {
		lo, _ := strconv.ParseFloat(m[1], 64)
		hi, _ := strconv.ParseFloat(m[2], 64)
		if hi >= lo {
			return hi - lo + 1, true
		}
	}
	q, ok := r.Numbers["ports"]
	return q.Value, ok && q.Value > 0
}

// measured is an arm as the figures see it: one trial's series, and the
// distributions of all its trials that count.
type measured struct {
	name   string
	index  int // position among all arms: its colour
	trial  results.Trial
	merged int // trials whose histograms are merged
	series map[string]results.Series
	hist   results.Histograms
}

// load reads what the figures of dir draw from. Files that cannot be read are
// gaps: named, never fatal.
func load(dir string, r *results.Run) (arms []measured, gaps []string) {
	for i, name := range armNames(r) {
		arm := r.Arms[name]
		if len(arm.Trials) == 0 {
			continue
		}
		use := make([]results.Trial, 0, len(arm.Trials))
		for _, t := range arm.Trials {
			if t.Validity.Valid {
				use = append(use, t)
			}
		}
		if len(use) == 0 {
			use = append(use, arm.Trials...)
		}
		sort.SliceStable(use, func(i, j int) bool { return use[i].Number < use[j].Number })
		m := measured{name: name, index: i, trial: use[0], hist: results.Histograms{}}
		for _, t := range use {
			hs, err := readHistograms(filepath.Join(dir, t.Dir, results.HistogramFile))
			if err != nil {
				gaps = append(gaps, gap(t, results.HistogramFile, err))
				continue
			}
			m.merged++
			for _, k := range sortedKeys(hs) {
				if m.hist[k] == nil {
					m.hist[k] = results.NewHistogram()
				}
				if n := m.hist[k].Merge(hs[k]); n > 0 {
					gaps = append(gaps, gap(t, results.HistogramFile, nil)+": "+plural(int(n), "value")+" of "+k+" out of range")
				}
			}
		}
		s, err := readSamples(filepath.Join(dir, m.trial.Dir, results.SamplesFile), m.trial.Columns)
		if err != nil {
			gaps = append(gaps, gap(m.trial, results.SamplesFile, err))
		}
		m.series = finite(s)
		arms = append(arms, m)
	}
	return arms, gaps
}

// finite leaves out what cannot be drawn.
func finite(series map[string]results.Series) map[string]results.Series {
	for k, s := range series {
		n := 0
		for i := range s.V {
			if math.IsNaN(s.V[i]) || math.IsInf(s.V[i], 0) || math.IsNaN(s.T[i]) || math.IsInf(s.T[i], 0) {
				continue
			}
			s.T[n], s.V[n] = s.T[i], s.V[i]
			n++
		}
		s.T, s.V = s.T[:n], s.V[:n]
		series[k] = s
	}
	return series
}

// gap words what is missing without the machine's own paths.
func gap(t results.Trial, file string, err error) string {
	s := t.Dir + "/" + file
	switch {
	case err == nil:
		return s
	case os.IsNotExist(err):
		return s + " is not there: the figures drawn from it lack " + trialName(t)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // without the machine's own path
	}
	return s + " cannot be read (" + err.Error() + "): the figures drawn from it lack " + trialName(t)
}

func readHistograms(name string) (results.Histograms, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return results.ReadHistograms(f)
}

func readSamples(name string, cs []results.Column) (map[string]results.Series, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return results.ReadSamples(f, cs)
}
