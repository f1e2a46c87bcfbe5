package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tcplab/lab"
	"tcplab/results"
)

type driftCmd struct {
	File  string `arg:"" help:"Log file, or - for standard input: a line for each event, with its time anywhere in it."`
	Match string `help:"Only lines that this regular expression finds." placeholder:"REGEX"`
}

// maxShown is how many events the table has: the first and the last ones.
const maxShown = 24

func (d driftCmd) Run() error {
	usage := func(err error) error { return &lab.Error{Code: lab.ExitUsage, Err: err} }
	match, err := regexp.Compile(d.Match)
	if err != nil {
		return usage(fmt.Errorf("--match: %w", err))
	}
	in := io.Reader(os.Stdin)
	if d.File != "-" {
		f, err := os.Open(d.File)
		if err != nil {
			return usage(err)
		}
		defer f.Close()
		in = f
	}
	log, err := readStamps(in, match)
	if err != nil {
		return usage(fmt.Errorf("%s: %w", d.File, err))
	}
	if len(log.times) == 0 {
		return usage(fmt.Errorf("%s: no time in any of %d lines: RFC 3339 is wanted (2024-05-10T03:14:22Z), with a space for the T, a comma before the fraction or no zone if need be; 10/May/2024:03:14:22 +0000; May 10 03:14:22; or seconds since 1970", d.File, log.lines))
	}
	out := bufio.NewWriter(os.Stdout)
	fit := results.FindDrift(log.times)
	printDrift(out, log, fit)
	if err := out.Flush(); err != nil {
		return err
	}
	switch fit.Verdict {
	case results.DriftTimer, results.DriftSchedule:
		return nil
	}
	return exit(lab.ExitInconclusive)
}

// stamps is what a log says of times.
type stamps struct {
	times   []float64 // s since 1970
	lines   int       // that were asked for
	bad     int       // of which had no time
	firstNo int       // the first of these
	first   string
	noZone  int
	noYear  int
}

// readStamps reads the first time in each line that match finds.
func readStamps(r io.Reader, match *regexp.Regexp) (stamps, error) {
	var s stamps
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || !match.MatchString(line) {
			continue
		}
		s.lines++
		t, kind, ok := findStamp(line)
		if !ok {
			if s.bad++; s.bad == 1 {
				s.firstNo, s.first = n, line
			}
			continue
		}
		switch kind {
		case stampNoZone:
			s.noZone++
		case stampNoYear:
			s.noYear++
			// Without a year, January after December is the next one.
			if k := len(s.times); k > 0 && t < s.times[k-1]-180*86400 {
				t += 366 * 86400 // 2024 has as many
			}
		}
		s.times = append(s.times, t)
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return s, errors.New("a line is longer than 1 MB: this is no log")
	}
	return s, sc.Err()
}

type stampKind int

const (
	stampFull stampKind = iota
	stampNoZone
	stampNoYear
)

var (
	isoStamp    = regexp.MustCompile(`(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\d*\s?(Z|[+-]\d\d:?\d\d)?`)
	apacheStamp = regexp.MustCompile(`\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}`)
	syslogStamp = regexp.MustCompile(`(?:^|\s|>)([A-Z][a-z]{2}\s+\d{1,2} \d\d:\d\d:\d\d)(?:\s|$)`)
	epochStamp  = regexp.MustCompile(`(?:^|[\s\[="(])(1\d{9}(?:\.\d{1,9})?|1\d{12})(?:$|[\s\],")])`)
)

// findStamp is the first time in a line, s since 1970.
func findStamp(line string) (s float64, kind stampKind, ok bool) {
	seconds := func(t time.Time) float64 { return float64(t.Unix()) + float64(t.Nanosecond())/1e9 }
	if m := isoStamp.FindStringSubmatch(line); m != nil {
		zone := strings.Replace(m[4], ":", "", 1)
		if zone == "" {
			zone, kind = "Z", stampNoZone
		}
		layout := "2006-01-02T15:04:05.999999999Z0700"
		if t, err := time.Parse(layout, m[1]+"T"+m[2]+"."+m[3]+strings.Repeat("0", max(0, 1-len(m[3])))+zone); err == nil {
			return seconds(t), kind, true
		}
	}
	if m := apacheStamp.FindString(line); m != "" {
		if t, err := time.Parse("02/Jan/2006:15:04:05 -0700", m); err == nil {
			return seconds(t), stampFull, true
		}
	}
	if m := syslogStamp.FindStringSubmatch(line); m != nil {
		// A year with a February of 29 days, since none is given.
		if t, err := time.Parse("2006 Jan 2 15:04:05", "2024 "+strings.Join(strings.Fields(m[1]), " ")); err == nil {
			return seconds(t), stampNoYear, true
		}
	}
	if m := epochStamp.FindStringSubmatch(line); m != nil {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil {
			if !strings.Contains(m[1], ".") && len(m[1]) == 13 {
				v /= 1e3
			}
			return v, stampFull, true
		}
	}
	return 0, 0, false
}

