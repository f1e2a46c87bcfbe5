package capture

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// stamp is a timestamp option, with two fillers before it as Linux has them.
func stamp(val uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, val), 0)
}

func synOffer(wscale byte) []byte {
	return append(append([]byte{2, 4, 5, 180, 4, 2}, append([]byte{8, 10}, make([]byte, 8)...)...), 1, 3, 3, wscale)
}

// shake plays a handshake and a request, at an instant, with a server whose
// timestamps have an offset. A cookie's timestamp is put back.
func shake(s *script, port uint16, at int64, offset uint32, wscale byte, asCookie bool) *talk {
	t := s.talk(port)
	t.send(at, 0, flagSYN, 0, 0, 0, false, synOffer(wscale)...)
	at += s.delay
	ts := millis(at)
	if asCookie { // cookie_init_timestamp
		options := uint32(wscale) | cookieSACK
		if ts = ts&^63 | options; ts > millis(at) {
			ts -= 64
		}
	}
	offer := synOffer(7)
	binary.BigEndian.PutUint32(offer[8:], ts+offset)
	t.send(at, 1, flagSYN|flagACK, 0, 1, 0, false, offer...)
	at += s.delay
	t.send(at, 0, flagACK, 1, 1, 0, false, stamp(9)...)
	t.send(at, 0, flagACK|flagPSH, 1, 1, 136, false, stamp(9)...)
	at += s.delay
	t.send(at, 1, flagACK|flagPSH, 1, 137, 132, false, stamp(millis(at)+offset)...)
	at += s.delay
	t.send(at, 0, flagACK|flagFIN, 137, 133, 0, false, stamp(10)...)
	at += s.delay
	t.send(at, 1, flagACK|flagFIN, 133, 138, 0, false, stamp(millis(at)+offset)...)
	return t
}

func commentOf(t *testing.T, v *view, flags uint8) string {
	t.Helper()
	var all []string
	for i := range v.pkts {
		if s := &v.pkts[i]; s.h.flags == flags && s.out {
			all = append(all, s.comments...)
		}
	}
	return strings.Join(all, " | ")
}

func TestATimestampThatIsPutBackTellsOfACookie(t *testing.T) {
	s := &script{delay: 100 * ms}
	shake(s, 1000, 5_000_001_000_000, 0xfffffe00, 7, true)
	v := s.view([2]int64{})
	said := commentOf(t, v, flagSYN|flagACK)
	if !strings.Contains(said, "SYN cookie") || !strings.Contains(said, "window scale 7 and SACK") {
		t.Fatalf("said %q", said)
	}
	l, err := showCookieHandshake(v, Around{})
	if err != nil || len(l.Events) < 6 || len(l.Spans) != 1 || !strings.Contains(l.Events[2].Comment, "brings the cookie back") {
		t.Fatalf("%+v, %v", l, err)
	}
}

// Whatever the clock, the offset and the client's options: a cookie is
// recognised unless its stamp happens to be now, and no other SYN-ACK is.
func TestOnlyACookieIsTakenForOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Int64Range(1e9, 1<<60).Draw(t, "at")
		offset, wscale := rapid.Uint32().Draw(t, "offset"), byte(rapid.IntRange(0, 14).Draw(t, "wscale"))
		is := rapid.Bool().Draw(t, "cookie")
		s := &script{delay: rapid.Int64Range(1000, 300*ms).Draw(t, "delay")}
		shake(s, 1000, at, offset, wscale, is)
		v := s.view([2]int64{})
		ck, ok := v.findCookie(v.conns[0])
		behind := (millis(at+s.delay) - (uint32(wscale) | cookieSACK)) & 63
		if want := is && behind >= 2; ok != want || ok && (!ck.sure || ck.lag != behind) {
			t.Fatalf("found %v (%+v), wanted %v, %d ms behind", ok, ck, want, behind)
		}
	})
}

