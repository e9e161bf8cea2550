package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// crowd is many sockets in CLOSE_WAIT, held by many processes in one network namespace.
type crowd struct {
	stage   *stage
	home    *process
	holders []*process
	n       int
}

// netns is the path of the namespace.
func (c *crowd) netns() string { return fmt.Sprintf("/proc/%d/ns/net", c.home.pid()) }

func (s *stage) newCrowd(ctx context.Context) (*crowd, error) {
	home, err := s.child(ctx, "home", 0, 0, "")
	if err != nil {
		return nil, err
	}
	return &crowd{stage: s, home: home}, nil
}

const (
	// fewHolders share what is to be held, if it is not too much for them.
	fewHolders = 7
	// perHeld is what one more socket takes of the machine while tools look at it, bytes: the
	// socket and its file, and the peer as long as it is there.
	perHeld = 6 << 10
	// spare memory is left alone, bytes.
	spare = 2 << 30
)

// grow adds holders until n sockets are held.
func (c *crowd) grow(ctx context.Context, n int) error {
	add := n - c.n
	if free := memAvailable(); uint64(add)*perHeld+spare > free {
		return fmt.Errorf("%s sockets: %d MiB of memory are free", thousands(float64(n)), free>>20)
	}
	each := min(maxHeld, (add+fewHolders-1)/fewHolders)
	var fresh []*process
	for left := add; left > 0; left -= each {
		p, err := c.stage.start(command{
			argv:  c.stage.childCommand("hold", min(each, left), len(c.holders)),
			netns: c.netns(), piped: true, stderr: os.Stderr,
		})
		if err != nil {
			return err
		}
		c.holders, fresh = append(c.holders, p), append(fresh, p)
	}
	for _, p := range fresh {
		if _, err := p.line(ctx); err != nil {
			return fmt.Errorf("hold %s sockets: %w", thousands(float64(n)), err)
		}
	}
	c.n = n
	return nil
}

// end lets all go.
func (c *crowd) end() error {
	var errs []error
	for _, p := range c.holders {
		// All begin to end, then each is waited for.
		_ = p.stdin.Close()
	}
	for _, p := range append(c.holders, c.home) {
		errs = append(errs, c.stage.stop(p))
	}
	return errors.Join(errs...)
}

// memAvailable is what the kernel thinks can be had, bytes.
func memAvailable() uint64 { return meminfo()["MemAvailable"] }

// meminfo is /proc/meminfo, bytes.
func meminfo() map[string]uint64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	return parseMeminfo(string(text))
}

func parseMeminfo(text string) map[string]uint64 {
	found := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			found[name] = n << 10
		}
	}
	return found
}
