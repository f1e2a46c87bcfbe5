package wire

// entry is a frame on the wire, or a second copy of one.
type entry struct {
	due  int64
	seq  uint64 // order of arrival, which decides between equal times
	slot int32
	n    int32
	dir  uint8
	hold int32 // the fault that holds it, as an index plus one
	// stray is its number where its hold ends by sequence; 0: it does not.
	stray int32
}

func (e entry) before(o entry) bool {
	return e.due < o.due || e.due == o.due && e.seq < o.seq
}

// queue orders frames by departure: a binary heap without interface calls or
// allocation per frame.
type queue struct {
	heap []entry
	seq  uint64
}

// next is the earliest departure, or false.
func (q *queue) next() (int64, bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.heap[0].due, true
}

func (q *queue) push(e entry) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	h := q.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (q *queue) pop() entry {
	h := q.heap
	top := h[0]
	n := len(h) - 1
	e := h[n]
	h = h[:n]
	q.heap = h
	if n == 0 {
		return top
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && h[down+1].before(h[down]) {
			down++
		}
		if !h[down].before(e) {
			break
		}
		h[i] = h[down]
		i = down
	}
	h[i] = e
	return top
}
