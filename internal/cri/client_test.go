package cri_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tcpwaitd/tcpwaitd/internal/cri"
	"github.com/tcpwaitd/tcpwaitd/internal/testenv"
)

const (
	containerID = "4d5ec5e4a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e501"
	otherID     = "00000000a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e502"
	sandboxID   = "11111111a4bcd3a1cd0ba4e4a1d6a3f1c1b0e7a05c8ee4e4b9a0b5d9a7c6e503"
	podUID      = "0f3d2a6b-7c1e-4b52-9d4e-1a2b3c4d5e6f"
)

// clock is moved by hand.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

// slow is patience that a busy machine does not use up.
const slow = time.Minute

func shop(tb testing.TB) *testenv.Runtime {
	tb.Helper()
	r := testenv.StartRuntime(tb)
	r.AddPod(sandboxID, podUID, "shop", "cart-1")
	r.AddContainer(containerID, sandboxID, "web", "registry.example/web:1.2")
	return r
}

func TestNames(t *testing.T) {
	r := shop(t)
	for _, endpoint := range []string{r.Path, "unix://" + r.Path} {
		c := cri.New(cri.Options{Endpoint: endpoint, Patience: slow})
		got, err := c.Lookup(t.Context(), []string{containerID}, nil)
		if err != nil {
			t.Fatal(err)
		}
		pod := cri.Pod{Name: "cart-1", Namespace: "shop"}
		want := cri.Names{
			Containers: map[string]cri.Container{
				containerID: {Name: "web", Image: "registry.example/web:1.2", Pod: pod},
				sandboxID:   {Pod: pod},
			},
			Pods: map[string]cri.Pod{podUID: pod},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// It is asked when something is unknown, and then not again at once.
func TestNamesAreRemembered(t *testing.T) {
	r, at := shop(t), &clock{time.Unix(1, 0)}
	c := cri.New(cri.Options{Endpoint: r.Path, Now: at.read, Patience: slow})
	lookup := func(id string) cri.Container {
		t.Helper()
		names, err := c.Lookup(t.Context(), []string{id}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return names.Containers[id]
	}
	const round = 2 // pods and containers
	wantAsked := func(rounds int) {
		t.Helper()
		if got := r.Asked(); got != rounds*round {
			t.Fatalf("asked %d times, want %d", got, rounds*round)
		}
	}
	wantAsked(0)
	for range 23 {
		if got := lookup(containerID).Name; got != "web" {
			t.Fatalf("got %q", got)
		}
	}
	wantAsked(1)
	for range 23 {
		if got := lookup(otherID).Name; got != "" {
			t.Fatalf("got %q", got)
		}
	}
	wantAsked(1) // within the rest
	at.now = at.now.Add(5 * time.Second)
	r.AddContainer(otherID, sandboxID, "sidecar", "x")
	if got := lookup(otherID).Name; got != "sidecar" {
		t.Fatalf("got %q", got)
	}
	wantAsked(2)
}

// What has failed is asked ever more rarely; what was known stays.
func TestRestAfterFailure(t *testing.T) {
	r, at := shop(t), &clock{time.Unix(1, 0)}
	c := cri.New(cri.Options{Endpoint: r.Path, Now: at.read, Patience: slow})
	if _, err := c.Lookup(t.Context(), []string{containerID}, nil); err != nil {
		t.Fatal(err)
	}
	r.Fail(errors.New("out of order"))
	at.now = at.now.Add(time.Hour)
	before := r.Asked()
	names, err := c.Lookup(t.Context(), []string{otherID, containerID}, nil)
	if err == nil || !strings.Contains(err.Error(), "out of order") || !strings.Contains(err.Error(), r.Path) {
		t.Errorf("error %v", err)
	}
	if !errors.Is(c.Err(), err) {
		t.Errorf("Err is %v", c.Err())
	}
	if names.Containers[containerID].Name != "web" {
		t.Error("the known name was forgotten")
	}
	asked := r.Asked()
	if asked == before {
		t.Error("was not asked")
	}
	for _, step := range []struct {
		wait  time.Duration
		again bool
	}{{29 * time.Second, false}, {time.Second, true}, {59 * time.Second, false}, {time.Second, true}} {
		at.now = at.now.Add(step.wait)
		_, _ = c.Lookup(t.Context(), []string{otherID}, nil)
		if got := r.Asked() > asked; got != step.again {
			t.Errorf("after %v more: asked %v, want %v", step.wait, got, step.again)
		}
		asked = r.Asked()
	}
}

// A runtime that does not answer costs the patience, once.
func TestHangingRuntime(t *testing.T) {
	r := shop(t)
	r.Hang()
	c := cri.New(cri.Options{Endpoint: r.Path})
	names, err := c.Lookup(t.Context(), []string{containerID}, nil)
	if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "DeadlineExceeded") {
		t.Errorf("error %v", err)
	}
	if len(names.Containers) != 0 {
		t.Errorf("names %v", names)
	}
	asked := r.Asked()
	if _, err := c.Lookup(t.Context(), []string{containerID}, nil); err == nil {
		t.Error("no error while it rests")
	}
	if r.Asked() != asked {
		t.Error("asked again at once")
	}
}

// A peer that accepts and says nothing, and one that does not speak the protocol.
func TestNoRuntimeBehindTheSocket(t *testing.T) {
	for name, say := range map[string]string{"silence": "", "garbage": "HTTP/1.1 400 no\r\n\r\n\xff\x00\xfe", "frames": strings.Repeat("\x00\x00\x04\xee\x00\x00\x00\x00\x01abcd", 64)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cri.sock")
			listener, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				var conns []net.Conn
				for {
					conn, err := listener.Accept()
					if err != nil {
						break
					}
					_, _ = conn.Write([]byte(say))
					conns = append(conns, conn)
				}
				for _, conn := range conns {
					_ = conn.Close()
				}
			}()
			t.Cleanup(func() { _ = listener.Close(); <-done })
			c := cri.New(cri.Options{Endpoint: path})
			names, err := c.Lookup(t.Context(), []string{containerID}, nil)
			if err == nil || len(names.Containers) != 0 {
				t.Errorf("names %v, error %v", names, err)
			}
		})
	}
}

func TestEndpointErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for endpoint, want := range map[string]string{
		"tcp://127.0.0.1:1":        "want unix:///path/to/cri.sock",
		"cri.sock":                 "want unix:///path/to/cri.sock",
		"unix://cri.sock":          "want unix:///path/to/cri.sock",
		"/nowhere/at/all/cri.sock": "no such file",
		plain:                      "connection refused",
	} {
		c := cri.New(cri.Options{Endpoint: endpoint, Patience: slow})
		_, err := c.Lookup(t.Context(), []string{containerID}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", endpoint, err, want)
		}
	}
}

// Strings of a runtime are bounded, and what it leaves out is unknown.
func TestForeignAnswers(t *testing.T) {
	r := testenv.StartRuntime(t)
	huge := strings.Repeat("ü", 1<<20)
	r.AddPod(sandboxID, podUID, huge, "\x1b[31mred\n")
	r.AddPod("", "", "", "")
	r.AddPod(strings.Repeat("f", 1<<10), strings.Repeat("f", 1<<10), "x", "x")
	r.AddContainer(containerID, sandboxID, huge, huge)
	r.AddContainer(otherID, "nowhere", "", "")
	r.AddContainer("", "", "nameless", "")
	c := cri.New(cri.Options{Endpoint: r.Path, Patience: slow})
	names, err := c.Lookup(t.Context(), []string{containerID}, []string{podUID})
	if err != nil {
		t.Fatal(err)
	}
	if len(names.Containers) != 3 || len(names.Pods) != 1 {
		t.Fatalf("%d containers, %d pods", len(names.Containers), len(names.Pods))
	}
	got := names.Containers[containerID]
	for _, s := range []string{got.Name, got.Image, got.Pod.Namespace} {
		if len(s) > 512 || !strings.HasSuffix(s, "ü...") || !utf8.ValidString(s) {
			t.Errorf("%d bytes: %q", len(s), s)
		}
	}
	if got.Pod.Name != "\x1b[31mred\n" {
		t.Errorf("pod %q", got.Pod.Name)
	}
	// The runtime's own id of the image stands in for the name nobody gave.
	if other, ok := names.Containers[otherID]; !ok || other != (cri.Container{Image: "sha256:0"}) {
		t.Errorf("other %v %v", other, ok)
	}
}

// More than a message may hold is an error, not memory.
func TestTooLargeAnswer(t *testing.T) {
	r := testenv.StartRuntime(t)
	r.AddPod(sandboxID, podUID, "shop", "cart-1")
	r.AddContainer(containerID, sandboxID, strings.Repeat("x", 17<<20), "")
	c := cri.New(cri.Options{Endpoint: r.Path, Patience: slow})
	names, err := c.Lookup(t.Context(), []string{containerID}, nil)
	if err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("error %v", err)
	}
	// Of the pods it had told before.
	if names.Pods[podUID].Name != "cart-1" {
		t.Errorf("names %v", names)
	}
}
