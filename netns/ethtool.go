package netns

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Structures of include/uapi/linux/ethtool.h.
const (
	ethSSFeatures     = 4
	ethGStringLen     = 32
	ethtoolFUnsupp    = 1 << 0 // ETHTOOL_F_UNSUPPORTED
	maxDeviceFeatures = 256    // 64 today (netdev_features_t)
)

type ethFeatureBits struct{ available, requested, active, neverChanged uint32 }

// isOffload tells a feature that lets a device carry something other than the
// frames of the wire: more than an MTU in one piece, a checksum not filled in,
// a tag beside the frame, a payload outside of it. Names are those of
// net/ethtool/common.c.
func isOffload(feature string) bool {
	switch {
	case strings.HasPrefix(feature, "tx-checksum-"),
		strings.HasPrefix(feature, "tx-scatter-gather"),
		strings.HasPrefix(feature, "tx-") && strings.HasSuffix(feature, "-segmentation"),
		strings.HasPrefix(feature, "tx-gso-"),
		strings.HasPrefix(feature, "tx-vlan-"),
		strings.HasPrefix(feature, "rx-vlan-") && strings.HasSuffix(feature, "-hw-parse"),
		strings.HasPrefix(feature, "rx-gro"),
		strings.HasPrefix(feature, "rx-udp-gro"),
		feature == "rx-udp_tunnel-port-offload",
		feature == "tx-generic-segmentation",
		feature == "tx-udp-segmentation",
		feature == "rx-lro",
		feature == "rx-checksum":
		return true
	}
	return false
}

// Offloads lists the offloads that are on for an interface of the host, by the
// kernel's names ("tx-tcp-segmentation"), sorted.
func (h *Host) Offloads(dev string) (on []string, err error) {
	err = h.Do(func() error {
		on, err = activeOffloads(dev)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: offloads of %s: %w", h.Name, dev, err)
	}
	return on, nil
}

// offloadsOff turns all offloads of an interface off and reads them back.
func (h *Host) offloadsOff(dev string) error {
	var on []string
	err := h.Do(func() (err error) {
		if err = clearOffloads(dev); err != nil {
			return err
		}
		on, err = activeOffloads(dev)
		return err
	})
	if err != nil {
		return fmt.Errorf("host %s: turn the offloads of %s off: %w", h.Name, dev, err)
	}
	if len(on) > 0 {
		return fmt.Errorf("host %s: offloads of %s stay on: %s; frames on the wire would not be what a wire carries", h.Name, dev, strings.Join(on, ", "))
	}
	return nil
}

func activeOffloads(dev string) ([]string, error) {
	s, err := openEthtool(dev)
	if err != nil {
		return nil, err
	}
	defer s.close()
	names, err := s.featureNames()
	if err != nil {
		return nil, err
	}
	bits, err := s.features(len(names))
	if err != nil {
		return nil, err
	}
	var on []string
	for i, name := range names {
		if isOffload(name) && bits[i/32].active&(1<<(i%32)) != 0 {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	return on, nil
}

func clearOffloads(dev string) error {
	s, err := openEthtool(dev)
	if err != nil {
		return err
	}
	defer s.close()
	names, err := s.featureNames()
	if err != nil {
		return err
	}
	bits, err := s.features(len(names))
	if err != nil {
		return err
	}
	// struct ethtool_sfeatures: cmd, size, then {valid, requested} a block.
	blocks := (len(names) + 31) / 32
	msg := make([]uint32, 2+2*blocks)
	msg[0], msg[1] = unix.ETHTOOL_SFEATURES, uint32(blocks)
	for i, name := range names {
		bit := uint32(1) << (i % 32)
		if isOffload(name) && bits[i/32].available&bit != 0 {
			msg[2+2*(i/32)] |= bit
		}
	}
	_, err = s.ioctl(unsafe.Pointer(&msg[0]))
	return err
}

// ethtool is the ioctl interface to one device in the calling thread's
// namespace. (The netlink interface came with Linux 5.6 and is not in every
// kernel's configuration.)
type ethtool struct {
	fd  int
	dev string
}

func openEthtool(dev string) (*ethtool, error) {
	if len(dev) > maxInterfaceName {
		return nil, fmt.Errorf("%q is longer than an interface's name", dev)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &ethtool{fd: fd, dev: dev}, nil
}

func (e *ethtool) close() { unix.Close(e.fd) }

func (e *ethtool) ioctl(data unsafe.Pointer) (int, error) {
	var ifr struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(ifr.name[:], e.dev)
	ifr.data = data
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return 0, fmt.Errorf("ethtool: %w", errno)
	}
	return int(r), nil
}

// featureNames are the kernel's names of the feature bits, by bit number.
func (e *ethtool) featureNames() ([]string, error) {
	info := struct {
		cmd, reserved uint32
		mask          uint64
		count         uint32
		_             uint32
	}{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << ethSSFeatures}
	if _, err := e.ioctl(unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	if info.mask == 0 || info.count == 0 || info.count > maxDeviceFeatures {
		return nil, fmt.Errorf("ethtool: the kernel names %d features, which is none or too many", info.count)
	}
	// struct ethtool_gstrings: cmd, string_set, len, then 32 bytes a name.
	const header = 12
	buf := make([]uint32, (header+int(info.count)*ethGStringLen)/4)
	buf[0], buf[1], buf[2] = unix.ETHTOOL_GSTRINGS, ethSSFeatures, info.count
	if _, err := e.ioctl(unsafe.Pointer(&buf[0])); err != nil {
		return nil, err
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), len(buf)*4)[header:]
	names := make([]string, info.count)
	for i := range names {
		names[i] = unix.ByteSliceToString(raw[i*ethGStringLen : (i+1)*ethGStringLen])
	}
	return names, nil
}

// features reads the state of n feature bits, 32 to an element.
func (e *ethtool) features(n int) ([]ethFeatureBits, error) {
	blocks := (n + 31) / 32
	msg := struct {
		cmd, size uint32
		blocks    [maxDeviceFeatures / 32]ethFeatureBits
	}{cmd: unix.ETHTOOL_GFEATURES, size: uint32(blocks)}
	if _, err := e.ioctl(unsafe.Pointer(&msg)); err != nil {
		return nil, err
	}
	return msg.blocks[:blocks], nil
}
