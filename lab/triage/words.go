package triage

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// count writes a number of things with thousands parted: 28,232.
func count[T int | int64 | uint32](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// some writes a number of things with their noun: "1 socket", "3 sockets".
func some[T int | int64 | uint32](n T, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return count(n) + " " + noun + "s"
}

// lasting writes a duration as people say it.
func lasting(d time.Duration) string {
	s := d.Seconds()
	switch {
	case s < 9.95:
		return strconv.FormatFloat(math.Round(s*10)/10, 'f', -1, 64) + " s"
	case s < 600:
		return strconv.FormatFloat(math.Round(s), 'f', 0, 64) + " s"
	case s < 2*3600:
		return fmt.Sprintf("%d min", int(s/60))
	case s < 48*3600:
		return fmt.Sprintf("%d h %d min", int(s/3600), int(s/60)%60)
	}
	return fmt.Sprintf("%d d", int(s/86400))
}

func seconds(s float64) time.Duration {
	if !(s < 1e9) {
		return time.Duration(1e18)
	}
	return time.Duration(s * 1e9)
}

// rate writes how many in a second.
func rate(perSecond float64) string {
	if perSecond < 9.95 {
		return strconv.FormatFloat(math.Round(perSecond*10)/10, 'f', -1, 64) + "/s"
	}
	return count(int64(math.Round(perSecond))) + "/s"
}

// ssDst is ss's filter for a destination.
func ssDst(a netip.AddrPort) string {
	if a.Addr().Is6() {
		return "dst [" + a.Addr().WithZone("").String() + "]:" + strconv.Itoa(int(a.Port()))
	}
	return "dst " + a.String()
}

func ssSport(port uint16) string { return fmt.Sprintf("'sport = :%d'", port) }

// names writes whose sockets they are.
func names(ps []Process) string {
	var out []string
	for i, p := range ps {
		if i == 3 {
			out = append(out, fmt.Sprintf("%d more", len(ps)-3))
			break
		}
		out = append(out, fmt.Sprintf("%s (pid %d)", p.Name, p.PID))
	}
	return strings.Join(out, ", ")
}

// owner says by whom, or that it is not known.
func owner(ps []Process, uid uint32, known bool) string {
	switch {
	case len(ps) > 0:
		return names(ps)
	case known:
		return fmt.Sprintf("a process of uid %d", uid)
	}
	return "a process that is not known"
}
