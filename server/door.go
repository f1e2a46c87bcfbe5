package server

import (
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// door lets connections in one by one for a protocol that has no accept loop
// of its own, and knows them in the order in which they came.
type door struct {
	mu    sync.Mutex
	ln    net.Listener
	conns []net.Conn
	shut  chan struct{} // closed by close
	wg    sync.WaitGroup
}

// serve runs talk for each connection, until close.
func (d *door) serve(l net.Listener, talk func(net.Conn)) error {
	d.mu.Lock()
	if d.ended() {
		d.mu.Unlock()
		return l.Close()
	}
	d.ln = l
	shut := d.closing()
	d.mu.Unlock()
	defer d.wg.Wait()
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Without a descriptor Accept fails at once: as net/http does, wait.
			pause = min(max(5*time.Millisecond, 2*pause), time.Second)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-shut:
				t.Stop()
			}
			continue
		}
		pause = 0
		d.mu.Lock()
		if d.ended() {
			d.mu.Unlock()
			c.Close()
			continue
		}
		d.conns = append(d.conns, c)
		d.mu.Unlock()
		d.wg.Go(func() {
			talk(c)
			d.mu.Lock()
			defer d.mu.Unlock()
			d.conns = slices.DeleteFunc(d.conns, func(o net.Conn) bool { return o == c })
		})
	}
}

// closing is the channel that close closes; the lock is held.
func (d *door) closing() chan struct{} {
	if d.shut == nil {
		d.shut = make(chan struct{})
	}
	return d.shut
}

func (d *door) ended() bool {
	select {
	case <-d.closing():
		return true
	default:
		return false
	}
}

// close closes the listener and every connection.
func (d *door) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended() {
		return nil
	}
	close(d.shut)
	var errs []error
	if d.ln != nil {
		errs = append(errs, d.ln.Close())
	}
	for _, c := range d.conns {
		c.Close() // whoever talks on it learns of it
	}
	return errors.Join(errs...)
}
