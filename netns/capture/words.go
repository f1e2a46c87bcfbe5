package capture

import (
	"strconv"
	"time"
)

// dur writes a duration with three digits.
func dur(ns int64) string {
	d := time.Duration(ns)
	v, unit := d.Seconds(), "s"
	switch {
	case d < time.Millisecond:
		v, unit = v*1e6, "µs"
	case d < time.Second:
		v, unit = v*1e3, "ms"
	}
	prec := 2
	switch {
	case v >= 99.95:
		prec = 0
	case v >= 9.995:
		prec = 1
	}
	s := strconv.FormatFloat(v, 'f', prec, 64)
	// 999.6 µs is 1.00 ms
	if s == "1000" {
		switch unit {
		case "µs":
			return "1.00 ms"
		case "ms":
			return "1.00 s"
		}
	}
	if prec == 0 {
		s = thousands(s)
	}
	return s + " " + unit
}

// thousands groups the digits of a whole number.
func thousands(s string) string {
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func count(n int) string {
	if n == 1 {
		return "1 byte"
	}
	return thousands(strconv.Itoa(n)) + " bytes"
}
