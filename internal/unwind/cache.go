package unwind

import (
	"container/list"
	"errors"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
)

// Cache keeps tables for the Unwinder, up to a number of bytes, and reads those again
// that it has not. The kernel side has a copy of its own, so most tables are never asked
// for here. It is safe for concurrent use.
type Cache struct {
	rules *Rules
	room  int

	// mu is held while a table is read, too: one at a time is as much memory as that may
	// take (see Read).
	mu   sync.Mutex
	used int
	byID map[event.ObjectID]*list.Element
	// order has *cached, the last used one in front.
	order *list.List
}

type cached struct {
	id    event.ObjectID
	table *Table
	err   error
}

// bytes is what the entry takes. An error takes some, too, so that they are bounded.
func (c *cached) bytes() int {
	const overhead = 256 // the entry, its place in list and map, an error's text
	if c.table == nil {
		return overhead
	}
	return overhead + c.table.Bytes()
}

// NewCache returns a cache of room bytes. The table used last is kept even if it is
// larger. The rules of the tables are added to rules.
func NewCache(rules *Rules, room int) *Cache {
	return &Cache{rules: rules, room: room, byID: map[event.ObjectID]*list.Element{}, order: list.New()}
}

// Rules is the list that the tables refer to.
func (c *Cache) Rules() *Rules { return c.rules }

var errNoFile = errors.New("read unwind tables: the file is not open")

// Table returns the table of o, which nobody may change. A file that cannot be read is not
// tried again while the cache remembers it.
func (c *Cache) Table(o *object.Object) (*Table, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byID[o.ID]; ok {
		c.order.MoveToFront(e)
		hit := e.Value.(*cached)
		return hit.table, hit.err
	}
	if o.File == nil {
		return nil, errNoFile
	}
	t, err := ReadFile(o.File, c.rules)
	c.add(&cached{o.ID, t, err})
	return t, err
}

// Add gives the table of object id into the cache: it was just read for the kernel side.
func (c *Cache) Add(id event.ObjectID, t *Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(id)
	c.add(&cached{id: id, table: t})
}

// Forget drops what is known of object id.
func (c *Cache) Forget(id event.ObjectID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(id)
}

func (c *Cache) add(entry *cached) {
	c.byID[entry.id] = c.order.PushFront(entry)
	c.used += entry.bytes()
	for c.used > c.room && c.order.Len() > 1 {
		c.forget(c.order.Back().Value.(*cached).id)
	}
}

func (c *Cache) forget(id event.ObjectID) {
	if e, ok := c.byID[id]; ok {
		c.used -= c.order.Remove(e).(*cached).bytes()
		delete(c.byID, id)
	}
}
