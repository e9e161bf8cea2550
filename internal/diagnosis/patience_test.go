package diagnosis

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
)

// kernelDefaults are those of Linux 6.18; older ones have not all of them.
func kernelDefaults() map[string]string {
	return map[string]string{
		synRetries: "6\n", synLinear: "4", synackRetries: "5", orphanRetries: "0", retries2: "15", finTimeout: "60", rtoMax: "120000",
	}
}

// The numbers are those of Documentation/networking/ip-sysctl.rst where it gives some.
func TestPatienceOfTheKernel(t *testing.T) {
	for _, tt := range []struct {
		change   map[string]string
		state    event.State
		orphaned bool
		want     time.Duration
		by       string
	}{
		{nil, event.SynSent, false, 131 * time.Second, synRetries},
		{map[string]string{synLinear: "", rtoMax: ""}, event.SynSent, false, 127 * time.Second, synRetries},
		{map[string]string{synLinear: "0", synRetries: "1"}, event.SynSent, false, 3 * time.Second, synRetries},
		{map[string]string{synLinear: "0", synRetries: "3", rtoMax: "2000"}, event.SynSent, false, 7 * time.Second, synRetries},
		{nil, event.SynRecv, false, 63 * time.Second, synackRetries},
		{nil, event.NewSynRecv, false, 63 * time.Second, synackRetries},
		{nil, event.FinWait1, false, 924600 * time.Millisecond, retries2},
		{nil, event.LastAck, true, 102200 * time.Millisecond, orphanRetries},
		{map[string]string{orphanRetries: "1"}, event.Closing, true, 600 * time.Millisecond, orphanRetries},
		{nil, event.FinWait2, true, time.Minute, finTimeout},
		{map[string]string{finTimeout: "3"}, event.FinWait2, true, 3 * time.Second, finTimeout},
		{nil, event.FinWait2, false, 0, ""},
		{map[string]string{finTimeout: "3"}, event.TimeWait, true, time.Minute, "compiled in"},
		{nil, event.CloseWait, false, 0, ""},
		{nil, event.Close, false, 0, ""},
		{nil, event.Established, false, 0, ""},
	} {
		values := kernelDefaults()
		for name, value := range tt.change {
			if values[name] = value; value == "" {
				delete(values, name)
			}
		}
		p, err := ParsePatience(values)
		if err != nil {
			t.Fatal(err)
		}
		if got, by := p.Limit(tt.state, tt.orphaned); got != tt.want || by != tt.by {
			t.Errorf("%v, orphaned %v, %v: %v by %s, want %v by %s", tt.state, tt.orphaned, tt.change, got, by, tt.want, tt.by)
		}
	}
}

func TestPatienceNeedsItsSettings(t *testing.T) {
	for _, bad := range []string{"", "x", "-1"} {
		values := kernelDefaults()
		values[finTimeout] = bad
		if _, err := ParsePatience(values); err == nil || !strings.Contains(err.Error(), finTimeout) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParsePatience(f *testing.F) {
	f.Add("6", "255", "2147483647")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		values := kernelDefaults()
		maps.Copy(values, map[string]string{synRetries: a, retries2: a, orphanRetries: b, synLinear: b, rtoMax: c, finTimeout: c})
		p, err := ParsePatience(values)
		if err != nil {
			return
		}
		for _, s := range Passing() {
			for _, orphaned := range []bool{false, true} {
				if limit, _ := p.Limit(s, orphaned); limit < 0 {
					t.Errorf("%v: %v", s, limit)
				}
			}
		}
	})
}

// What nothing limits must not be said to end by itself, and the reverse.
func TestMeaningAgreesWithLimit(t *testing.T) {
	p, err := ParsePatience(kernelDefaults())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Passing() {
		for _, orphaned := range []bool{false, true} {
			if orphaned && !CanBeOrphaned(s) {
				continue
			}
			text := Meaning(s, orphaned)
			limit, _ := p.Limit(s, orphaned)
			endless := strings.Contains(text, "There is no limit") || strings.Contains(text, "only its close()")
			if text == "" || endless != (limit == 0) {
				t.Errorf("%v, orphaned %v, limit %v: %s", s, orphaned, limit, text)
			}
		}
	}
}
