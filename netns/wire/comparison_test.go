//go:build soak

package wire

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The comparison of both wires, in guests, where both exist:
//
//	go test -tags soak -run Comparison -timeout 60m ./netns/wire [-update]
//
// -update writes its table and figure into docs/.

const (
	compareDatagrams = 20_000
	compareSeeds     = 12
	compareFor       = 30 * time.Second
	// compareAlpha is where two samples are called different. Everything is
	// seeded: the same binary on the same kernel finds the same.
	compareAlpha = 0.001
)

// scene is what is asked of both wires.
type scene struct {
	name  string
	dir   Direction
	burst int
	gap   time.Duration
	size  int
	// equal: the same distribution is expected of delays.
	equal bool
}

var scenes = []scene{
	{name: "delay 20 ms", dir: Direction{Delay: 20 * time.Millisecond}},
	{name: "jitter ±5 ms, uniform", dir: Direction{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Reorder: Reorder{ByJitter: true}}, equal: true},
	{name: "jitter 2 ms, normal", dir: Direction{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterDist: Normal, Reorder: Reorder{ByJitter: true}}, equal: true},
	{name: "jitter 2 ms, pareto", dir: Direction{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, JitterDist: Pareto, Reorder: Reorder{ByJitter: true}}, equal: true},
	{name: "loss 1%", dir: Direction{Delay: 5 * time.Millisecond, Loss: Loss{P: 0.01}}},
	{name: "Gilbert–Elliott 1%/20%", dir: Direction{Delay: 5 * time.Millisecond, Loss: Loss{GilbertElliott: GilbertElliott{P: 0.01, R: 0.2}}}},
	{name: "reorder 5%", dir: Direction{Delay: 10 * time.Millisecond, Reorder: Reorder{P: 0.05}}},
	{name: "duplicate 2%", dir: Direction{Delay: 5 * time.Millisecond, Duplicate: 0.02}},
	{name: "rate 10 Mbit/s", dir: Direction{Delay: 5 * time.Millisecond, Rate: 10_000_000}, burst: 20, gap: 25 * time.Millisecond, size: 1000},
	{name: "rate 10 Mbit/s, queue 20 kB", dir: Direction{Delay: 5 * time.Millisecond, Rate: 10_000_000, Queue: Queue{Bytes: 20_000}}, burst: 40, gap: 50 * time.Millisecond, size: 1000},
}

// pair is a scene's outcome on netem and on the userspace wire.
type pair [2]passed

var compareKinds = [2]Kind{InKernel, Userspace}

