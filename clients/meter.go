package clients

import (
	"maps"
	"time"
	"unsafe"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"tcplab/results"
)

// binLength is how much time one sample stands for.
const binLength = int64(100 * time.Millisecond)

// bin is what happened in one bin of time, warm-up included, whatever the
// requests' intended start.
type bin struct {
	index            int64 // (instant − t0) / binLength
	sent, ok, failed int64
	errors           map[string]int64
	inflight         int64          // at its end
	queue            int64          // messages that wait, at its end
	latency          *hdr.Histogram // of requests that ended in it
	call             *hdr.Histogram // connect.call of calls in it
	lag              *hdr.Histogram // of calls in it, of the window's requests only
	written, acked   int64          // bytes so far, at its end; of bulk
	busy             int64          // ns inside connect()
	connectCPU       int64          // ns of CPU inside connect()
	cpu              int64          // ns of CPU of the thread
	from, to         int64          // what cpu and busy stand for
}

func newBin() *bin {
	return &bin{
		errors: map[string]int64{},
		// 1% is enough for a curve, and keeps a bin small.
		latency: hdr.New(100, int64(24*time.Hour), 2),
		call:    hdr.New(100, int64(time.Minute), 2),
		lag:     results.NewHistogram(),
	}
}

func (b *bin) reset() {
	if b.latency.TotalCount() > 0 {
		b.latency.Reset()
	}
	if b.call.TotalCount() > 0 {
		b.call.Reset()
	}
	if b.lag.TotalCount() > 0 {
		b.lag.Reset()
	}
	clear(b.errors)
	*b = bin{errors: b.errors, latency: b.latency, call: b.call, lag: b.lag}
}

// add makes b the sum of itself and o, which has the same index.
func (b *bin) add(o *bin) {
	b.sent += o.sent
	b.ok += o.ok
	b.failed += o.failed
	b.inflight += o.inflight
	b.queue += o.queue
	for class, n := range o.errors {
		b.errors[class] += n
	}
	b.latency.Merge(o.latency)
	b.call.Merge(o.call)
	b.busy += o.busy
	b.connectCPU += o.connectCPU
	b.cpu += o.cpu
	b.from, b.to = min(b.from, o.from), max(b.to, o.to)
}

// excused tells whether connect() took more than half of the thread's CPU in
// the bin: the port search is the subject's, and so is the lag it makes.
func (b *bin) excused() bool { return b.connectCPU*2 > b.cpu }

// meter is the account of one shard, or of all workers of a net/http client.
// It is not safe for concurrent use. It allocates nothing for a request.
type meter struct {
	t0, w0, w1 int64 // the window is [w0, w1)
	cpu        func() int64

	result Result // its Counts, Total, Opens …; no histograms
	latency, service, failure,
	connect, call, firstbyte *hdr.Histogram

	bin      *bin
	inflight int64
	queue    int64 // messages that wait to be sent
	failing  bool
	told     [2]int64 // the bins in which a change to failing, to working was told
	seen     map[string]bool
	phase    int
	report   *reporter
	shard    int
	bulk     bool // it has no requests: its samples are bytes
}

func newMeter(cfg Config, t0 int64, r *reporter, shard int, cpu func() int64) *meter {
	m := &meter{t0: t0, w0: t0 + int64(cfg.Warmup), w1: t0 + int64(cfg.Warmup+cfg.Duration), cpu: cpu,
		latency: results.NewHistogram(), service: results.NewHistogram(), failure: results.NewHistogram(),
		connect: results.NewHistogram(), call: results.NewHistogram(), firstbyte: results.NewHistogram(),
		bin: newBin(), told: [2]int64{-1, -1}, seen: map[string]bool{}, report: r, shard: shard, bulk: cfg.Kind == Bulk}
	m.result.Errors, m.result.Total.Errors = map[string]int64{}, map[string]int64{}
	m.result.First = map[string]int64{}
	return m
}

// running says that the calling thread is the one whose CPU counts, from now on.
func (m *meter) running(now int64) { m.bin.from, m.bin.cpu = max(now, m.t0), -m.cpuNow() }

func (m *meter) in(intended int64) bool { return m.w0 <= intended && intended < m.w1 }

// at moves on to the bin and the phase of the instant now.
func (m *meter) at(now int64) *bin {
	if now-m.t0 >= (m.bin.index+1)*binLength {
		m.roll(now)
	}
	return m.bin
}

