// Command tcpwaitd says which processes leave TCP sockets in CLOSE_WAIT, since when and
// why.
package main

import "os"

func main() {
	os.Exit(run(newEnv(), os.Args[1:]))
}
