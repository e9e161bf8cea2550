// Command gocgo is a Go program that calls C.
package main

/*
static __attribute__((noinline)) int c_inner(volatile int *n) { return ++*n; }
static __attribute__((noinline)) int c_outer(int n) { volatile int m = n; return c_inner(&m) + 1; }
*/
import "C"

import "os"

//go:noinline
func callC(n int) int { return int(C.c_outer(C.int(n))) + 1 }

func main() { os.Exit(callC(len(os.Args))) }
