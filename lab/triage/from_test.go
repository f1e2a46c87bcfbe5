package triage

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/netns/probe"
	"tcplab/results"
)

var update = flag.Bool("update", false, "write the goldens")

// Captures of sick hosts, taken with iproute2 6.1 (or as named) on Linux 6.18 by
// `go test ./lab/triage -capture FOLDER`, and what triage makes of them.
func TestCapturesOfSickHosts(t *testing.T) {
	files, err := filepath.Glob("testdata/captures/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := From(string(text))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "%d and %d sockets\n%s", len(r.A.Sockets), len(r.B.Sockets), texts(Diagnose(r.A, r.B)))
			for _, g := range Unjudged(r.A, r.B) {
				fmt.Fprintf(&b, "unjudged: %s, partly %v: %s\n", g.Cause, g.Partly, g.Why)
			}
			golden := strings.TrimSuffix(file, ".txt") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", b.String(), want)
			}
		})
	}
}

func TestTimesOfSSAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"440ms": 440 * time.Millisecond, "057ms": 57 * time.Millisecond, "8.100ms": 8100 * time.Millisecond, "8.100sec": 8100 * time.Millisecond, "1.008ms": 1008 * time.Millisecond,
		"57sec": 57 * time.Second, "5sec": 5 * time.Second, "1min15sec": 75 * time.Second, "119min": 119 * time.Minute, "2min": 2 * time.Minute, "": 0,
	} {
		if got, err := parseSSTime(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "5", "ms", "1..2ms", "-5ms", "5 sec", "1min15", "1.2ms", "1.2000sec", "1000ms", ".100sec", "min"} {
		if got, err := parseSSTime(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// msTimer is print_ms_timer of misc/ss.c, as it was and as it is.
func msTimer(timeout int, mended bool) string {
	secs := timeout / 1000
	minutes := secs / 60
	secs %= 60
	msecs := timeout % 1000
	s := ""
	if minutes > 0 {
		msecs = 0
		s = fmt.Sprintf("%dmin", minutes)
		if minutes > 9 {
			secs = 0
		}
	}
	if secs > 0 {
		if secs > 9 {
			msecs = 0
		}
		unit := "sec"
		if msecs > 0 {
			unit = "."
		}
		s += fmt.Sprintf("%d%s", secs, unit)
	}
	if msecs > 0 {
		unit := "ms"
		if secs > 0 && mended {
			unit = "sec"
		}
		s += fmt.Sprintf("%03d%s", msecs, unit)
	}
	return s
}

func TestWhatSSWritesIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.IntRange(0, 10_000_000).Draw(t, "ms")
		mended := rapid.Bool().Draw(t, "mended")
		got, err := parseSSTime(msTimer(ms, mended))
		if err != nil {
			t.Fatal(err)
		}
		// Above ten seconds it leaves out milliseconds, above ten minutes seconds.
		if diff := time.Duration(ms)*time.Millisecond - got; diff < 0 || diff >= time.Minute || ms < 10_000 && diff != 0 {
			t.Fatalf("%d ms, written %q, is read as %v", ms, msTimer(ms, mended), got)
		}
	})
	states := map[probe.State]string{}
	for name, s := range ssStates {
		if name != "NEW-SYN-RECV" {
			states[s] = name
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var want []Socket
		text := "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n"
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			s := Socket{
				State:  probe.State(rapid.IntRange(1, 11).Draw(t, "state")),
				Src:    netip.AddrPortFrom(addr(t), uint16(rapid.IntRange(1, 65535).Draw(t, "port"))),
				Dst:    netip.AddrPortFrom(addr(t), uint16(rapid.IntRange(1, 65535).Draw(t, "port"))),
				RQueue: rapid.Uint32().Draw(t, "rq"), WQueue: rapid.Uint32().Draw(t, "wq"),
				Timer: Timer(rapid.IntRange(0, 4).Draw(t, "timer")), Retrans: uint8(rapid.IntRange(0, 255).Draw(t, "retrans")),
			}
			if s.State == Listen {
				s.WQueue = max(s.WQueue, 1) // 0 may be what ss was not told
			}
			line := fmt.Sprintf("%-10s %d %d %s %s", states[s.State], s.RQueue, s.WQueue, ssAddr(s.Src), ssAddr(s.Dst))
			if s.Timer != TimerNone {
				ms := rapid.IntRange(0, 9999).Draw(t, "ms")
				s.Expires = time.Duration(ms) * time.Millisecond
				line += fmt.Sprintf(" timer:(%s,%s,%d)", [...]string{"", "on", "keepalive", "timewait", "persist"}[s.Timer], msTimer(ms, rapid.Bool().Draw(t, "mended")), s.Retrans)
			} else {
				s.Retrans = 0
			}
			text += line + strings.Repeat(" ", rapid.IntRange(0, 5).Draw(t, "blanks")) + "\n"
			want = append(want, s)
		}
		r, err := From(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for i, s := range r.B.Sockets {
			if s != want[i] {
				t.Fatalf("%+v, want %+v\n%s", s, want[i], text)
			}
		}
	})
}

