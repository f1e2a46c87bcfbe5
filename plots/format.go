package plots

import (
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// none is how an absent value is shown: never as 0.
const none = "—"

// sortedKeys is the one way to walk a map here: output never depends on map
// order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// number writes v with sig significant digits, thousands grouped, and a true
// minus sign. Digits before the point are never rounded away below 100,000.
func number(v float64, sig int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return none
	}
	if v == 0 {
		return "0"
	}
	places := sig - 1 - int(math.Floor(math.Log10(math.Abs(v))))
	// 9.9996 rounds to 10.00: one digit too many.
	if p := math.Pow(10, float64(max(places, -15))); places > 0 && math.Floor(math.Log10(math.Abs(math.Round(v*p)/p))) > math.Floor(math.Log10(math.Abs(v))) {
		places--
	}
	s := strconv.FormatFloat(math.Abs(v), 'f', max(places, 0), 64)
	whole, frac, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac != "" {
		whole += "." + frac
	}
	if v < 0 {
		return "−" + whole
	}
	return whole
}

// count writes a count: whole numbers whole, medians of counts with a decimal.
func count(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return number(v, 1)
	}
	if math.Abs(v) >= 1000 {
		return number(math.Round(v), 1)
	}
	return number(v, 3)
}

type scale struct {
	at   float64
	name string
}

var (
	seconds = []scale{{1, "s"}, {1e-3, "ms"}, {1e-6, "µs"}, {1e-9, "ns"}}
	bits    = []scale{{1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}, {1, "bit/s"}}
	octets  = []scale{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, "B"}}
)

func scaled(v float64, sig int, steps []scale) string {
	for _, s := range steps {
		if math.Abs(v) >= s.at*(1-0.5*math.Pow(10, float64(-sig))) {
			return number(v/s.at, sig) + " " + s.name
		}
	}
	last := steps[len(steps)-1]
	return number(v/last.at, sig) + " " + last.name
}

// quantity writes a value of the record with its unit (s, 1/s, bit/s, B, 1).
func quantity(v float64, unit string, sig int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return none
	}
	switch unit {
	case "s":
		if v == 0 {
			return "0 s"
		}
		return scaled(v, sig, seconds)
	case "bit/s":
		return scaled(v, sig, bits)
	case "B":
		return scaled(v, sig, octets)
	case "1/s":
		return number(v, sig) + "/s"
	case "1", "":
		return count(v)
	case "share":
		return number(100*v, sig) + "%"
	}
	return number(v, sig) + " " + unit
}

// isShare says which dimensionless metrics are shares of a whole, not counts.
func isShare(metric string) bool {
	return metric == "ports.used" || strings.HasPrefix(metric, "ports.used.") || metric == "connect.busy"
}

// isCPU says which dimensionless metrics are CPU seconds per second.
func isCPU(metric string) bool { return strings.HasPrefix(metric, "cpu.") && metric != "cpu.request" }

// value writes a metric's value: shares as per cent, CPUs as CPUs.
func value(metric string, v float64, unit string, sig int) string {
	switch {
	case unit == "1" && isShare(metric):
		return number(100*v, sig) + "%"
	case unit == "1" && isCPU(metric):
		return number(v, 2) + " CPU"
	case metric == "search_knee.height":
		return "×" + number(v, 3)
	}
	return quantity(v, unit, sig)
}

// unchanged is what change says where there is none.
const unchanged = "same"

// change says how v differs from the baseline's base: a difference for times,
// then the ratio; a difference alone where a ratio would mean nothing.
func change(metric string, v, base float64, unit string) string {
	if v == base || value(metric, v, unit, 3) == value(metric, base, unit, 3) {
		return unchanged
	}
	diff := signed(v-base, value(metric, math.Abs(v-base), unit, 3))
	if base <= 0 || v < 0 {
		return diff
	}
	if v == 0 {
		return "−100%"
	}
	ratio := ratio(v / base)
	if near := math.Abs(v/base - 1); unit == "s" && v/base < 10 && v/base > 0.1 && near >= 0.01 {
		return diff + ", " + ratio
	}
	return ratio
}

func signed(v float64, abs string) string {
	if v < 0 {
		return "−" + abs
	}
	return "+" + abs
}

// ratio writes q as a percentage near one and as a factor beyond two.
func ratio(q float64) string {
	switch {
	case q >= 2:
		return "×" + number(q, 2)
	case q <= 0.5:
		return "÷" + number(1/q, 2)
	}
	return signed(q-1, number(100*math.Abs(q-1), 2)+"%")
}

// columns is how many terminal columns s takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}

func padRight(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columns(s))) }
func padLeft(s string, n int) string  { return strings.Repeat(" ", max(0, n-columns(s))) + s }

// wrapBy breaks s at spaces into lines that fit, but not between a number and
// its unit; a word that does not fit stands alone.
func wrapBy(s string, fits func(string) bool) []string {
	var lines []string
	line := ""
	for _, w := range strings.FieldsFunc(nb(s), func(c rune) bool { return c == ' ' || c == '\n' || c == '\t' }) {
		w = strings.ReplaceAll(w, "\u00a0", " ") // a number and its unit stay together
		switch {
		case line == "":
			line = w
		case fits(line + " " + w):
			line += " " + w
		default:
			lines = append(lines, line)
			line = w
		}
	}
	return append(lines, line)
}

// plural writes n things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(float64(n)) + " " + thing + "s"
}
