package expr

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Value is a number in its dimension's base unit (see Unit): seconds, bytes,
// bits per second, counts; a share of 5% is 0.05. A missing value stands for a
// measurement that was not made; its V means nothing.
type Value struct {
	V       float64
	Unit    Unit
	Missing bool
}

// scale is a spelling of a unit: one of it is num/den base units. Two numbers,
// because 6.81/1000 is the float nearest to 6.81 ms and 6.81*0.001 is not.
type scale struct {
	unit     Unit
	num, den float64
}

// atoms are the unit spellings that may follow a number directly. Data rates
// are an atom and a time: "Mbit" "/" "s".
var atoms = map[string]scale{
	"ns":   {Second, 1, 1e9},
	"us":   {Second, 1, 1e6},
	"µs":   {Second, 1, 1e6}, // U+00B5, micro sign
	"μs":   {Second, 1, 1e6}, // U+03BC, Greek mu
	"ms":   {Second, 1, 1e3},
	"s":    {Second, 1, 1},
	"min":  {Second, 60, 1},
	"h":    {Second, 3600, 1},
	"d":    {Second, 86400, 1},
	"%":    {Share, 1, 100},
	"B":    {Byte, 1, 1},
	"kB":   {Byte, 1e3, 1},
	"MB":   {Byte, 1e6, 1},
	"GB":   {Byte, 1e9, 1},
	"KiB":  {Byte, 1 << 10, 1},
	"MiB":  {Byte, 1 << 20, 1},
	"GiB":  {Byte, 1 << 30, 1},
	"bit":  {Byte, 1, 8},
	"kbit": {Byte, 1e3, 8},
	"Mbit": {Byte, 1e6, 8},
	"Gbit": {Byte, 1e9, 8},
}

// misspelt has the advice for unit spellings that people write and that are
// refused because they are ambiguous or one spelling is enough.
var misspelt = map[string]string{
	"m":    "write min for minutes, ms for milliseconds",
	"sec":  "write s",
	"secs": "write s",
	"hr":   "write h",
	"S":    "write s",
	"MS":   "write ms",
	"Ms":   "write ms",
	"K":    "write KiB (1,024 bytes) or kB (1,000 bytes)",
	"k":    "write KiB (1,024 bytes) or kB (1,000 bytes)",
	"KB":   "write KiB (1,024 bytes) or kB (1,000 bytes)",
	"kb":   "write kB for bytes, kbit for bits",
	"Kb":   "write kB for bytes, kbit for bits",
	"M":    "write MiB, MB or Mbit/s",
	"G":    "write GiB, GB or Gbit/s",
	"b":    "write B for bytes, bit for bits",
	"bits": "write bit",
	"Kbit": "write kbit",
	"mbit": "write Mbit",
	"gbit": "write Gbit",
	"bps":  "write bit/s",
	"kbps": "write kbit/s",
	"Kbps": "write kbit/s",
	"mbps": "write Mbit/s",
	"Mbps": "write Mbit/s",
	"Gbps": "write Gbit/s",
	"rps":  "write /s",
	"qps":  "write /s",
}

const unitsAllowed = "units are ns us ms s min h d, %, B kB MB GB KiB MiB GiB, bit/s kbit/s Mbit/s Gbit/s, /s /min"

// ParseQuantity reads a number with its unit as sheets write it: "5ms",
// "600/s", "1%", "128B", "100Mbit/s", "64KiB", "4096", "4_096", "-3s". The
// error is an *Error whose advice gives the units that are allowed.
func ParseQuantity(s string) (Value, error) {
	body, negative := s, false
	if strings.HasPrefix(body, "-") {
		body, negative = body[1:], true
	}
	at := len(s) - len(body)
	if body == "" || !isDigit(body[0]) {
		return Value{}, errAt(at+1, "write a number and its unit, such as 5ms; "+unitsAllowed, "%q is not a quantity", s)
	}
	v, end, err := scanQuantity(body)
	if err != nil {
		err.Col += at
		return Value{}, err
	}
	if end < len(body) {
		after := body[end:]
		if _, unit := atoms[strings.TrimSpace(after)]; unit {
			return Value{}, errAt(at+end+1, "write "+s[:at+end]+strings.TrimSpace(after), "a space between a number and its unit")
		}
		advice := unitsAllowed
		if after[0] == ',' {
			advice = "group digits with _: 4_096"
		}
		return Value{}, errAt(at+end+1, advice, "%q after the quantity %s", after, s[:at+end])
	}
	if negative {
		v.V = -v.V
	}
	return v, nil
}

