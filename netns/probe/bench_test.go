package probe

import "testing"

func BenchmarkSampleAndSockstat(b *testing.B) {
	p := mustOpen(b)
	defer p.Close()
	names := []string{"TcpActiveOpens", "TcpPassiveOpens", "TcpRetransSegs", "TcpExtTCPTimeouts", "TcpExtListenOverflows"}
	v := make([]int64, len(names))
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Sample(names, v); err != nil {
			b.Fatal(err)
		}
		if _, err := p.Sockstat(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCensusOf10000TimeWaits needs some seconds to make them.
func BenchmarkCensusOf10000TimeWaits(b *testing.B) {
	inNetns(b, func() {
		sysctl(b, "ipv4/ip_local_port_range", "32768 60999")
		p := mustOpen(b)
		defer p.Close()
		ps := listen(b)
		defer ps.close()
		for range 100 {
			ps.open(b, 100)
			ps.churn(b)
		}
		b.ReportAllocs()
		for b.Loop() {
			c, err := p.Census([2]int{32768, 60999})
			if err != nil || c.PortsUsedMax != 10_000 {
				b.Fatal(c, err)
			}
		}
	})
}
