package expr

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Unit is a dimension: a product of powers of seconds and data. It is
// comparable, and its zero value is the dimensionless One.
//
// Each dimension has exactly one unit that a Value is held in, the one the
// records use: data on its own is in bytes ("B"), data in any combination with
// time is in bits ("bit/s"). The factor of eight between them is applied where
// values are multiplied and divided, so 128B / 1ms is 1,024,000 bit/s.
type Unit struct {
	time, data int16
	share      bool // dimensionless, written and shown as a percentage
}

// The units that records and sheets use.
var (
	One          = Unit{}                  // counts and plain numbers
	Share        = Unit{share: true}       // 5% is 0.05
	Second       = Unit{time: 1}           // times
	PerSecond    = Unit{time: -1}          // rates of events
	Byte         = Unit{data: 1}           // sizes
	BitPerSecond = Unit{time: -1, data: 1} // data rates
)

// Is tells whether two units are of the same dimension, so that values of them
// may be added and compared. A share and a count are both dimensionless.
func (u Unit) Is(o Unit) bool { return u.time == o.time && u.data == o.data }

// Mul is the unit of a product.
func (u Unit) Mul(o Unit) Unit {
	return Unit{time: u.time + o.time, data: u.data + o.data, share: u.share && o.share}
}

// Div is the unit of a quotient. A share of a share is a plain ratio.
func (u Unit) Div(o Unit) Unit {
	return Unit{time: u.time - o.time, data: u.data - o.data}
}

// sum is the unit of a sum or a difference of values with the same dimension:
// 1 - 5% is a share.
func (u Unit) sum(o Unit) Unit {
	u.share = u.share || o.share
	return u
}

// bits is the number of coherent units (seconds and bits) in one of u.
func (u Unit) bits() float64 {
	if u.time != 0 {
		return 1
	}
	return math.Ldexp(1, 3*int(u.data)) // exact: a power of two
}

// String gives the unit as records write it: "s", "1/s", "B", "bit/s", "1",
// "share", and "bit/s^2" or "B^2" for what only arises on the way.
func (u Unit) String() string {
	if u.share {
		return "share"
	}
	data := "B"
	if u.time != 0 {
		data = "bit"
	}
	power := func(name string, n int16) string {
		if n == 1 {
			return name
		}
		return name + "^" + strconv.Itoa(int(n))
	}
	var over, under []string
	for _, f := range []struct {
		name string
		n    int16
	}{{data, u.data}, {"s", u.time}} {
		switch {
		case f.n > 0:
			over = append(over, power(f.name, f.n))
		case f.n < 0:
			under = append(under, power(f.name, -f.n))
		}
	}
	top := strings.Join(over, "*")
	if top == "" {
		top = "1"
	}
	for _, f := range under {
		top += "/" + f
	}
	return top
}

// describe names the dimension in an error: "a time", "a count".
func (u Unit) describe() string {
	switch u {
	case One:
		return "a count"
	case Share:
		return "a share"
	case Second:
		return "a time"
	case PerSecond:
		return "a rate"
	case Byte:
		return "a size"
	case BitPerSecond:
		return "a data rate"
	}
	return "a quantity in " + u.String()
}

// example is how a number n of this unit may be written, for advice.
func (u Unit) example(n string) string {
	switch u {
	case One:
		return "a plain number, such as " + n
	case Share:
		return n + "%"
	case Second:
		return n + "ms or " + n + "s"
	case PerSecond:
		return n + "/s"
	case Byte:
		return n + "B or " + n + "KiB"
	case BitPerSecond:
		return n + "kbit/s or " + n + "Mbit/s"
	}
	return "a quantity in " + u.String()
}

// ParseUnit reads a unit as records write it; it is the inverse of
// Unit.String, and takes "" and "count" for One and "%" for Share. A unit with
// a prefix ("ms", "kbit/s") is an error, since records hold base units.
func ParseUnit(s string) (Unit, error) {
	switch s {
	case "", "1", "count":
		return One, nil
	case "share", "%":
		return Share, nil
	}
	u, scale := One, 1.0
	for i, part := range strings.Split(s, "/") {
		for _, factor := range strings.Split(part, "*") {
			name, exponent, powered := strings.Cut(factor, "^")
			n := 1
			if powered {
				var err error
				if n, err = strconv.Atoi(exponent); err != nil || n < 2 || n > math.MaxInt16 {
					return One, fmt.Errorf("unit %q: %q is no power: write a whole number from 2 on", s, exponent)
				}
			}
			if i > 0 {
				n = -n
			}
			time, data := int(u.time), int(u.data)
			switch name {
			case "s":
				time += n
			case "bit":
				data += n
			case "B":
				data += n
				scale *= math.Ldexp(1, 3*n)
			case "1":
			default:
				return One, fmt.Errorf("unit %q is not known: base units are s, 1/s, B, bit/s, 1 and share", s)
			}
			if time != int(int16(time)) || data != int(int16(data)) {
				return One, fmt.Errorf("unit %q: the power is too large", s)
			}
			u.time, u.data = int16(time), int16(data)
		}
	}
	if scale != u.bits() {
		return One, fmt.Errorf("unit %q is not a base unit: write %s", s, u)
	}
	return u, nil
}