func TestABareSYNACKIsNoCookieWhereTheClientOfferedNothing(t *testing.T) {
	for _, tt := range []struct {
		name       string
		asked, got []byte
		bare       bool
	}{
		{"everything is gone", synOffer(7), []byte{2, 4, 5, 180}, true},
		{"SACK and scaling are there", synOffer(7), []byte{2, 4, 5, 180, 4, 2, 3, 3, 7}, false},
		{"no timestamps were offered", []byte{2, 4, 5, 180, 4, 2, 3, 3, 7}, []byte{2, 4, 5, 180}, false},
		{"nothing was offered", nil, nil, false},
	} {
		s := &script{delay: ms}
		c := s.talk(1000)
		c.send(0, 0, flagSYN, 0, 0, 0, false, tt.asked...)
		c.send(ms, 1, flagSYN|flagACK, 0, 1, 0, false, tt.got...)
		c.send(2*ms, 0, flagACK, 1, 1, 0, false)
		c.send(2*ms, 0, flagACK|flagPSH, 1, 1, 10, false)
		c.send(3*ms, 1, flagACK|flagPSH, 1, 11, 10, false)
		v := s.view([2]int64{})
		if ck, ok := v.findCookie(v.conns[0]); ok != tt.bare || ck.bare != tt.bare {
			t.Errorf("%s: %v, %+v", tt.name, ok, ck)
		}
		if _, err := showCookieHandshake(v, Around{}); (err == nil) != tt.bare {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestALostACKIsMendedByAHalfOpenConnectionAndNotByACookie(t *testing.T) {
	for _, half := range []bool{false, true} {
		s := &script{delay: ms}
		c := s.talk(1000)
		c.send(0, 0, flagSYN, 0, 0, 0, false)
		c.send(ms, 1, flagSYN|flagACK, 0, 1, 0, false)
		c.send(2*ms, 0, flagACK, 1, 1, 0, true)
		if half {
			c.send(1001*ms, 1, flagSYN|flagACK, 0, 1, 0, false)
			c.send(1002*ms, 0, flagACK, 1, 1, 0, false)
			c.send(1003*ms, 1, flagACK|flagPSH, 1, 1, 64, false)
		} else {
			c.send(600_002*ms, 0, flagACK|flagFIN, 1, 1, 0, false)
			c.send(600_003*ms, 1, flagRST, 1, 0, 0, false)
		}
		s.talk(1001).send(700_000*ms, 0, flagSYN, 0, 0, 0, false) // the capture goes on
		v := s.view([2]int64{})
		l, err := showLostACK(v, Around{})
		if err != nil {
			t.Fatal(err)
		}
		if l.Events[2].Arrived != nil || !strings.Contains(l.Events[2].Comment, "lost: ") {
			t.Errorf("half-open %v: the ACK is %+v", half, l.Events[2])
		}
		if half && !strings.Contains(l.Title, "again") || !half && (!strings.Contains(l.Title, "cookie") || !strings.Contains(l.Events[3].Comment, "600 s later")) {
			t.Errorf("half-open %v: %q %+v", half, l.Title, l.Events)
		}
	}
	s := &script{delay: ms}
	shake(s, 1000, 1e9, 5, 7, false)
	if _, err := showLostACK(s.view([2]int64{}), Around{}); !errors.Is(err, ErrNoSuchPackets) {
		t.Errorf("nothing was lost: %v", err)
	}
}

// A flood of ten thousand comes first; all that is not of it is kept, and the
// first few of it.
func TestAFloodLeavesTheRecordingToTheOthers(t *testing.T) {
	spoofed := netip.MustParsePrefix("10.9.252.0/22")
	k := newKeeper(Config{Spoofed: spoofed}, 2)
	k.mark(int64(5*time.Second), time.Second)
	k.watch(int64(5 * time.Second))
	kept := map[string]int{}
	feed := func(at int64, src uint32, port uint16, who string) {
		var h header
		if err := h.decode(tcpFrame(src, serverAddr, port, 80, uint32(port), 0, flagSYN, 0)); err != nil {
			t.Fatal(err)
		}
		if v := k.keep(0, at, &h, 74); v.keep {
			kept[who]++
		} else if who == "flood" && !v.drop {
			t.Fatal("a SYN of the flood is left to the marks")
		}
	}
	for i := range 10_000 {
		feed(int64(i)*ms, 0x0a09fc01+uint32(i%1000), uint16(1024+i/1000), "flood")
		if i%100 == 0 {
			feed(int64(i)*ms, clientAddr, uint16(2000+i/100), "client")
		}
	}
	if kept["client"] != 100 || kept["flood"] != maxSpoofed {
		t.Errorf("kept %v", kept)
	}
	if b := k.bound(120, 10_100); !strings.Contains(b, "the first 20 of a flood") {
		t.Error(b)
	}
}
