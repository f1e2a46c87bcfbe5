//go:build ignore

// The program whose sends nagle.trace is a recording of: a client that writes
// the header and the body of a request by themselves, as many libraries do, and
// then waits for the answer. It has its server in itself.
//
//	go run lab/sheets/traces/sender.go serve 127.0.0.1:9001 &
//	tcplab record-trace --listen 127.0.0.1:9000 --to 127.0.0.1:9001 --out nagle.trace &
//	go run lab/sheets/traces/sender.go send 127.0.0.1:9000
package main

import (
	"encoding/binary"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

const (
	connections = 96
	exchanges   = 4                      // of each
	apart       = 300 * time.Millisecond // longer than a stall, so that none waits for the one before
	header      = 100
	answer      = 100
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: sender serve|send ADDRESS:PORT")
	}
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	var all sync.WaitGroup
	for i := range connections {
		all.Go(func() {
			time.Sleep(time.Duration(i) * apart / connections)
			send(os.Args[2], rand.New(rand.NewPCG(1, uint64(i))))
		})
	}
	all.Wait()
}

// send makes the requests of one connection. Nagle's algorithm is on, as it is
// where nobody asks; Go, for one, turns it off.
func send(to string, r *rand.Rand) {
	c, err := net.Dial("tcp", to)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetNoDelay(false); err != nil {
		log.Fatal(err)
	}
	next := time.Now()
	for range exchanges {
		body := 900
		if r.IntN(4) == 0 {
			body = 300 + r.IntN(900)
		}
		head := make([]byte, header)
		binary.BigEndian.PutUint32(head, uint32(body))
		for _, part := range [][]byte{head, make([]byte, body)} {
			if _, err := c.Write(part); err != nil {
				log.Fatal(err)
			}
		}
		if _, err := io.ReadFull(c, make([]byte, answer)); err != nil {
			log.Fatal(err)
		}
		next = next.Add(apart)
		time.Sleep(time.Until(next))
	}
}

func serve(on string) {
	l, err := net.Listen("tcp", on)
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			for head := make([]byte, header); ; {
				if _, err := io.ReadFull(c, head); err != nil {
					return
				}
				if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))); err != nil {
					return
				}
				if _, err := c.Write(make([]byte, answer)); err != nil {
					return
				}
			}
		}()
	}
}
