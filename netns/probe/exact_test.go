package probe

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bbrInfo is a struct tcp_bbr_info: bandwidth in two halves, round trip, gains.
func bbrInfo(lo, hi, rtt, pacing, cwnd uint32) []byte {
	var b []byte
	for _, v := range []uint32{lo, hi, rtt, pacing, cwnd} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func TestWhatBBRBelievesIsDecoded(t *testing.T) {
	// 2.885 is BBR's gain in STARTUP, 739/256 in the kernel's fixed point.
	b := bbrInfo(12_500_000, 0, 40_123, 739, 512)
	s, err := ParseSocket(socketMsg(unix.AF_INET, uint8(Established), here, there, []byte{diagBBR}, b))
	if err != nil {
		t.Fatal(err)
	}
	if want := (BBRInfo{12_500_000, 40_123, 739. / 256, 2}); s.BBR == nil || *s.BBR != want {
		t.Errorf("%+v, want %+v", s.BBR, want)
	}
	if i, err := ParseBBRInfo(bbrInfo(1, 1, 0, 0, 0)); err != nil || i.Bandwidth != 1<<32+1 {
		t.Errorf("40 Gbit/s: %+v, %v", i, err)
	}
	if _, err := ParseBBRInfo(append(b, 1, 2, 3, 4)); err != nil {
		t.Errorf("a newer kernel's: %v", err)
	}
	if _, err := ParseSocket(socketMsg(unix.AF_INET, uint8(Established), here, there, []byte{diagBBR}, b[:16])); err == nil {
		t.Error("one that is cut short is no error")
	}
	if s, err := ParseSocket(socketMsg(unix.AF_INET, uint8(Established), here, there)); err != nil || s.BBR != nil {
		t.Errorf("a socket without BBR: %+v, %v", s.BBR, err)
	}
}

func TestExactFindsOneSocketAndSaysWhenItIsGone(t *testing.T) {
	inNetns(t, func() {
		p := mustOpen(t)
		defer p.Close()
		ps := listen(t)
		defer ps.close()
		ps.open(t, 3)
		c := ps.cli[1].(*net.TCPConn)
		cc := "reno"
		if setCong(c, "bbr") == nil {
			cc = "bbr"
		}
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		src, dst := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(ps.at)
		s, err := p.Exact(src, dst)
		if err != nil {
			t.Fatal(err)
		}
		if s.Src != src || s.Dst != dst || s.State != Established || s.Info == nil || s.Info.Bytes_acked == 0 {
			t.Errorf("%+v, tcp_info %+v", s, s.Info)
		}
		if cc == "bbr" && (s.Cong != cc || s.BBR == nil || s.BBR.PacingGain < 1 || s.BBR.CwndGain < 1) {
			t.Errorf("%s: %+v", s.Cong, s.BBR)
		}
		// The same as in a dump, and never a neighbour.
		all, err := p.Dump(DumpOptions{States: Established.Mask(), Info: true})
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, d := range all {
			if d.Cookie == s.Cookie && d.Src == s.Src {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d sockets of a dump have its cookie", found)
		}
		_, err = p.Exact(src, netip.AddrPortFrom(dst.Addr(), dst.Port()+1))
		if !errors.Is(err, ErrNoSocket) {
			t.Errorf("of one that is not there: %v", err)
		}
		// What comes after an answer of none is an answer to its own question.
		if again, err := p.Exact(src, dst); err != nil || again.Cookie != s.Cookie {
			t.Errorf("asked again: %+v, %v", again, err)
		}
	})
}

func TestExactOfAClosedProbeIsAnError(t *testing.T) {
	p := mustOpen(t)
	p.Close()
	if _, err := p.Exact(here, there); err == nil || errors.Is(err, ErrNoSocket) {
		t.Errorf("%v", err)
	}
}

func TestClosingEndsTheWaitForEnds(t *testing.T) {
	inNetns(t, func() {
		d, err := OpenDestroys()
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error)
		go func() {
			_, err := d.Next(time.Time{})
			told <- err
		}()
		d.Close()
		if err := <-told; !errors.Is(err, os.ErrClosed) {
			t.Errorf("the one that waited: %v", err)
		}
		if _, err := d.Next(time.Time{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("and after it: %v", err)
		}
	})
}
