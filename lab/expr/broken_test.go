package expr

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the goldens under testdata")

// broken has one mistake in each line. A line that starts with "=" is checked
// as a number, any other as a condition.
var broken = []string{
	"",
	"   ",
	"pooled.latency.p50 <",
	"pooled.latency.p50 < 5",
	"5 > pooled.latency.p50",
	"pooled.latency.p50 < -5",
	"pooled.latency.p50 < 5 ms",
	"pooled.latency.p50 < 5m",
	"pooled.latency.p50 < 5sec",
	"pooled.latency.p50 < 5parsec",
	"pooled.latency.p50 < 5%",
	"pooled.requests.ok < 5ms",
	"pooled.goodput > 100",
	"pooled.goodput > 100Mbps",
	"pooled.goodput > 100M",
	"pooled.requests.rate >= 380",
	"size > 64KB",
	"pooled.latency.p50 == pooled.goodput",
	"pooled.latency.p50 = 5ms",
	"pooled.latency.p50 < 5ms && rate > 3/s",
	"pooled.latency.p50 ≤ 5ms",
	"!(pooled.latency.p50 < 5ms)",
	"pooled.latency.p50 < 0.7 × rtt",
	"pooled.latency.p50 < 5 %",
	"pooled.latency.p50 < .5ms",
	"pooled.latency.p50 < 1ms < 5ms",
	"pooled.latency.p50",
	"pooled.latency.p50 and rate > 3/s",
	"rate > 3/s or ports",
	"not ports",
	"ports in 4096",
	"ports in 60999..32768",
	"ports in 1..2s",
	"ports 1..2",
	"ports in 1..2..3",
	"ports not in 1..2",
	"ports == 4,096",
	"(ports == 4096",
	"ports == 4096)",
	"min(ports, 3 == 3",
	"ports == min(ports, 3s)",
	"ports == max()",
	"rto_chian(15) > 3s",
	"dance(15) > 3s",
	"rto_chain() > 3s",
	"rto_chain(15s) > 3s",
	"rto_chain(1.5) > 3s",
	"rto_chain(15, 200) > 3s",
	"rto_chain(15, 0s) > 3s",
	"mathis(1, 80) > 3Mbit/s",
	"sqrt(rtt) > 3s",
	"ratio > 3",
	"pooled.latency.p55 < 5ms",
	"pooled.client.latency.p55 < 5ms",
	"pooled.goodput>pooled.goodput",
	"pooled. < 5ms",
	"pooled.latency.50 < 5ms",
	"pooled.latency.p50() < 5ms",
	"rate@cut > 3/s",
	"pooled[loss=1%] > 3",
	"pooled[].goodput > 3kbit/s",
	"pooled[loss].goodput > 3kbit/s",
	"pooled[loss=1%,loss=2%].goodput > 3kbit/s",
	"pooled[loss=1%.goodput > 3kbit/s",
	"pooled.latency.p50@ < 5ms",
	"pooled.latency.p50 < rtt rtt",
	"3 rtt < pooled.latency.p50",
	"ports # comment",
	"pooled.latency.p50 < \"5ms\"",
	"(rate > 3/s) < 5",
	"-(rate > 3/s) < 5",
	"1e999 < 3",
	"pooled.latency.p50 < rtt - 5%",
	"pooled.latency.p50 < rtt + size",
	strings.Repeat("(", 200) + "1",
	strings.Repeat("1 + ", 3000) + "1",
	"=rate > 3/s",
	"=ports / (rate > 3/s)",
	"=rtt - 5",
	"=ports ** 2",
	"=ports ^ 2",
	"=ports(1)",
}

func TestMistakesHaveAColumnAndAdvice(t *testing.T) {
	var b strings.Builder
	for _, line := range broken {
		src, asNumber := strings.CutPrefix(line, "=")
		e, err := Parse(src)
		if err == nil && asNumber {
			_, err = e.Check(newBench())
		} else if err == nil {
			err = e.CheckBool(newBench())
		}
		var at *Error
		if !errors.As(err, &at) {
			t.Errorf("%s: %v is no *Error", line, err)
			continue
		}
		if at.Col < 1 || at.Col > len(src)+1 {
			t.Errorf("%s: column %d", line, at.Col)
		}
		if len(src) > 80 {
			src = src[:77] + "…"
		}
		fmt.Fprintf(&b, "%s\n%s^ %s\n", src, strings.Repeat(" ", min(at.Col-1, 78)), at.Msg)
		fmt.Fprintf(&b, "    column %d; advice: %s\n\n", at.Col, at.Advice)
	}
	golden(t, "testdata/broken.txt", b.String())
}

func TestBadQuantitiesHaveAColumnAndAdvice(t *testing.T) {
	var b strings.Builder
	for _, s := range []string{"", "ms", "5 ms", "5m", "5kb", "100Mbps", "5ms6", "5ms 6", "600/second", "fast", "-", "+5ms", "1.5.2s", "5,000", "0x10", "1e999s", "--5s", "1__0", "5%%", "½s"} {
		v, err := ParseQuantity(s)
		var at *Error
		if !errors.As(err, &at) {
			t.Errorf("%q: %v, %v is no *Error", s, v, err)
			continue
		}
		fmt.Fprintf(&b, "%q column %d: %s\n    advice: %s\n", s, at.Col, at.Msg, at.Advice)
	}
	golden(t, "testdata/quantities.txt", b.String())
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if got != string(want) {
		g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range max(len(g), len(w)) {
			if i >= len(g) || i >= len(w) || g[i] != w[i] {
				t.Fatalf("%s differs at line %d (if that is meant, run with -update)\n got %q\nwant %q", file, i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
			}
		}
	}
}
