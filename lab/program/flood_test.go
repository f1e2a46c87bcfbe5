package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tcplab/lab/sheet"
	"tcplab/netns"
	"tcplab/netns/flood"
)

// A job is data that anybody may write: a flooder that is started where it does
// not belong refuses whatever the job says.
func TestAFloodersJobIsNoWayOutOfTheRun(t *testing.T) {
	for _, to := range []string{"127.0.0.1:80", "8.8.8.8:53", "10.77.1.2:80", "10.77.252.1:80", "192.168.0.1:80", "[::1]:80", "server", ""} {
		p, err := New(RoleClient, KindFlood)
		if err != nil {
			t.Fatal(err)
		}
		job := fmt.Sprintf(`{"Client":{"Kind":"flood","Extra":{"rate":100,"packets":10,"for":1000000000}},"To":[%q]}`, to)
		if _, err := p.Prepare(json.RawMessage(job)); !errors.Is(err, flood.ErrNotOfTheLab) {
			t.Errorf("%s: %v", to, err)
		}
		p.Close()
	}
}

func TestAFloodersJobHasTheSheetsBounds(t *testing.T) {
	for extra, says := range map[string]string{
		`{"rate":20001,"packets":10,"for":1000000000}`:            "20000/s",
		`{"rate":1e300,"packets":10,"for":1000000000}`:            "20000/s",
		`{"rate":100,"packets":10,"for":21000000000}`:             "20s",
		`{"rate":100,"packets":1e9,"for":1000000000}`:             "400000",
		`{"rate":100,"packets":1,"for":1000000000,"sources":1e6}`: "1000",
		`{"rate":-1,"packets":1,"for":1000000000}`:                "1/s",
		`{"rate":"fast","packets":1,"for":1000000000}`:            "1/s",
		`{}`: "1/s",
	} {
		p := &floodProgram{}
		_, err := p.Prepare(json.RawMessage(`{"Client":{"Kind":"flood","Extra":` + extra + `},"To":["10.77.1.2:80"]}`))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", extra, err)
		}
	}
}

// The sheet's table and the sender have their bounds in two places, since a
// sheet knows no packets: they are the same.
func TestTheSheetsBoundsAreTheSenders(t *testing.T) {
	most := map[string]float64{"rate": flood.MaxRate, "for": flood.MaxFor.Seconds(), "packets": flood.MaxPackets, "sources": flood.MaxSources}
	for _, k := range sheet.Kinds() {
		if k.Role != sheet.RoleClient || k.Name != KindFlood {
			continue
		}
		for _, key := range k.Keys {
			if key.Max == nil || *key.Max != most[key.Name] {
				t.Errorf("%s is bounded by %v in a sheet, and by %v where it is sent", key.Name, key.Max, most[key.Name])
			}
			delete(most, key.Name)
		}
	}
	if len(most) > 0 {
		t.Errorf("not in the table: %v", most)
	}
}

// No JSON makes a flooder ready outside of a run.
func TestNoJobMakesAFlooderReadyHere(t *testing.T) {
	if err := netns.NotFirst(); err == nil {
		t.Log("not in the first namespace: here it is the way to the target that is missing")
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 60), rapid.Custom(func(t *rapid.T) []byte {
			b, err := json.Marshal(map[string]any{
				"Client": map[string]any{"Kind": "flood", "On": rapid.String().Draw(t, "on"), "Extra": map[string]any{
					"rate": rapid.Float64Range(-1, 1e6).Draw(t, "rate"), "packets": rapid.IntRange(-1, 1e6).Draw(t, "packets"),
					"sources": rapid.IntRange(-1, 1e4).Draw(t, "sources"), "for": rapid.Int64Range(-1, int64(time.Minute)).Draw(t, "for"),
				}},
				"To": rapid.SliceOf(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"10.77.1.2:80", "127.0.0.1:1", "0.0.0.0:9"}))).Draw(t, "to"),
			})
			if err != nil {
				t.Fatal(err)
			}
			return b
		})).Draw(t, "job")
		p := &floodProgram{}
		defer p.Close()
		if _, err := p.Prepare(raw); err == nil {
			t.Fatalf("ready with %q", raw)
		}
	})
}