// scanQuantity reads a number and the unit that touches it from the front of
// src, which starts with a digit, and tells where they end.
func scanQuantity(src string) (Value, int, *Error) {
	n, end, err := scanNumber(src)
	if err != nil {
		return Value{}, 0, err
	}
	v := Value{V: n}
	if word := unitWord(src[end:]); word != "" {
		sc, ok := atoms[word]
		if !ok {
			advice := misspelt[word]
			if advice == "" {
				advice = unitsAllowed
			}
			return Value{}, 0, errAt(end+1, advice, "unit %q is not known", word)
		}
		v.V, v.Unit = v.V*sc.num/sc.den, sc.unit
		end += len(word)
	}
	per, size := perTime(src[end:])
	if size > 0 {
		// A share per second has no name of its own: it is a rate.
		v = quotient(v, Value{V: per.num / per.den, Unit: Second})
		end += size
	}
	if math.IsInf(v.V, 0) {
		return Value{}, 0, errAt(1, "write a smaller one", "the number is too large")
	}
	return v, end, nil
}

// scanNumber reads digits, with _ between them, a fraction and an exponent. It
// leaves a ".." behind, so that 800..1100 is a range.
func scanNumber(src string) (float64, int, *Error) {
	i := 0
	digits := func() {
		for i < len(src) && (isDigit(src[i]) || src[i] == '_' && i+1 < len(src) && isDigit(src[i+1]) && i > 0 && isDigit(src[i-1])) {
			i++
		}
	}
	digits()
	if i+1 < len(src) && src[i] == '.' && isDigit(src[i+1]) {
		i++
		digits()
	}
	if i < len(src) && (src[i] == 'e' || src[i] == 'E') {
		j := i + 1
		if j < len(src) && (src[j] == '+' || src[j] == '-') {
			j++
		}
		if j < len(src) && isDigit(src[j]) {
			i = j
			digits()
		}
	}
	n, err := strconv.ParseFloat(strings.ReplaceAll(src[:i], "_", ""), 64)
	if err != nil {
		return 0, 0, errAt(1, "write a smaller one", "the number is too large")
	}
	return n, i, nil
}

// unitWord is the run of letters, or the %, at the front of src. Digits count
// as letters after the first, so that 5ms3 is one bad word.
func unitWord(src string) string {
	if strings.HasPrefix(src, "%") {
		return "%"
	}
	i := 0
	for i < len(src) {
		r, size := utf8.DecodeRuneInString(src[i:])
		if !(r == 'µ' || r == 'μ' || r < utf8.RuneSelf && isIdent(src[i]) && (i > 0 || !isDigit(src[i]))) {
			break
		}
		i += size
	}
	return src[:i]
}

// perTime reads "/s", "/min" … at the front of src, and nothing where the word
// after the stroke may be a name: 600/size is a division.
func perTime(src string) (scale, int) {
	if !strings.HasPrefix(src, "/") {
		return scale{}, 0
	}
	word := unitWord(src[1:])
	sc, ok := atoms[word]
	if !ok || sc.unit != Second {
		return scale{}, 0
	}
	end := 1 + len(word)
	if end < len(src) {
		switch next := src[end]; {
		case next == '(' || next == '[' || next == '@':
			return scale{}, 0
		case next == '.' && !strings.HasPrefix(src[end:], ".."):
			return scale{}, 0
		}
	}
	return sc, end
}

// product and quotient multiply in coherent units (bits), and hand back the
// dimension's own unit.
func product(a, b Value) Value {
	u := a.Unit.Mul(b.Unit)
	return Value{V: a.V * b.V * (a.Unit.bits() * b.Unit.bits() / u.bits()), Unit: u, Missing: a.Missing || b.Missing}
}

func quotient(a, b Value) Value {
	u := a.Unit.Div(b.Unit)
	return Value{V: a.V / b.V * (a.Unit.bits() / b.Unit.bits() / u.bits()), Unit: u, Missing: a.Missing || b.Missing}
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }
func isIdent(c byte) bool  { return isLetter(c) || isDigit(c) }
