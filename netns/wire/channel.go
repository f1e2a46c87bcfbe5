package wire

// chain is a Gilbert–Elliott state as a pure function of a position, which may
// be negative: the state at i follows from that at i-1 and a draw for i. For
// most draws both states lead to the same one, so looking back until such a
// draw is met gives the state exactly, and stationary from the first position
// on (coupling from the past; Propp and Wilson 1996). It costs some 1/(p+r)
// draws.
type chain struct {
	p, stay chance // from good to bad; from bad to bad
	never   bool   // p is 0
}

func newChain(g GilbertElliott) chain {
	return chain{p: chanceOf(g.P), stay: chanceOf(1 - g.R), never: g.P == 0}
}

// bad reports the state at position i of the chain that seed names.
func (c chain) bad(seed uint64, i int64) bool {
	if c.never {
		return false
	}
	flipped := false
	// The bound is never met with p + r ≥ 1/4096, but for one chance in e²⁵⁶.
	for range 1 << 20 {
		u := draw(absorb(seed, uint64(i)), streamChannel)
		fromGood, fromBad := c.p.hit(u), c.stay.hit(u)
		switch {
		case fromGood && fromBad:
			return !flipped
		case !fromGood && !fromBad:
			return flipped
		case fromGood: // good leads to bad and bad to good
			flipped = !flipped
		}
		i--
	}
	return flipped
}

// step is the state after one more frame, given the one before it.
func (c chain) step(bad bool, u uint64) bool {
	if bad {
		return c.stay.hit(u)
	}
	return c.p.hit(u)
}
