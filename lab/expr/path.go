package expr

import (
	"slices"
	"strings"
)

// Path names a measurement:
//
//	ARM[.HOST|.PROGRAM|.LINK>HOST].METRIC[@FAULT]
//
// with ARM[loss=1%] for a sweep's point. Both owners and metrics are dotted, so
// the source alone does not say where one ends: Parse sets Arm, Point, Towards
// and Fault, and Owner only where "LINK>HOST" shows it; Split does the rest.
type Path struct {
	Arm     string            // the first segment
	Point   map[string]string // a sweep's point, nil without one
	Owner   string            // host, program or link; "" where it was left out
	Towards string            // the host that frames of the link Owner go to
	Metric  string            // "latency.p50"; before Split all that follows the arm (or LINK>HOST)
	Fault   string            // what follows @
	Raw     string            // as written
	Col     int               // 1-based byte column of its first character
}

// String gives the path as it was written.
func (p Path) String() string { return p.Raw }

// Split tells the owner from the metric by asking known for each reading: first
// everything after the arm as a metric, then without its first segment. It
// returns the path with Owner and Metric set, or an *Error at the path's
// column. A path that names its owner already is only checked.
func (p Path) Split(known func(metric string) bool) (Path, error) {
	if known(p.Metric) {
		return p, nil
	}
	owner, metric, dotted := cutSegment(p.Metric)
	if p.Owner == "" && dotted && known(metric) {
		p.Owner, p.Metric = owner, metric
		return p, nil
	}
	if p.Towards != "" {
		return p, errAt(p.Col, "put spaces around > to compare", "%s: no metric is called %s", p.Raw, p.Metric)
	}
	return p, errAt(p.Col, "a path is ARM.METRIC or ARM.HOST.METRIC", "%s: no metric is called %s", p.Raw, p.Metric)
}

// cutSegment cuts at the first dot outside brackets.
func cutSegment(s string) (head, tail string, found bool) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '[':
			depth++
		case ']':
			depth--
		case '.':
			if depth == 0 {
				return s[:i], s[i+1:], true
			}
		}
	}
	return s, "", false
}

func (p Path) equal(o Path) bool { return p.Raw == o.Raw }

func (p Path) clone() Path {
	if p.Point != nil {
		point := make(map[string]string, len(p.Point))
		for k, v := range p.Point {
			point[k] = v
		}
		p.Point = point
	}
	return p
}

// scanPath reads a dotted path whose first character is at src[at], or reports
// that there is just a name there (ok false).
func scanPath(src string, at int) (p Path, end int, ok bool, err *Error) {
	i := at
	name := func() string {
		start := i
		for i < len(src) && isIdent(src[i]) {
			i++
		}
		return src[start:i]
	}
	starts := func(c byte) bool { return i+1 < len(src) && src[i] == c && isLetter(src[i+1]) }
	bracket := func() (string, *Error) {
		if i >= len(src) || src[i] != '[' {
			return "", nil
		}
		n := strings.IndexAny(src[i+1:], "[]\n")
		if n < 0 || src[i+1+n] != ']' {
			return "", errAt(i+1, "close it: sysctl[net.ipv4.tcp_retries2]", "an open bracket")
		}
		key := src[i+1 : i+1+n]
		if strings.TrimSpace(key) == "" {
			return "", errAt(i+1, "write a key or a sweep's point: arm[loss=1%]", "an empty bracket")
		}
		i += n + 2
		return key, nil
	}

	p = Path{Col: at + 1, Arm: name()}
	pointAt := i
	point, err := bracket()
	if err != nil {
		return p, i, false, err
	}
	if i == pointAt && !(i < len(src) && src[i] == '.' && !strings.HasPrefix(src[i:], "..")) && !starts('@') {
		return p, i, false, nil
	}
	if point != "" {
		if p.Point, err = parsePoint(point, pointAt+1); err != nil {
			return p, i, false, err
		}
	}
	metricAt, segments := -1, 0
	for i < len(src) {
		if src[i] == '.' && !strings.HasPrefix(src[i:], "..") {
			i++
			if i >= len(src) || !isLetter(src[i]) {
				return p, i, false, errAt(i+1, "write ARM.METRIC, such as pooled.latency.p50", "a name is missing after the dot")
			}
			if metricAt < 0 {
				metricAt = i
			}
			segments++
			name()
			if _, err := bracket(); err != nil {
				return p, i, false, err
			}
			continue
		}
		// LINK>HOST stands right behind the arm, has no spaces and a metric
		// after it. Any other > compares.
		if segments == 1 && p.Towards == "" && starts('>') {
			over := i
			i++
			host := name()
			if i+1 < len(src) && src[i] == '.' && isLetter(src[i+1]) {
				p.Owner, p.Towards, metricAt = src[metricAt:over], host, -1
				continue
			}
			i = over
		}
		break
	}
	if metricAt < 0 {
		return p, i, false, errAt(i+1, "write ARM.METRIC, such as pooled.latency.p50", "%s has no metric", src[at:i])
	}
	p.Metric = src[metricAt:i]
	if i < len(src) && src[i] == '@' {
		if !starts('@') {
			return p, i, false, errAt(i+1, "write METRIC@FAULT, such as detect.time@forget", "a fault's name is missing after @")
		}
		i++
		p.Fault = name()
	}
	p.Raw = src[at:i]
	return p, i, true, nil
}

// parsePoint reads "loss=1%,delay=5ms"; at is where it begins in the source.
func parsePoint(s string, at int) (map[string]string, *Error) {
	point := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" || value == "" || strings.Contains(value, "=") {
			return nil, errAt(at+1, "write arm[loss=1%]", "%q is not a sweep's point", strings.TrimSpace(part))
		}
		if _, twice := point[key]; twice {
			return nil, errAt(at+1, "give it one value", "%s is set twice", key)
		}
		point[key] = value
		at += len(part) + 1
	}
	return point, nil
}

// unique keeps the first of equal elements, in order.
func unique[T any](xs []T, equal func(a, b T) bool) []T {
	var out []T
	for _, x := range xs {
		if !slices.ContainsFunc(out, func(y T) bool { return equal(x, y) }) {
			out = append(out, x)
		}
	}
	return out
}
