// Blocks in read(0) below a chain of functions, so that its stack can be looked at.
package main

import "syscall"

var sink int

//go:noinline
func doRead(b []byte) int {
	n, _ := syscall.Read(0, b)
	sink++
	return n
}

//go:noinline
func nextClient(b []byte) int {
	n := doRead(b)
	sink += n
	return n
}

//go:noinline
func serveForever() {
	var b [1]byte
	nextClient(b[:])
	sink++
}

func main() {
	done := make(chan struct{})
	go func() {
		serveForever()
		close(done)
	}()
	<-done
}
