package expr

import (
	"math"
	"testing"
)

func TestValuesAreShownForPeople(t *testing.T) {
	for _, tt := range []struct {
		v    Value
		want string
	}{
		{Value{V: 10.24, Unit: Second}, "10.24 s"},
		{Value{V: 0.00681, Unit: Second}, "6.81 ms"},
		{Value{V: 0.0112, Unit: Second}, "11.2 ms"},
		{Value{V: 924.6, Unit: Second}, "924.6 s"},
		{Value{V: 7875, Unit: Second}, "7,875 s"},
		{Value{V: 43200, Unit: Second}, "43,200 s"},
		{Value{V: 1044.64, Unit: Second}, "1,045 s"},
		{Value{V: 60, Unit: Second}, "60 s"},
		{Value{V: 0.9999996, Unit: Second}, "1 s"},
		{Value{V: 0.9996, Unit: Second}, "0.9996 s"},
		{Value{V: 12.34e-6, Unit: Second}, "12.3 µs"},
		{Value{V: 64e-9, Unit: Second}, "64 ns"},
		{Value{V: 0.4e-9, Unit: Second}, "0.4 ns"},
		{Value{Unit: Second}, "0 s"},
		{Value{V: -0.0003, Unit: Second}, "-300 µs"},
		{Value{V: 4096}, "4,096"},
		{Value{V: 1234567}, "1,234,567"},
		{Value{V: 1234.5}, "1,235"},
		{Value{V: 0.25}, "0.25"},
		{Value{V: 2.0 / 3}, "0.667"},
		{Value{V: math.Copysign(0, -1)}, "0"},
		{Value{V: 0.0085, Unit: Share}, "0.85 %"},
		{Value{V: 1, Unit: Share}, "100 %"},
		{Value{V: 39.87, Unit: PerSecond}, "39.9/s"},
		{Value{V: 600, Unit: PerSecond}, "600/s"},
		{Value{V: 93.14e6, Unit: BitPerSecond}, "93.1 Mbit/s"},
		{Value{V: 409600, Unit: BitPerSecond}, "410 kbit/s"},
		{Value{Unit: BitPerSecond}, "0 bit/s"},
		{Value{V: 128, Unit: Byte}, "128 B"},
		{Value{V: 1448, Unit: Byte}, "1,448 B"},
		{Value{V: 1024, Unit: Byte}, "1 KiB"},
		{Value{V: 65536, Unit: Byte}, "64 KiB"},
		{Value{V: 841000, Unit: Byte}, "841 kB"},
		{Value{V: 1e6, Unit: Byte}, "1 MB"},
		{Value{Unit: Byte}, "0 B"},
		{Value{V: 3, Unit: Byte.Div(One.Mul(Byte).Mul(Byte))}, "3 1/B"},
		{Value{V: 5, Missing: true}, "no value"},
		{Value{V: math.NaN(), Unit: Second}, "NaN s"},
	} {
		if got := tt.v.String(); got != tt.want {
			t.Errorf("%v %s: got %s, want %s", tt.v.V, tt.v.Unit, got, tt.want)
		}
	}
	for _, tt := range []struct {
		v    float64
		unit string
		want string
	}{
		{0.0112, "s", "11.2 ms"},
		{0.0112, "ms", "11.2 ms"},
		{10.24, "ms", "10,240 ms"},
		{90, "min", "1.5 min"},
		{93.1e6, "bit/s", "93.1 Mbit/s"},
		{93.1e6, "Gbit/s", "0.0931 Gbit/s"},
		{0.0085, "share", "0.85 %"},
		{0.0085, "%", "0.85 %"},
		{10, "/s", "10/s"},
		{10, "/min", "600/min"},
		{10, "1/s", "10/s"},
		{65536, "KiB", "64 KiB"},
		{4096, "1", "4,096"},
		{4096, "", "4,096"},
		{4096, "count", "4,096"},
		{2, "s/bit", "2 s/bit"},
		{3, "parsecs", "3 parsecs"},
	} {
		if got := FormatAs(tt.v, tt.unit); got != tt.want {
			t.Errorf("FormatAs(%v, %q) = %s, want %s", tt.v, tt.unit, got, tt.want)
		}
	}
}

func TestUnitsOfRecordsAreReadAndPrefixesRefused(t *testing.T) {
	for s, want := range map[string]Unit{
		"s": Second, "1/s": PerSecond, "B": Byte, "bit/s": BitPerSecond, "1": One, "": One, "count": One, "share": Share, "%": Share,
		"s/s": One, "B*s/s": Byte, "bit/s/s": BitPerSecond.Div(Second), "bit/s^2": BitPerSecond.Div(Second), "1/B": One.Div(Byte),
	} {
		if u, err := ParseUnit(s); err != nil || u != want {
			t.Errorf("%q is %s, %v", s, u, err)
		}
	}
	for s, want := range map[string]string{
		"ms":              `unit "ms" is not known: base units are s, 1/s, B, bit/s, 1 and share`,
		"B/s":             `unit "B/s" is not a base unit: write bit/s`,
		"bit":             `unit "bit" is not a base unit: write B`,
		"s^x":             `unit "s^x": "x" is no power: write a whole number from 2 on`,
		"s^30000*s^30000": `unit "s^30000*s^30000": the power is too large`,
	} {
		if u, err := ParseUnit(s); err == nil || err.Error() != want {
			t.Errorf("%q is %s, %v", s, u, err)
		}
	}
}