func (m *meter) roll(now int64) {
	m.edges(now)
	next := m.report.spare()
	m.close(now)
	if !m.report.bin(m.shard, m.bin) {
		// The reporter is behind: this bin stands for a longer time.
		m.report.giveBack(next)
		m.bin.cpu -= m.cpuNow()
		return
	}
	next.index, next.from, next.cpu = (now-m.t0)/binLength, now, -m.cpuNow()
	m.bin = next
}

// edges reports the phases that have begun by now.
func (m *meter) edges(now int64) {
	for m.shard == 0 && m.phase < len(phases) {
		edge := [...]int64{m.t0, m.w0, m.w1}[m.phase]
		if now < edge {
			return
		}
		m.report.event(edge, "phase", map[string]any{"phase": phases[m.phase]})
		m.phase++
	}
}

var phases = [...]string{"warmup", "measure", "drain"}

func (m *meter) close(now int64) {
	m.bin.to, m.bin.inflight, m.bin.queue = now, m.inflight, m.queue
	m.bin.cpu += m.cpuNow()
	if m.bulk {
		m.bin.written, m.bin.acked = m.result.BytesSent, m.result.Acknowledged
	}
}

func (m *meter) cpuNow() int64 {
	if m.cpu == nil {
		return 0
	}
	return m.cpu()
}

// offered counts a request that the schedule asked for.
func (m *meter) offered(intended int64) {
	m.result.Total.Offered++
	if m.in(intended) {
		m.result.Offered++
	}
}

// begin counts a request whose call is made at entry and could have been made
// at free: when a slot became free, if that was after its intended start.
func (m *meter) begin(intended, free, entry int64) {
	b := m.at(entry)
	b.sent++
	m.inflight++
	m.result.Total.Sent++
	if m.in(intended) {
		m.result.Sent++
		record(b.lag, entry-max(intended, free))
	}
}

// called counts a connect() that took so long, in time and in CPU.
func (m *meter) called(intended, now, took, cpu int64, syn bool) {
	b := m.at(now)
	b.busy += took
	b.connectCPU += cpu
	record(b.call, took)
	if syn {
		m.result.Opens++
	}
	if m.in(intended) {
		record(m.call, took)
	}
}

func (m *meter) established(intended, took int64) {
	m.result.Established++
	if m.in(intended) {
		record(m.connect, took)
	}
}

func (m *meter) ok(intended, entry, first, now int64) {
	b := m.at(now)
	b.ok++
	record(b.latency, now-intended)
	m.inflight--
	m.result.Total.OK++
	m.works(now)
	if m.in(intended) {
		m.result.OK++
		record(m.latency, now-intended)
		record(m.service, now-entry)
		record(m.firstbyte, first-intended)
	}
}

// fail counts a request that failed, begun or not.
func (m *meter) fail(intended, now int64, class string, begun bool) {
	b := m.at(now)
	b.failed++
	b.errors[class]++
	if begun {
		m.inflight--
	}
	m.result.Total.Failed++
	m.result.Total.Errors[class]++
	m.broke(now, now-intended, class)
	if m.in(intended) {
		m.result.Failed++
		m.result.Errors[class]++
		record(m.failure, now-intended)
	}
}

// broke reports an error that came after so many ns.
func (m *meter) broke(now, after int64, class string) {
	if m.result.FirstError == 0 {
		m.result.FirstError, m.result.FirstErrorClass = now, class
	}
	if _, known := m.result.First[class]; !known {
		m.result.First[class] = now
	}
	if !m.seen[class] {
		m.seen[class] = true
		m.report.event(now, "error", map[string]any{"class": class, "after": float64(after) / 1e9})
	}
	if !m.failing {
		m.failing = true
		m.tell(0, now, "failing", map[string]any{"class": class, "after": float64(after) / 1e9})
	}
}

// lost counts a connection that broke while it had no request, and had been
// silent since then: an error that the application is told of, of no request.
func (m *meter) lost(now, since int64, class string) {
	m.at(now).errors[class]++
	m.result.Total.Lost++
	m.result.Total.Errors[class]++
	if m.in(now) {
		m.result.Lost++
		m.result.Errors[class]++
	}
	m.broke(now, now-since, class)
}

// works reports that what failed works again.
func (m *meter) works(now int64) {
	if m.failing {
		m.failing = false
		m.tell(1, now, "working", nil)
	}
}

// maxOpened is how many openings are told one by one.
const maxOpened = 10_000

// opened tells of a kept connection that was opened: when clients reconnect is
// part of how a failure looks.
func (m *meter) opened(now int64) {
	if m.result.Established <= maxOpened {
		m.report.sampleOnce(now, "opened", 1)
	}
}

