// Goserver reads its connections to their end and then forgets to close them.
//
//	goserver ADDR [HTTPADDR]
//
// With a second address it closes them after all, and serves HTTP there.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

// leakHandler answers until the peer has said goodbye.
//
//go:noinline
func leakHandler(c net.Conn) {
	buf := make([]byte, 512)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write([]byte("ok\n")); err != nil {
			return
		}
	}
}

//go:noinline
func acceptLoop(l net.Listener, leak bool) {
	var kept []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		leakHandler(c)
		if !leak {
			c.Close()
			continue
		}
		kept = append(kept, c) // or the collector would close them
		if len(kept) == cap(kept) {
			fmt.Println(len(kept))
		}
	}
}

func main() {
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) < 3 {
		go acceptLoop(l, true)
		select {}
	}
	go acceptLoop(l, false)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hi") })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[2], nil))
	os.Exit(1)
}
