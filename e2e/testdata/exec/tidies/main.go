// Tidies accepts connections, one after the other, whose clients leave, is told of each end,
// keeps the sockets, and closes them with a defer at the end of main.
package main

import (
	"io"
	"net"
	"time"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	for range 23 {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			panic(err)
		}
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		client.Close()
		if _, err := io.Copy(io.Discard, c); err != nil {
			panic(err)
		}
	}
	time.Sleep(700 * time.Millisecond)
}
