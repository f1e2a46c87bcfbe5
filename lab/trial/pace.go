package trial

// pace decides when the probes are read. On the real clock that is every
// 100 ms, which costs next to nothing.
//
// On the virtual clock each reading costs wall time, and five idle days would
// be hours of it. There the probes are read when something happens: while
// counters change and after every SYN, FIN and RST as often as on the real
// clock, and otherwise ever more rarely. What is skipped is where nothing
// changes but by a timer of the kernel: an end of TIME-WAIT is seen up to
// idleStep late, or up to a hundredth of the time since go.
type pace struct {
	virtual bool
	step    int64
}

const (
	sampleEvery = 100e6  // ns: counters and sockstat
	censusEvery = 10     // samples: inet_diag walks the machine's whole hash table
	idleStep    = 1600e6 // ns: the longest pause in the first dense ns, virtual clock
	dense       = 200e9
)

// next is when to read again after elapsed ns of a trial; changed says that
// the last reading differed from the one before.
func (p *pace) next(elapsed int64, changed bool) int64 {
	if !p.virtual {
		return (elapsed/sampleEvery + 1) * sampleEvery
	}
	most := int64(idleStep)
	if elapsed >= dense {
		most = max(most, elapsed/100/sampleEvery*sampleEvery)
	}
	switch {
	case changed || p.step == 0:
		p.step = sampleEvery
	default:
		p.step = min(2*p.step, most)
	}
	return (elapsed/sampleEvery)*sampleEvery + p.step
}

// soon is when to read after something was seen at elapsed ns.
func (p *pace) soon(elapsed int64) int64 {
	p.step = 0
	return (elapsed/sampleEvery + 1) * sampleEvery
}
