// Actor plays the programs of the scenario tests for which Debian has none: a server that
// forgets, a proxy with copy loops, an io_uring server, a worker of the randomized test.
//
// Each role prints what the test must know (a port, a count), one line each, and ends when
// its input does.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	roles := map[string]func(args []string) error{
		"server": server, "client": client, "proxy": proxy, "uring": uring,
		"web": web, "load": load, "stream": stream, "fork": forkServer, "fork-child": forkChild,
		"churn": churn, "worker": worker,
	}
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "actor: no such role")
		os.Exit(2)
	}
	err := roles[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "actor %s: %v\n", strings.Join(os.Args[1:], " "), err)
		os.Exit(1)
	}
}

// say prints one line.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// untilEnd blocks until the input ends.
func untilEnd() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// commands does each line of the input and prints "done LINE", until the input ends.
func commands(do func(line string) error) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := do(lines.Text()); err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		say("done %s", lines.Text())
	}
	return lines.Err()
}

// first returns the error of whichever ends first.
func first(all ...func() error) error {
	ended := make(chan error, len(all))
	for _, f := range all {
		go func() { ended <- f() }()
	}
	return <-ended
}

// noEOF takes the end of a stream for success.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
