// Package e2e runs the shipped binary against real leaks on the real kernel and reads
// its JSON, as users' scripts do. It has tests only.
package e2e
