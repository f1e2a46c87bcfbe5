package clients

import (
	"sync"
	"sync/atomic"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"tcplab/results"

	"tcplab/lab/socket"
)

// note is one thing that a shard hands to the reporter.
type note struct {
	shard  int
	bin    *bin // or an event:
	at     int64
	name   string
	fields map[string]any
	value  float64
	one    bool // a sample of one value, called name
}

// reporter turns bins into samples, away from the threads that send: a slow
// reader of samples must not make requests late. It has no timer; it does
// something when a bin is handed in.
type reporter struct {
	sink  Sink
	t0    int64
	notes chan note
	bins  chan *bin // free ones
	lost  atomic.Int64
	wg    sync.WaitGroup

	lag, excused *hdr.Histogram
	pending      map[int64]*bin
	passed       []int64 // by shard: the last bin it handed in
	last         int64   // the last bin reported
	inflight     int64   // at its end
	queue        int64   // at its end
	hasQueue     bool
}

func newReporter(sink Sink, t0 int64, shards int) *reporter {
	r := &reporter{sink: sink, t0: t0, notes: make(chan note, 256), bins: make(chan *bin, 4+shards),
		lag: results.NewHistogram(), excused: results.NewHistogram(), pending: map[int64]*bin{}, passed: make([]int64, shards), last: -1}
	for i := range r.passed {
		r.passed[i] = -1
	}
	for range cap(r.bins) {
		r.bins <- newBin()
	}
	r.wg.Go(r.work)
	return r
}

// spare gives an empty bin, to be handed in or to be given back.
func (r *reporter) spare() *bin {
	select {
	case b := <-r.bins:
		return b
	default:
		return newBin()
	}
}

// bin hands a bin in, unless the reporter is far behind.
func (r *reporter) bin(shard int, b *bin) bool {
	select {
	case r.notes <- note{shard: shard, bin: b}:
		return true
	default:
		r.lost.Add(1)
		return false
	}
}

func (r *reporter) event(at int64, name string, fields map[string]any) {
	select {
	case r.notes <- note{at: at, name: name, fields: fields}:
	default:
		r.lost.Add(1)
	}
}

// sampleOnce reports a value of its own instant.
func (r *reporter) sampleOnce(at int64, name string, value float64) {
	select {
	case r.notes <- note{at: at, name: name, value: value, one: true}:
	default:
		r.lost.Add(1)
	}
}

// stop reports what is left, and returns when the sink has it.
func (r *reporter) stop() {
	close(r.notes)
	r.wg.Wait()
}

func (r *reporter) work() {
	for n := range r.notes {
		if n.bin == nil {
			switch {
			case r.sink == nil:
			case n.one:
				r.sink.Sample(n.at, map[string]float64{n.name: n.value})
			default:
				r.sink.Event(n.at, n.name, n.fields)
			}
			continue
		}
		r.take(n.shard, n.bin)
	}
	for i := range r.passed {
		r.passed[i] = socket.Never
	}
	r.flush()
}

func (r *reporter) take(shard int, b *bin) {
	if b.excused() {
		r.excused.Merge(b.lag)
	} else {
		r.lag.Merge(b.lag)
	}
	r.passed[shard] = b.index
	if have := r.pending[b.index]; have != nil {
		have.add(b)
		r.giveBack(b)
	} else {
		r.pending[b.index] = b
	}
	r.flush()
}

func (r *reporter) giveBack(b *bin) {
	b.reset()
	select {
	case r.bins <- b:
	default:
	}
}

// flush reports, in order, the bins that every shard has left behind.
func (r *reporter) flush() {
	upto := int64(socket.Never)
	for _, p := range r.passed {
		upto = min(upto, p)
	}
	for len(r.pending) > 0 {
		first := int64(socket.Never)
		for i := range r.pending {
			first = min(first, i)
		}
		if first > upto {
			return
		}
		r.sample(r.pending[first])
		r.giveBack(r.pending[first])
		delete(r.pending, first)
	}
}

// sample reports one bin, and of the empty ones before it the first and the
// last, so that a curve falls to zero and rises from there.
func (r *reporter) sample(b *bin) {
	if r.sink == nil {
		return
	}
	if first := r.last + 1; first < b.index {
		r.nothing(first)
		if last := b.index - 1; last > first {
			r.nothing(last)
		}
	}
	v := map[string]float64{"sent": float64(b.sent), "ok": float64(b.ok), "failed": float64(b.failed), "inflight": float64(b.inflight)}
	if r.hasQueue {
		v["queue.depth"] = float64(b.queue)
	}
	for class, n := range b.errors {
		v["errors."+class] = float64(n)
	}
	if b.written > 0 {
		v["written"] = float64(b.written)
	}
	if b.acked > 0 {
		v["acknowledged"] = float64(b.acked)
	}
	if n := b.latency.TotalCount(); n > 0 {
		v["latency.p50"] = float64(b.latency.ValueAtQuantile(50))
		v["latency.max"] = float64(b.latency.Max())
		if n >= 1000 { // ten lie beyond it
			v["latency.p99"] = float64(b.latency.ValueAtQuantile(99))
		}
	}
	if b.call.TotalCount() > 0 {
		v["connect.call.p50"] = float64(b.call.ValueAtQuantile(50))
		v["connect.call.max"] = float64(b.call.Max())
		if t := b.to - b.from; t > 0 {
			v["connect.busy"] = float64(b.busy) / float64(t) / float64(len(r.passed))
		}
		if b.cpu > 0 {
			v["connect.cpu"] = float64(b.connectCPU) / float64(b.cpu)
		}
	}
	r.sink.Sample(r.middle(b.index), v)
	r.last, r.inflight, r.queue = b.index, b.inflight, b.queue
}

// nothing reports a bin in which nothing happened.
func (r *reporter) nothing(index int64) {
	v := map[string]float64{"sent": 0, "ok": 0, "failed": 0, "inflight": float64(r.inflight)}
	if r.hasQueue {
		v["queue.depth"] = float64(r.queue)
	}
	r.sink.Sample(r.middle(index), v)
}

// middle is where a bin stands on the axis of time.
func (r *reporter) middle(index int64) int64 { return r.t0 + index*binLength + binLength/2 }