func addr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "v6") {
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr"))).Unmap()
	}
	return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
}

func ssAddr(a netip.AddrPort) string { return a.String() }

func TestAddressesOfSSAreRead(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1:80", "10.0.0.1%eth0:80": "10.0.0.1:80", "0.0.0.0:*": "0.0.0.0:0", "*:80": "[::]:80", "*:*": "[::]:0",
		"[::]:80": "[::]:80", "[fe80::1]%eth0:80": "[fe80::1]:80", "[fe80::1%eth0]:80": "[fe80::1]:80", "[::ffff:10.0.0.1]:80": "10.0.0.1:80", "127.0.0.53%lo:53": "127.0.0.53:53",
	} {
		if got, err := parseSSAddr(text); err != nil || got.String() != want {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
	for text, say := range map[string]string{"10.0.0.1:http": "by name", "10.0.0.1": "cut", "10.0.0:80": "no address", "10.0.0.1:70000": "no address", "": "cut"} {
		if got, err := parseSSAddr(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q is %s, %v; want %q", text, got, err, say)
		}
	}
}

const head = "State Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n"

func TestInputThatIsNoneOrCutIsAnError(t *testing.T) {
	script, err := os.ReadFile("testdata/captures/vanished-collector.txt")
	if err != nil {
		t.Fatal(err)
	}
	whole := string(script)
	for _, c := range []struct{ name, text, say string }{
		{"nothing", "", "empty"},
		{"blanks", " \n\n", "empty"},
		{"another program's", "Active Internet connections (servers and established)\nProto Recv-Q Send-Q\n", "line 1: this is no output of ss"},
		{"a shell's complaint", "sh: ss: command not found\n", "line 1: this is no output of ss"},
		{"JSON", "{\"findings\": []}\n", "line 1: this is no output of ss"},
		{"without its end", head + "ESTAB 0 0 10.0.0.1:80 10.0.0.2:90", "line 2: the last line has no end"},
		{"cut in a line", head + "ESTAB 0 0 10.0.0.1:80\n", "line 2: a socket in ESTAB with 4 of the 5 fields"},
		{"cut in a timer", head + "ESTAB 0 0 10.0.0.1:80 10.0.0.2:90 timer:(on,2\n", "line 2: \"timer:(on,2\" is no timer"},
		{"cut before details", head + "ESTAB 0 0 10.0.0.1:80 10.0.0.2:90\n\t cubic rto:204 lastsnd:1\nESTAB 0 0 10.0.0.1:81 10.0.0.2:90\n", "line 4: the last socket has no line of details"},
		{"names for ports", head + "ESTAB 0 0 10.0.0.1:http 10.0.0.2:90\n", "ask ss with -n"},
		{"details of nothing", head + "\t cubic rto:204\n", "details"},
		{"a strange number", head + "ESTAB 0 x 10.0.0.1:80 10.0.0.2:90\n", "line 2: \"x\" is no queue's length"},
		{"a strange state", head + "ESTABLISHED 0 0 10.0.0.1:80 10.0.0.2:90\n", "line 2: \"ESTABLISHED\" is no state"},
		{"a list of one state", "Recv-Q Send-Q Local Address:Port Peer Address:Port\n0 0 10.0.0.1:80 10.0.0.2:90\n", "no states"},
		{"bytes", "\x7fELF\x00\x01\n", "no text"},
		{"cut in its users", head + "ESTAB 0 0 10.0.0.1:80 10.0.0.2:90 users:((\"a\",pid=1,fd=3),(\"b\n", "no users of a socket"},
		{"a collector of the future", "# tcplab triage collector 2\n== end\n", "version"},
		{"a collector cut in the middle", whole[:len(whole)/2], "the output was cut in section"},
		{"a collector without its last line", strings.TrimSuffix(whole, "== end\n"), "the output was cut in section \"limits\""},
		{"two collectors in one", strings.TrimSuffix(whole, "== end\n") + whole, "two outputs in one"},
		{"a collector without a time", strings.Replace(whole, "== time 2", "== tome 2", 1), "has no time"},
	} {
		_, err := From(c.text)
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v; want %q", c.name, err, c.say)
		}
		if err != nil && !strings.Contains(err.Error(), ";") {
			t.Errorf("%s: %v: it does not say what to give instead", c.name, err)
		}
	}
}

