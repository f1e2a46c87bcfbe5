package sheet

import (
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"tcplab/lab/expr"
)

var (
	wordForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:+-]*( [A-Za-z0-9_-]+)*$`)
	nameForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)
	eventForm = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(?:\s*\+\s*(\S+))?$`)
)

// scalar checks one value. A message is empty where it is right; err is an
// error within an expression, which has a place of its own.
func scalar(n *node, k Key) (msg, advice string, err error) {
	s := n.text
	switch k.Form {
	case FormText, FormValue:
		return "", "", nil
	case FormFlag:
		if s != "true" && s != "false" {
			return "is neither true nor false", "write true or false", nil
		}
	case FormWord:
		words := k.Words
		if k.Role != "" {
			words = kindNames(k.Role)
		}
		switch {
		case len(words) > 0 && !contains(words, s):
			return "is not known", suggest(s, words, "one of"), nil
		case !wordForm.MatchString(s):
			return "is no word", "write " + example(k), nil
		}
	case FormName:
		if !nameForm.MatchString(s) {
			return "is no name", "write the name of something in this sheet", nil
		}
	case FormNumber, FormCondition:
		_, err := expr.Parse(s)
		return "", "", err
	case FormPath:
		x, err := expr.Parse(s)
		if err != nil {
			return "", "", err
		}
		if ps := x.Paths(); len(ps) != 1 || ps[0].Raw != strings.TrimSpace(s) {
			return "is not one metric", "write ARM.METRIC, such as " + example(k), nil
		}
	case FormEvent:
		m := eventForm.FindStringSubmatch(s)
		if m == nil {
			return "is no event", "write an event, or an event + a time, such as " + example(k), nil
		}
		if m[2] != "" {
			if v, err := expr.ParseQuantity(m[2]); err != nil || v.Unit != expr.Second || v.V < 0 {
				return "has no time after the +", "write " + m[1] + " + 30s", nil
			}
		}
	default:
		return number(s, k)
	}
	return "", "", nil
}

// number checks a value that has a unit.
func number(s string, k Key) (msg, advice string, err error) {
	v, perr := expr.ParseQuantity(s)
	if perr != nil {
		e, ok := perr.(*expr.Error)
		if !ok {
			return "cannot be read", perr.Error(), nil
		}
		msg, advice := "is "+notA(k), e.Advice
		if strings.Contains(e.Msg, "unit") || strings.Contains(e.Msg, "space") {
			msg = "cannot be read (" + e.Msg + ")"
		} else {
			advice = "write " + example(k)
		}
		return msg, advice, nil
	}
	want := formUnit(k.Form)
	switch {
	case k.Form == FormQuantity:
	case v.Unit == want:
	case v.Unit == expr.One && v.V == 0 && k.Form != FormRate && k.Form != FormBitRate:
	case v.Unit == expr.One:
		return "has no unit", "write " + unitExamples(s, v.V, k.Form), nil
	case k.Form == FormCount:
		return "has a unit, and is a plain count", "write " + exampleOrNumber(k, s), nil
	default:
		return "has the wrong unit", "write " + article(k) + ", such as " + example(k), nil
	}
	if k.Form == FormCount && v.V != math.Trunc(v.V) {
		return "is not a whole number", "write " + itoa(math.Floor(v.V)) + " or " + itoa(math.Ceil(v.V)), nil
	}
	if k.Min != nil && (v.V < *k.Min || k.Above && v.V == *k.Min) || k.Max != nil && v.V > *k.Max {
		return "is out of range", "it is " + boundsText(k), nil
	}
	if k.Form == FormDuration && math.Abs(v.V) > float64(math.MaxInt64)/1e9-1 {
		return "is too long", "at most 292 years", nil
	}
	return "", "", nil
}

func itoa(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func formUnit(f Form) expr.Unit {
	switch f {
	case FormDuration:
		return expr.Second
	case FormRate:
		return expr.PerSecond
	case FormBitRate:
		return expr.BitPerSecond
	case FormSize:
		return expr.Byte
	case FormShare:
		return expr.Share
	}
	return expr.One
}

// unitExamples writes a number that lacks its unit the ways it may be meant.
func unitExamples(s string, v float64, f Form) string {
	switch f {
	case FormDuration:
		return s + "ms or " + s + "s"
	case FormRate:
		return s + "/s"
	case FormBitRate:
		return s + "kbit/s or " + s + "Mbit/s"
	case FormSize:
		return s + "B or " + s + "KiB"
	case FormShare:
		if v <= 1 {
			return expr.Value{V: v * 100}.String() + "%"
		}
		return s + "%"
	}
	return s
}

func exampleOrNumber(k Key, s string) string {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/%µ")
	if digits != "" && digits != s {
		return digits
	}
	return example(k)
}

func boundsText(k Key) string {
	show := func(v float64) string {
		x := expr.Value{V: v, Unit: formUnit(k.Form)}
		return strings.ReplaceAll(strings.ReplaceAll(x.String(), " %", "%"), ",", "")
	}
	switch {
	case k.Min != nil && k.Above && *k.Min == 0 && k.Max == nil:
		return "above 0"
	case k.Min != nil && *k.Min == 0 && k.Above:
		return "above 0 and at most " + show(*k.Max)
	case k.Min != nil && k.Max != nil:
		return show(*k.Min) + " to " + show(*k.Max)
	case k.Min != nil:
		return "at least " + show(*k.Min)
	}
	return "at most " + show(*k.Max)
}

// example is a value of this key as a sheet writes it.
func example(k Key) string {
	if k.Example != "" {
		return k.Example
	}
	switch k.Form {
	case FormDuration:
		return "5ms"
	case FormRate:
		return "600/s"
	case FormBitRate:
		return "100Mbit/s"
	case FormSize:
		return "128B"
	case FormCount:
		return "64"
	case FormShare:
		return "1%"
	case FormFlag:
		return "true"
	case FormWord:
		words := k.Words
		if k.Role != "" {
			words = kindNames(k.Role)
		}
		if len(words) > 0 {
			return words[0]
		}
		return "a word"
	case FormName:
		return "NAME"
	case FormList:
		return "[" + example(*k.Of) + "]"
	case FormNamed:
		return "{NAME: " + example(*k.Of) + "}"
	case FormMap:
		var needed []string
		for _, x := range k.Keys {
			if x.Required && x.Name != "" {
				needed = append(needed, x.Name+": "+example(x))
			}
		}
		if len(needed) > 0 {
			return "{" + strings.Join(needed, ", ") + "}"
		}
		if len(k.Keys) > 0 {
			return "{" + k.Keys[0].Name + ": " + example(k.Keys[0]) + "}"
		}
		return "{}"
	case FormEvent:
		return "recovered + 30s"
	}
	return "a text"
}

func exampleValue(k Key) string { return example(k) }

func listExample(k Key, n *node) string {
	if n.kind == scalarNode {
		return "[" + n.text + "]"
	}
	return example(k)
}

func article(k Key) string {
	switch k.Form {
	case FormDuration:
		return "a time"
	case FormRate:
		return "a rate per second"
	case FormBitRate:
		return "a data rate"
	case FormSize:
		return "a size in bytes"
	case FormCount:
		return "a count"
	case FormShare:
		return "a share"
	case FormQuantity:
		return "a share or a quantity"
	case FormFlag:
		return "true or false"
	case FormNumber, FormCondition, FormPath:
		return "an expression"
	case FormWord:
		return "a word"
	case FormName:
		return "a name"
	}
	return "a text"
}

func notA(k Key) string { return "not " + article(k) }

func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is4()
}
