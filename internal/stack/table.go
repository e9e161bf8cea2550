package stack

import (
	"container/list"
	"errors"
	"sync"

	"github.com/tcpwaitd/tcpwaitd/internal/event"
	"github.com/tcpwaitd/tcpwaitd/internal/object"
	"github.com/tcpwaitd/tcpwaitd/internal/tracer"
	"github.com/tcpwaitd/tcpwaitd/internal/unwind"
)

// maxTableBytes bounds what the tables take in the kernel: six typical servers together
// need 6 MB.
const maxTableBytes = 96 << 20

// tables are the unwind tables that the kernel side has. Only the worker uses them.
type tables struct {
	k        *Keeper
	loaded   map[event.ObjectID]*list.Element
	order    *list.List // of loadedTable, used last first
	bytes    int
	uploaded int // rules
	failed   map[event.ObjectID]error
	puts     sync.WaitGroup
}

type loadedTable struct {
	id    event.ObjectID
	key   object.Key
	bytes int
}

func newTables(k *Keeper) *tables {
	return &tables{
		k: k, loaded: map[event.ObjectID]*list.Element{}, order: list.New(),
		failed: map[event.ObjectID]error{},
	}
}

// load makes the table of a file and gives it to the kernel side, once.
func (t *tables) load(o *object.Object) error {
	if e := t.loaded[o.ID]; e != nil {
		t.order.MoveToFront(e)
		return nil
	}
	if err := t.failed[o.ID]; err != nil {
		return err
	}
	if way, _ := t.k.kernel.Unwinder(); way != tracer.UnwindTables {
		return nil
	}
	table, err := unwind.ReadFile(o.File, t.k.rules)
	if err != nil {
		// An empty table all the same: the file has a number then, and its frames a name.
		t.failed[o.ID] = err
		table = &unwind.Table{}
	}
	return errors.Join(err, t.put(o, table))
}

// maxFiles is MAX_FILES of bpf/walk.h.
const maxFiles = 4096

// put gives a table to the kernel side. That waits for all programs that run, 8 ms here,
// so several are put at a time; wait for them before they are needed.
func (t *tables) put(o *object.Object, table *unwind.Table) error {
	if err := t.uploadRules(); err != nil {
		return err
	}
	l := loadedTable{id: o.ID, key: o.Key, bytes: 8 * (len(table.Rows) + 1)}
	for t.order.Len() > 0 && (t.bytes+l.bytes > maxTableBytes || t.order.Len() >= maxFiles) {
		t.dropOldest()
	}
	t.bytes += l.bytes
	t.loaded[o.ID] = t.order.PushFront(l)
	t.puts.Go(func() {
		if err := t.k.kernel.PutTable(o.Key, o.ID, table.Rows); err != nil {
			t.k.log.Info("stacks stay incomplete", "file", o.Path, "error", err)
		}
	})
	return nil
}

// wait returns when the kernel side has every table that was put.
func (t *tables) wait() { t.puts.Wait() }

// maxWanted is MAX_WANTED of bpf/life.h.
const maxWanted = 1024

// want has the next start of a program told at once: its last process was gone before its
// mapping could be looked at.
func (k *Keeper) want(key object.Key) {
	if k.wanted[key] || len(k.wanted) >= maxWanted {
		return
	}
	k.wanted[key] = true
	if err := k.kernel.SetWanted([]object.Key{key}, nil, len(k.wanted)); err != nil {
		k.log.Info("stacks of a short-lived program stay incomplete", "error", err)
	}
}

// readWanted makes the table of a program that was wanted.
func (k *Keeper) readWanted(o *object.Object) {
	k.loadTable(o)
	k.tables.wait()
	delete(k.wanted, o.Key)
	if err := k.kernel.SetWanted(nil, []object.Key{o.Key}, len(k.wanted)); err != nil {
		k.log.Info("wanted programs", "error", err)
	}
}

func (t *tables) uploadRules() error {
	fresh := t.k.rules.From(t.uploaded)
	rules := make([]tracer.Rule, len(fresh))
	for i, r := range fresh {
		rules[i] = tracer.Rule(r)
	}
	if err := t.k.kernel.PutRules(t.uploaded, rules); err != nil {
		return err
	}
	t.uploaded += len(fresh)
	return nil
}

func (t *tables) dropOldest() {
	t.wait()
	l := t.order.Remove(t.order.Back()).(loadedTable)
	delete(t.loaded, l.id)
	t.bytes -= l.bytes
	if err := t.k.kernel.DropTable(l.key); err != nil {
		t.k.log.Info("unwind table", "error", err)
	}
}
