package trial

import (
	"errors"
	"fmt"
	"os"
	"strings"

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
