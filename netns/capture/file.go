package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"tcplab/results"
)

// write writes the pcapng file (draft-ietf-opsawg-pcapng): a section with
// what was kept, an interface for each tap, the hosts' names, the packets with
// their direction and comments, and each interface's counts.
func (r *Recorder) write(file string) (packets, commented int, err error) {
	data, packets, commented, err := r.encode()
	if err != nil {
		return 0, 0, fmt.Errorf("capture: %w", err)
	}
	if err := results.WriteFile(file, data); err != nil {
		return 0, 0, fmt.Errorf("capture: %w", err)
	}
	return packets, commented, nil
}

func (r *Recorder) encode() (data []byte, packets, commented int, err error) {
	var buf bytes.Buffer
	var seen int64
	for _, p := range r.points {
		seen += p.tap.seen
	}
	comments := r.comments()
	var w *pcapgo.NgWriter
	for i, p := range r.points {
		intf := pcapgo.NgInterface{
			Name: p.host + "/" + p.iface, OS: runtime.GOOS, LinkType: layers.LinkTypeEthernet,
			Description:         "interface " + p.iface + " of host " + p.host + ", both directions",
			Filter:              "arp or ip",
			SnapLength:          uint32(p.tap.size - ringHeader),
			TimestampResolution: 9,
		}
		if i > 0 {
			if _, err := w.AddInterface(intf); err != nil {
				return nil, 0, 0, err
			}
			continue
		}
		w, err = pcapgo.NewNgWriterInterface(&buf, intf, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{
			Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: "tcplab",
			Comment: r.keep.bound(int64(len(r.view.pkts)), seen),
		}})
		if err != nil {
			return nil, 0, 0, err
		}
	}
	if err := w.Flush(); err != nil {
		return nil, 0, 0, err
	}
	buf.Write(nameBlock(r.view))
	in := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	out := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionOutbound}
	for i := range r.view.pkts {
		s := &r.view.pkts[i]
		opts := pcapgo.NgPacketOptions{Comments: comments[i], Flags: &in}
		if s.out {
			opts.Flags = &out
		}
		if len(comments[i]) > 0 {
			commented++
		}
		ci := gopacket.CaptureInfo{Timestamp: r.wallTime(s.at), CaptureLength: len(s.data), Length: max(s.wire, len(s.data)), InterfaceIndex: s.tap}
		if err := w.WritePacketWithOptions(ci, s.data, opts); err != nil {
			return nil, 0, 0, err
		}
	}
	if err := w.Flush(); err != nil {
		return nil, 0, 0, err
	}
	for i, p := range r.points {
		buf.Write(statsBlock(i, p.tap.seen, p.tap.drops))
	}
	return buf.Bytes(), len(r.view.pkts), commented, nil
}

// comments joins each packet's own with the texts of marks, which go to the
// first packet at or after them.
func (r *Recorder) comments() [][]string {
	out := make([][]string, len(r.view.pkts))
	for i := range r.view.pkts {
		out[i] = r.view.pkts[i].comments
	}
	for _, n := range r.notes {
		for i := range r.view.pkts {
			if r.view.pkts[i].at >= n.at {
				out[i] = append([]string{n.text + ", " + dur(r.view.pkts[i].at-n.at) + " before this"}, out[i]...)
				break
			}
		}
	}
	return out
}

var le = binary.LittleEndian

// block frames a pcapng block.
func block(typ uint32, body []byte) []byte {
	n := uint32(len(body) + 12)
	b := le.AppendUint32(nil, typ)
	b = le.AppendUint32(b, n)
	b = append(b, body...)
	return le.AppendUint32(b, n)
}

func pad(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

// nameBlock is a Name Resolution Block: pcapgo reads these, but writes none.
func nameBlock(v *view) []byte {
	var b []byte
	for _, a := range v.sortedNames() {
		name := strings.ReplaceAll(v.names[a], "\x00", "")
		b = le.AppendUint16(b, 1) // nrb_record_ipv4
		b = le.AppendUint16(b, uint16(4+len(name)+1))
		b = append(b, net.IPv4(byte(a>>24), byte(a>>16), byte(a>>8), byte(a)).To4()...)
		b = pad(append(append(b, name...), 0))
	}
	if b == nil {
		return nil
	}
	return block(4, append(b, 0, 0, 0, 0)) // nrb_record_end
}

// statsBlock is an Interface Statistics Block with what the filter let pass
// and what the kernel dropped of it: pcapgo cannot write isb_osdrop.
func statsBlock(iface int, seen, drops int64) []byte {
	b := le.AppendUint32(nil, uint32(iface))
	b = append(b, make([]byte, 8)...) // no time stamp: counts are of the whole
	for _, o := range []struct {
		code uint16
		v    int64
	}{{4, seen}, {6, seen}, {7, drops}} { // isb_ifrecv, isb_filteraccept, isb_osdrop
		b = le.AppendUint16(b, o.code)
		b = le.AppendUint16(b, 8)
		b = le.AppendUint64(b, uint64(o.v))
	}
	return block(5, append(b, 0, 0, 0, 0))
}
