package tracer

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// maxComms bounds the names that are kept; processes of one host rarely come near.
const maxComms = 1 << 16

// comms are names of processes, which the kernel does not tell with each thing they do: that
// of an owner comes with the first transition after it became one.
type comms struct {
	names map[process]event.Comm
	// last is who was named last, and comm its name: mostly the next is the same.
	last process
	comm event.Comm
}

type process struct {
	pid   uint32
	start event.BootTime
}

func newComms() *comms { return &comms{names: map[process]event.Comm{}} }

// learn notes a name, or adds the one known. A name not known stays empty.
func (c *comms) learn(t *event.Task, told bool) {
	key := process{t.Pid, t.Start}
	if key == c.last && (!told || t.Comm == c.comm) {
		t.Comm = c.comm
		return
	}
	if !told {
		t.Comm = c.names[key]
	} else if known, ok := c.names[key]; !ok || known != t.Comm {
		if len(c.names) >= maxComms {
			clear(c.names)
		}
		c.names[key] = t.Comm
	}
	c.last, c.comm = key, t.Comm
}

// commsOf are the names of those that hold sockets.
func commsOf(tasks []event.Task) *comms {
	c := newComms()
	for i := range tasks {
		c.names[process{tasks[i].Pid, tasks[i].Start}] = tasks[i].Comm
	}
	return c
}

// name adds the name to a task that came without; it may be that of the owner. Of a process
// that is gone it stays empty.
func (c *comms) name(t, owner *event.Task) {
	switch {
	case !t.Known():
	case t.Pid == owner.Pid && t.Start == owner.Start:
		t.Comm = owner.Comm
	default:
		t.Comm = c.names[process{t.Pid, t.Start}]
	}
}
