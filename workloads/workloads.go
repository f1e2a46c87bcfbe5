// Package workloads says what is offered: when each request is meant to start
// and how large it is. It is policy without a clock: a schedule is a sequence
// of offsets from go, the same for every arm that has the same configuration
// and seed, however the system under test behaves. An open loop does not wait
// for anyone; only the closed loop follows the answers. Who sends the
// requests, and what became of them, is not decided here.
package workloads

import (
	"fmt"
	"math"
	"time"
)

// Arrivals of requests.
const (
	Constant = "constant" // one every 1/rate
	Poisson  = "poisson"  // independent, exponential gaps with mean 1/rate
	Ramp     = "ramp"     // the rate changes linearly, then stays
	Closed   = "closed"   // each connection sends again after its answer and a pause
)

// Kinds of workload.
const (
	Requests = "requests" // a request, an answer
	Publish  = "publish"  // messages that come when they come, for a relay to carry
)

// MaxRate is the highest rate that a schedule in nanoseconds can tell apart.
const MaxRate = 1e9

// Config describes a workload. Durations are nanoseconds in JSON, rates are
// requests per second, sizes are bytes of payload.
type Config struct {
	Kind         string        `json:"kind,omitempty"`          // requests (the default) | publish
	Arrivals     string        `json:"arrivals,omitempty"`      // constant (the default) | poisson | ramp | closed
	Rate         float64       `json:"rate,omitempty"`          // 1/s; of a ramp, at its beginning
	RateTo       float64       `json:"rate_to,omitempty"`       // 1/s; of a ramp, at its end and after it
	RampOver     time.Duration `json:"ramp_over,omitempty"`     // how long a ramp takes
	Connections  int           `json:"connections,omitempty"`   // requests that may be under way at once
	Size         int           `json:"size,omitempty"`          // of a request
	ResponseSize int           `json:"response_size,omitempty"` // of an answer; 0: as the request
	Think        time.Duration `json:"think,omitempty"`         // closed loop: from an answer to the next request
	Deadline     time.Duration `json:"deadline,omitempty"`      // after it a request has failed; 0: never
	Seed         uint64        `json:"seed,omitempty"`          // of random arrivals
}

// Validate says in one line what is wrong and what to write instead.
func (c Config) Validate() error {
	if c.Kind != "" && c.Kind != Requests && c.Kind != Publish {
		return fmt.Errorf("workload: kind %q is unknown: write %s or %s", c.Kind, Requests, Publish)
	}
	switch c.Arrivals {
	case "", Constant, Poisson:
		if err := rate("rate", c.Rate, false); err != nil {
			return err
		}
	case Ramp:
		if err := rate("rate", c.Rate, true); err != nil {
			return err
		}
		if err := rate("rate_to", c.RateTo, true); err != nil {
			return err
		}
		if c.Rate == 0 && c.RateTo == 0 {
			return fmt.Errorf("workload: a ramp from 0 to 0 never sends: write rate_to, such as 1000/s")
		}
		if c.RampOver <= 0 {
			return fmt.Errorf("workload: a ramp needs ramp_over, such as 10s")
		}
	case Closed:
		if c.Rate != 0 {
			return fmt.Errorf("workload: a closed loop has no rate: leave rate out and set connections and think")
		}
	default:
		return fmt.Errorf("workload: arrivals %q is unknown: write %s, %s, %s or %s", c.Arrivals, Constant, Poisson, Ramp, Closed)
	}
	if c.Arrivals != Ramp && (c.RateTo != 0 || c.RampOver != 0) {
		return fmt.Errorf("workload: rate_to and ramp_over belong to arrivals: ramp")
	}
	if c.Arrivals != Closed && c.Think != 0 {
		return fmt.Errorf("workload: think belongs to arrivals: closed; an open loop does not wait for answers")
	}
	for _, n := range []struct {
		name string
		v    int64
	}{{"connections", int64(c.Connections)}, {"size", int64(c.Size)}, {"response_size", int64(c.ResponseSize)}, {"think", int64(c.Think)}, {"deadline", int64(c.Deadline)}} {
		if n.v < 0 {
			return fmt.Errorf("workload: %s is negative: write 0 or more", n.name)
		}
	}
	return nil
}

func rate(name string, r float64, zero bool) error {
	switch {
	case math.IsNaN(r) || math.IsInf(r, 0) || r < 0 || r == 0 && !zero:
		return fmt.Errorf("workload: %s must be above zero: write one such as 400/s", name)
	case r > MaxRate:
		return fmt.Errorf("workload: %s %g/s is above %g/s, one a nanosecond", name, r, float64(MaxRate))
	case r > 0 && r < 1e-9:
		return fmt.Errorf("workload: %s %g/s is below one in 30 years: write a higher one", name, r)
	}
	return nil
}

// Schedule says when requests are meant to start. It is a sequence: each call
// of Next takes one from it.
type Schedule interface {
	// Next is the intended start of the next request, since go. It never
	// decreases. It is false when none will come: at the end of a ramp to
	// zero, and always in a closed loop.
	Next() (time.Duration, bool)
	// Closed tells whether the loop is closed, and then the pause from an
	// answer to the next request on its connection.
	Closed() (think time.Duration, closed bool)
}

// New makes the schedule that c describes.
func New(c Config) (Schedule, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	switch c.Arrivals {
	case Poisson:
		return newPoisson(c.Rate, c.Seed), nil
	case Ramp:
		return &ramp{from: c.Rate, to: c.RateTo, over: c.RampOver.Seconds()}, nil
	case Closed:
		return closed(c.Think), nil
	}
	return newConstant(c.Rate), nil
}

// Sizes of a request and its answer, in bytes of payload.
type Sizes struct{ Request, Response int }

// Sizes gives the sizes of every request of the workload.
func (c Config) Sizes() Sizes {
	if c.ResponseSize == 0 {
		return Sizes{c.Size, c.Size}
	}
	return Sizes{c.Size, c.ResponseSize}
}
