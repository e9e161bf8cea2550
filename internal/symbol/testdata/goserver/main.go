// Command goserver is a Go program whose functions the tests name.
package main

import (
	"net"
	"os"
)

//go:noinline
func acceptLoop(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		handle(c)
	}
}

//go:noinline
func handle(c net.Conn) { _ = c.Close() }

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	acceptLoop(l)
}
