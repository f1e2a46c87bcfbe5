package trial

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tcplab/lab/sheet"
	"tcplab/netns"
)

// features are what a sheet's needs mean here.
var features = map[string][]netns.Feature{
	"netem":             {netns.SchNetem},
	"fq":                {netns.SchFQ, netns.TXTime},
	"nftables":          {netns.NFTables},
	"conntrack":         {netns.Conntrack},
	"inet_diag_destroy": {netns.InetDiagDestroy},
	"tun":               {netns.Tun},
	"bbr":               {netns.CongBBR},
	"cubic":             {netns.CongCubic},
	"reno":              {netns.CongReno},
}

// needs says what of the list the machine lacks; "" if nothing.
func needs(list []string, guest bool) string {
	var lack []string
	for _, n := range list {
		if n == "guest" && guest {
			continue
		}
		if err := need(n); err != nil {
			lack = append(lack, n+" ("+err.Error()+")")
		}
	}
	return strings.Join(lack, "; ")
}

func need(name string) error {
	if fs, ok := features[name]; ok {
		for _, f := range fs {
			if err := netns.Have(f); err != nil {
				return err
			}
		}
		return nil
	}
	switch name {
	case "root":
		return initialUserNamespace()
	case "guest":
		return errors.New("it needs a kernel of its own: --kernel=guest")
	case "containers":
		return errors.New("hosts that are containers are not built yet")
	case "syncookies":
		name = "sysctl:net.ipv4.tcp_syncookies"
	}
	if key, ok := strings.CutPrefix(name, "sysctl:"); ok {
		if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(key, ".", "/")); err != nil {
			return fmt.Errorf("this kernel has no such setting: %w", err)
		}
		return nil
	}
	return errors.New("nobody knows how to find out")
}

// noCongestionControl says which of the congestion controls that an arm's
// programs and hosts ask for the kernel does not have: asked for before anything
// is measured, since the arm would not be what it is called.
func noCongestionControl(a sheet.Arm) string {
	asked := map[string]string{} // name → who
	for _, h := range a.Hosts {
		asked[h.Sysctl[congestionKey]] = "host " + h.Name
	}
	for _, v := range a.Servers {
		asked[v.Options["TCP_CONGESTION"]] = "server " + v.Name
	}
	for _, c := range a.Clients {
		asked[c.Options["TCP_CONGESTION"]] = "client " + c.Name
	}
	delete(asked, "")
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if err := haveCongestionControl(name); err != nil {
			return fmt.Sprintf("%s asks for congestion control %s: %v", asked[name], name, err)
		}
	}
	return ""
}

// haveCongestionControl asks a socket: the kernel loads a module that it has
// for who may do so. Whether it may be used here is another question, and
// answered where it is used.
func haveCongestionControl(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil // nothing is known against it
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); !errors.Is(err, unix.ENOENT) {
		return nil
	}
	has := "others"
	if text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control"); err == nil {
		has = strings.Join(strings.Fields(string(text)), ", ")
	}
	return fmt.Errorf("this kernel has no such one; it has %s.: ask for one of these", has)
}

// initialUserNamespace is nil for real root: its user namespace maps every id.
func initialUserNamespace() error {
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	if f := strings.Fields(string(m)); os.Geteuid() != 0 || len(f) < 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295" {
		return errors.New("a user namespace does not give it: run as root")
	}
	return nil
}