func printDrift(w io.Writer, log stamps, d results.Drift) {
	fmt.Fprintf(w, "%d events", d.N)
	if log.bad > 0 {
		what := "lines"
		if log.bad == 1 {
			what = "line"
		}
		fmt.Fprintf(w, "; %d %s without a time left out, the first of them line %d: %.60q", log.bad, what, log.firstNo, log.first)
	}
	fmt.Fprintln(w)
	if log.noZone > 0 {
		fmt.Fprintf(w, "%d without a zone: taken as UTC\n", log.noZone)
	}
	if log.noYear > 0 {
		fmt.Fprintf(w, "%d without a year and a zone: taken as one UTC year\n", log.noYear)
	}
	if d.Period > 0 {
		fmt.Fprintf(w, "\nperiod     %s\n", results.PeriodName(d.Period))
		fmt.Fprintf(w, "interval   %s on average\n", plain(d.Mean, 3)+" s")
		fmt.Fprintf(w, "drift      %s s a day, 95%% interval %s\n", signedNumber(d.PerDay), interval(d.PerDayLow, d.PerDayHigh))
		fmt.Fprintf(w, "scatter    %s s about the line\n", plain(d.Scatter, 3))
		if d.P > 0 && !math.IsInf(d.PerDayHigh, 0) {
			fmt.Fprintf(w, "p          %s of no drift\n", smallP(d.P))
		}
		if d.Restarts > 0 {
			fmt.Fprintf(w, "restarts   %d intervals are no multiple of the period: the line starts anew after each\n", d.Restarts)
		}
		fmt.Fprintln(w)
		tableOf(w, d)
	} else if d.N > 1 {
		fmt.Fprintf(w, "\ninterval   %s s, the middle one\n", plain(d.Mean, 3))
	}
	fmt.Fprintf(w, "\n%s\n", sentence(d))
}

// sentence is the verdict with its reason.
func sentence(d results.Drift) string {
	switch d.Verdict {
	case results.DriftTimer:
		s := string(d.Verdict) + ". Each event comes " + plain(math.Abs(d.PerPeriod), 2) + " s "
		if d.PerPeriod < 0 {
			return s + "sooner than " + results.PeriodName(d.Period) + " after the one before: no cron does that."
		}
		return s + "later than " + results.PeriodName(d.Period) + " after the one before: a timeout that starts anew with each connection does that, a cron does not."
	case results.DriftSchedule:
		return string(d.Verdict) + ". Events keep their place on the clock, however late each one is."
	case results.DriftNoPeriod:
		return string(d.Verdict) + ": fewer than half of the intervals are near a minute, an hour, 12 hours, a day or the like, so there is no clock to drift against."
	}
	if d.N < 4 {
		return string(d.Verdict) + ": " + strconv.Itoa(d.N) + " events; a line through fewer than 4 proves nothing, and 8 are better."
	}
	return string(d.Verdict) + ": the interval holds both no drift and one that a timer may have. More events, or finer stamps, tell them apart."
}

func tableOf(w io.Writer, d results.Drift) {
	fmt.Fprintf(w, "%-24s %7s %12s %12s\n", "event (UTC)", "period", "off, s", "line, s")
	for i, p := range d.Points {
		if n := len(d.Points); n > maxShown && i >= maxShown/2 && i < n-maxShown/2 {
			if i == maxShown/2 {
				fmt.Fprintf(w, "… %d more\n", n-maxShown)
			}
			continue
		}
		at := time.Unix(0, int64(math.Round(p.At*1e3))*1e6).UTC().Format("2006-01-02T15:04:05.999Z")
		line := "—"
		if d.Intercept != nil {
			line = fixed(d.Intercept[p.Segment] + d.PerPeriod*p.Count)
		}
		again := ""
		if i > 0 && p.Segment != d.Points[i-1].Segment {
			again = "  restart"
		}
		fmt.Fprintf(w, "%-24s %7.0f %12s %12s%s\n", at, p.Count, fixed(p.Phase), line, again)
	}
}

func fixed(v float64) string {
	s := strconv.FormatFloat(v, 'f', 2, 64)
	if s == "-0.00" {
		return "0.00"
	}
	return strings.Replace(s, "-", "−", 1)
}

// plain writes v with up to the given decimals.
func plain(v float64, decimals int) string {
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func signedNumber(v float64) string {
	switch s := fixed(v); {
	case v < 0 || s == "0.00":
		return s
	default:
		return "+" + s
	}
}

func interval(lo, hi float64) string {
	if math.IsInf(lo, 0) || math.IsInf(hi, 0) {
		return "unbounded: no event is left over to tell the scatter"
	}
	return signedNumber(lo) + " to " + signedNumber(hi)
}

func smallP(p float64) string {
	if p < 0.0001 {
		return "below 0.0001"
	}
	return strconv.FormatFloat(p, 'f', 4, 64)
}