// queued notes how many messages wait.
func (m *meter) queued(now, n int64) {
	m.at(now)
	m.queue = n
	m.result.QueueMax = max(m.result.QueueMax, n)
}

// tell reports a change between failing and working, each once a bin at most.
func (m *meter) tell(which int, now int64, name string, fields map[string]any) {
	if m.told[which] != m.bin.index {
		m.told[which] = m.bin.index
		m.report.event(now, name, fields)
	}
}

func (m *meter) wrote(now int64, n int) {
	m.result.BytesSent += int64(n)
	if m.in(now) {
		m.result.WindowBytesSent += int64(n)
	}
}

func (m *meter) read(now int64, n int) {
	m.result.BytesReceived += int64(n)
	if m.in(now) {
		m.result.WindowBytesReceived += int64(n)
	}
}

// cut ends the window at the instant now, where the trial was stopped. It is
// false once the window is over.
func (m *meter) cut(now int64) bool {
	if now >= m.w1 {
		return false
	}
	m.result.Stopped = true
	m.w1 = max(now, m.w0)
	return true
}

// finish closes the account at the instant now.
func (m *meter) finish(now int64) {
	m.result.Ended = now
	if now-m.t0 >= (m.bin.index+1)*binLength {
		m.roll(now)
	}
	m.edges(now)
	m.close(now)
	m.report.notes <- note{shard: m.shard, bin: m.bin}
	m.bin = nil
	for _, c := range []*Counts{&m.result.Counts, &m.result.Total} {
		c.Unfinished = c.Offered - c.OK - c.Failed
	}
}

// record takes a negative time, from a clock read earlier, as none.
func record(h *hdr.Histogram, ns int64) {
	// An error means above the highest value, 24 h: a deadline or the trial's
	// end comes before.
	_ = h.RecordValue(min(max(ns, 0), h.HighestTrackableValue()))
}

// merge adds up the shards.
func merge(cfg Config, ms []*meter, r *reporter) *Result {
	all := &Result{Kind: cfg.Kind, Histograms: Histograms{
		"latency": results.NewHistogram(), "service": results.NewHistogram(), "failure": results.NewHistogram(),
		"connect": results.NewHistogram(), "firstbyte": results.NewHistogram(), "lag": r.lag, "lag_excused": r.excused,
	}}
	if all.Kind == "" {
		all.Kind = Echo
	}
	if all.Kind == Echo {
		all.Histograms["connect.call"] = results.NewHistogram()
	}
	all.Errors, all.Total.Errors = map[string]int64{}, map[string]int64{}
	all.First = map[string]int64{}
	for _, m := range ms {
		o := &m.result
		all.Counts.add(o.Counts)
		all.Total.add(o.Total)
		all.Opens += o.Opens
		all.Established += o.Established
		all.Stale += o.Stale
		all.Acknowledged += o.Acknowledged
		all.Wakeups += o.Wakeups
		all.Delivered += o.Delivered
		all.QueueMax += o.QueueMax
		if o.FirstError != 0 && (all.FirstError == 0 || o.FirstError < all.FirstError) {
			all.FirstError, all.FirstErrorClass = o.FirstError, o.FirstErrorClass
		}
		for class, at := range o.First {
			if have, known := all.First[class]; !known || at < have {
				all.First[class] = at
			}
		}
		all.BytesSent += o.BytesSent
		all.BytesReceived += o.BytesReceived
		all.WindowBytesSent += o.WindowBytesSent
		all.WindowBytesReceived += o.WindowBytesReceived
		all.T0, all.WindowStart, all.WindowEnd = m.t0, m.w0, m.w1
		all.Ended = max(all.Ended, o.Ended)
		all.Stopped = all.Stopped || o.Stopped
		if all.Options == nil {
			all.Options = maps.Clone(o.Options)
		}
		for name, h := range map[string]*hdr.Histogram{"latency": m.latency, "service": m.service, "failure": m.failure,
			"connect": m.connect, "connect.call": m.call, "firstbyte": m.firstbyte} {
			if to := all.Histograms[name]; to != nil {
				to.Merge(h)
			}
		}
	}
	all.SamplesLost = r.lost.Load()
	return all
}

func (c *Counts) add(o Counts) {
	c.Offered += o.Offered
	c.Sent += o.Sent
	c.OK += o.OK
	c.Failed += o.Failed
	c.Lost += o.Lost
	c.Unfinished += o.Unfinished
	for class, n := range o.Errors {
		c.Errors[class] += n
	}
}

// threadCPU is the CPU time of the calling thread, in nanoseconds.
func threadCPU() int64 {
	var ts unix.Timespec
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}
