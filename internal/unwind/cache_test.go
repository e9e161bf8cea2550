//go:build amd64

package unwind

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

func TestCacheKeepsToItsRoom(t *testing.T) {
	a := openObject(t, requireFile(t, bash...), 1)
	b := openObject(t, requireFile(t, libc...), 2)
	size := readTable(t, a.Path, NewRules()).Bytes()
	c := NewCache(NewRules(), size+size/2)
	first := tableOf(t, c, a)
	if tableOf(t, c, a) != first {
		t.Error("read again while it was there")
	}
	tableOf(t, c, b) // together they are too much
	if len(c.byID) != 1 || c.used > c.room && len(c.byID) > 1 {
		t.Errorf("%d tables of %d bytes in room for %d", len(c.byID), c.used, c.room)
	}
	again := tableOf(t, c, a)
	if again == first || !slices.Equal(again.Rows, first.Rows) {
		t.Errorf("read again: same %v, %d rows, want another one with %d rows", again == first, len(again.Rows), len(first.Rows))
	}
	c.Forget(a.ID)
	c.Forget(a.ID)
	if c.used != 0 || len(c.byID) != 0 || c.order.Len() != 0 {
		t.Errorf("empty cache has %d bytes, %d tables", c.used, len(c.byID))
	}
}

func tableOf(t *testing.T, c *Cache, o *object.Object) *Table {
	t.Helper()
	table, err := c.Table(o)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestCacheAdd(t *testing.T) {
	c := NewCache(NewRules(), 1<<20)
	table := &Table{Rows: []uint64{row(0, 0)}}
	c.Add(7, &Table{})
	c.Add(7, table)
	if got := tableOf(t, c, &object.Object{ID: 7}); got != table {
		t.Errorf("got %p, want the table that was added last, %p", got, table)
	}
	if _, err := c.Table(&object.Object{ID: 8}); err == nil {
		t.Error("an object without file has a table")
	}
}

// TestCacheRemembersErrors: a file that is none of ours is not read for every stack, and
// many of them do not take more than the room.
func TestCacheRemembersErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte("no ELF file, but long enough for the header of one, and then some"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := openObject(t, path, 1)
	const room = 4096
	c := NewCache(NewRules(), room)
	_, first := c.Table(o)
	_, second := c.Table(o)
	if first == nil || !errors.Is(second, first) {
		t.Errorf("%v, then %v, want the same error", first, second)
	}
	for i := range 100 {
		_, _ = c.Table(&object.Object{ID: event.ObjectID(i + 2), File: o.File})
	}
	if c.used > room {
		t.Errorf("%d bytes of errors in room for %d", c.used, room)
	}
}
