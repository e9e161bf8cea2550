package tracer

import "github.com/tcpwaitd/tcpwaitd/internal/event"

// maxComms bounds the names that are kept; processes of one host rarely come near.
const maxComms = 1 << 16

// comms are the names of owners: the kernel tells one with the first transition after a
// task became the owner of a socket, not with each.
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
