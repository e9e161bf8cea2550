package tracer

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// maxComms bounds the names that are kept; processes of one host rarely come near.
const maxComms = 1 << 16

// comms are names of processes, which the kernel does not tell with each thing they do: that
// of an owner comes with the first transition after it became one.
type comms map[process]event.Comm

type process struct {
	pid   uint32
	start event.BootTime
}

// learn notes a name, or adds the one known. A name not known stays empty.
func (c comms) learn(t *event.Task, told bool) {
	key := process{t.Pid, t.Start}
	if !told {
		t.Comm = c[key]
		return
	}
	if known, ok := c[key]; ok && known == t.Comm {
		return
	}
	if len(c) >= maxComms {
		clear(c)
	}
	c[key] = t.Comm
}

// commsOf are the names of those that hold sockets.
func commsOf(tasks []event.Task) comms {
	c := make(comms, len(tasks))
	for i := range tasks {
		c[process{tasks[i].Pid, tasks[i].Start}] = tasks[i].Comm
	}
	return c
}

// name adds the name to a task that came without; it may be that of the owner. Of a process
// that is gone it stays empty.
func (c comms) name(t, owner *event.Task) {
	switch {
	case !t.Known():
	case t.Pid == owner.Pid && t.Start == owner.Start:
		t.Comm = owner.Comm
	default:
		t.Comm = c[process{t.Pid, t.Start}]
	}
}