// Cut anywhere, the collector's output is an error: half of it would look
// healthier than the host is.
func TestACollectorCutAnywhereIsAnError(t *testing.T) {
	script, err := os.ReadFile("testdata/captures/orphan-collector.txt")
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(script) - 1 {
		if _, err := From(string(script[:n])); err == nil {
			t.Fatalf("cut after %d of %d bytes: no error", n, len(script))
		}
	}
}

func TestOtherFormsOfSSAreTaken(t *testing.T) {
	for name, text := range map[string]string{
		"with Netid":          "Netid State Recv-Q Send-Q Local Address:Port Peer Address:Port Process\nu_str ESTAB 0 0 * 123 * 456\nudp UNCONN 0 0 0.0.0.0:68 0.0.0.0:*\ntcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\n",
		"without a heading":   "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\n",
		"glued":               head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*users:((\"sshd\",pid=1,fd=3))\n",
		"one line (-O)":       head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* cubic cwnd:10\n",
		"with carriage ends":  strings.ReplaceAll(head+"LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\n", "\n", "\r\n"),
		"a process of blanks": head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"my server\",pid=1,fd=3),(\"b\",pid=2,fd=3)) ino:5 sk:a cgroup:/x <->\n",
	} {
		r, err := From(text)
		if err != nil || len(r.B.Sockets) != 1 || r.B.Sockets[0].State != Listen || r.B.Sockets[0].WQueue != 128 {
			t.Errorf("%s: %+v, %v", name, r.B.Sockets, err)
		}
	}
	for name, text := range map[string]string{
		"iproute2 2.6":                "State      Recv-Q Send-Q        Local Address:Port          Peer Address:Port\nLISTEN     0      128                     :::22                      :::*      users:((\"sshd\",1,3),(\"x\",2,3)) ino:7 sk:ffff88001234\n",
		"a name with parentheses":     head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"a))b(\",pid=1,fd=3)) ino:7\n",
		"a name like another's entry": head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"x\",pid=7,f\",pid=1,fd=3)) ino:7\n",
		"with -Z":                     head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"sshd\",pid=1,proc_ctx=system_u:system_r:sshd_t:s0-s0:c0,c1023,fd=3)) ino:7\n",
		"of an editor for Windows":    "\ufeff" + head + "LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"sshd\",pid=1,fd=3)) ino:7\n",
		"with other sockets":          "Netid State Recv-Q Send-Q Local Address:Port Peer Address:Port\nti_st ESTAB 0 0 1:2 3:4\nmptcp ESTAB 0 0 10.0.0.1:80 10.0.0.2:90\ntcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:((\"sshd\",pid=1,fd=3)) timer:(unknown,2sec,0) ino:7\n",
	} {
		r, err := From(text)
		if err != nil || len(r.B.Sockets) != 1 || r.B.Sockets[0].Owner == nil || r.B.Sockets[0].Owner.PID != 1 || r.B.Sockets[0].Inode != 7 {
			t.Errorf("%s: %+v, %v", name, r.B.Sockets, err)
		}
	}
	if r, err := From(head); err != nil || len(r.B.Sockets) != 0 {
		t.Errorf("a list of nothing: %v, %v", r, err)
	}
}

// The collector is a POSIX script: dash runs it, and busybox's ash.
func TestTheCollectorRunsInEachShell(t *testing.T) {
	for _, sh := range [][]string{{"dash"}, {"busybox", "sh"}, {"bash", "--posix"}} {
		if _, err := exec.LookPath(sh[0]); err != nil {
			continue
		}
		cmd := exec.Command(sh[0], append(sh[1:], "-eu", "-c", Script())...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Errorf("%v: %v: %s", sh, err, stderr.String())
			continue
		}
		r, err := From(string(out))
		if err != nil {
			t.Errorf("%v: %v\n%s", sh, err, out)
			continue
		}
		if !r.A.Taken() || r.B.At-r.A.At < 500*time.Millisecond || r.B.Sysctls["net.ipv4.ip_local_port_range"] == "" || r.B.Counters == nil || r.B.Sockstat == nil {
			t.Errorf("%v: %+v", sh, r)
		}
	}
}

func TestWithoutSSTheKernelsTablesAreRead(t *testing.T) {
	// PATH has what the script needs, but neither ss nor nstat.
	dir := t.TempDir()
	for _, name := range []string{"cat", "tr", "uname", "sleep", "sed", "sort", "head", "wc", "ls"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err) // every machine that builds this has them
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", "-c", strings.Replace(Script(), "PATH=$PATH:/usr/sbin:/sbin", "PATH="+dir, 1))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	r, err := From(string(out))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !r.B.Known.Timers || r.B.Known.Info || !r.B.Known.NoBacklog || r.B.Counters["TcpActiveOpens"]+r.B.Counters["TcpPassiveOpens"]+r.B.Counters["IpInReceives"]+r.B.Counters["IpDefaultTTL"] == 0 {
		t.Errorf("%+v", r.B.Known)
	}
}

// Where the kernel refuses inet_diag, ss takes /proc/net/tcp, which has no
// backlogs: it prints 0, and that must not look like a queue that is over.
func TestWhatSSTookFromProcHasNoBacklogs(t *testing.T) {
	list := head + "LISTEN 3 0 0.0.0.0:80 0.0.0.0:* ino:5 sk:1\nESTAB 0 0 10.0.0.1:80 10.0.0.2:90 ino:6 sk:2\n"
	r, err := From(list)
	if err != nil {
		t.Fatal(err)
	}
	if fs := Diagnose(r.A, r.B); len(fs) != 0 || !r.B.Known.NoBacklog {
		t.Errorf("%s %+v", texts(fs), r.B.Known)
	}
	r, err = From(collected + "1\n== host\nh\n6.1\n== time 1\n1.00\n== ss 1\n" + list + "== time 2\n2.00\n== ss 2\n" + list + "== limits\n== end\n")
	if err != nil {
		t.Fatal(err)
	}
	gaps := fmt.Sprint(Unjudged(r.A, r.B))
	if fs := Diagnose(r.A, r.B); len(fs) != 0 || !strings.Contains(gaps, "accept-queue-overflow false neither") || !strings.Contains(gaps, "keepalive-off") {
		t.Errorf("%s %s", texts(fs), gaps)
	}
	// A backlog of 0 that ss was told stands.
	r, err = From(head + "LISTEN 1 0 0.0.0.0:80 0.0.0.0:*\n\t cubic cwnd:10\nLISTEN 0 128 0.0.0.0:81 0.0.0.0:*\n")
	if err != nil {
		t.Fatal(err)
	}
	if fs := Diagnose(r.A, r.B); len(fs) != 1 || fs[0].Cause != results.AcceptQueueOverflow {
		t.Errorf("%s", texts(fs))
	}
}

func TestProcNetTCPIsRead(t *testing.T) {
	text := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2328 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 199952 1 000000003491837c 100 0 0 10 0
   4: 0100007F:CB0A 0100007F:2328 06 00000000:00000000 03:00001644 00000000     0        0 0 3 000000001b4773e8
   6: 0100007F:CB16 0100007F:2328 01 0039B600:00000000 04:0000002A 00000000  1000        5 199958 2 0000000076da7352 20 0 0 16 -1
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:2329 00000000000000000000000001000000:D000 01 00000000:00000000 00:00000000 00000000     0        0 7 1 0 20 0 0 10 -1
`
	ss, err := parseProcTCP(text, 1)
	if err != nil || len(ss) != 4 {
		t.Fatal(ss, err)
	}
	if s := ss[1]; s.State != TimeWait || s.Timer != TimerTimeWait || s.Expires != 57*time.Second || s.Src.String() != "127.0.0.1:51978" {
		t.Errorf("%+v", s)
	}
	if s := ss[2]; s.Timer != TimerPersist || s.Retrans != 5 || s.WQueue != 0x39b600 || s.UID != 1000 || s.Inode != 199958 {
		t.Errorf("%+v", s)
	}
	if s := ss[3]; s.Src.String() != "[::1]:9001" {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{"", "x\n", text[:300], strings.Replace(text, "0100007F:2328 00000000", "0100007F 00000000", 1)} {
		if _, err := parseProcTCP(bad, 1); err == nil {
			t.Errorf("%.40q: no error", bad)
		}
	}
}

func TestConntrackCountersAreRead(t *testing.T) {
	text := "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n" +
		"0000000a  00000000 00000000 00000000 0000000f 00000000 00000000 00000000 00000000 00000001 00000010 00000002 00000000  00000000 00000000 00000000 00000000\n" +
		"0000000a  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000  00000000 00000000 00000000 00000000\n"
	c, err := ParseConntrackStat([]byte(text))
	if want := (Conntrack{Entries: 10, Invalid: 16, Drop: 17, EarlyDrop: 2, InsertFailed: 1}); err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"", "x y\n", text[:len(text)-20], strings.Replace(text, "0000000f", "0000000g", 1)} {
		if _, err := ParseConntrackStat([]byte(bad)); err == nil {
			t.Errorf("%.40q: no error", bad)
		}
	}
}

func FuzzFrom(f *testing.F) {
	files, _ := filepath.Glob("testdata/captures/*.txt")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(head + "LISTEN 0 128 [::]:22 [::]:* users:((\"a b\",pid=1,fd=3)) ino:5 sk:a\n\t cubic\n")
	f.Add("# tcplab triage collector 1\n== time 1\n1.5\n== tcp 1\n  sl\n   0: 0100007F:2328 00000000:0000 0A 0:2 00:0 0 0 0 1\n== time 2\n2.5\n== tcp 2\n  sl\n== end\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := From(text)
		if err != nil {
			return
		}
		for _, fd := range Diagnose(r.A, r.B) {
			if fd.Text == "" {
				t.Error("a finding without words")
			}
		}
		Unjudged(r.A, r.B)
	})
}
