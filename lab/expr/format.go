package expr

import (
	"math"
	"strconv"
	"strings"
)

// step is a display unit and the number of base units in it.
type step struct {
	name string
	size float64
}

var (
	timeSteps = []step{{"s", 1}, {"ms", 1e-3}, {"µs", 1e-6}, {"ns", 1e-9}}
	byteSteps = []step{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}
	pow2Steps = []step{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
	bitSteps  = []step{{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3}, {"bit/s", 1}}
)

// String prints a value for people: 10.24 s, 6.81 ms, 4,096, 0.85 %, 39.9/s,
// 93.1 Mbit/s, 64 KiB; "no value" if it is missing. Seconds have four
// significant digits, all else three, and whole numbers all of theirs.
func (v Value) String() string {
	switch {
	case v.Missing:
		return "no value"
	case math.IsNaN(v.V) || math.IsInf(v.V, 0):
		return strconv.FormatFloat(v.V, 'g', -1, 64) + suffix(v.Unit)
	case v.Unit.share:
		return digits(v.V*100, 3) + " %"
	}
	switch v.Unit {
	case Second:
		return inSteps(v.V, timeSteps)
	case BitPerSecond:
		return inSteps(v.V, bitSteps)
	case Byte:
		a := math.Abs(v.V)
		if a < 10_000 && a == math.Trunc(a) && (a < 1024 || math.Mod(a, 1024) != 0) {
			return digits(v.V, 3) + " B"
		}
		for _, s := range pow2Steps {
			if a >= s.size && math.Mod(a, s.size) == 0 {
				return digits(v.V/s.size, 3) + " " + s.name
			}
		}
		return inSteps(v.V, byteSteps)
	}
	return digits(v.V, 3) + suffix(v.Unit)
}

func suffix(u Unit) string {
	switch u {
	case One:
		return ""
	case PerSecond:
		return "/s"
	}
	return " " + u.String()
}

// inSteps prints v in the largest unit in which it is at least one after
// rounding: 999.6 ms is 0.9996 s, not 1,000 ms.
func inSteps(v float64, steps []step) string {
	for i, s := range steps {
		n := 3
		if s.name == "s" {
			n = 4
		}
		if x := v / s.size; math.Abs(round(x, 3)) >= 1 || v == 0 && s.size == 1 || v != 0 && i == len(steps)-1 {
			return digits(x, n) + " " + s.name
		}
	}
	return digits(v, 3) + " " + steps[len(steps)-1].name
}

// round keeps n significant digits, all of a whole number.
func round(v float64, n int) float64 {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return v
	}
	if math.Abs(v) >= math.Pow10(n) {
		return math.Round(v)
	}
	r, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'e', n-1, 64), 64)
	return r
}

// digits prints v rounded to n significant digits, or whole, with commas
// between thousands.
func digits(v float64, n int) string {
	v = round(v, n)
	if v == 0 {
		return "0" // no "-0"
	}
	if a := math.Abs(v); a >= 1e15 || a < 1e-4 {
		return strconv.FormatFloat(v, 'g', n, 64)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	whole, fraction, dotted := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if dotted {
		whole += "." + fraction
	}
	return sign + whole
}

// FormatAs prints v, which is in base units, in the named unit. A base unit as
// records write it ("s", "1/s", "B", "bit/s", "1", "share") gives
// Value.String's form; any other spelling of a quantity ("ms", "Mbit/s", "%",
// "KiB", "/min") fixes that unit, for columns of a table. A unit that is not
// known is printed as it is.
func FormatAs(v float64, unit string) string {
	if unit != "%" {
		if u, err := ParseUnit(unit); err == nil {
			return Value{V: v, Unit: u}.String()
		}
	}
	one, end, err := scanQuantity("1" + unit)
	if err != nil || end != 1+len(unit) {
		return digits(v, 3) + " " + unit
	}
	n := 3
	if unit == "min" || unit == "h" || unit == "d" {
		n = 4
	}
	space := " "
	if strings.HasPrefix(unit, "/") {
		space = ""
	}
	return digits(v/one.V, n) + space + unit
}
