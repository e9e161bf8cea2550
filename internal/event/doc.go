// Package event is the vocabulary of tcpwaitd: the facts the kernel reports,
// in Go types without behaviour of their own. Everything else speaks in these
// words, so it imports nothing but the standard library.
//
// Unknown is a value: a zero KTime, Cookie, inode or pid means "not known",
// never "zero".
package event