// errands runs f for each i below n, as many side by side as there are CPUs.
func errands(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

func TestComparison(t *testing.T) {
	if inGuest() {
		return
	}
	pairs := make([]pair, len(scenes))
	errands(2*len(scenes), func(i int) {
		s := scenes[i/2]
		if s.gap == 0 {
			s.gap, s.size = time.Millisecond, 200
		}
		p := passage{Kind: compareKinds[i%2], Config: unpaired(s.dir), Datagrams: compareDatagrams, Size: s.size, Burst: s.burst, Gap: s.gap}
		pairs[i/2][i%2] = through(t, p)
	})
	var table rows
	for i, s := range scenes {
		table.scene(t, s, pairs[i])
	}

	goodput := map[string]*[2][]float64{}
	for _, cc := range []string{"cubic", "bbr"} {
		goodput[cc] = &[2][]float64{make([]float64, compareSeeds), make([]float64, compareSeeds)}
	}
	errands(4*compareSeeds, func(i int) {
		cc, seed, kind := []string{"bbr", "cubic"}[i/(2*compareSeeds)], i/2%compareSeeds, i%2
		c := Symmetric(Direction{Delay: 20 * time.Millisecond, Loss: Loss{P: 0.01}})
		c.TowardsB.Rate, c.TowardsB.Queue.Time = 100_000_000, 40*time.Millisecond
		c.Seed, c.Link = uint64(seed+1), "wan"
		if compareKinds[kind] == InKernel {
			c.Fates = Unpaired
		}
		got := through(t, passage{Kind: compareKinds[kind], Config: c, Congestion: cc, For: compareFor})
		goodput[cc][kind][seed] = float64(got.Bytes) * 8 / compareFor.Seconds() / 1e6
	})
	for _, cc := range []string{"cubic", "bbr"} {
		table.goodput(t, cc, goodput[cc])
	}
	t.Log("\n" + table.String())
	if t.Failed() || !*update {
		return
	}
	docs := filepath.Join("..", "..", "docs")
	if err := os.MkdirAll(filepath.Join(docs, "figures"), 0o755); err != nil {
		t.Fatal(err)
	}
	drawComparison(t, filepath.Join(docs, "figures", "wire-comparison"), pairs, goodput)
	replaceTable(t, filepath.Join(docs, "wire-comparison.md"), table.String())
}

// rows are the table.
type rows []string

func (r *rows) add(what, netem, user, test string, p float64) {
	value := "–"
	if !math.IsNaN(p) {
		value = fmt.Sprintf("%.2g", p)
		if p < 1e-4 {
			value = "< 10⁻⁴"
		}
	}
	*r = append(*r, fmt.Sprintf("| %s | %s | %s | %s | %s |", what, netem, user, test, value))
}

func (r rows) String() string {
	return "| what | netem | userspace, fq | test | p |\n|---|---|---|---|---|\n" + strings.Join(r, "\n") + "\n"
}

func quantile(sorted []float64, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func milliseconds(d []int64) []float64 {
	out := make([]float64, len(d))
	for i, v := range d {
		out[i] = float64(v) / 1e6
	}
	slices.Sort(out)
	return out
}

// scene compares what both wires did with one scene's datagrams.
func (r *rows) scene(t *testing.T, s scene, p pair) {
	const n = compareDatagrams
	var delays [2][]float64
	var said [2]string
	var runs [2][]float64
	var lost [2]int
	for k := range p {
		delays[k] = milliseconds(p[k].Delay)
		d := delays[k]
		said[k] = fmt.Sprintf("%.4f / %.4f / %.4f", quantile(d, 0.01), quantile(d, 0.5), quantile(d, 0.99))
		runs[k], lost[k] = p[k].lossRuns(n)
	}
	p1 := ksP(delays[0], delays[1])
	r.add(s.name+": delay p1 / p50 / p99, ms", said[0], said[1], fmt.Sprintf("Kolmogorov–Smirnov, D = %.4f", p1.d), p1.p)
	if s.equal && p1.p < compareAlpha {
		t.Errorf("%s: the delays differ: p = %g", s.name, p1.p)
	}
	if m := math.Abs(quantile(delays[0], 0.5) - quantile(delays[1], 0.5)); s.dir.Rate == 0 && s.dir.Jitter == 0 && m > 0.005 {
		t.Errorf("%s: the medians differ by %.4f ms", s.name, m)
	}
	if lost[0]+lost[1] > 0 {
		pp := proportionsP(lost[0], n, lost[1], n)
		r.add(s.name+": lost", fmt.Sprintf("%.3f%%", 100*float64(lost[0])/n), fmt.Sprintf("%.3f%%", 100*float64(lost[1])/n), "two proportions", pp)
		k := ksP(sorted(runs[0]), sorted(runs[1]))
		r.add(s.name+": mean run of losses", fmt.Sprintf("%.2f", average(runs[0])), fmt.Sprintf("%.2f", average(runs[1])), fmt.Sprintf("Kolmogorov–Smirnov, D = %.4f", k.d), k.p)
		if s.dir.Rate == 0 && s.dir.Loss.GilbertElliott.P == 0 && pp < compareAlpha {
			t.Errorf("%s: %d and %d lost: p = %g", s.name, lost[0], lost[1], pp)
		}
		if s.dir.Rate == 0 && k.p < compareAlpha {
			t.Errorf("%s: the runs of losses differ: p = %g", s.name, k.p)
		}
	}
	for _, v := range []struct {
		name  string
		on    bool
		count func(passed) int
	}{
		{"overtook", s.dir.Reorder.P > 0, func(p passed) (early int) {
			for _, d := range p.Delay {
				if d < int64(s.dir.Delay/2) {
					early++
				}
			}
			return early
		}},
		{"arrived twice", s.dir.Duplicate > 0, func(p passed) (twice int) {
			for _, c := range p.count(n) {
				if c == 2 {
					twice++
				}
			}
			return twice
		}},
	} {
		if !v.on {
			continue
		}
		a, b := v.count(p[0]), v.count(p[1])
		pp := proportionsP(a, n, b, n)
		r.add(s.name+": "+v.name, fmt.Sprintf("%.3f%%", 100*float64(a)/n), fmt.Sprintf("%.3f%%", 100*float64(b)/n), "two proportions", pp)
		if pp < compareAlpha {
			t.Errorf("%s: %d and %d %s: p = %g", s.name, a, b, v.name, pp)
		}
	}
}

// goodput compares one congestion control's, in Mbit/s.
func (r *rows) goodput(t *testing.T, cc string, g *[2][]float64) {
	var logs [2][]float64
	var said [2]string
	for k, x := range g {
		s := sorted(x)
		said[k] = fmt.Sprintf("%.2f (%.2f–%.2f)", quantile(s, 0.5), s[0], s[len(s)-1])
		for _, v := range x {
			logs[k] = append(logs[k], math.Log(v))
		}
	}
	ratio := average(logs[1]) - average(logs[0])
	low, high := bootstrap(logs[1], logs[0])
	p := permutationP(logs[0], logs[1])
	r.add(fmt.Sprintf("%s, 30 s, %d seeds: goodput, Mbit/s, median (range)", strings.ToUpper(cc), len(g[0])), said[0], said[1],
		fmt.Sprintf("permutations of logarithms; ratio of means %.3f (95%%, bootstrap: %.3f–%.3f)", math.Exp(ratio), math.Exp(low), math.Exp(high)), p)
	if math.Abs(ratio) > 0.1 && p < compareAlpha {
		t.Errorf("%s: goodput differs by %.1f%%, p = %g", cc, 100*(math.Exp(ratio)-1), p)
	}
}

func sorted(x []float64) []float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return x
}

type ks struct{ d, p float64 }

// ksP is the two-sample Kolmogorov–Smirnov test of sorted samples with its
// asymptotic p (Stephens 1970). With ties it is conservative.
func ksP(a, b []float64) ks {
	d := 0.0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		x := min(a[i], b[j])
		for i < len(a) && a[i] == x {
			i++
		}
		for j < len(b) && b[j] == x {
			j++
		}
		d = max(d, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	root := math.Sqrt(float64(len(a)) * float64(len(b)) / float64(len(a)+len(b)))
	return ks{d, qKS((root + 0.12 + 0.11/root) * d)}
}

// qKS is 2 Σ (−1)^(j−1) exp(−2 j² λ²).
func qKS(lambda float64) float64 {
	if lambda < 0.2 {
		return 1 // the sum converges no more; 1 − 10⁻¹² or less
	}
	sum, sign := 0.0, 1.0
	for j := 1.0; j <= 100; j++ {
		term := math.Exp(-2 * j * j * lambda * lambda)
		sum += sign * term
		if term < 1e-12 {
			break
		}
		sign = -sign
	}
	return min(1, max(0, 2*sum))
}

// proportionsP is the two-sided test of two proportions with pooled variance.
func proportionsP(a, n, b, m int) float64 {
	p := float64(a+b) / float64(n+m)
	se := math.Sqrt(p * (1 - p) * (1/float64(n) + 1/float64(m)))
	if se == 0 {
		return 1
	}
	z := (float64(a)/float64(n) - float64(b)/float64(m)) / se
	return math.Erfc(math.Abs(z) / math.Sqrt2)
}

func average(x []float64) float64 {
	s := 0.0
	for _, v := range x {
		s += v
	}
	return s / float64(len(x))
}

// permutationP is the share of the ways to deal all values into samples of
// these sizes in which the means are as far apart as they are, or farther.
func permutationP(a, b []float64) float64 {
	all := slices.Concat(a, b)
	total := average(all) * float64(len(all))
	apart := func(sumA float64) float64 {
		return math.Abs(sumA/float64(len(a)) - (total-sumA)/float64(len(b)))
	}
	least := apart(average(a)*float64(len(a))) * (1 - 1e-12)
	as, ways := 0, 0
	var deal func(from, left int, sum float64)
	deal = func(from, left int, sum float64) {
		if left == 0 {
			ways++
			if apart(sum) >= least {
				as++
			}
			return
		}
		for i := from; i <= len(all)-left; i++ {
			deal(i+1, left-1, sum+all[i])
		}
	}
	deal(0, len(a), 0)
	return float64(as) / float64(ways)
}

// bootstrap is the 95% percentile interval of the difference of two means.
func bootstrap(a, b []float64) (low, high float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(x []float64) float64 {
		s := 0.0
		for range x {
			s += x[rng.IntN(len(x))]
		}
		return s / float64(len(x))
	}
	d := make([]float64, 10_000)
	for i := range d {
		d[i] = pick(a) - pick(b)
	}
	slices.Sort(d)
	return quantile(d, 0.025), quantile(d, 0.975)
}

const (
	tableBegins = "<!-- table: written by TestComparison -->\n"
	tableEnds   = "<!-- end of table -->\n"
)

func replaceTable(t *testing.T, file, table string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), tableBegins)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if err := os.WriteFile(file, []byte(before+tableBegins+"\n"+table+"\n"+tableEnds+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheTestsOfTheComparison(t *testing.T) {
	// Tables of the Kolmogorov distribution: Q(1.3581) = 0.05, Q(1.6276) = 0.01.
	for lambda, want := range map[float64]float64{1.3581: 0.05, 1.6276: 0.01, 0.8276: 0.5} {
		if got := qKS(lambda); math.Abs(got-want) > 1e-4 {
			t.Errorf("Q(%v) = %v, want %v", lambda, got, want)
		}
	}
	if p := proportionsP(100, 10000, 150, 10000); math.Abs(p-0.00145) > 1e-4 {
		t.Errorf("two proportions: %v", p)
	}
	// Of the 20 ways to deal three and three, two are as extreme.
	if p := permutationP([]float64{1, 2, 3}, []float64{4, 5, 6}); math.Abs(p-0.1) > 1e-9 {
		t.Errorf("permutations: %v", p)
	}
	if low, high := bootstrap([]float64{1, 2, 3, 4}, []float64{1, 2, 3, 4}); low > 0 || high < 0 {
		t.Errorf("bootstrap: %v to %v", low, high)
	}
	same := make([]float64, 1000)
	other := make([]float64, 1000)
	for i := range same {
		same[i], other[i] = float64(i), float64(i)+100
	}
	if p := ksP(same, same).p; p < 0.99 {
		t.Errorf("a sample differs from itself: %v", p)
	}
	if p := ksP(same, other).p; p > 1e-3 {
		t.Errorf("shifted by a tenth: %v", p)
	}
}
