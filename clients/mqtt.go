package clients

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Control packets of MQTT 3.1.1, as far as a publisher meets them: the type is
// the upper half of the first byte (2.2.1).
const (
	mqttConnect    = 1
	mqttConnack    = 2
	mqttPublish    = 3
	mqttPuback     = 4
	mqttPubrec     = 5
	mqttPubrel     = 6
	mqttPubcomp    = 7
	mqttPingreq    = 12
	mqttPingresp   = 13
	mqttDisconnect = 14
)

var (
	pingreq    = []byte{mqttPingreq << 4, 0}
	disconnect = []byte{mqttDisconnect << 4, 0}
)

// fixedHeader begins a packet of n further bytes (2.2.3: seven bits a byte).
func fixedHeader(first byte, n int) []byte {
	b := []byte{first}
	for {
		c := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			b = append(b, c|0x80)
			continue
		}
		return append(b, c)
	}
}

func mqttString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// connectPacket asks for a clean session: what was under way on the last
// connection is not sent again (3.1.2.4).
func connectPacket(name string, keepalive time.Duration) []byte {
	body := mqttString(nil, "MQTT")
	body = append(body, 4, 1<<1) // protocol level 4, clean session
	body = binary.BigEndian.AppendUint16(body, uint16(keepalive/time.Second))
	body = mqttString(body, name)
	return append(fixedHeader(mqttConnect<<4, len(body)), body...)
}

// publishing is a PUBLISH packet that is written again and again; only its
// identifier changes.
type publishing struct {
	packet []byte
	id     int // where the identifier stands; 0: QoS 0 has none
}

func newPublishing(topic string, qos, size int) publishing {
	body := mqttString(nil, topic)
	p := publishing{}
	at := len(body)
	if qos > 0 {
		body = append(body, 0, 0)
	}
	body = append(body, newRequest(size, 0, false).payload()...)
	head := fixedHeader(mqttPublish<<4|byte(qos)<<1, len(body))
	if qos > 0 {
		p.id = len(head) + at
	}
	p.packet = append(head, body...)
	return p
}

// numbered is the packet with an identifier. It is the same memory each time.
func (p publishing) numbered(id uint16) []byte {
	if p.id > 0 {
		binary.BigEndian.PutUint16(p.packet[p.id:], id)
	}
	return p.packet
}

func pubrel(id uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{mqttPubrel<<4 | 2, 2}, id)
}

// errProtocol is an answer that MQTT does not have at this place.
var errProtocol = errors.New("not what MQTT says here")

// readPacket reads one packet whole into buf, of which it is a part. What a
// publisher is sent is short.
func readPacket(r io.Reader, buf []byte) (kind byte, body []byte, err error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, nil, err
	}
	kind, n := buf[0]>>4, int(buf[1])
	if n > 127 || n > len(buf) {
		return 0, nil, fmt.Errorf("%w: a packet of type %d with more than 127 bytes", errProtocol, kind)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, nil, err
	}
	return kind, buf[:n], nil
}

// refused is a CONNACK that says no.
type refused byte

func (r refused) Error() string { return fmt.Sprintf("CONNACK says %d", byte(r)) }

func readConnack(r io.Reader, buf []byte) error {
	kind, body, err := readPacket(r, buf)
	switch {
	case err != nil:
		return err
	case kind != mqttConnack || len(body) != 2:
		return fmt.Errorf("%w: packet type %d where CONNACK belongs", errProtocol, kind)
	case body[1] != 0:
		return refused(body[1])
	}
	return nil
}
